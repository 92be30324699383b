package bond

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Defaults of DialConfig.
const (
	DefaultMax    = 8
	DefaultMaxAge = 50 * time.Minute
)

const (
	// openTimeout bounds one call of DialConfig.Open, and shakeTimeout each part of the handshake after it.
	openTimeout  = time.Minute
	shakeTimeout = 15 * time.Second
	// probeWithin is how long a subflow may take to answer after Probe.
	probeWithin = 3 * time.Second
	// lingerGrace is how much later than the path manager the connection itself would give up for want of a path: the
	// manager's error says more.
	lingerGrace = 10 * time.Second
)

// DialConfig says how a client gets its subflows. Zero fields get the default of the same name.
type DialConfig struct {
	Config

	// Open opens a stream to the far end's bond port. It returns when the stream's first bytes have come, or soon after
	// ctx is done: Close waits for it. Two calls at most run at a time, besides those that were cancelled. The connection
	// closes the streams.
	Open func(ctx context.Context) (net.Conn, error)
	// Name gives a stream's name for Stats; nil: its local address, which is the session's id.
	Name func(net.Conn) string

	Max    int           // subflows, 1 to 16
	MaxAge time.Duration // of a subflow, before it is replaced

	// Throttled reports whether an error of Open asks for fewer calls; nil: none does.
	Throttled func(error) bool
	// Fatal reports whether no call of Open can succeed after this error, until Rotate or Probe is called; nil: none does.
	// Nothing more is opened then, and the connection ends when it has no path.
	Fatal func(error) bool
}

func (c DialConfig) withDefaults() DialConfig {
	c.Config = c.Config.withDefaults()
	if c.Max == 0 {
		c.Max = DefaultMax
	}
	c.Max = min(max(c.Max, 1), maxSubflows)
	if c.MaxAge == 0 {
		c.MaxAge = DefaultMaxAge
	}
	if c.Name == nil {
		c.Name = func(stream net.Conn) string { return stream.LocalAddr().String() }
	}
	if c.Throttled == nil {
		c.Throttled = func(error) bool { return false }
	}
	if c.Fatal == nil {
		c.Fatal = func(error) bool { return false }
	}
	return c
}

// Dial begins a connection over one subflow, to which others are added as they are needed. ctx bounds Dial, not the
// connection. The far end has not accepted yet when it returns: if it refuses, reads and writes return a *RefusedError.
func Dial(ctx context.Context, cfg DialConfig) (*Conn, error) {
	cfg = cfg.withDefaults()
	id, err := newConnID()
	if err != nil {
		return nil, err
	}
	policy := newPolicy(time.Now(), cfg.Max, cfg.MaxAge, cfg.Linger)
	policy.first(time.Now())
	stream, err := cfg.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the connection's first session: %w", err)
	}
	var shake *clientHandshake
	err = handshake(ctx, stream, func() (err error) {
		shake, err = clientNew(stream, id, nil)
		return err
	})
	if err != nil {
		_ = stream.Close()
		return nil, fmt.Errorf("begin a connection: %w", err)
	}

	own := cfg.Config
	own.Linger += lingerGrace
	c := newConn(id, shake.key, own, true)
	m := &manager{
		c: c, cfg: cfg, policy: policy, next: 1,
		accepted: make(chan struct{}), wake: make(chan struct{}, 1),
		opens: make(map[uint32]attempt), results: make(chan result),
	}
	c.manager = m
	c.lostHook = m.lost
	accept := func(r io.Reader) error {
		defer close(m.accepted)
		_ = stream.SetReadDeadline(time.Now().Add(shakeTimeout))
		if err := shake.awaitAccept(r); err != nil {
			return err
		}
		return stream.SetReadDeadline(time.Time{})
	}
	c.work.Go(m.run) // before attach, which may end the connection, and that waits for what has begun
	if err := c.attach(0, stream, newFrameReader(stream), cfg.Name(stream), accept); err != nil {
		_ = stream.Close()
		_ = c.Close()
		return nil, err // not possible: the connection is new
	}
	return c, nil
}

// handshake does a part of a stream's handshake, within ctx and a time-out.
func handshake(ctx context.Context, stream net.Conn, part func() error) error {
	ctx, cancel := context.WithTimeout(ctx, shakeTimeout)
	defer cancel()
	interrupted := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(interrupted)
		_ = stream.SetDeadline(time.Unix(1, 0))
	})
	err := part()
	if !stop() {
		<-interrupted // or else it could hit what comes after
		return fmt.Errorf("bond handshake: %w", ctx.Err())
	}
	return err
}

// Rotate replaces all subflows, each when its successor is up: sessions that old credentials began cannot be resumed.
func (c *Conn) Rotate() {
	if c.manager != nil {
		c.manager.ask(func(r *requests) { r.rotate = true })
	}
}

// Probe finds out at once which subflows live, and opens one without waiting for any back-off if none does. It is for when
// the machine has slept, or its network has changed.
func (c *Conn) Probe() {
	c.probe(probeWithin)
	if c.manager != nil {
		c.manager.ask(func(r *requests) { r.probe = true })
	}
}

// manager opens and closes a client's subflows as its policy says. Its fields belong to run, except where they say otherwise.
// The connection waits for run, and run for the goroutines that open subflows.
type manager struct {
	c      *Conn
	cfg    DialConfig
	policy *policy

	accepted chan struct{} // closed when the far end has answered to NEW, or will not
	wake     chan struct{} // capacity 1: there are requests
	results  chan result   // of opens

	next    uint32 // number for the next subflow
	opens   map[uint32]attempt
	lastErr error // of the last attempt, since one succeeded

	mu       sync.Mutex
	asked    requests // guarded by mu
	lostWhy  error    // why the last lost subflow was lost; guarded by mu
	pathless bool     // told the log so
}

// requests are what callers asked for.
type requests struct{ rotate, probe bool }

// attempt is one that is under way to open a subflow.
type attempt struct {
	begun  time.Time
	cancel context.CancelFunc
}

// result is how an attempt ended. A subflow that was opened is attached.
type result struct {
	id  uint32
	err error
}

func (m *manager) ask(note func(*requests)) {
	m.mu.Lock()
	note(&m.asked)
	m.mu.Unlock()
	select {
	case m.wake <- struct{}{}:
	default: // it is to look already
	}
}

// lost is the connection's lostHook.
func (m *manager) lost(_ uint32, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lostWhy = err
}

func (m *manager) run() {
	ctx, cancel := context.WithCancel(context.Background())
	defer func() {
		cancel()
		for range m.opens {
			<-m.results
		}
	}()
	// The far end must have the connection before another subflow can join it.
	select {
	case <-m.accepted:
	case <-m.c.Done():
		return
	}
	// The timer has a callback, because one with a channel is run by whoever looks at it once it is due, and when two do so in one
	// bubble of testing/synctest, the race detector crashes (go.dev/issue/78156).
	due := make(chan struct{}, 1)
	timer := time.AfterFunc(0, func() {
		select {
		case due <- struct{}{}:
		default: // a look too many does no harm
		}
	})
	defer timer.Stop()
	for {
		select {
		case <-due:
		case <-m.c.changed():
		case <-m.wake:
			m.serve()
		case r := <-m.results:
			if !m.finished(r) {
				return
			}
		case <-m.c.Done():
			return
		}
		next, ok := m.look(ctx)
		if !ok {
			return
		}
		timer.Stop()
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// serve does what callers asked for.
func (m *manager) serve() {
	m.mu.Lock()
	asked := m.asked
	m.asked = requests{}
	m.mu.Unlock()
	if asked.rotate {
		m.policy.rotate(m.next)
	}
	if asked.probe {
		m.policy.retry()
		if !m.c.view().pathless.IsZero() {
			// What is under way may wait for answers by a network that is gone.
			for id, a := range m.opens {
				a.cancel()
				m.policy.ended(a.begun)
				m.opens[id] = attempt{cancel: a.cancel}
			}
		}
	}
}

// look lets the policy see how things are, and does as it says. It returns when to look again, or false at the end.
func (m *manager) look(ctx context.Context) (next time.Time, ok bool) {
	now, v := time.Now(), m.c.view()
	if v.ended {
		return time.Time{}, false
	}
	m.report(v)
	plan := m.policy.look(now, v)
	if plan.end {
		m.c.fail(m.pathError(now, v.pathless))
		return time.Time{}, false
	}
	for _, id := range plan.drop {
		m.c.log.Info("subflow stalled for too long, dropped", "subflow", id)
		m.c.drop(id)
	}
	for _, id := range plan.leave {
		m.c.log.Debug("subflow leaves", "subflow", id)
		m.c.leave(id)
	}
	for range plan.open {
		m.open(ctx, now)
	}
	return plan.next, true
}

// report logs when the last path has gone and when one is back.
func (m *manager) report(v view) {
	if pathless := !v.pathless.IsZero(); pathless != m.pathless {
		m.pathless = pathless
		if pathless {
			m.c.log.Warn("no path to the far end; what is written waits", "since", v.pathless)
		} else {
			m.c.log.Info("there is a path to the far end again")
		}
	}
}

// pathError is the error of a connection that has no path, and will not get one.
func (m *manager) pathError(now, since time.Time) error {
	m.mu.Lock()
	why := m.lostWhy
	m.mu.Unlock()
	label := "the last subflow was lost"
	if m.lastErr != nil {
		why, label = m.lastErr, "the last attempt failed"
	}
	var err error = &ResetError{Code: ResetLinger, Reason: fmt.Sprintf("none since %s, for %v",
		since.Format(time.TimeOnly), now.Sub(since).Round(time.Second))}
	if why != nil {
		err = fmt.Errorf("%w; %s: %w", err, label, why)
	}
	kind, next := fail.KindOf(err), fail.NextOf(err)
	if kind == fail.Other || kind == fail.Timeout {
		kind = fail.Lost
	}
	if next == "" {
		next = "check the network and the AWS credentials, then connect again"
	}
	return fail.New(kind, "keep the connection to the bastion", err, next)
}

// open begins to open a subflow.
func (m *manager) open(ctx context.Context, now time.Time) {
	id := m.next
	m.next++
	ctx, cancel := context.WithCancel(ctx)
	m.opens[id] = attempt{now, cancel}
	go func() {
		defer cancel()
		m.results <- result{id, m.join(ctx, id)} // run receives as many as it began
	}()
}

// join opens a stream and adds it to the connection. Whatever goes wrong, the stream is closed.
func (m *manager) join(ctx context.Context, id uint32) error {
	stream, err := m.openStream(ctx)
	if err != nil {
		return err
	}
	err = ctx.Err()
	if err == nil {
		err = handshake(ctx, stream, func() error {
			shake, err := clientJoin(stream, m.c.id, m.c.key, id)
			if err != nil {
				return err
			}
			return shake.awaitAccept(stream)
		})
	}
	if err == nil {
		err = m.c.attach(id, stream, newFrameReader(stream), m.cfg.Name(stream), nil)
	}
	if err != nil {
		_ = stream.Close()
	}
	return err
}

func (m *manager) openStream(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	return m.cfg.Open(ctx)
}

// finished takes in how an attempt ended. It returns false if the connection cannot go on.
func (m *manager) finished(r result) bool {
	a := m.opens[r.id]
	delete(m.opens, r.id)
	given := a.begun.IsZero() // up, by serve
	if r.err == nil {
		m.lastErr = nil
		if !given {
			m.policy.opened(a.begun)
		}
		return true
	}
	if given {
		return true
	}
	m.lastErr = r.err
	m.c.log.Debug("subflow not opened", "subflow", r.id, "err", r.err)
	how := failedOther
	refused, ok := errors.AsType[*RefusedError](r.err)
	switch {
	case ok && refused.Fatal():
		m.c.fail(fail.New(fail.Lost, "add a session to the connection", refused, "connect again"))
		return false
	case ok && refused.Code == RefuseSubflows:
		how = failedFull
	case ok:
	case m.cfg.Fatal(r.err):
		how = failedFatal
	case m.cfg.Throttled(r.err):
		how = failedThrottled
	}
	m.policy.openFailed(time.Now(), a.begun, how, len(m.c.view().subflows))
	return true
}
