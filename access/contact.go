package access

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/tunnel"
)

// contact is the first connection to a bastion whose host key is not known. It begins while the grant is on its way, and the
// bastion proves its key on it by the grant's secret; the answer by ECS Exec comes a second later and must agree.
// docs/adr/0006-first-contact.md argues why that is enough.
type contact struct {
	admission *admission
	push      *push

	ended atomic.Pointer[error]         // why the answer has ended the connection
	shown atomic.Pointer[ssh.PublicKey] // the host key that the server has shown
	proof string                        // what it said to prove it; written and read by the handshake's goroutines in turn
}

// firstContact opens a session to a bastion that is not known yet, and falls back to waiting for its answer where the
// session cannot be had: it may listen on other ports.
func (x *admission) firstContact(ctx context.Context, p *push) (*opened, error) {
	o := x.guess(ctx, p)
	if o == nil {
		return x.afterAnswer(ctx, p)
	}
	x.provisional(o, p)
	return o, nil
}

// provisional makes o a connection whose server has yet to prove its host key.
func (x *admission) provisional(o *opened, p *push) {
	c := &contact{admission: x, push: p}
	o.user, o.check, o.banner, o.confirm, o.ended = keys.UserPending, c.hostKey, c.banner, c.confirm, c.why
	x.access.tasks.Go(func() { c.awaitAnswer(o.conn) })
	// The client offers its key when AWS runs the grant command: bastiond waits for the grant for a short time only.
	signers := o.signers
	o.signers = func() ([]ssh.Signer, error) {
		select {
		case <-p.started:
		case <-p.done:
		case <-o.conn.Done():
		}
		return signers()
	}
}

// guess opens a session to the ports that a bastiond has by default. It returns nil if that fails, or the answer is there
// first and says something else.
func (x *admission) guess(ctx context.Context, p *push) *opened {
	ctx, cancel := context.WithCancel(ctx)
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel()
	watcher.Go(func() {
		if p.wait(ctx) != nil || p.reply.Ports != keys.DefaultPorts {
			cancel()
		}
	})
	o, err := x.session(ctx, nil, keys.DefaultPorts, true)
	if err != nil {
		x.access.log.DebugContext(ctx, "no session before the bastion's answer", "err", err)
		return nil
	}
	return o
}

// hostKey accepts any key for the handshake; confirm and awaitAnswer judge it.
func (c *contact) hostKey(host string, _ net.Addr, key ssh.PublicKey) error {
	c.shown.Store(&key)
	// An answer that comes from now on finds the key; one that came before is compared here.
	if c.push.answered() {
		return keys.PinnedHostKey(c.push.hostKey)(host, nil, key)
	}
	return nil
}

func (c *contact) banner(text string) {
	if keys.IsProof(text) {
		c.proof = text
	}
}

// confirm lets the connection be used once the server has proved its host key: by the grant's secret, or else, if it knows
// nothing of secrets or forgot this one, by the answer.
func (c *contact) confirm(ctx context.Context, conn ssh.ConnMetadata) error {
	p, key := c.push, *c.shown.Load()
	if c.proof != "" && time.Since(p.made) < keys.ProofTime {
		err := p.secret.Check(c.proof, keys.Contact{
			Session: conn.SessionID(), HostKey: key, ClientKey: c.admission.pair.PublicKey(),
		})
		if err != nil {
			return c.wrong(err)
		}
		return nil
	}
	if err := p.wait(ctx); err != nil {
		return err
	}
	if err := keys.PinnedHostKey(p.hostKey)(describe(&c.admission.bastion), nil, key); err != nil {
		return c.wrong(err)
	}
	return nil
}

// why returns why the bastion's answer has ended the connection, or that it has not come, if either is so.
func (c *contact) why() error {
	if err := c.ended.Load(); err != nil {
		return *err
	}
	return c.admission.beforeGrant(c.push)
}

// wrong is the error of a server that is not the bastion.
func (c *contact) wrong(err error) error {
	return tunnel.Permanent(fail.New(fail.Denied, "open the SSH connection to "+describe(&c.admission.bastion), err,
		"this is not the server that was expected: do not go on before you know why"))
}

// awaitAnswer ends a connection that the bastion's own answer contradicts. The next attempt to connect says why.
func (c *contact) awaitAnswer(conn endingConn) {
	x, p := c.admission, c.push
	err := p.wait(context.Background()) // it ends by itself
	switch shown := c.shown.Load(); {
	case err != nil && x.access.ctx.Err() != nil:
		return // nobody needs it any more
	case err != nil:
		x.access.log.Warn("the bastion refused the grant", "err", err)
	case shown != nil && !sameKey(p.hostKey, *shown):
		err = c.wrong(keys.PinnedHostKey(p.hostKey)(describe(&x.bastion), nil, *shown))
		x.access.log.Error("the server is not the bastion", "err", err)
	default:
		return
	}
	c.ended.Store(&err)
	x.contradicted(err)
	_ = conn.Close()
}
