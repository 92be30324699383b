package tunnel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// run is the Link's goroutine. It connects, watches and replaces the connections, and waits for all of them.
func (l *Link) run(ctx context.Context) {
	defer close(l.done)
	defer l.cancel()
	var clients sync.WaitGroup
	err := l.supervise(ctx, &clients)
	if ctx.Err() != nil {
		err = nil // closed
	}
	l.end(err)
	clients.Wait() // the last connections of draining bastions may still finish
}

// supervise connects, serves and reconnects until ctx is done or an error is permanent. It goes on as long as the Link has users or
// its bastion runs. Once the bastion has ended for good, it waits until a user needs another.
func (l *Link) supervise(ctx context.Context, clients *sync.WaitGroup) error {
	s := supervision{
		link: l, clients: clients, delay: delays{min: l.cfg.BackoffMin, max: l.cfg.BackoffMax},
		phase: Connecting, last: lastConn{never: true}, rejected: true,
	}
	l.setState(State{Phase: s.phase})
	for {
		use := l.use(s.last)
		c, err := l.connect(ctx, use, s.last.draining)
		if err == nil {
			err = s.connected(ctx, c)
		} else {
			err = s.failed(ctx, use, err)
		}
		if err != nil {
			return err
		}
	}
}

// supervision is supervise's state between attempts.
type supervision struct {
	link    *Link
	clients *sync.WaitGroup // of the connections

	delay    delays
	phase    Phase // without a connection
	last     lastConn
	rejected bool // the latest attempt's key was rejected, or none has ever been accepted
	failures int  // in succession
}

// failed takes in a failed attempt, and waits for the next one. It returns the error that ends the Link.
func (s *supervision) failed(ctx context.Context, use Use, err error) error {
	_, isAuth := errors.AsType[*authError](err)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case IsGone(err) && use != Wanted:
		if s.last.draining != nil {
			s.last.draining.close(fmt.Errorf("%w: %w", errLost, err))
		}
		s.failures, s.last.used = 0, false
		s.delay.reset()
		return s.idle(ctx, err)
	case isAuth && !s.rejected:
		s.rejected = true // a bastion that was replaced meanwhile may accept the next key
	case IsPermanent(err), s.last.never && fail.KindOf(err) == fail.Credentials:
		return err
	}
	s.failures++
	if s.phase == Draining && isClosed(s.last.draining.done) {
		s.phase = Reconnecting
	}
	next := State{Phase: s.phase, Err: err, Attempt: s.failures, Retry: s.delay.next()}
	return s.link.pause(ctx, next, use, s.last.draining)
}

// connected serves a connection, then waits until the Link needs another one. It returns the error that ends the Link.
func (s *supervision) connected(ctx context.Context, c *client) error {
	s.rejected, s.failures = false, 0
	began := time.Now()
	s.clients.Go(c.run)
	quiet, err := s.link.serve(ctx, c)
	if err != nil {
		return err
	}
	if time.Since(began) >= s.link.cfg.BackoffMax {
		s.delay.reset()
	}
	s.last = lastConn{used: !quiet}
	next := State{Retry: s.delay.next()}
	switch {
	case isClosed(c.draining):
		s.clients.Go(func() { c.retire(ctx) })
		s.phase, s.last.draining = Draining, c
		if quiet {
			return nil // the Connector reports why the bastion ended
		}
	case quiet && c.idle:
		return s.idle(ctx, nil)
	default:
		s.phase, next.Err = Reconnecting, c.err
	}
	next.Phase = s.phase
	return s.link.pause(ctx, next, s.link.use(s.last), s.last.draining)
}

// idle waits until a user needs a connection. why says why the bastion has ended; nil: it may still run.
func (s *supervision) idle(ctx context.Context, why error) error {
	l := s.link
	l.setState(State{Phase: Idle, Err: why})
	for !l.needed() {
		select {
		case <-l.demand:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.phase = Connecting
	l.setState(State{Phase: s.phase})
	return nil
}

// lastConn is the fate of the latest connection.
type lastConn struct {
	never    bool    // there was none yet
	used     bool    // it had connections in it when it was lost, or when its bastion began to drain
	draining *client // the connection, if its bastion drains; the next one replaces it
}

// use returns the purpose of the next transport. A draining bastion needs a replacement only while it has connections: a new
// transport cannot save those that were cut with it.
func (l *Link) use(last lastConn) Use {
	used := last.used
	if c := last.draining; c != nil {
		used = used && !isClosed(c.done) && c.inUse()
	}
	switch {
	case last.never || l.needed():
		return Wanted
	case used:
		return Interrupted
	}
	return Unused
}

// serve lets dials use c until it is lost, which closes c.done, or its bastion drains, which closes c.draining and then perhaps
// c.done. The end of ctx is an error. quiet says that no one uses c or waits for it.
func (l *Link) serve(ctx context.Context, c *client) (quiet bool, err error) {
	l.offer(c)
	select {
	case <-ctx.Done():
		l.retract()
		c.close(errLinkClosed)
		return false, ctx.Err()
	case <-c.done:
	case <-c.draining:
	}
	quiet = l.retract() && !c.wasInUse()
	if isClosed(c.draining) {
		l.cfg.Logger.Info("bastion draining", "bastion", c.describe, "left", c.left)
	} else {
		l.cfg.Logger.Warn("link lost", "bastion", c.describe, "err", c.err)
	}
	return quiet, nil
}

// connect makes one attempt. draining is the connection to a draining bastion that the new one replaces, or nil.
func (l *Link) connect(ctx context.Context, use Use, draining *client) (*client, error) {
	ctx = WithUse(ctx, use)
	if draining != nil {
		ctx = context.WithValue(ctx, replacingKey{}, draining.describe)
	}
	t, err := l.connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	ka := t.Keepalive
	ka.Interval = cmp.Or(ka.Interval, l.cfg.Keepalive.Interval)
	ka.MaxMissed = cmp.Or(ka.MaxMissed, l.cfg.Keepalive.MaxMissed)
	return handshake(ctx, t, l.cfg.ConnectTimeout, ka, l.cfg.Logger)
}

// pause shows s and waits for s.Retry before the next attempt. It ends early if that attempt gets another purpose: a user begins to
// wait, or the draining connection, which may be nil, has ended.
func (l *Link) pause(ctx context.Context, s State, use Use, draining *client) error {
	l.setState(s)
	t := time.NewTimer(s.Retry)
	defer t.Stop()
	var demand, ended <-chan struct{}
	if use != Wanted {
		demand = l.demand
		if draining != nil && !isClosed(draining.done) {
			ended = draining.done
		}
	}
	select {
	case <-t.C:
	case <-demand:
	case <-ended:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.Retry, s.RetryAt = 0, time.Time{}
	l.setState(s)
	return nil
}

// delays are the waits between attempts. They double, half of each is random, and the first is short.
type delays struct {
	min, max time.Duration
	attempt  int // waits since the last reset
}

func (d *delays) reset() { d.attempt = 0 }

func (d *delays) next() time.Duration {
	d.attempt++
	if d.attempt == 1 {
		return backoff.Between(1, d.min/2, rand.N[time.Duration])
	}
	pause := backoff.After(d.attempt-2, d.min, d.max)
	return backoff.Between(pause/2, pause, rand.N[time.Duration])
}
