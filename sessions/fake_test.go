package sessions

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/smithy-go"
	"github.com/google/uuid"
	"github.com/mmmorris1975/ssm-session-client/datachannel"

	"github.com/bastion-ssm/bastion/sessions/frame"
	"github.com/bastion-ssm/bastion/sessions/transport"
)

// The fake is the far side of a session in memory: the service's API, its gateway, and an agent like AWS's own. The agent numbers
// each message and sends at most 1024 bytes in it, with a pause after each. It acknowledges each message, and every 100 ms resends
// the oldest unacknowledged one, and no other.

// faults are what the gateway does to messages, in both directions.
type faults struct {
	drop, dup, reorder float64
	delay              time.Duration
	acksToo            bool // drop acks as well
}

type fakeOptions struct {
	faults   faults
	interval time.Duration // of the agent's pump; 0 is none
	seed     uint64
	noPause  bool // the gateway does not say when the other side is there
	maxFrame int  // messages that are longer vanish, if set
	closes   bool // ... and the websocket is closed for them
	// exec makes the agent run this in place of the port plugin.
	exec func(s *fakeSession)
}

// fakeService is the SSM API and the gateway.
type fakeService struct {
	t    testing.TB
	opts fakeOptions
	// dialPort is what the agent connects to: one call for each session. An error is a closed port.
	dialPort func(n int) (net.Conn, error)
	// swallow makes the agent of the n-th session acknowledge and discard the first data message.
	swallow func(n int) bool

	mu         sync.Mutex
	sessions   map[string]*fakeSession
	tokens     map[string]*fakeSession
	started    int
	resumed    int
	terminated map[string]int
	resumeErr  func(n int) error // of the n-th ResumeSession
	dialErr    func(n int) error // of the n-th websocket
	dials      int
	onStart    func(ctx context.Context) error
	wg         sync.WaitGroup
}

func newFakeService(t testing.TB, opts fakeOptions, dialPort func(int) (net.Conn, error)) *fakeService {
	f := &fakeService{
		t: t, opts: opts, dialPort: dialPort,
		sessions: map[string]*fakeSession{}, tokens: map[string]*fakeSession{}, terminated: map[string]int{},
	}
	return f
}

// count reads one of the fake's counters.
func (f *fakeService) count(n *int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *n
}

// client returns a Client of the fake.
func (f *fakeService) client(cfg Config) *Client {
	cfg.SSM = f
	c := New(cfg)
	c.dial = f.dial
	return c
}

// close ends all sessions and waits for the fake's goroutines.
func (f *fakeService) close() {
	f.mu.Lock()
	var all []*fakeSession
	for _, s := range f.sessions {
		all = append(all, s)
	}
	f.mu.Unlock()
	for _, s := range all {
		s.end("")
	}
	f.wg.Wait()
}

func (f *fakeService) StartSession(
	ctx context.Context, in *ssm.StartSessionInput, _ ...func(*ssm.Options),
) (*ssm.StartSessionOutput, error) {
	if f.onStart != nil {
		if err := f.onStart(ctx); err != nil {
			return nil, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	id := fmt.Sprintf("fake-%d", f.started)
	s := newFakeSession(f, id, f.started)
	f.started++
	f.sessions[id] = s
	token := f.token(s)
	url := "wss://fake.invalid/" + id
	return &ssm.StartSessionOutput{SessionId: &id, StreamUrl: &url, TokenValue: &token}, nil
}

func (f *fakeService) token(s *fakeSession) string {
	token := uuid.NewString()
	f.tokens[token] = s
	return token
}

func (f *fakeService) ResumeSession(
	_ context.Context, in *ssm.ResumeSessionInput, _ ...func(*ssm.Options),
) (*ssm.ResumeSessionOutput, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resumed++
	if f.resumeErr != nil {
		if err := f.resumeErr(f.resumed); err != nil {
			return nil, err
		}
	}
	s := f.sessions[*in.SessionId]
	if s == nil || s.ended() {
		return nil, &types.DoesNotExistException{}
	}
	token := f.token(s)
	url := "wss://fake.invalid/" + s.id
	return &ssm.ResumeSessionOutput{SessionId: &s.id, StreamUrl: &url, TokenValue: &token}, nil
}

func (f *fakeService) TerminateSession(
	_ context.Context, in *ssm.TerminateSessionInput, _ ...func(*ssm.Options),
) (*ssm.TerminateSessionOutput, error) {
	f.mu.Lock()
	s := f.sessions[*in.SessionId]
	f.terminated[*in.SessionId]++
	f.mu.Unlock()
	if s == nil {
		return nil, &types.DoesNotExistException{}
	}
	s.end("")
	return &ssm.TerminateSessionOutput{SessionId: in.SessionId}, nil
}

// checkEnded fails the test if a session was terminated: the service had ended each.
func (f *fakeService) checkEnded() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.sessions {
		if n := f.terminated[id]; n != 0 {
			f.t.Errorf("session %s, which had ended, was terminated %d times", id, n)
		}
	}
}

// checkTerminated fails the test unless every session was terminated, exactly once.
func (f *fakeService) checkTerminated() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for id := range f.sessions {
		if n := f.terminated[id]; n != 1 {
			f.t.Errorf("session %s was terminated %d times, want once", id, n)
		}
	}
}

func (f *fakeService) session(n int) *fakeSession {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sessions[fmt.Sprintf("fake-%d", n)]
}

func accessDenied() error {
	return &smithy.GenericAPIError{Code: "AccessDeniedException", Message: "no"}
}

// dial opens a websocket of a session, in place of dialWebsocket.
func (f *fakeService) dial(_ context.Context, g grant) (transport.Socket, error) {
	f.mu.Lock()
	f.dials++
	n := f.dials
	s := f.tokens[g.token]
	delete(f.tokens, g.token)
	f.mu.Unlock()
	if f.dialErr != nil {
		if err := f.dialErr(n); err != nil {
			return nil, err
		}
	}
	if s == nil {
		return nil, errors.New("the token is unknown or used")
	}
	return s.connect(), nil
}

// fakeSession is one session: the gateway's part and the agent's.
type fakeSession struct {
	f    *fakeService
	id   string
	n    int
	done chan struct{}

	mu        sync.Mutex
	rng       *rand.Rand
	sock      *memSocket // the client's present websocket
	closed    []byte     // the channel_closed message, once there is one
	finish    sync.Once
	held      map[bool]heldFrame // a message that is being reordered, by direction
	agentLive bool

	// The agent.
	a fakeAgent
}

type heldFrame struct {
	msg  []byte
	left int
}

type fakeAgent struct {
	mu        sync.Mutex
	expected  int64
	incoming  map[int64]frame.Message
	next      int64
	unacked   []*agentMessage
	rto       time.Duration
	paused    bool
	conn      net.Conn
	complete  bool
	response  chan struct{} // closed when HandshakeResponse came
	responded bool
	answer    []byte
	challenge chan []byte // the answer to the encryption challenge
	size      []byte
	typed     bytes.Buffer
	discarded bool
	delivered int
	resends   int
}

type agentMessage struct {
	seq  int64
	msg  []byte
	sent time.Time
}

func newFakeSession(f *fakeService, id string, n int) *fakeSession {
	s := &fakeSession{
		f: f, id: id, n: n, done: make(chan struct{}),
		rng:  rand.New(rand.NewPCG(f.opts.seed, uint64(n))),
		held: map[bool]heldFrame{},
	}
	s.a = fakeAgent{
		incoming: map[int64]frame.Message{}, rto: 200 * time.Millisecond, response: make(chan struct{}), paused: true,
		challenge: make(chan []byte, 1),
	}
	f.wg.Go(s.runAgent)
	f.wg.Go(s.resendLoop)
	return s
}

func (s *fakeSession) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// end ends the session, as the service does, with a reason.
func (s *fakeSession) end(output string) {
	s.finish.Do(func() {
		close(s.done)
		s.a.mu.Lock()
		conn := s.a.conn
		s.a.mu.Unlock()
		if conn != nil {
			conn.Close()
		}
		payload, _ := json.Marshal(datachannel.ChannelClosedPayload{SessionID: s.id, Output: output})
		m := frame.Message{
			Type: frame.ChannelClosed, Created: time.Now(), ID: uuid.New(), Flags: frame.FlagAck, Payload: payload,
		}
		s.mu.Lock()
		s.closed = m.Append(nil)
		sock := s.sock
		s.mu.Unlock()
		if sock != nil {
			sock.deliver(s.closed, 0)
		}
	})
}

// connect is a client's new websocket. The one before it is closed.
func (s *fakeSession) connect() transport.Socket {
	sock := newMemSocket(s)
	s.mu.Lock()
	old := s.sock
	s.sock = sock
	closed := s.closed
	live := s.agentLive
	s.mu.Unlock()
	if old != nil {
		old.Close()
	}
	s.f.wg.Go(sock.runUp)
	s.f.wg.Go(sock.runDown)
	if !s.f.opts.noPause {
		typ := frame.PausePublication
		if live {
			typ = frame.StartPublication
		}
		sock.deliver(s.control(typ), 0)
	}
	if closed != nil {
		sock.deliver(closed, 0)
	}
	s.a.mu.Lock()
	s.a.paused = false
	s.a.mu.Unlock()
	return sock
}

func (s *fakeSession) control(typ frame.MessageType) []byte {
	m := frame.Message{Type: typ, Created: time.Now(), ID: uuid.New(), Flags: frame.FlagAck, Payload: []byte("{}")}
	return m.Append(nil)
}

// cut closes the client's websocket.
func (s *fakeSession) cut() {
	s.mu.Lock()
	sock := s.sock
	s.sock = nil
	s.held = map[bool]heldFrame{}
	s.mu.Unlock()
	s.a.mu.Lock()
	s.a.paused = true
	s.a.mu.Unlock()
	if sock != nil {
		sock.Close()
	}
}

// afflict applies the faults to msg and sends the result.
func (s *fakeSession) afflict(up bool, msg []byte, send func([]byte)) {
	fl := s.f.opts.faults
	m, err := frame.Decode(msg)
	if err != nil {
		s.f.t.Errorf("malformed message: %v", err)
		return
	}
	data := m.Type == frame.InputStreamData || m.Type == frame.OutputStreamData
	if !data && !(fl.acksToo && m.Type == frame.Acknowledge) {
		send(msg)
		return
	}
	if limit := s.f.opts.maxFrame; limit > 0 && len(msg) > limit {
		if s.f.opts.closes {
			s.cut()
		}
		return
	}
	s.mu.Lock()
	var out [][]byte
	roll := s.rng.Float64()
	switch {
	case roll < fl.drop:
	case roll < fl.drop+fl.dup:
		out = append(out, msg, msg)
	case roll < fl.drop+fl.dup+fl.reorder && s.held[up].msg == nil:
		s.held[up] = heldFrame{bytes.Clone(msg), 1 + s.rng.IntN(4)}
	default:
		out = append(out, msg)
	}
	if h := s.held[up]; h.msg != nil && len(out) > 0 {
		if h.left--; h.left == 0 {
			out = append(out, h.msg)
			h.msg = nil
		}
		s.held[up] = h
	}
	s.mu.Unlock()
	for _, b := range out {
		send(b)
	}
}

// down sends a message of the agent's to the client, if there is one.
func (s *fakeSession) down(msg []byte) {
	s.mu.Lock()
	sock := s.sock
	s.mu.Unlock()
	if sock == nil {
		return
	}
	s.afflict(false, msg, func(b []byte) { sock.deliver(b, s.f.opts.faults.delay) })
}

// runAgent is the agent's session worker.
func (s *fakeSession) runAgent() {
	a := &s.a
	s.mu.Lock()
	s.agentLive = true
	sock := s.sock
	s.mu.Unlock()
	if sock != nil && !s.f.opts.noPause {
		sock.deliver(s.control(frame.StartPublication), 0)
	}
	if s.f.opts.exec != nil {
		s.f.opts.exec(s)
		return
	}
	s.agentSend(frame.PayloadHandshakeRequest, []byte(`{"AgentVersion":"3.3.0.0","RequestedClientActions":[{"ActionType":`+
		`"SessionType","ActionParameters":{"SessionType":"Port","Properties":{"portNumber":"1"}}}]}`))
	select {
	case <-a.response:
	case <-s.done:
		return
	}
	// The real one is ready only after it has said so; it acknowledges and discards messages in between. Here that is left to
	// swallow, so that tests do not depend on it by chance.
	a.mu.Lock()
	a.complete = true
	a.mu.Unlock()
	s.agentSend(frame.PayloadHandshakeComplete, []byte(`{"HandshakeTimeToComplete":1000000,"CustomerMessage":""}`))
	conn, err := s.f.dialPort(s.n)
	if err != nil {
		// The agent leaves. The recorded service said so, and nothing more for a minute.
		s.mu.Lock()
		s.agentLive = false
		sock := s.sock
		s.mu.Unlock()
		if sock != nil && !s.f.opts.noPause {
			sock.deliver(s.control(frame.PausePublication), 0)
		}
		<-s.done
		return
	}
	a.mu.Lock()
	a.conn = conn
	a.mu.Unlock()
	if s.ended() {
		conn.Close()
	}
	buf := make([]byte, 1024)
	pause := time.NewTicker(max(s.f.opts.interval, 1))
	defer pause.Stop()
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			s.agentSend(frame.PayloadOutput, buf[:n])
		}
		if err != nil {
			break
		}
		if s.f.opts.interval > 0 {
			<-pause.C
		}
	}
	s.finishAgent("")
}

// finishAgent is the agent's end, when the far connection or the command is at its end.
func (s *fakeSession) finishAgent(output string) {
	// Unacknowledged messages get two seconds, then the session is over.
	deadline := time.NewTimer(2 * time.Second)
	defer deadline.Stop()
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for s.a.pending() > 0 {
		select {
		case <-poll.C:
			continue
		case <-deadline.C:
		case <-s.done:
		}
		break
	}
	s.end(output)
}

func (a *fakeAgent) pending() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.unacked)
}

func (a *fakeAgent) sentAgain() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.resends
}

func (s *fakeSession) agentSend(typ frame.PayloadType, payload []byte) {
	a := &s.a
	a.mu.Lock()
	m := frame.Message{
		Type: frame.OutputStreamData, Created: time.Now(), Seq: a.next, ID: uuid.New(), PayloadType: typ, Payload: payload,
	}
	if a.next == 0 {
		m.Flags = frame.FlagSYN
	}
	a.next++
	msg := m.Append(nil)
	a.unacked = append(a.unacked, &agentMessage{m.Seq, msg, time.Now()})
	paused := a.paused
	a.mu.Unlock()
	if !paused {
		s.down(msg)
	}
}

// resendLoop is the agent's: every 100 ms the oldest unacknowledged message, and only that.
func (s *fakeSession) resendLoop() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-s.done:
			return
		}
		a := &s.a
		a.mu.Lock()
		var msg []byte
		if !a.paused && len(a.unacked) > 0 && time.Since(a.unacked[0].sent) > a.rto {
			msg = a.unacked[0].msg
			a.unacked[0].sent = time.Now()
			a.resends++
		}
		a.mu.Unlock()
		if msg != nil {
			s.down(msg)
		}
	}
}

// agentReceive takes a message that has reached the agent.
func (s *fakeSession) agentReceive(msg []byte) {
	m, err := frame.Decode(bytes.Clone(msg))
	if err != nil {
		s.f.t.Errorf("the agent cannot read a message: %v", err)
		return
	}
	a := &s.a
	switch m.Type {
	case frame.Acknowledge:
		ack, err := frame.ParseAck(m.Payload)
		if err != nil {
			s.f.t.Errorf("the agent cannot read an ack: %v", err)
			return
		}
		a.mu.Lock()
		a.paused = false
		for i, u := range a.unacked {
			if u.seq == ack.Seq {
				a.unacked = append(a.unacked[:i:i], a.unacked[i+1:]...)
				break
			}
		}
		a.mu.Unlock()
	case frame.InputStreamData:
		a.mu.Lock()
		a.paused = false
		expected := a.expected
		a.mu.Unlock()
		switch {
		case m.Seq < expected:
			s.agentAck(&m)
		case m.Seq > expected:
			a.incoming[m.Seq] = m
			s.agentAck(&m)
		default:
			if !s.agentProcess(&m) {
				return
			}
			s.agentAck(&m)
			for {
				a.mu.Lock()
				a.expected++
				next, ok := a.incoming[a.expected]
				a.mu.Unlock()
				if !ok || !s.agentProcess(&next) {
					return
				}
				delete(a.incoming, next.Seq)
			}
		}
	default:
		s.f.t.Errorf("the agent got a message of type %q", m.Type)
	}
}

func (s *fakeSession) agentAck(m *frame.Message) {
	ack := frame.Message{
		Type: frame.Acknowledge, Created: time.Now(), Flags: frame.FlagAck, ID: uuid.New(), Payload: frame.AppendAck(nil, m),
	}
	s.down(ack.Append(nil))
}

// agentProcess takes the next message in order; false means that it cannot be taken yet and is not acknowledged.
func (s *fakeSession) agentProcess(m *frame.Message) bool {
	a := &s.a
	a.mu.Lock()
	complete, conn := a.complete, a.conn
	a.mu.Unlock()
	switch m.PayloadType {
	case frame.PayloadChallengeResponse:
		a.challenge <- m.Payload
		return true
	case frame.PayloadSize:
		a.mu.Lock()
		defer a.mu.Unlock()
		if complete {
			a.size = m.Payload
		}
		return true
	case frame.PayloadHandshakeResponse:
		a.answer = m.Payload
		if s.f.opts.exec != nil {
			close(a.response)
			return true
		}
		var r datachannel.HandshakeResponsePayload
		if err := json.Unmarshal(m.Payload, &r); err != nil || len(r.ProcessedClientActions) != 1 ||
			r.ProcessedClientActions[0].ActionStatus != datachannel.Success {
			s.f.t.Errorf("handshake response %s: %v", m.Payload, err)
		}
		if !a.responded {
			a.responded = true
			close(a.response)
		}
		return true
	case frame.PayloadOutput:
		if !complete {
			return true // swallowed, as the real one does
		}
		if s.f.opts.exec != nil {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.typed.Write(m.Payload)
			return true
		}
		if conn == nil {
			return false
		}
		if !a.discarded && s.f.swallow != nil && s.f.swallow(s.n) {
			a.discarded = true
			return true
		}
		_, _ = conn.Write(m.Payload) // blocks the agent's reading, as it does in the real one; the port may be closed
		a.mu.Lock()
		a.delivered += len(m.Payload)
		a.mu.Unlock()
	case frame.PayloadFlag:
		if len(m.Payload) == 4 && binary.BigEndian.Uint32(m.Payload) == uint32(frame.TerminateSession) && conn != nil {
			conn.Close()
		}
	}
	return true
}

// memSocket is a websocket in memory. Each direction keeps its order and has a delay.
type memSocket struct {
	s      *fakeSession
	up     chan timedMessage
	down   chan timedMessage
	arrive chan []byte
	closed chan struct{}
	once   sync.Once
}

type timedMessage struct {
	at  time.Time
	msg []byte
}

func newMemSocket(s *fakeSession) *memSocket {
	return &memSocket{
		s: s, up: make(chan timedMessage, 1<<14), down: make(chan timedMessage, 1<<14), arrive: make(chan []byte),
		closed: make(chan struct{}),
	}
}

func (m *memSocket) Read(buf []byte) ([]byte, error) {
	select {
	case b := <-m.arrive:
		return append(buf[:0], b...), nil
	case <-m.closed:
		// Earlier messages can still be read, as from a socket's buffer.
		select {
		case b := <-m.arrive:
			return append(buf[:0], b...), nil
		default:
			return buf, io.ErrUnexpectedEOF
		}
	}
}

func (m *memSocket) Write(p []byte, _ bool) error {
	msg := timedMessage{time.Now().Add(m.s.f.opts.faults.delay), bytes.Clone(p)}
	select {
	case <-m.closed:
		return net.ErrClosed
	default:
	}
	select {
	case m.up <- msg:
		return nil
	case <-m.closed:
		return net.ErrClosed
	}
}

func (m *memSocket) Ping(ctx context.Context) error {
	select {
	case <-m.closed:
		return net.ErrClosed
	default:
		return nil
	}
}

func (m *memSocket) Close() error {
	m.once.Do(func() { close(m.closed) })
	return nil
}

// deliver puts a message on its way to the client.
func (m *memSocket) deliver(b []byte, delay time.Duration) {
	select {
	case m.down <- timedMessage{time.Now().Add(delay), bytes.Clone(b)}:
	case <-m.closed:
	}
}

func (m *memSocket) runUp() {
	for {
		select {
		case t := <-m.up:
			if !m.wait(t.at) {
				return
			}
			m.s.afflict(true, t.msg, m.s.agentReceive)
		case <-m.closed:
			return
		}
	}
}

func (m *memSocket) runDown() {
	for {
		select {
		case t := <-m.down:
			if !m.wait(t.at) {
				return
			}
			select {
			case m.arrive <- t.msg:
			case <-m.closed:
				return
			}
		case <-m.closed:
			return
		}
	}
}

func (m *memSocket) wait(at time.Time) bool {
	left := time.Until(at)
	if left <= 0 {
		return true
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-m.closed:
		return false
	}
}
