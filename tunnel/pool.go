package tunnel

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// PoolConfig is the configuration of a Pool. New is required.
type PoolConfig struct {
	// New makes a Link without starting it. Its LinkConfig.OnState must be the given one. Calls do not overlap.
	New func(onState func(State)) *Link

	Max       int          // most Links. 0: 1
	BusyConns int          // connections at which a Link is busy. 0: 16
	Logger    *slog.Logger // nil: no log

	// OnState is called at each change of the Pool's state, which is that of its best Link. Calls come in order and do not overlap.
	// It must not block or call the Pool.
	OnState func(State)
}

func (c PoolConfig) withDefaults() PoolConfig {
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	c.Max = cmp.Or(c.Max, 1)
	c.BusyConns = cmp.Or(c.BusyConns, 16)
	return c
}

const (
	busyBytes = 256 << 10   // a second, both directions together, at which a Link is busy
	idleAfter = time.Minute // how long the Pool keeps a superfluous Link without connections

	// poolTick is how often a Pool measures its Links.
	poolTick = time.Second

	// After a Link that failed to start, the next attempt to add one waits firstGrowthPause, which doubles up to lastGrowthPause.
	firstGrowthPause = 30 * time.Second
	lastGrowthPause  = 10 * time.Minute
)

// Pool is one or more Links to the same place, for a transport that is slow by itself. Each new connection goes to the Link with
// the least load. The Pool begins with one Link, adds one when all are busy, and ends Links that have been idle for a while. Each
// Link reconnects by itself. A connection stays with its Link and ends with it.
//
// The Pool ends, as a Link does, when its last Link has ended with a permanent error, at Close, or when its context is done.
type Pool struct {
	cfg PoolConfig

	startOnce sync.Once
	cancel    context.CancelFunc // set by startOnce
	done      chan struct{}      // closed once all Links have ended
	nudged    chan struct{}      // capacity 1: wakes run
	started   chan struct{}      // closed by startOnce: first is set
	first     *Link
	links     sync.WaitGroup // goroutines that wait for a Link to end

	stateMu sync.Mutex // serialises OnState; taken before mu

	mu      sync.Mutex
	members []*member // oldest first
	state   State
	failed  error // why the Pool ended, or nil

	// Only run uses these.
	growAt    time.Time // no growth before this time
	growPause time.Duration
}

// member is a Link of a Pool, guarded by the Pool's mu.
type member struct {
	link    *Link
	state   State
	dials   int // running dials
	sent    uint64
	rcvd    uint64
	at      time.Time // when sent and rcvd were read
	up      float64   // bytes per second sent, smoothed
	down    float64   // bytes per second received, smoothed
	idle    time.Time // since when it is unused; zero: in use
	retired bool      // closing, or ended
}

// NewPool returns a Pool.
func NewPool(cfg PoolConfig) *Pool {
	return &Pool{
		cfg:     cfg.withDefaults(),
		done:    make(chan struct{}),
		nudged:  make(chan struct{}, 1),
		started: make(chan struct{}),
		state:   State{Phase: Connecting, Since: time.Now()},
	}
}

// Start begins to connect. Later calls do nothing.
func (p *Pool) Start(ctx context.Context) {
	p.startOnce.Do(func() {
		running, cancel := context.WithCancel(ctx)
		p.cancel = cancel
		p.first = p.add(running)
		close(p.started)
		go p.run(running)
	})
}

// Close ends the Links and waits until they have ended. Later calls do nothing more.
func (p *Pool) Close() error {
	p.startOnce.Do(func() { // never started
		p.cancel = func() {}
		p.mu.Lock()
		p.failed = errLinkClosed
		p.mu.Unlock()
		close(p.done)
	})
	p.cancel()
	<-p.done
	return nil
}

// Done returns a channel that is closed when the Pool has ended; Err then says why.
func (p *Pool) Done() <-chan struct{} { return p.done }

// Err returns the permanent error that ended the Pool, or nil if it still runs or was closed.
func (p *Pool) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if errors.Is(p.failed, errLinkClosed) {
		return nil
	}
	return p.failed
}

// State returns the state of the best Link.
func (p *Pool) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// Ready waits until a Link is connected, and then returns nil. It fails if the first Link ends or ctx is done first.
func (p *Pool) Ready(ctx context.Context) error {
	select {
	case <-p.started:
		if p.State().Phase == Up {
			return nil
		}
		return p.first.Ready(ctx)
	case <-p.done:
		return errLinkClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// MemberStats are the figures of one Link of a Pool.
type MemberStats struct {
	LinkStats
	SendRate    float64 // bytes per second
	ReceiveRate float64
}

// Stats returns the figures of the Links, the oldest first.
func (p *Pool) Stats() []MemberStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]MemberStats, 0, len(p.members))
	for _, m := range p.members {
		out = append(out, MemberStats{LinkStats: m.link.Stats(), SendRate: m.up, ReceiveRate: m.down})
	}
	return out
}

// Dial opens a connection through the Link with the least load, as [Link.Dial] does.
func (p *Pool) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	for {
		m, err := p.pick()
		if err != nil {
			return nil, fail.New(fail.Lost, "open a connection to "+addr, err, fail.NextOf(err))
		}
		conn, err := m.link.Dial(ctx, network, addr)
		p.mu.Lock()
		m.dials--
		p.mu.Unlock()
		if err == nil || ctx.Err() != nil || !m.link.ended() {
			return conn, err
		}
		// The Link has ended. Another may remain, or the Pool has ended too.
		p.mu.Lock()
		m.retired = true
		p.mu.Unlock()
	}
}

// pick chooses the member for the next dial and counts the dial.
func (p *Pool) pick() (*member, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *member
	var least load
	allBusy := true
	for _, m := range p.members {
		if m.retired {
			continue
		}
		l := p.load(m)
		if best == nil || l.less(least) {
			best, least = m, l
		}
		allBusy = allBusy && l.busy
	}
	switch {
	case best != nil:
	case p.failed != nil:
		return nil, p.failed
	case len(p.members) > 0 && p.members[0].link.Err() != nil: // run has not seen that yet
		return nil, p.members[0].link.Err()
	default:
		return nil, errLinkClosed // not started, or closed
	}
	best.dials++
	best.idle = time.Time{}
	if allBusy {
		p.nudge()
	}
	return best, nil
}

// load is a Link's load.
type load struct {
	ready bool // the Link is up
	busy  bool
	conns int
	rate  float64 // bytes per second
	idle  time.Duration
}

// less reports whether a is the better Link for another connection.
func (a load) less(b load) bool {
	if a.ready != b.ready {
		return a.ready
	}
	if a.busy != b.busy {
		return b.busy
	}
	if c := cmp.Compare(a.conns, b.conns); c != 0 {
		return c < 0
	}
	return a.rate < b.rate
}

// load measures a member. Callers hold p.mu.
func (p *Pool) load(m *member) load {
	l := load{
		ready: m.state.Phase == Up,
		conns: max(m.link.Stats().Channels, m.dials), rate: m.up + m.down,
	}
	l.busy = l.conns >= p.cfg.BusyConns || l.rate >= busyBytes
	if !m.idle.IsZero() {
		l.idle = time.Since(m.idle)
	}
	return l
}

// step is a change of the number of Links: one more, or one less.
type step struct {
	grow   bool
	retire int // index; -1: none
}

// decide is the policy. It adds a Link when all are up and busy; if one is not up, another would not be either. It ends a Link that
// was idle for long if at least one other has room, so that a spare one stays beside busy ones.
func decide(loads []load, most int, idleAfter time.Duration) step {
	grow := len(loads) > 0 && len(loads) < most
	for _, l := range loads {
		grow = grow && l.ready && l.busy
	}
	if grow {
		return step{grow: true, retire: -1}
	}
	for i, l := range slices.Backward(loads) {
		if l.conns > 0 || l.idle < idleAfter {
			continue
		}
		for j, other := range loads {
			if j != i && other.ready && !other.busy {
				return step{retire: i}
			}
		}
	}
	return step{retire: -1}
}

// run is the Pool's goroutine, besides those of its Links.
func (p *Pool) run(ctx context.Context) {
	defer close(p.done)
	defer p.links.Wait()
	defer p.cancel()
	tick := time.NewTicker(poolTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			p.mu.Lock()
			p.failed = errLinkClosed
			p.mu.Unlock()
			return // the Links end with ctx
		case <-p.nudged:
		case now := <-tick.C:
			p.measure(now)
		}
		if p.bury(ctx) {
			return
		}
		p.adjust(ctx)
	}
}

// add makes a Link and starts it.
func (p *Pool) add(ctx context.Context) *Link {
	m := &member{state: State{Phase: Connecting}, at: time.Now(), idle: time.Now()}
	m.link = p.cfg.New(func(st State) { p.onState(m, st) })
	p.mu.Lock()
	p.members = append(p.members, m)
	p.mu.Unlock()
	m.link.Start(ctx)
	p.links.Go(func() {
		<-m.link.Done()
		p.nudge()
	})
	return m.link
}

// nudge wakes run; it never blocks.
func (p *Pool) nudge() {
	select {
	case p.nudged <- struct{}{}:
	default:
	}
}

// measure updates the members' rates and idle times.
func (p *Pool) measure(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.members {
		st := m.link.Stats()
		if st.Sent < m.sent || st.Received < m.rcvd {
			m.sent, m.rcvd = 0, 0 // a new SSH connection counts from 0
		}
		if d := now.Sub(m.at).Seconds(); d > 0 {
			m.up = (m.up + float64(st.Sent-m.sent)/d) / 2
			m.down = (m.down + float64(st.Received-m.rcvd)/d) / 2
		}
		m.sent, m.rcvd, m.at = st.Sent, st.Received, now
		switch {
		case st.Channels > 0 || m.dials > 0:
			m.idle = time.Time{}
		case m.idle.IsZero():
			m.idle = now
		}
	}
}

// bury removes the Links that have ended, and reports whether none remains.
func (p *Pool) bury(ctx context.Context) (ended bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var left []*member
	var last error
	for _, m := range p.members {
		if !isClosed(m.link.done) {
			left = append(left, m)
			continue
		}
		m.retired = true
		if err := m.link.Err(); err != nil {
			last = err
			p.cfg.Logger.Info("a connection of the pool is given up", "err", err)
			p.growPause = backoff.Next(p.growPause, firstGrowthPause, lastGrowthPause)
			p.growAt = time.Now().Add(p.growPause)
		}
	}
	p.members = left
	if len(left) > 0 || ctx.Err() != nil {
		return false
	}
	p.failed = last
	return true
}

// adjust adds or ends a Link, as decide says.
func (p *Pool) adjust(ctx context.Context) {
	p.mu.Lock()
	loads := make([]load, len(p.members))
	for i, m := range p.members {
		loads[i] = p.load(m)
	}
	s := decide(loads, p.cfg.Max, idleAfter)
	var retired *member
	if s.retire >= 0 {
		retired = p.members[s.retire]
		retired.retired = true
		p.members = slices.Delete(p.members, s.retire, s.retire+1)
	}
	n := len(p.members)
	p.mu.Unlock()
	switch {
	case retired != nil:
		p.cfg.Logger.Debug("an idle connection of the pool ends", "left", n)
		p.links.Go(func() { _ = retired.link.Close() })
	case s.grow && !time.Now().Before(p.growAt):
		p.cfg.Logger.Debug("all connections of the pool are busy: one more", "present", n)
		p.add(ctx)
	}
}

// onState records a member's state and reports the Pool's.
func (p *Pool) onState(m *member, st State) {
	p.stateMu.Lock()
	defer p.stateMu.Unlock()
	p.mu.Lock()
	m.state = st
	whole, tell := p.whole(m)
	if tell {
		p.state = whole
	}
	p.mu.Unlock()
	if tell && p.cfg.OnState != nil {
		p.cfg.OnState(whole)
	}
	if st.Phase == Up {
		p.nudge()
	}
}

// whole returns the Pool's state after a change of m, and whether to report it. Callers hold p.mu.
func (p *Pool) whole(m *member) (st State, tell bool) {
	var other *member // of those that have not ended, the one that changed last
	for _, o := range p.members {
		switch {
		case o == m || o.retired || o.state.Phase == Down:
		case o.state.Phase == Up:
			return State{}, false // a Link is up, so m's troubles do not matter
		case other == nil || o.state.Since.After(other.state.Since):
			other = o
		}
	}
	switch {
	case m.state.Phase != Down:
		return m.state, !m.retired
	case other == nil:
		// A dial may have retired m meanwhile, because it has ended. Even so, it was the last.
		return m.state, p.state.Phase != Down
	case m.state.Err == nil:
		return State{}, false // m was closed: either all are, or m was superfluous
	default:
		// The last report may have been m's.
		return other.state, p.state.Phase != other.state.Phase || !p.state.Since.Equal(other.state.Since)
	}
}
