package bond

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
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
	// mostHellos is how many streams may begin with something else than HELLO before Dial gives up.
	mostHellos = 3
	// lingerGrace is how much later than the path manager the connection itself would give up for want of a path: the
	// manager's error says more.
	lingerGrace = 10 * time.Second
)

// DialConfig says how a client gets its subflows. Zero fields get the default of the same name.
type DialConfig struct {
	Config

	// Open opens a stream to the far end's bond port. It returns when the stream's first bytes have come, or soon after
	// ctx is done: Close waits for it. Two calls at most run at a time, and eight while there is no path, besides those that
	// were cancelled. The connection closes the streams.
	Open func(ctx context.Context) (net.Conn, error)
	// Name gives a stream's name for Stats; nil: its local address, which is the session's id.
	Name func(net.Conn) string

	Max    int           // subflows, 1 to 16
	MaxAge time.Duration // of a subflow, before it is replaced

	// Judge says what an error of Open means for the next attempt; nil: each is a FailedOther.
	Judge func(error) Failure
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
	if c.Judge == nil {
		c.Judge = func(error) Failure { return FailedOther }
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
	stream, shake, err := begin(ctx, &cfg, policy, id)
	if err != nil {
		return nil, err
	}

	own := cfg.Config
	own.Linger += lingerGrace
	c := newConn(shake.identity, own, true)
	if shake.version < versionSealed {
		c.log.Info("the far end speaks an old version of the bond: damage to one session ends the connection", "version", shake.version)
	}
	m := &manager{
		c: c, cfg: cfg, policy: policy, next: 1,
		accepted: make(chan struct{}), wake: make(chan struct{}, 1),
		opens: make(map[uint32]attempt), results: make(chan result),
		first: newFirst(),
	}
	c.manager = m
	c.lostHook = m.lost
	accept := func(r io.Reader) error {
		defer close(m.accepted)
		_ = stream.SetReadDeadline(time.Now().Add(shakeTimeout))
		err := shake.awaitAccept(r)
		m.first.answered(openNew, err)
		if err != nil {
			return err
		}
		return stream.SetReadDeadline(time.Time{})
	}
	c.work.Go(m.run) // before attach, which may end the connection, and that waits for what has begun
	if err := c.attach(0, stream, newFrameReader(stream), shake.seals(), cfg.Name(stream), accept); err != nil {
		_ = stream.Close()
		_ = c.Close()
		return nil, err // not possible: the connection is new
	}
	return c, nil
}

// begin opens a stream and sends NEW on it. A stream that ends or begins with something else than HELLO may be damaged: another one
// is tried then. Silence is not waited for again.
func begin(ctx context.Context, cfg *DialConfig, p *policy, id connID) (net.Conn, *clientHandshake, error) {
	for try := 1; ; try++ {
		p.pacing.takeTokens(time.Now())
		stream, err := cfg.Open(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("open the connection's first session: %w", err)
		}
		var shake *clientHandshake
		err = handshake(ctx, stream, func() (err error) {
			shake, err = clientNew(stream, id, cfg.highest, nil)
			return err
		})
		if err == nil {
			return stream, shake, nil
		}
		_ = stream.Close()
		if try == mostHellos || errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return nil, nil, fmt.Errorf("begin a connection: %w", err)
		}
		cfg.Logger.Debug("first session not usable, another is tried", "err", err)
	}
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

// Lend gives one of the connection's places to another session that the far end's container has no place for: the connection
// does with one subflow less, or with none, until the function that it returns is called, which must be soon. kept says that
// the other session goes on.
func (c *Conn) Lend() (back func(kept bool)) {
	if c.manager == nil {
		return func(bool) {}
	}
	c.manager.ask(func(r *requests) { r.lend++ })
	var once sync.Once
	return func(kept bool) {
		once.Do(func() { c.manager.ask(func(r *requests) { r.back = append(r.back, kept) }) })
	}
}

// FarEnd tells a client's connection how the machine at its far end does: where the processor is what limits the rate, further
// subflows would not help.
func (c *Conn) FarEnd(far FarEnd) {
	if c.manager != nil {
		c.manager.ask(func(r *requests) { r.far = &far })
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

	far     FarEnd // as it was told last
	first   *first // how it stands with the connection at the far end
	denied  denials
	next    uint32 // number for the next subflow
	opens   map[uint32]attempt
	lastErr error // of the last attempt, since one succeeded

	limitErr error // why the service starts no more sessions, as far as it is known

	mu       sync.Mutex
	asked    requests // guarded by mu
	limit    Limit    // as the policy has it; guarded by mu
	trouble  Trouble  // guarded by mu
	lostWhy  error    // why the last lost subflow was lost; guarded by mu
	pathless bool     // told the log so
}

// requests are what callers asked for.
type requests struct {
	rotate, probe bool
	far           *FarEnd // nil: nothing new
	lend          int
	back          []bool // whether the place is gone, of each that was lent
}

// attempt is one that is under way to open a subflow.
type attempt struct {
	id     attemptID // 0: the policy has forgotten it
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
	if asked.far != nil {
		m.far = *asked.far
	}
	if asked.rotate {
		m.policy.rotate(m.next)
	}
	for range asked.lend {
		m.policy.lend(time.Now())
	}
	for _, kept := range asked.back {
		m.policy.giveBack(time.Now(), kept)
	}
	if asked.probe {
		m.policy.retry()
		if !m.c.view().pathless.IsZero() {
			// What is under way may wait for answers by a network that is gone.
			for id, a := range m.opens {
				m.policy.pacing.ended(a.id)
				m.giveUp(id, a)
			}
		}
	}
}

// giveUp cancels an attempt. The policy has forgotten it.
func (m *manager) giveUp(id uint32, a attempt) {
	a.cancel()
	m.opens[id] = attempt{cancel: a.cancel}
}

// look lets the policy see how things are, and does as it says. It returns when to look again, or false at the end.
func (m *manager) look(ctx context.Context) (next time.Time, ok bool) {
	now, v := time.Now(), m.c.view()
	v.far = m.far
	if v.ended {
		return time.Time{}, false
	}
	m.report(v)
	plan := m.policy.look(now, v)
	if plan.end {
		m.c.fail(m.pathError(now, v.pathless))
		return time.Time{}, false
	}
	m.noteLimit()
	for id, a := range m.opens {
		if slices.Contains(plan.abandon, a.id) {
			m.giveUp(id, a)
		}
	}
	for _, id := range plan.drop {
		m.c.log.Info("subflow stalled for too long, dropped", "subflow", id)
		m.c.drop(id)
	}
	for _, id := range plan.leave {
		m.c.log.Debug("subflow leaves", "subflow", id)
		m.c.leave(id)
	}
	for _, id := range plan.open {
		m.open(ctx, id)
	}
	return plan.next, true
}

// noteLimit shows what the policy knows of a limit to Stats.
func (m *manager) noteLimit() {
	limit := m.policy.places.known()
	if limit.Subflows > 0 {
		limit.Err = m.limitErr
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.limit = limit
}

func (m *manager) setTrouble(t Trouble) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trouble = t
}

// known returns what Stats shows of the manager.
func (m *manager) known() (Limit, Trouble) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.limit, m.trouble
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
	err := m.lastErr
	if err == nil || !m.policy.pacing.hopeless { // a final answer ended the connection at once, without a wait
		err = m.waitedInVain(now, since)
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

// waitedInVain says for how long there was no path, and why, if that is known.
func (m *manager) waitedInVain(now, since time.Time) error {
	m.mu.Lock()
	why := m.lostWhy
	m.mu.Unlock()
	label := "the last subflow was lost"
	if m.lastErr != nil {
		why, label = m.lastErr, "the last attempt failed"
	}
	reset := &ResetError{Code: ResetLinger, Reason: fmt.Sprintf("none since %s, for %v",
		since.Format(time.TimeOnly), now.Sub(since).Round(time.Second))}
	if why == nil {
		return reset
	}
	return fmt.Errorf("%w; %s: %w", reset, label, why)
}

// open begins an attempt to open a subflow.
func (m *manager) open(ctx context.Context, as attemptID) {
	id := m.next
	m.next++
	ctx, cancel := context.WithCancel(ctx)
	m.opens[id] = attempt{as, cancel}
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
	if err := m.add(ctx, stream, id); err != nil {
		_ = stream.Close()
		return err
	}
	return nil
}

// add makes stream the subflow with the given id, or, while the far end may not have the connection, subflow 0 of a new one.
func (m *manager) add(ctx context.Context, stream net.Conn, id uint32) error {
	done, err := m.first.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	var shake *clientHandshake
	err = handshake(ctx, stream, func() (err error) {
		if m.first.mustBegin() {
			if shake, err = m.beginAnew(stream); err != nil {
				return err
			}
			id = 0
			err = shake.awaitAccept(stream)
			m.first.answered(openNew, err)
			return err
		}
		if shake, err = clientJoin(stream, *m.c.who.Load(), id); err != nil {
			return err
		}
		err = shake.awaitAccept(stream)
		m.first.answered(openJoin, err)
		return err
	})
	if err != nil {
		return err
	}
	return m.c.attach(id, stream, newFrameReader(stream), shake.seals(), m.cfg.Name(stream), nil)
}

// beginAnew sends NEW for a connection with another id and another key in the place of one that the far end does not have.
func (m *manager) beginAnew(stream net.Conn) (*clientHandshake, error) {
	id, err := newConnID()
	if err != nil {
		return nil, err
	}
	shake, err := clientNew(stream, id, m.cfg.highest, nil)
	if err != nil {
		return nil, err
	}
	m.first.begun()
	m.c.who.Store(&shake.identity)
	m.c.log.Debug("begun anew", "id", short(id))
	return shake, nil
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
	given := a.id == 0 // up
	if r.err == nil {
		m.lastErr, m.denied = nil, denials{}
		m.setTrouble(Trouble{})
		if !given {
			m.policy.opened(a.id)
		}
		return true
	}
	if given {
		return true
	}
	m.lastErr = r.err
	m.c.log.Debug("subflow not opened", "subflow", r.id, "err", r.err)
	how := FailedOther
	refused, ok := errors.AsType[*RefusedError](r.err)
	switch {
	case ok && m.isFinal(refused):
		m.c.fail(fail.New(fail.Lost, "add a session to the connection", refused, "connect again"))
		return false
	case ok && (refused.Code == RefuseSubflows || refused.Code == RefuseMemory) && refused.sure:
		how = failedFull
	case ok:
	default:
		how = m.cfg.Judge(r.err)
	}
	now := time.Now()
	m.policy.openFailed(now, a.id, how, len(m.c.view().subflows))
	m.setTrouble(Trouble{Err: r.err, At: now, Next: m.policy.backedOff()})
	if how == FailedLimit || how == FailedUnanswered {
		m.limitErr = r.err
	}
	return true
}

// isFinal says whether a refusal ends the connection.
func (m *manager) isFinal(refused *RefusedError) bool {
	isBegun, left := m.first.state()
	switch {
	case !isBegun:
		return refused.sure || left == 0
	case refused.sure:
		return refused.Fatal()
	case !refused.Fatal():
		return false
	}
	return m.denied.add(!m.c.view().pathless.IsZero())
}
