package bond

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// openTimeout bounds one call of DialConfig.Open.
const openTimeout = time.Minute

// manager opens and closes a client's subflows as its policy says. The run goroutine owns its fields, except where they say
// otherwise. The connection waits for run, and run waits for the goroutines that open subflows.
type manager struct {
	c      *Conn
	cfg    DialConfig
	policy *policy

	accepted chan struct{} // closed when the far end has answered NEW, or never will
	wake     chan struct{} // capacity 1: there are requests
	results  chan result   // of attempts to open a subflow

	far     FarEnd // as last reported
	first   *first // tracks whether the far end has the connection
	denied  denials
	next    uint32 // number for the next subflow
	opens   map[uint32]attempt
	lastErr error // of the last attempt; nil after a success

	limitErr error // why the service starts no more sessions, if known

	mu       sync.Mutex
	asked    requests // guarded by mu
	limit    Limit    // as the policy has it; guarded by mu
	trouble  Trouble  // guarded by mu
	lostWhy  error    // why the last lost subflow was lost; guarded by mu
	pathless bool     // as last logged
}

// requests are the pending requests of the Conn's methods.
type requests struct {
	rotate, probe bool
	far           *FarEnd // nil: nothing new
	lend          int
	back          []bool // one per returned place: whether the other session keeps it
}

// attempt is an attempt to open a subflow that is still running.
type attempt struct {
	id     attemptID // 0: the policy has forgotten it
	cancel context.CancelFunc
}

// result is the end of an attempt. On success, the subflow is attached.
type result struct {
	id  uint32
	err error
}

func (m *manager) ask(note func(*requests)) {
	m.mu.Lock()
	note(&m.asked)
	m.mu.Unlock()
	nudge(m.wake)
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
	// Other subflows can join only once the far end has the connection.
	select {
	case <-m.accepted:
	case <-m.c.Done():
		return
	}
	// The timer has a callback instead of a channel. The race detector crashes when two goroutines of a testing/synctest bubble
	// look at a due channel timer (go.dev/issue/78156).
	due := make(chan struct{}, 1)
	timer := time.AfterFunc(0, func() { nudge(due) })
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

// serve handles pending requests.
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
			// Running attempts may wait for answers from a network that is gone.
			for id, a := range m.opens {
				m.policy.pacing.ended(a.id)
				m.giveUp(id, a)
			}
		}
	}
}

// giveUp cancels an attempt that the policy has forgotten.
func (m *manager) giveUp(id uint32, a attempt) {
	a.cancel()
	m.opens[id] = attempt{cancel: a.cancel}
}

// look asks the policy for a plan and carries it out. It returns when to look again, or false at the end.
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

// noteLimit passes the policy's limit on to Stats.
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

// known returns the manager's part of Stats.
func (m *manager) known() (Limit, Trouble) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.limit, m.trouble
}

// report logs when the last path goes and when one is back.
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

// pathError returns the error of a connection that has no path and will not get one.
func (m *manager) pathError(now, since time.Time) error {
	err := m.lastErr
	if err == nil || !m.policy.pacing.hopeless { // unless a final answer ended the connection without a wait
		err = m.waitedInVain(now, since)
	}
	kind, next := fail.KindOf(err), fail.NextOf(err)
	if kind == fail.Other || kind == fail.Timeout {
		kind = fail.Lost
	}
	next = cmp.Or(next, "check the network and the AWS credentials, then connect again")
	return fail.New(kind, "keep the connection to the bastion", err, next)
}

// waitedInVain says how long the connection had no path, and why, if known.
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
		m.results <- result{id, m.join(ctx, id)} // run receives one result per attempt
	}()
}

// join opens a stream and adds it to the connection. On any error it closes the stream.
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

// add makes stream the subflow with the given id. While the far end may not have the connection, stream instead becomes subflow 0
// of a new one.
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

// beginAnew sends NEW for a connection with a new id and key, which replaces one that the far end does not have.
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

// finished takes in an attempt's result. It returns false if the connection cannot go on.
func (m *manager) finished(r result) bool {
	a := m.opens[r.id]
	delete(m.opens, r.id)
	given := a.id == 0 // abandoned by giveUp
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

// isFinal reports whether a refusal ends the connection.
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
