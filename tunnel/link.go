package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/backoff"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// Transport is a byte stream to an SSH server, with what is needed to log in there. The Link closes Conn.
type Transport struct {
	Conn              net.Conn
	User              string
	Auth              []ssh.AuthMethod
	HostKey           ssh.HostKeyCallback // required; an error is permanent and comes before any data of this end
	HostKeyAlgorithms []string            // nil: the defaults of x/crypto/ssh
	Describe          string              // names the bastion in messages and in Replacing
	Keepalive         Keepalive           // for this transport; its zero fields are as the LinkConfig says

	// Banner gets what the server says before it has let the client in; nil: nobody asks.
	Banner func(text string)

	// Confirm, if not nil, decides once the server has let the client in whether it is the right one. Nothing is sent
	// through the server before. An error ends the connection, and the Link too if it is permanent.
	Confirm func(ctx context.Context, conn ssh.ConnMetadata) error

	// Ended, if not nil, says why Conn was closed by its owner, if it was.
	Ended func() error
}

// ended returns why the owner of Conn closed it; nil if it did not.
func (t *Transport) ended() error {
	if t.Ended == nil {
		return nil
	}
	return t.Ended()
}

// Connector brings a Transport. The Link calls Connect from one goroutine, once for each attempt, and Connect bounds
// itself in time. [UseOf] says what the transport is for, and so what it may cost: a Connector that would have to start
// a server returns [Gone] instead, unless the use is worth one. An error for which [IsPermanent] holds ends the Link;
// after any other it tries again, for ever.
type Connector interface {
	Connect(ctx context.Context) (*Transport, error)
}

// ConnectorFunc is a function that is a Connector.
type ConnectorFunc func(ctx context.Context) (*Transport, error)

// Connect calls f.
func (f ConnectorFunc) Connect(ctx context.Context) (*Transport, error) { return f(ctx) }

// Use is what a transport is for.
type Use int

// The uses of a transport, from the least.
const (
	// Unused: nobody uses the Link. It may have its old server back, and nothing new is started for it.
	Unused Use = iota
	// Interrupted: the last connection was lost with connections in it, or its draining bastion still has some. Nobody
	// waits for another.
	Interrupted
	// Wanted: somebody waits for the Link.
	Wanted
)

type useKey struct{}

// UseOf returns, inside Connect, what the transport is for; elsewhere Wanted.
func UseOf(ctx context.Context) Use {
	if use, ok := ctx.Value(useKey{}).(Use); ok {
		return use
	}
	return Wanted
}

// WithUse returns a context for Connect, for which UseOf returns use.
func WithUse(ctx context.Context, use Use) context.Context {
	return context.WithValue(ctx, useKey{}, use)
}

type replacingKey struct{}

// Replacing returns, inside Connect, the description of the draining bastion that the new transport replaces. The
// transport must lead to another one: that one is going away.
func Replacing(ctx context.Context) (describe string, ok bool) {
	describe, ok = ctx.Value(replacingKey{}).(string)
	return describe, ok
}

// Phase says what a Link is doing.
type Phase string

// The phases of a Link.
const (
	Connecting   Phase = "connecting"   // for the first time, or because somebody needs a Link that was Idle
	Up           Phase = "up"           // connected
	Reconnecting Phase = "reconnecting" // the connection was lost; dials wait
	Draining     Phase = "draining"     // the bastion is going away: old connections finish while a new one is made
	Idle         Phase = "idle"         // there is no connection, and nobody needs one: the next dial connects anew
	Down         Phase = "down"         // ended: closed, or given up
)

// State is what a Link is doing and why.
type State struct {
	Phase    Phase
	Since    time.Time     // when the phase began
	Err      error         // the latest failure, nil while up; while idle why the bastion has gone, nil if it may not have
	Attempt  int           // failed attempts in a row
	Retry    time.Duration // how long the Link waits before its next attempt; 0 while it makes one
	RetryAt  time.Time     // when the next attempt begins; zero while the Link makes one
	Describe string        // the bastion, where known
}

// Keepalive says how the death of a silent peer is noticed: after Interval without a byte the Link asks for an answer;
// after MaxMissed more intervals it takes the connection for lost. Zero values mean 15 s and 3; a negative Interval
// turns it off.
type Keepalive struct {
	Interval  time.Duration
	MaxMissed int
}

// LinkConfig is the configuration of a Link. The zero value is ready for use.
type LinkConfig struct {
	Logger         *slog.Logger  // nil: no log
	Keepalive      Keepalive     //
	ConnectTimeout time.Duration // for the SSH handshake; the Connector bounds itself. 0: 30 s
	BackoffMin     time.Duration // the first wait between attempts, doubled by each failure. 0: 500 ms
	BackoffMax     time.Duration // the longest wait; a connection that lived so long counts as a success. 0: 30 s
	HoldMax        int           // how many dials may wait for the link at a time. 0: 1024; negative: none
	HoldTimeout    time.Duration // how long each may wait. 0: 60 s
	DialTimeout    time.Duration // for the bastion's answer to a dial. 0: 30 s

	// OnState is called at each change of the state, by one goroutine at a time, in order. It must not block and must not
	// call the Link.
	OnState func(State)
}

func (c LinkConfig) withDefaults() LinkConfig {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&c.Keepalive.Interval, 15*time.Second)
	setDefault(&c.Keepalive.MaxMissed, 3)
	setDefault(&c.ConnectTimeout, 30*time.Second)
	setDefault(&c.BackoffMin, 500*time.Millisecond)
	setDefault(&c.BackoffMax, 30*time.Second)
	setDefault(&c.HoldMax, 1024)
	setDefault(&c.HoldTimeout, time.Minute)
	setDefault(&c.DialTimeout, 30*time.Second)
	return c
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Link is an SSH connection to a bastion that is kept up. Make one with [NewLink], then call Start, and Close at the end.
type Link struct {
	connector Connector
	cfg       LinkConfig

	startOnce sync.Once
	cancel    context.CancelFunc // set by startOnce
	done      chan struct{}      // closed once the Link has ended and all its goroutines but the closer have returned
	demand    chan struct{}      // capacity 1: somebody has begun to wait; see needed

	mu      sync.Mutex
	current *client       // takes new connections; nil while there is none
	failed  error         // why the Link takes no more dials, or nil
	waiting int           // dials that wait for current
	awaited int           // calls of Ready that do
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

// Start begins to connect. The Link ends when ctx does, at Close, or by a permanent error. Later calls do nothing.
func (l *Link) Start(ctx context.Context) {
	l.startOnce.Do(func() {
		running, cancel := context.WithCancel(ctx)
		l.cancel = cancel
		go l.run(running)
	})
}

// Close ends the Link and every connection through it, and waits until that is done. It may be called more than once.
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

// Done is closed when the Link has ended; Err then says why.
func (l *Link) Done() <-chan struct{} { return l.done }

// Err returns the permanent error that ended the Link, or nil if it goes on or was closed.
func (l *Link) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(l.failed, errLinkClosed) {
		return nil
	}
	return l.failed
}

// ended reports whether the Link takes no more dials.
func (l *Link) ended() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.failed != nil
}

// State returns what the Link is doing.
func (l *Link) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// LinkStats are the figures of a Link's present SSH connection.
type LinkStats struct {
	State    State
	Conn     net.Conn // the transport's; nil while there is none
	Channels int      // connections through the bastion, and attempts at them
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

// Ready waits until the Link is connected, has ended, or ctx is done; nil means the first. An Idle one connects for it.
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

// ask makes the Link see that somebody waits. The caller holds l.mu and has counted itself.
func (l *Link) ask() {
	select {
	case l.demand <- struct{}{}:
	default:
	}
}

// needed reports whether somebody waits for the Link.
func (l *Link) needed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting+l.awaited > 0
}

// waitError is the error of a wait for the link that ctx ended; last is the link's own latest failure.
func waitError(ctx context.Context, op string, last error) error {
	err := context.Cause(ctx)
	if last == nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if fail.KindOf(err) == fail.Timeout {
		return fail.New(fail.Timeout, op, fmt.Errorf("%w; the latest failure: %w", err, last), fail.NextOf(last))
	}
	return fmt.Errorf("%s: %w; the latest failure: %w", op, err, last)
}

// Dial opens a connection from the bastion to addr, a host:port whose name the bastion resolves; network is tcp, tcp4 or
// tcp6, which makes no difference. While the link is down, Dial waits for it, for at most HoldTimeout in all and together
// with at most HoldMax others. The connection is a [*Conn].
//
// A refusal is a [*RefusedError] in the chain: of kind Denied if the bastion's policy is the reason.
func (l *Link) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	op := "open a connection to " + addr
	host, port, err := parseDest(network, addr)
	if err != nil {
		return nil, fail.New(fail.Usage, op, err, "give the destination as host:port")
	}
	hold := holdTimer{timeout: l.cfg.HoldTimeout}
	defer hold.stop()
	for {
		c, err := l.acquire(ctx, op, &hold)
		if err != nil {
			return nil, err
		}
		conn, err := l.dialOn(ctx, c, op, host, port)
		if err == nil {
			return conn, nil
		}
		var refusal *ssh.OpenChannelError
		switch {
		case ctx.Err() != nil, fail.KindOf(err) == fail.Timeout:
			return nil, err
		case errors.As(err, &refusal) && !c.drained():
			return nil, refused(addr, refusal)
		case refusal == nil:
			c.close(fmt.Errorf("%w: %w", errLost, err)) // x/crypto/ssh has or will have ended it
		}
		// The connection was lost, or the bastion takes no new ones: the next connection will do.
		if err := l.superseded(ctx, op, c, &hold); err != nil {
			return nil, err
		}
	}
}

// dialOn dials through c within DialTimeout.
func (l *Link) dialOn(ctx context.Context, c *client, op, host string, port uint32) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.cfg.DialTimeout,
		fail.New(fail.Timeout, op, fmt.Errorf("the bastion gave no answer within %v", l.cfg.DialTimeout),
			"check that the destination can be reached from the bastion"))
	defer cancel()
	conn, err := c.dial(ctx, host, port)
	if err != nil && ctx.Err() != nil {
		if cause := context.Cause(ctx); fail.KindOf(cause) == fail.Timeout {
			return nil, cause
		}
		return nil, fmt.Errorf("%s: %w", op, context.Cause(ctx))
	}
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// Request sends an SSH global request to the bastion and returns whether it was granted, and the answer. It does not wait
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

// acquire waits for a connection and holds it.
func (l *Link) acquire(ctx context.Context, op string, hold *holdTimer) (*client, error) {
	return l.wait(ctx, op, hold, func() bool { return l.current != nil })
}

// superseded waits until c does not take new connections any more.
func (l *Link) superseded(ctx context.Context, op string, c *client, hold *holdTimer) error {
	got, err := l.wait(ctx, op, hold, func() bool { return l.current != c })
	if got != nil {
		got.release()
	}
	return err
}

// wait waits, within the bounds on held dials, until cond holds, which is called with l.mu held, and returns and holds
// the then current connection, if any.
func (l *Link) wait(ctx context.Context, op string, hold *holdTimer, cond func() bool) (*client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	queued := false
	defer func() {
		if queued {
			l.waiting--
		}
	}()
	for {
		switch {
		case l.failed != nil:
			return nil, fail.New(fail.Lost, op, l.failed, fail.NextOf(l.failed))
		case ctx.Err() != nil:
			return nil, fmt.Errorf("%s: %w", op, context.Cause(ctx))
		case cond():
			if l.current != nil {
				l.current.hold()
			}
			return l.current, nil
		case !queued && l.waiting >= l.cfg.HoldMax:
			return nil, fail.New(fail.Lost, op, fmt.Errorf("the link is down and %d connections wait for it", l.waiting),
				"try again when the link is up")
		case !queued:
			queued = true
			l.waiting++
			l.ask()
		}
		changed := l.changed
		l.mu.Unlock()
		err := hold.wait(ctx, changed)
		l.mu.Lock()
		switch last := l.state.Err; {
		case errors.Is(err, errHoldTimeout):
			err = fmt.Errorf("the link has been down for %v", l.cfg.HoldTimeout)
			if last != nil {
				err = fmt.Errorf("%w: %w", err, last)
			}
			return nil, fail.New(fail.Lost, op, err, "try again when the link is up")
		case err != nil:
			return nil, waitError(ctx, op, last)
		}
	}
}

// holdTimer bounds the time that one dial waits in all. It starts with the first wait.
type holdTimer struct {
	timeout time.Duration
	timer   *time.Timer
}

var errHoldTimeout = errors.New("hold timeout")

func (h *holdTimer) wait(ctx context.Context, changed <-chan struct{}) error {
	if h.timer == nil {
		h.timer = time.NewTimer(h.timeout)
	}
	select {
	case <-changed:
		return nil
	case <-h.timer.C:
		return errHoldTimeout
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h *holdTimer) stop() {
	if h.timer != nil {
		h.timer.Stop()
	}
}

// run is the Link's one goroutine: it connects, watches and replaces the connections, and waits for all of them.
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

// supervise connects, serves and reconnects until ctx is done or an error is permanent. It goes on as long as somebody
// uses the Link or its bastion stands; once that has gone for good and nobody needs another, it waits.
func (l *Link) supervise(ctx context.Context, clients *sync.WaitGroup) error {
	delay := delays{min: l.cfg.BackoffMin, max: l.cfg.BackoffMax}
	last := lastConn{never: true}
	phase := Connecting
	rejected := true // the key was rejected by the latest attempt, or none has ever been accepted
	failures := 0    // in a row
	l.setState(State{Phase: phase})
	for {
		use := l.use(last)
		c, err := l.connect(ctx, use, last.draining)
		if err != nil {
			var auth *authError
			isAuth := errors.As(err, &auth)
			switch {
			case ctx.Err() != nil:
				return ctx.Err()
			case IsGone(err) && use != Wanted:
				if last.draining != nil {
					last.draining.close(fmt.Errorf("%w: %w", errLost, err))
				}
				if err := l.idle(ctx, err); err != nil {
					return err
				}
				phase, failures, last.used = Connecting, 0, false
				delay.reset()
				continue
			case isAuth && !rejected:
				rejected = true // a bastion that was replaced meanwhile may accept the next key
			case IsPermanent(err), last.never && fail.KindOf(err) == fail.Credentials:
				return err
			}
			failures++
			if phase == Draining && isClosed(last.draining.done) {
				phase = Reconnecting
			}
			next := State{Phase: phase, Err: err, Attempt: failures, Retry: delay.next()}
			if err := l.pause(ctx, next, use, last.draining); err != nil {
				return err
			}
			continue
		}
		rejected, failures = false, 0
		began := time.Now()
		clients.Go(c.run)
		quiet, err := l.serve(ctx, c)
		if err != nil {
			return err
		}
		if time.Since(began) >= l.cfg.BackoffMax {
			delay.reset()
		}
		last = lastConn{used: !quiet}
		next := State{Retry: delay.next()}
		switch {
		case isClosed(c.draining):
			clients.Go(func() { c.retire(ctx) })
			phase, last.draining = Draining, c
			if quiet {
				continue // the Connector says why it goes; nobody need be told before
			}
		case quiet && c.idle:
			if err := l.idle(ctx, nil); err != nil {
				return err
			}
			phase = Connecting
			continue
		default:
			phase, next.Err = Reconnecting, c.err
		}
		next.Phase = phase
		if err := l.pause(ctx, next, l.use(last), last.draining); err != nil {
			return err
		}
	}
}

// lastConn is what became of the latest connection.
type lastConn struct {
	never    bool    // there was none yet
	used     bool    // it had connections in it when it was lost, or when its bastion began to drain
	draining *client // it, if its bastion drained; the next one replaces it
}

// use says what the next transport is for. A draining bastion is replaced for its connections only as long as it has
// them: those that were cut with it are not saved by another.
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

// serve lets dials use c until it is lost, which closes c.done, or its bastion is draining, which closes c.draining and
// then perhaps c.done as well; or until ctx is done, which is an error. quiet says that nobody uses c or waits to.
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

// idle waits until somebody needs a connection. why says why the bastion has gone; nil: it may not have.
func (l *Link) idle(ctx context.Context, why error) error {
	l.setState(State{Phase: Idle, Err: why})
	for !l.needed() {
		select {
		case <-l.demand:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	l.setState(State{Phase: Connecting})
	return nil
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
	setDefault(&ka.Interval, l.cfg.Keepalive.Interval)
	setDefault(&ka.MaxMissed, l.cfg.Keepalive.MaxMissed)
	return handshake(ctx, t, l.cfg.ConnectTimeout, ka, l.cfg.Logger)
}

// pause shows s and waits for s.Retry before the next attempt. It is shorter if that attempt gets another use: somebody
// begins to wait, or the draining connection, which may be nil, has ended.
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

// offer makes c the connection that dials use.
func (l *Link) offer(c *client) {
	l.mu.Lock()
	l.current = c
	l.broadcast()
	l.mu.Unlock()
	l.setState(State{Phase: Up, Describe: c.describe})
}

// retract takes the current connection from the dials and reports whether none of them waits.
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

// end ends all dials, for the given reason.
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

// broadcast wakes those that wait for a change. The caller holds l.mu.
func (l *Link) broadcast() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// setState is called by the Link's one goroutine.
func (l *Link) setState(s State) {
	l.mu.Lock()
	s.Since = time.Now()
	if s.Phase == l.state.Phase {
		s.Since = l.state.Since
	}
	if s.Retry > 0 {
		s.RetryAt = time.Now().Add(s.Retry)
	}
	if s.Describe == "" {
		s.Describe = l.state.Describe
	}
	l.state = s
	l.mu.Unlock()
	if l.cfg.OnState != nil {
		l.cfg.OnState(s)
	}
}

// parseDest checks a destination.
func parseDest(network, addr string) (host string, port uint32, err error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return "", 0, fmt.Errorf("network %s is not supported", network)
	}
	host, portText, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("bad port %q", portText)
	}
	if host == "" {
		return "", 0, errors.New("no host")
	}
	return host, uint32(n), nil
}
