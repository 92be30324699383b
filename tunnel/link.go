package tunnel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Phase is the activity of a Link.
type Phase string

// The phases of a Link.
const (
	Connecting   Phase = "connecting"   // for the first time, or because a user needs a Link that was Idle
	Up           Phase = "up"           // connected
	Reconnecting Phase = "reconnecting" // the connection was lost; dials wait
	Draining     Phase = "draining"     // the bastion is about to end: old connections finish while the Link makes a new one
	Idle         Phase = "idle"         // without a connection and without users: the next dial connects again
	Down         Phase = "down"         // ended: closed, or given up
)

// State is a Link's phase and its reason.
type State struct {
	Phase    Phase
	Since    time.Time     // when the phase began
	Err      error         // the latest failure, nil while up; while idle, why the bastion has ended, nil if it may still run
	Attempt  int           // failed attempts in succession
	Retry    time.Duration // how long the Link waits before its next attempt; 0 during an attempt
	RetryAt  time.Time     // when the next attempt begins; zero during an attempt
	Describe string        // the bastion, if known
}

// Keepalive says how the Link detects a dead, silent peer. After Interval without a byte it asks for an answer; after MaxMissed
// more intervals it declares the connection lost. Zero values mean 15 s and 3; a negative Interval turns it off.
type Keepalive struct {
	Interval  time.Duration
	MaxMissed int
}

// LinkConfig is the configuration of a Link. The zero value is ready for use.
type LinkConfig struct {
	Logger         *slog.Logger  // nil: no log
	Keepalive      Keepalive     //
	ConnectTimeout time.Duration // for the SSH handshake; the Connector bounds its own time. 0: 30 s
	BackoffMin     time.Duration // the first wait between attempts; it doubles with each failure. 0: 500 ms
	BackoffMax     time.Duration // the longest wait; a connection that lived this long counts as a success. 0: 30 s
	HoldMax        int           // how many dials may wait for the link at a time. 0: 1024; negative: none
	HoldTimeout    time.Duration // how long each may wait. 0: 60 s
	DialTimeout    time.Duration // for the bastion's answer to a dial. 0: 30 s

	// OnState is called at each change of the state, in order and not concurrently. It must not block or call the Link.
	OnState func(State)
}

func (c LinkConfig) withDefaults() LinkConfig {
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	c.Keepalive.Interval = cmp.Or(c.Keepalive.Interval, 15*time.Second)
	c.Keepalive.MaxMissed = cmp.Or(c.Keepalive.MaxMissed, 3)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 30*time.Second)
	c.BackoffMin = cmp.Or(c.BackoffMin, 500*time.Millisecond)
	c.BackoffMax = cmp.Or(c.BackoffMax, 30*time.Second)
	c.HoldMax = cmp.Or(c.HoldMax, 1024)
	c.HoldTimeout = cmp.Or(c.HoldTimeout, time.Minute)
	c.DialTimeout = cmp.Or(c.DialTimeout, 30*time.Second)
	return c
}

// Link keeps up an SSH connection to a bastion. Make one with [NewLink], then call Start, and Close at the end.
type Link struct {
	connector Connector
	cfg       LinkConfig

	startOnce sync.Once
	cancel    context.CancelFunc // set by startOnce
	done      chan struct{}      // closed once the Link has ended and all its goroutines but the closer have returned
	demand    chan struct{}      // capacity 1: a user has begun to wait; see needed

	mu      sync.Mutex
	current *client       // takes new connections; nil without one
	failed  error         // why the Link takes no more dials, or nil
	waiting int           // dials that wait for current
	awaited int           // calls of Ready that wait for it
	changed chan struct{} // closed and replaced when current or failed changes
	state   State
}

// NewLink returns a Link that gets its transports from connector.
func NewLink(connector Connector, cfg LinkConfig) *Link {
	return &Link{
		connector: connector,
		cfg:       cfg.withDefaults(),
		done:      make(chan struct{}),
		demand:    make(chan struct{}, 1),
		changed:   make(chan struct{}),
		state:     State{Phase: Connecting, Since: time.Now()},
	}
}

// Start begins to connect. The Link ends when ctx is done, at Close, or after a permanent error. Later calls do nothing.
func (l *Link) Start(ctx context.Context) {
	l.startOnce.Do(func() {
		running, cancel := context.WithCancel(ctx)
		l.cancel = cancel
		go l.run(running)
	})
}

// Close ends the Link and every connection through it, and waits until they have ended. Later calls do nothing more.
func (l *Link) Close() error {
	l.startOnce.Do(func() { // never started
		l.cancel = func() {}
		l.end(nil)
		close(l.done)
	})
	l.cancel()
	<-l.done
	return nil
}

// Done returns a channel that is closed when the Link has ended; Err then says why.
func (l *Link) Done() <-chan struct{} { return l.done }

// Err returns the permanent error that ended the Link, or nil if it still runs or was closed.
func (l *Link) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(l.failed, errLinkClosed) {
		return nil
	}
	return l.failed
}

// ended reports whether the Link refuses dials.
func (l *Link) ended() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed != nil
}

// State returns the Link's state.
func (l *Link) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// LinkStats are the figures of a Link's present SSH connection.
type LinkStats struct {
	State    State
	Conn     net.Conn // the transport's; nil without one
	Channels int      // connections through the bastion, and attempts to open one
	Sent     uint64   // bytes of the SSH connection
	Received uint64
}

// Stats returns the figures of the present SSH connection.
func (l *Link) Stats() LinkStats {
	l.mu.Lock()
	st, c := LinkStats{State: l.state}, l.current
	l.mu.Unlock()
	if c != nil {
		st.Conn, st.Channels = c.wire.Conn, c.channels()
		st.Sent, st.Received = uint64(c.wire.sent.Load()), uint64(c.wire.received.Load())
	}
	return st
}

var errLinkClosed = errors.New("the link to the bastion is closed")

// Ready waits until the Link is connected, and then returns nil. It fails if the Link ends or ctx is done first. It makes an Idle
// Link connect.
func (l *Link) Ready(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.awaited++
	defer func() { l.awaited-- }()
	l.ask()
	for {
		switch {
		case l.failed != nil:
			return l.failed
		case l.current != nil:
			return nil
		}
		changed := l.changed
		l.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		l.mu.Lock()
		if ctx.Err() != nil {
			return waitError(ctx, "connect to the bastion", l.state.Err)
		}
	}
}

// ask tells the Link that a user waits. The caller holds l.mu and has counted itself.
func (l *Link) ask() {
	select {
	case l.demand <- struct{}{}:
	default:
	}
}

// needed reports whether a user waits for the Link.
func (l *Link) needed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting+l.awaited > 0
}

// Request sends an SSH global request to the bastion, and returns whether the bastion granted it, and the reply. It does not wait
// for the link.
func (l *Link) Request(ctx context.Context, name string, payload []byte) (ok bool, reply []byte, err error) {
	l.mu.Lock()
	c := l.current
	l.mu.Unlock()
	if c == nil {
		return false, nil, fail.New(fail.Lost, "ask the bastion for "+name, errors.New("the link is down"), "")
	}
	ok, reply, err = c.request(ctx, name, payload)
	if err != nil {
		return false, nil, fmt.Errorf("ask the bastion for %s: %w", name, err)
	}
	return ok, reply, nil
}

// offer makes c the connection for dials. The state says so before Ready does.
func (l *Link) offer(c *client) {
	l.mu.Lock()
	l.current = c
	l.mu.Unlock()
	l.setState(State{Phase: Up, Describe: c.describe})
	l.mu.Lock()
	l.broadcast()
	l.mu.Unlock()
}

// retract takes the current connection from the dials, and reports whether no user waits for another.
func (l *Link) retract() (quiet bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current = nil
	l.broadcast()
	select {
	case <-l.demand: // of those that have got their connection
	default:
	}
	return l.waiting+l.awaited == 0
}

// end ends all dials with err.
func (l *Link) end(err error) {
	l.mu.Lock()
	l.failed = err
	if err == nil {
		l.failed = errLinkClosed
	}
	l.broadcast()
	l.mu.Unlock()
	l.setState(State{Phase: Down, Err: err})
}

// broadcast wakes all that wait for a change. Callers hold l.mu.
func (l *Link) broadcast() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// setState records and reports s. Only the Link's own goroutine calls it.
func (l *Link) setState(s State) {
	l.mu.Lock()
	s.Since = time.Now()
	if s.Phase == l.state.Phase {
		s.Since = l.state.Since
	}
	if s.Retry > 0 {
		s.RetryAt = time.Now().Add(s.Retry)
	}
	s.Describe = cmp.Or(s.Describe, l.state.Describe)
	l.state = s
	l.mu.Unlock()
	if l.cfg.OnState != nil {
		l.cfg.OnState(s)
	}
}
