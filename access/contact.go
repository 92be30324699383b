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

// contact is the first connection to a bastion whose host key is unknown. It begins while the grant is on its way. The bastion
// proves its key on the connection with the grant's secret. The answer by ECS Exec comes a second later and must agree.
// docs/adr/0006-first-contact.md has the argument.
type contact struct {
	admission *admission
	push      *push

	ended atomic.Pointer[error]         // why the answer ended the connection
	shown atomic.Pointer[ssh.PublicKey] // the host key that the server showed
	proof string                        // the server's proof; the handshake's goroutines write and read it in turn
}

// firstContact opens a session to a bastion whose host key is unknown. If it cannot, it waits for the answer first: the bastion
// may listen on other ports.
func (x *admission) firstContact(ctx context.Context, p *push) (*opened, error) {
	o := x.guess(ctx, p)
	if o == nil {
		return x.afterAnswer(ctx, p)
	}
	x.provisional(o, p)
	return o, nil
}

// provisional makes o a connection whose server must still prove its host key.
func (x *admission) provisional(o *opened, p *push) {
	c := &contact{admission: x, push: p}
	o.user, o.check, o.banner, o.confirm, o.ended = keys.UserPending, c.hostKey, c.banner, c.confirm, c.why
	x.access.tasks.Go(func() { c.awaitAnswer(o.conn) })
	// The client offers its key only once AWS runs the grant command, because bastiond waits only briefly for a grant.
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

// guess opens a session to bastiond's default ports. It returns nil if that fails, or if the answer comes first and names other
// ports.
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
	// awaitAnswer compares the key with an answer that comes later; an answer that came before is compared here.
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

// confirm returns nil once the server has proved its host key, with the grant's secret if it sent a proof. Without a proof, as
// from an older bastiond or one that has forgotten the secret, the answer decides.
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

// why returns why the bastion's answer ended the connection, or that the answer has not come; otherwise nil.
func (c *contact) why() error {
	if err := c.ended.Load(); err != nil {
		return *err
	}
	return c.admission.beforeGrant(c.push)
}

// wrong returns the permanent error for a server that is not the bastion.
func (c *contact) wrong(err error) error {
	return tunnel.Permanent(fail.New(fail.Denied, "open the SSH connection to "+describe(&c.admission.bastion), err,
		"this is not the server that was expected: do not go on before you know why"))
}

// awaitAnswer ends a connection that the bastion's own answer contradicts. The next attempt reports the reason.
func (c *contact) awaitAnswer(conn endingConn) {
	x, p := c.admission, c.push
	err := p.wait(context.Background()) // the push has its own deadline
	switch shown := c.shown.Load(); {
	case err != nil && x.access.ctx.Err() != nil:
		return // the Access is closed
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
