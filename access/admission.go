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
	"github.com/bastion-ssm/bastion/internal/sleep"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/sessions"
)

// admission is a key that a bastion accepts, and the grants by which it does: the bastion ends the connections of a key whose
// grant has ended.
type admission struct {
	access  *Access
	spec    bastions.Spec
	bastion bastions.Bastion
	pair    *keys.Pair
	permit  []string
	plain   *atomic.Bool // no bond is to be tried
	hasty   atomic.Bool  // a session was there before the grant's answer, and failed
	gone    atomic.Bool  // the bastion was seen to have stopped

	contradicted func(error) // is told why the bastion's answer ended a first contact

	mu   sync.Mutex
	push *push // the latest that was not refused
}

// admit makes a key and begins to hand over its grant. first says that the bastion's host key is not known, and is to be
// proved by the grant's secret.
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

// until returns when the bastion stops accepting the key; the zero time if it has not accepted it yet.
func (x *admission) until() time.Time { return x.latest().notAfter() }

// afterAnswer opens the session once the bastion has answered the grant.
func (x *admission) afterAnswer(ctx context.Context, p *push) (*opened, error) {
	if err := p.wait(ctx); err != nil {
		return nil, err
	}
	return x.session(ctx, p.hostKey, p.reply.Ports, true)
}

// overlapped opens the session to a bastion whose host key is remembered, while the grant is on its way. The answer is still
// awaited: one that refuses, or shows that the key was remembered wrongly, ends the connection, and the next attempt, which
// then has the answer, says why.
func (x *admission) overlapped(ctx context.Context, p *push, key ssh.PublicKey, ports keys.Ports) (*opened, error) {
	a := x.access
	o, err := x.session(ctx, key, ports, true)
	if err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		// The remembered ports may be wrong; the answer has the right one, or says better what is wrong.
		a.hostKeys.forget(x.bastion)
		if waitErr := p.wait(ctx); waitErr != nil {
			return nil, waitErr
		}
		if err := a.hostKeys.put(x.bastion, p.hostKey, p.reply.Ports); err != nil { // the answer may have come before
			a.log.Debug("the host key is not remembered", "err", err)
		}
		return x.session(ctx, p.hostKey, p.reply.Ports, true)
	}
	o.user, o.ended = keys.UserPending, func() error { return x.beforeGrant(p) }
	x.untrustOnFailure(o, p)
	conn := o.conn
	a.tasks.Go(func() {
		switch err := p.wait(context.Background()); { // it ends by itself
		case err != nil && a.ctx.Err() != nil:
			return // nobody needs it any more
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

// beforeGrant is why a handshake has failed while the grant was still on its way, or nil if it was not. Where AWS starts no further
// session to the container, the connection's session may have taken the place of the grant command's. So the next attempt waits for
// the answer, and the grant command is run anew if there is no sign of it.
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

// untrustOnFailure makes a client that refuses the server forget the remembered host key: such a client ends, and with it the
// wait for the answer, which has the right one. Else the same would happen to every further client.
func (x *admission) untrustOnFailure(o *opened, p *push) {
	check, forget := o.check, func() { x.access.hostKeys.forget(x.bastion) }
	o.check = func(host string, remote net.Addr, key ssh.PublicKey) error {
		err := check(host, remote, key)
		if err != nil {
			forget()
		}
		return err
	}
	// OpenSSH checks the key itself. One that accepts it does not end before it is granted its own.
	o.granted = func(ctx context.Context) error {
		err := p.wait(ctx)
		if err != nil {
			forget()
		}
		return err
	}
}

// session opens a way to bastiond with the given host key (nil: the caller finds out), a bond of sessions if it takes bonds, and sees to it that the grant
// lasts as long. patient says whether a task that is not connected to SSM is waited for.
func (x *admission) session(ctx context.Context, key ssh.PublicKey, ports keys.Ports, patient bool) (*opened, error) {
	a := x.access
	a.progress("opening a session to " + describe(&x.bastion))
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
		stream, err := a.openPort(ctx, sessions.Port{Target: x.bastion.Target(), Port: ports.SSH, ServerFirst: true}, patientIf(patient, x.checkGone))
		if err != nil {
			return nil, err
		}
		o.conn = stream
	}
	a.tasks.Go(func() { x.keepGranted(o.conn.Done(), x.renew) })
	return o, nil
}

// keepGranted renews the grant, by the function renew, until ended is closed, the Access too, or the bastion grants no longer
// because its own life ends. Failures are tried again as long as the grant lasts: the user may have to sign in to AWS again.
func (x *admission) keepGranted(ended <-chan struct{}, renew func() (*push, error)) {
	a := x.access
	lifetime := a.settings.Grant.Lifetime
	// A grant that is renewed early outlasts a machine that sleeps when it should be, and AWS when it cannot be asked.
	margin := max(lifetime/4, min(a.settings.Link.Linger, lifetime/2))
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	var watcher sync.WaitGroup
	defer watcher.Wait()
	defer cancel()
	watcher.Go(func() {
		select {
		case <-ended:
			cancel()
		case <-ctx.Done():
		}
	})
	if x.latest().wait(ctx) != nil {
		return
	}
	for until := x.until(); sleepUntil(ctx, until.Add(-margin)) == nil; {
		p, err := renew()
		if err == nil {
			err = p.wait(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && !p.until.After(until):
			return // the bastion has given all it will
		case err == nil:
			until = p.until
			x.mu.Lock()
			x.push = p
			x.mu.Unlock()
		case !time.Now().Before(until):
			return
		default:
			a.log.Warn("the grant could not be renewed; the connection ends with it", "err", err, "at", until)
			if sleep.For(ctx, lifetime/40) != nil {
				return
			}
		}
	}
}

// clockCheck is how often a wait for a point in time looks at the clock: timers stand still while the machine sleeps.
const clockCheck = 30 * time.Second

// sleepUntil waits until the wall clock says t, or for the end of ctx.
func sleepUntil(ctx context.Context, t time.Time) error {
	for {
		left := t.Round(0).Sub(time.Now().Round(0))
		if err := sleep.For(ctx, min(left, clockCheck)); err != nil || left <= clockCheck {
			return err
		}
	}
}
