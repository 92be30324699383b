package gateway

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// session joins a client's websockets, one at a time, with its agent.
//
// run owns the session from Start to its end; it starts the agent's goroutines and waits for them. A websocket's goroutines belong
// to its HTTP handler. In place of an agent the session may have a node, with a websocket of its own.
type session struct {
	gw      *Gateway
	spec    Spec
	log     *slog.Logger
	number  uint64 // 1, 2, ...
	started time.Time
	up      *lane
	down    *lane
	ctx     context.Context // done at the session's end
	cancel  context.CancelFunc
	gone    chan struct{} // closed when run has returned

	mu      sync.Mutex
	token   string // opens the next websocket; empty: used
	sock    *socket
	sockets int    // opened so far
	agent   *agent // nil unless it runs
	away    bool   // the agent has lost its websocket and has not reconnected yet
	upGen   uint64 // of the agent at the lane up; meaningful while it is not away
	node    nodeEnd
	ended   bool

	disturbed chan struct{} // capacity 1: the faults have changed
	reported  chan result   // capacity 1: the node's report of the session's end
}

func newSession(g *Gateway, spec Spec, number uint64) *session {
	s := &session{
		gw: g, spec: spec, number: number, started: time.Now(),
		log:   g.log.With("session", spec.ID),
		up:    newLane(&g.faults, 2*number),
		down:  newLane(&g.faults, 2*number+1),
		gone:  make(chan struct{}),
		token: newToken(), disturbed: make(chan struct{}, 1), reported: make(chan result, 1),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// run runs the session until its end.
func (s *session) run() {
	defer close(s.gone)
	defer func() { // both sides take the queued messages, and then their websockets are closed
		s.down.end()
		s.up.end()
	}()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.cancel()
	ended := make(chan result, 1)
	wg.Go(func() {
		if s.spec.Node {
			ended <- s.runNode()
		} else {
			ended <- s.runAgent()
		}
	})

	timeout := s.gw.cfg.IdleTimeout
	idle := time.NewTimer(timeout)
	defer idle.Stop()
	cuts := newCutter(s)
	defer cuts.timer.Stop()
	for {
		select {
		case <-s.disturbed:
			cuts.arm()
		case <-cuts.timer.C:
			cuts.cut()
			cuts.arm()
		case r := <-ended:
			s.closeFor(r.output, false)
			return
		case <-idle.C:
			if left := timeout - time.Since(s.lastData()); left > 0 {
				idle.Reset(left)
				continue
			}
			s.close("Session timed out: no data for " + timeout.String())
			return
		case <-s.ctx.Done():
			s.close("")
			return
		}
	}
}

// lastData returns when the session last relayed data, or when it started.
func (s *session) lastData() time.Time {
	return time.Unix(0, max(s.started.UnixNano(), s.up.last.Load(), s.down.last.Load()))
}

// runAgent connects the agent and runs its plugin until the agent has gone.
func (s *session) runAgent() result {
	a := newAgent(s)
	if s.spec.NoAgent {
		<-a.done
		return result{}
	}
	if hold := s.gw.cfg.agentHold; hold != nil {
		select {
		case <-hold:
		case <-a.done:
			return result{}
		}
	} else if !sleep(a.done, s.gw.cfg.AgentDelay) {
		return result{}
	}
	if machine := s.spec.Machine; machine != nil {
		machine.enter()
		defer machine.leave()
		if !a.work(&a.input, costStart) {
			return result{}
		}
	}
	ctx, stop := context.WithCancel(s.ctx)
	defer stop()
	a.ctx, a.done = ctx, ctx.Done()
	a.discards = s.spec.Port != 0 && s.draw(1, s.gw.faults.Load().Discard)
	a.completeFirst = s.spec.KMSKeyID == "" && s.draw(2, s.gw.faults.Load().CompleteFirst)
	s.agentJoins(a)
	var wg sync.WaitGroup
	wg.Go(func() { s.receive(a) })
	wg.Go(a.resend)
	var r result
	switch s.spec.Document {
	case DocECSExec, DocShell:
		r = a.runExec()
	default:
		r = a.runPort()
	}
	switch {
	case r.orderly:
		s.close(r.output)
	case !r.crashed:
		sleep(s.ctx.Done(), s.gw.cfg.ReportDelay)
	}
	stop()
	s.agentLeaves()
	wg.Wait()
	if r.crashed {
		sleep(s.ctx.Done(), s.gw.cfg.ClosedPortDelay)
		r.output = crashOutput
	}
	return r
}

const crashOutput = "document process failed unexpectedly: document worker timed out , " +
	"check [ssm-document-worker]/[ssm-session-worker] log for crash reason"

// draw makes a random choice for this session alone.
func (s *session) draw(what uint64, probability float64) bool {
	const kinds = 16
	return probability > 0 && draw(s.gw.faults.Load(), s.number*kinds+what) < probability
}

// receive makes the agent take messages from one websocket after the other, until it ends.
func (s *session) receive(a *agent) {
	for {
		s.mu.Lock()
		gen := s.upGen
		s.mu.Unlock()
		if a.receive(gen) || !sleep(a.done, s.gw.faults.Load().away()) || !sleep(a.done, s.gw.downFor()) {
			return
		}
		a.setPaused(false) // as far as the agent knows
		s.agentJoins(a)
	}
}

// agentJoins connects the agent, for the first time or again, unless it is about to leave.
func (s *session) agentJoins(a *agent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.ctx.Err() != nil {
		return
	}
	s.upGen = s.up.attach()
	s.agent, s.away = a, false
	a.away.Store(false)
	s.announcePresence()
}

func (s *session) agentLeaves() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.agent = nil
	s.up.detach(s.upGen)
	s.announceAbsence()
}

// cutAgent ends the agent's websocket; how matters for a node's. Messages on their way to the agent are lost.
func (s *session) cutAgent(how string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.agentPresent() {
		return false
	}
	if s.spec.Node {
		k := s.node.sock
		s.detachNodeLocked()
		k.cutBy(how)
	} else {
		s.away = true
		s.agent.away.Store(true)
		s.up.detach(s.upGen)
		s.announceAbsence()
	}
	s.gw.count(func(c *Counters) { c.AgentCuts++ })
	return true
}

// agentPresent reports whether the agent's side has a websocket. Callers hold mu.
func (s *session) agentPresent() bool {
	if s.spec.Node {
		return s.node.sock != nil
	}
	return s.agent != nil && !s.away
}

// announceAbsence tells the client that the agent's side has gone. Callers hold mu.
func (s *session) announceAbsence() {
	if s.sock != nil {
		s.down.control(s.publication(frame.PausePublication))
	}
}

// announcePresence tells the agent's side, which has just come, whether the client is there, and the client that the agent's side is.
// Callers hold mu.
func (s *session) announcePresence() {
	if s.sock == nil {
		s.up.control(s.publication(frame.PausePublication))
		return
	}
	s.down.control(s.publication(frame.StartPublication))
	s.up.control(s.publication(frame.StartPublication))
}

func (s *session) cutClient(how string) bool {
	s.mu.Lock()
	k := s.sock
	s.mu.Unlock()
	return k != nil && s.cutSocket(k, how)
}

// cutSocket cuts k if it still is the client's websocket.
func (s *session) cutSocket(k *socket, how string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sock != k {
		return false
	}
	s.detachLocked(k)
	k.cutBy(how)
	return true
}

// cutter cuts a session's websockets as the faults say. session.run owns it.
type cutter struct {
	s     *session
	timer *time.Timer
	draws draws
	both  int // counts the cuts; every second one is the agent's
}

func newCutter(s *session) *cutter {
	c := &cutter{s: s, timer: time.NewTimer(time.Hour), draws: draws{salt: ^s.number}}
	c.arm()
	return c
}

// arm sets the timer for the next cut, or stops it.
func (c *cutter) arm() {
	f := c.s.gw.faults.Load()
	c.timer.Stop()
	if f.CutEveryMS > 0 {
		mean := time.Duration(f.CutEveryMS) * time.Millisecond
		c.timer.Reset(time.Duration(2 * c.draws.random(f).Float64() * float64(mean)))
	}
}

func (c *cutter) cut() {
	f := c.s.gw.faults.Load()
	side := f.CutSide
	if side == CutBoth {
		side = []string{CutClient, CutAgent}[c.both%2]
		c.both++
	}
	if side == CutAgent && !c.s.spec.Node {
		c.s.cutAgent(CutClose) // without a draw: it does not matter to an agent in memory
		return
	}
	how := []string{CutClose, CutReset}[c.draws.random(f).IntN(2)]
	if side == CutAgent {
		c.s.cutAgent(how)
		return
	}
	c.s.cutClient(how)
}

// attach makes k the client's websocket if its token is right.
func (s *session) attach(k *socket, token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.token == "" || !equal([]byte(token), []byte(s.token)) {
		return false
	}
	s.token = ""
	if old := s.sock; old != nil {
		s.detachLocked(old)
		old.shut("replaced by another connection")
	}
	s.sock = k
	s.sockets++
	k.out, k.gen = s.down, s.down.attach()
	if !s.agentPresent() {
		s.down.control(s.publication(frame.PausePublication))
		return true
	}
	s.down.control(s.publication(frame.StartPublication))
	s.up.control(s.publication(frame.StartPublication))
	return true
}

// detach records that the client's websocket k is gone.
func (s *session) detach(k *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sock == k {
		s.detachLocked(k)
	}
}

func (s *session) detachLocked(k *socket) {
	s.sock = nil
	s.down.detach(k.gen)
	s.up.control(s.publication(frame.PausePublication))
}

// resume returns a new token and voids the earlier one.
func (s *session) resume() (token string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return "", ErrTerminated
	}
	s.token = newToken()
	return s.token, nil
}

// close ends the session for the service: it can no longer be resumed, and the client and a node get channel_closed. Only the first
// call has an effect.
func (s *session) close(output string) { s.closeFor(output, true) }

// closeFor is close, which tells a node only if tellNode is set.
func (s *session) closeFor(output string, tellNode bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended, s.token, s.node.token = true, "", ""
	s.gw.forget(s) // before the client can know
	s.down.control(s.channelClosed(output))
	if tellNode && s.spec.Node {
		s.closeNode()
	}
}

// setRate gives both directions a rate of their own.
func (s *session) setRate(bps int64) {
	s.up.ownRate.Store(bps)
	s.down.ownRate.Store(bps)
	s.up.changed()
	s.down.changed()
}

// resetPort resets the connection to the port, if the agent has one.
func (s *session) resetPort() bool {
	s.mu.Lock()
	a := s.agent
	s.mu.Unlock()
	if a == nil {
		return false
	}
	p := a.port.Load()
	return p != nil && p.reset()
}

func (s *session) info() Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	unacked := 0
	if s.agent != nil {
		unacked = s.agent.unackedMessages()
	}
	return Info{
		ID: s.spec.ID, Document: s.spec.Document, Target: s.spec.Target, Port: s.spec.Port, Started: s.started,
		NoAgent: s.spec.NoAgent, Node: s.spec.Node, Connected: s.sock != nil,
		AgentConnected: s.agentPresent(), Resumes: max(0, s.sockets-1),
		BytesUp: s.up.payload.Load(), BytesDown: s.down.payload.Load(), Unacked: unacked,
	}
}

// publication returns start_publication or pause_publication.
func (s *session) publication(typ frame.MessageType) []byte {
	id := uuid.New()
	return message(typ, id, struct {
		CreatedDate   string
		MessageID     uuid.UUID `json:"MessageId"`
		MessageType   frame.MessageType
		SchemaVersion int
		SessionID     string `json:"SessionId"`
	}{time.Now().UTC().Format(time.RFC3339), id, typ, 1, s.spec.ID})
}

func (s *session) channelClosed(output string) []byte {
	id := uuid.New()
	return message(frame.ChannelClosed, id, struct {
		CreatedDate   string
		DestinationID string    `json:"DestinationId"`
		MessageID     uuid.UUID `json:"MessageId"`
		MessageType   frame.MessageType
		Output        string
		SchemaVersion int
		SessionID     string `json:"SessionId"`
	}{
		time.Now().UTC().Format("2006-01-02T15:04:05.000Z"), s.spec.Target, id, frame.ChannelClosed, output, 1, s.spec.ID,
	})
}

// message encodes a message of the gateway itself.
func message(typ frame.MessageType, id uuid.UUID, payload any) []byte {
	b, err := json.Marshal(payload)
	if err != nil {
		panic("gateway: " + err.Error()) // fixed types
	}
	m := frame.Message{Type: typ, Created: time.Now(), Flags: frame.FlagAck, ID: id, Payload: b}
	return m.Append(nil)
}
