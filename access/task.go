package access

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/tunnel"
)

// taskConnector connects to bastiond in the user's task. The Link calls Connect from one goroutine.
type taskConnector struct {
	access  *Access
	permit  []string
	running bool // only to a bastion that runs: it starts none

	admission *admission            // the latest
	plain     atomic.Bool           // the bastion refused a bond: use one session
	proven    atomic.Bool           // the latest admission let a connection in, and the bastion has not been seen to leave since
	denial    atomic.Pointer[error] // why the latest grant's answer ended its connection; nil: it did not
}

// opened is a session or a bond to an SSH server, with what a client needs to log in.
type opened struct {
	conn     endingConn
	lasting  bool // conn outlives its sessions and ends itself when the server has gone
	describe string
	user     string
	signers  func() ([]ssh.Signer, error)
	algos    []string            // host key algorithms; nil: all
	check    ssh.HostKeyCallback // accepts hostKeys
	hostKeys []ssh.PublicKey     // empty: check, banner and confirm verify the server
	banner   func(text string)   // see tunnel.Transport
	confirm  func(context.Context, ssh.ConnMetadata) error
	ended    func() error
	granted  func(context.Context) error // waits until the server accepts the signers; nil: it does already
}

// endingConn is a connection that signals its end, also without a reader.
type endingConn interface {
	net.Conn
	Done() <-chan struct{}
}

func (o *opened) transport() *tunnel.Transport {
	t := &tunnel.Transport{
		Conn: o.conn, User: o.user, Auth: []ssh.AuthMethod{ssh.PublicKeysCallback(o.signers)},
		HostKey: o.check, HostKeyAlgorithms: o.algos, Describe: o.describe,
		Banner: o.banner, Confirm: o.confirm, Ended: o.ended,
	}
	if o.lasting {
		t.Keepalive.Interval = -1 // a bond without a path is not a dead peer
	}
	return t
}

// Connect implements tunnel.Connector.
func (c *taskConnector) Connect(ctx context.Context) (*tunnel.Transport, error) {
	o, err := c.connect(ctx, true)
	if err != nil {
		return nil, unlessReplaced(ctx, err)
	}
	return o.transport(), nil
}

// open implements connector. Other programs' SSH clients compare the host key themselves, so it must be known.
func (c *taskConnector) open(ctx context.Context) (*opened, error) { return c.connect(ctx, false) }

func (c *taskConnector) onState(st tunnel.State) {
	switch st.Phase {
	case tunnel.Up:
		c.proven.Store(true)
	case tunnel.Draining, tunnel.Idle:
		c.proven.Store(false)
	}
}

// connect opens a session to bastiond. unknown allows a first contact before the bastion's host key is known.
func (c *taskConnector) connect(ctx context.Context, unknown bool) (*opened, error) {
	a := c.access
	if err := c.denial.Swap(nil); err != nil {
		return nil, *err
	}
	// The next attempt starts afresh unless this one succeeds.
	if c.proven.Swap(false) && !c.admission.gone.Load() && time.Until(c.admission.until()) > grantMargin {
		p := c.admission.latest()
		// Without patience: a task that is no longer connected may be gone for good.
		o, err := c.admission.session(ctx, p.hostKey, p.reply.Ports, false)
		if err == nil || ctx.Err() != nil {
			return o, err
		}
		a.log.InfoContext(ctx, "cannot reconnect to the same bastion; looking again", "err", err)
	}
	if x := c.admission; x != nil && x.hasty.Swap(false) {
		p := x.latest()
		o, err := x.afterAnswer(ctx, p)
		if !p.answered() {
			c.denial.Store(nil) // it has the same reason
		}
		return o, err
	}
	spec, b, err := c.find(ctx)
	if err != nil {
		return nil, err
	}
	if replaced, ok := tunnel.Replacing(ctx); ok && replaced == describe(b) {
		return nil, &transientError{fail.New(fail.Start, "replace "+replaced, errors.New("it has not gone yet"), "")}
	}
	key, ports, known := a.hostKeys.get(*b)
	if c.admission, err = a.admit(spec, *b, c.permit, unknown && !known); err != nil {
		return nil, err
	}
	c.admission.plain, c.admission.contradicted = &c.plain, func(err error) { c.denial.Store(&err) }
	p := c.admission.latest()
	switch {
	case known:
		return c.admission.overlapped(ctx, p, key, ports)
	case unknown:
		return c.admission.firstContact(ctx, p)
	}
	return c.admission.afterAnswer(ctx, p)
}
