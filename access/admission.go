package access

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/sessions"
)

// admission is a key that a bastion accepts, with the grants that make it do so. When a key's grant ends, the bastion closes
// the key's connections.
type admission struct {
	access  *Access
	spec    bastions.Spec
	bastion bastions.Bastion
	pair    *keys.Pair
	permit  []string
	plain   *atomic.Bool // do not try a bond
	hasty   atomic.Bool  // a session opened before the grant's answer, and failed
	gone    atomic.Bool  // ECS has said that the bastion stopped

	contradicted func(error) // receives the reason when the bastion's answer ends a first contact

	mu   sync.Mutex
	push *push // the latest that was not refused
}

// admit makes a key and begins to hand over its grant. first says that the bastion's host key is unknown, so that the grant
// carries a secret by which the bastion proves it.
func (a *Access) admit(spec bastions.Spec, b bastions.Bastion, permit []string, first bool) (*admission, error) {
	pair, err := keys.NewPair("bastion")
	if err != nil {
		return nil, err
	}
	x := &admission{access: a, spec: spec, bastion: b, pair: pair, permit: permit, plain: new(atomic.Bool)}
	x.push, err = x.grant(first)
	return x, err
}

func (x *admission) latest() *push {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.push
}

// until returns when the bastion stops accepting the key; the zero time before it has accepted it.
func (x *admission) until() time.Time { return x.latest().notAfter() }

// afterAnswer opens the session once the bastion has answered the grant.
func (x *admission) afterAnswer(ctx context.Context, p *push) (*opened, error) {
	if err := p.wait(ctx); err != nil {
		return nil, err
	}
	return x.session(ctx, p.hostKey, p.reply.Ports, true)
}

// overlapped opens the session to a bastion with a remembered host key while the grant is on its way. It still awaits the
// answer. An answer that refuses the grant, or brings another host key, ends the connection. The next attempt then has the
// answer and reports why.
func (x *admission) overlapped(ctx context.Context, p *push, key ssh.PublicKey, ports keys.Ports) (*opened, error) {
	a := x.access
	o, err := x.session(ctx, key, ports, true)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		// The remembered ports may be wrong. The answer brings the right ones, or a better error.
		a.hostKeys.forget(x.bastion)
		if waitErr := p.wait(ctx); waitErr != nil {
			return nil, waitErr
		}
		if err := a.hostKeys.put(x.bastion, p.hostKey, p.reply.Ports); err != nil { // the answer may have come before forget
			a.log.Debug("the host key is not remembered", "err", err)
		}
		return x.session(ctx, p.hostKey, p.reply.Ports, true)
	}
	o.user, o.ended = keys.UserPending, func() error { return x.beforeGrant(p) }
	x.untrustOnFailure(o, p)
	conn := o.conn
	a.tasks.Go(func() {
		switch err := p.wait(context.Background()); { // the push has its own deadline
		case err != nil && a.ctx.Err() != nil:
			return // the Access is closed
		case err != nil:
			a.log.Warn("the bastion refused the grant", "err", err)
			a.hostKeys.forget(x.bastion)
			_ = conn.Close()
		case !sameKey(p.hostKey, key):
			a.log.Warn("the remembered host key is not the bastion's; connecting anew")
			_ = conn.Close()
		}
	})
	return o, nil
}

// beforeGrant returns an error if a handshake failed before the bastion answered the grant, otherwise nil. If AWS starts no
// further session to the container, the connection's session may have taken the grant command's place. The next attempt
// therefore waits for the answer first, and a silent grant command is run anew.
func (x *admission) beforeGrant(p *push) error {
	select {
	case <-p.done:
		return nil
	default:
	}
	x.hasty.Store(true)
	select {
	case p.again <- struct{}{}:
	default:
	}
	return &transientError{fail.New(fail.Start, "hand a key to "+describe(&x.bastion),
		errors.New("the bastion did not get it before the connection's time was over"), "")}
}

// untrustOnFailure forgets the remembered host key when a client refuses the server. Such a client ends, and its wait for the
// answer with the right key ends too. Without this, every further client would fail in the same way.
func (x *admission) untrustOnFailure(o *opened, p *push) {
	check, forget := o.check, func() { x.access.hostKeys.forget(x.bastion) }
	o.check = func(host string, remote net.Addr, key ssh.PublicKey) error {
		err := check(host, remote, key)
		if err != nil {
			forget()
		}
		return err
	}
	// OpenSSH checks the host key itself. If it accepts the key, it does not end before the grant.
	o.granted = func(ctx context.Context) error {
		err := p.wait(ctx)
		if err != nil {
			forget()
		}
		return err
	}
}

// session opens a bond of sessions to bastiond, or one session if bastiond takes no bonds, and keeps the grant renewed as long.
// key is the expected host key; nil: the caller verifies it. patient makes it wait for a task that is not yet connected to SSM.
func (x *admission) session(ctx context.Context, key ssh.PublicKey, ports keys.Ports, patient bool) (*opened, error) {
	a := x.access
	a.progress("opening a session to " + describe(&x.bastion))
	opens := a.trace.begin(stepSession)
	o := &opened{
		describe: describe(&x.bastion), user: "bastion",
		signers: func() ([]ssh.Signer, error) { return []ssh.Signer{x.pair.Signer()}, nil },
	}
	if key != nil {
		o.check, o.hostKeys = keys.PinnedHostKey(key), []ssh.PublicKey{key}
	}
	if ports.Bond != 0 && !x.plain.Load() {
		conn, err := x.bond(ctx, ports.Bond, patient)
		if err != nil {
			return nil, err
		}
		o.conn, o.lasting = conn, true
	} else {
		port := sessions.Port{Target: x.bastion.Target(), Port: ports.SSH, ServerFirst: true}
		stream, err := a.openPort(ctx, port, patientIf(patient, x.checkGone))
		if err != nil {
			return nil, err
		}
		o.conn = stream
	}
	opens()
	a.tasks.Go(func() { x.keepGranted(o.conn.Done(), x.renew) })
	return o, nil
}
