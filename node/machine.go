package node

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/bastion-ssm/bastion/sessions/frame"
	"github.com/bastion-ssm/bastion/sessions/reliable"
	"github.com/bastion-ssm/bastion/sessions/transport"
)

const (
	// batchBytes is how much data Fill adds at once, besides acks.
	batchBytes = 64 << 10
	// handshakeTimeout is the agent's.
	handshakeTimeout = 15 * time.Second
	// connectAttempts is how often the agent tries to make the first websocket.
	connectAttempts = 6
	// closeWait is how long the end of a session waits for the next ack of what was sent, and closeLimit how long in all.
	closeWait, closeLimit = 2 * time.Second, 30 * time.Second
	// lastWords is how long the websocket stays after the last message, which the writer has perhaps not sent yet.
	lastWords = 20 * time.Millisecond
	// mostFlows bounds the connections of one session that are not closed yet. A client opens one after another.
	mostFlows = 8
)

// The statuses of a session's end.
const (
	statusSuccess = "Success"
	statusFailed  = "Failed"
)

// Result is the outcome of a session, which the service gets.
type Result struct {
	Status string
	Output string // why it failed, for the user
}

// failed returns the result of a session that failed before its port was reached, in the agent's form.
func failed(format string, args ...any) Result {
	return Result{statusFailed, "\n----------ERROR-------\n" + fmt.Sprintf(format, args...)}
}

// errTerminated says that the session has ended with the service, so that another websocket would be refused too.
var errTerminated = errors.New("the session has ended with the service")

// state is the progress of a session.
type state uint8

const (
	waiting   state = iota // for the first websocket
	asked                  // has asked the client for the handshake
	connected              // the handshake is complete
	leaving                // sends what is left
	over
)

// machineConfig has a machine's settings. See Limits for the bounds.
type machineConfig struct {
	task          Task
	served        bool // the port has a handler
	limits        Limits
	resumeTimeout time.Duration
	pingInterval  time.Duration
	pingTimeout   time.Duration
}

// control is a message of the channel's own that waits to be sent.
type control struct {
	typ         frame.MessageType // output_stream_data has a number, others have not
	payloadType frame.PayloadType
	payload     []byte
}

// flow is what the client sends to one connection.
type flow struct {
	in     reliable.ByteRing
	eof    bool // the client sends no more
	closed bool // the handler has closed the connection
}

// machine is the node's end of a session's data channel. It is pure: it has no I/O and no clock, and is not safe for concurrent use.
// Its owner calls a method for each event, and then looks at takeFlow, and at what the flows have to read.
type machine struct {
	cfg  machineConfig
	end  *reliable.End
	link *reliable.Upkeep

	state     state
	mux       bool      // the client multiplexes its connections
	keepAlive bool      // ... and expects keepalives
	askedAt   time.Time // when the handshake began
	attempts  int       // to make the first websocket

	flow  *flow // the present connection; nil: none
	fresh *flow // to be handed over
	flows int   // not closed yet by their handlers

	out     reliable.ByteRing // written by the present flow, but not sent yet
	control []control
	scratch []byte

	result    Result
	closeBy   time.Time // leaving ends, unless acks come
	closeLast time.Time // leaving ends
	idleSince time.Time // nothing is left to do
	wants     transport.Requests
}

// newMachine returns a machine that requests its first websocket at once.
func newMachine(cfg machineConfig, rng *rand.Rand, now time.Time) *machine {
	l := &cfg.limits
	return &machine{
		cfg: cfg,
		end: reliable.NewEnd(reliable.Config{
			Sends: frame.OutputStreamData, Takes: frame.InputStreamData,
			SendWindow: l.SendWindow, MaxPayload: l.MaxPayload, HeldBytes: l.ReorderBuffer, HeldSpan: reorderSpan, Rand: rng,
		}),
		link: reliable.NewUpkeep(reliable.UpkeepConfig{
			ResumeTimeout: cfg.resumeTimeout, PingInterval: cfg.pingInterval, PingTimeout: cfg.pingTimeout, Rand: rng,
		}, now),
	}
}

// --- the connections ---

// takeFlow returns a connection to hand over to the port's handler, once, or nil.
func (m *machine) takeFlow() *flow {
	f := m.fresh
	m.fresh = nil
	return f
}

// open makes a new connection.
func (m *machine) open() {
	m.flow = &flow{}
	m.fresh = m.flow
	m.flows++
}

// writable returns how many bytes f's handler may write now.
func (m *machine) writable(f *flow) int {
	if f != m.flow || f.closed || m.state != connected {
		return 0
	}
	return max(0, m.cfg.limits.WriteBuffer-m.out.Len())
}

// broken reports whether f's handler can no longer write.
func (m *machine) broken(f *flow) bool { return f != m.flow || f.closed || m.state != connected }

// write takes up to writable bytes of p and returns how many it took.
func (m *machine) write(f *flow, p []byte) int {
	n := min(len(p), m.writable(f))
	m.out.Write(p[:n])
	return n
}

// close takes in that f's handler has closed its connection. The session ends with it, unless the client may open another one.
func (m *machine) close(f *flow, now time.Time) {
	if f.closed {
		return
	}
	f.closed = true
	f.in.Clear()
	m.flows--
	if f == m.flow && m.state == connected && (m.mux || !m.cfg.task.forward) {
		m.leave(Result{Status: statusSuccess}, now)
	}
}

// detach ends the present connection from the client's side.
func (m *machine) detach() {
	if m.flow != nil {
		m.flow.eof = true
		m.flow = nil
	}
}

// connectError tells a client that multiplexes that a connection to the port failed.
func (m *machine) connectError() {
	flag := binary.BigEndian.AppendUint32(nil, uint32(frame.ConnectToPortError))
	m.push(frame.PayloadFlag, flag)
}

// --- the websocket ---

// Connected implements transport.Machine.
func (m *machine) Connected(now time.Time) {
	m.link.Connected(now)
	m.end.Wake() // the old websocket's reader may have brought a last message, even a pause, after Disconnected
	if m.state == waiting {
		m.ask(now)
	}
}

// NotConnected implements transport.Machine.
func (m *machine) NotConnected(err error, now time.Time) {
	m.link.NotConnected(err, now)
	m.attempts++
	switch {
	case errors.Is(err, errTerminated):
		m.finish(Result{Status: statusSuccess})
	case m.state == waiting && m.attempts == connectAttempts:
		m.finish(failed("Setting up data channel with id %s failed: %v", m.cfg.task.SessionID, err))
	}
}

// Disconnected implements transport.Machine.
func (m *machine) Disconnected(cause error, now time.Time) {
	m.link.Disconnected(cause, now)
	m.end.Disconnected()
	m.checkLength(now)
	m.advance(now)
}

// Pinged implements transport.Machine.
func (m *machine) Pinged(err error, silent bool, now time.Time) bool {
	return m.link.Pinged(err, silent, m.Throttled(now), now)
}

// Throttled implements transport.Machine. If the handler is slow, messages stay on the websocket.
func (m *machine) Throttled(now time.Time) bool {
	return m.end.Throttled(m.unread() >= m.cfg.limits.ReadBuffer, m.out.Len() > 0, now)
}

// Throttling implements transport.Machine.
func (m *machine) Throttling() bool { return m.end.Throttling() }

func (m *machine) unread() int {
	if m.flow == nil {
		return 0
	}
	return m.flow.in.Len()
}

// Requested implements transport.Machine.
func (m *machine) Requested() transport.Requests {
	r := m.wants
	m.wants = transport.Requests{}
	return r
}

// --- receiving ---

// Receive implements transport.Machine.
func (m *machine) Receive(msg *frame.Message, in *reliable.Inbound, now time.Time) (kept bool, err error) {
	if m.state == over {
		return false, nil
	}
	m.link.Heard()
	switch msg.Type {
	case frame.InputStreamData:
		kept = m.receiveData(msg, in, now)
	case frame.Acknowledge:
		if err = m.end.ReceiveAck(msg.Payload, now); err == nil && m.state == leaving {
			m.closeBy = now.Add(closeWait)
		}
	case frame.PausePublication:
		m.end.SetPaused(true)
	case frame.StartPublication:
		m.end.SetPaused(false)
	case frame.ChannelClosed:
		m.finish(cmp.Or(m.result, Result{Status: statusSuccess}))
	default:
		err = fmt.Errorf("message of type %q", msg.Type)
	}
	m.advance(now)
	return kept, err
}

// Malformed implements transport.Machine.
func (m *machine) Malformed() {
	m.link.Heard()
	m.end.Ignored()
}

// receiveData takes in a message of the client's stream; kept says that the machine keeps in.
func (m *machine) receiveData(msg *frame.Message, in *reliable.Inbound, now time.Time) (kept bool) {
	verdict := m.end.Receive(msg, in, m.consumable(msg.PayloadType), now)
	if verdict != reliable.Consume {
		return verdict == reliable.Keep
	}
	m.consume(msg.PayloadType, msg.Payload, now)
	for m.state != over {
		next, ok := m.end.Next()
		if !ok {
			break
		}
		m.consume(next.Type, next.Payload, now)
		transport.Free(next.In)
	}
	return false
}

// consumable reports whether the machine has room for a message.
func (m *machine) consumable(typ frame.PayloadType) bool {
	if typ != frame.PayloadOutput || m.state != connected {
		return true
	}
	if m.flow == nil || m.flow.closed {
		return m.flows < mostFlows
	}
	return m.flow.in.Len() < readHardFactor*m.cfg.limits.ReadBuffer
}

// consume takes in the next message of the client's stream. What comes before the end of the handshake is lost, as with the agent; no
// client sends it.
func (m *machine) consume(typ frame.PayloadType, payload []byte, now time.Time) {
	switch {
	case typ == frame.PayloadHandshakeResponse && m.state == asked:
		m.shake(payload, now)
	case m.state != connected:
	case typ == frame.PayloadOutput:
		m.consumeOutput(payload)
	case typ == frame.PayloadFlag && len(payload) == 4:
		m.consumeFlag(frame.StreamFlag(binary.BigEndian.Uint32(payload)), now)
	}
}

// consumeOutput passes bytes to the present connection. If the far end has closed it, the bytes are the first of a new one.
func (m *machine) consumeOutput(payload []byte) {
	if m.flow == nil || m.flow.closed {
		if m.flows >= mostFlows { // of messages that came out of order
			m.finish(Result{statusFailed, "too many connections that are not closed"})
			return
		}
		m.open()
	}
	m.flow.in.Write(payload)
}

func (m *machine) consumeFlag(flag frame.StreamFlag, now time.Time) {
	switch {
	case flag == frame.TerminateSession:
		m.detach()
		m.out.Clear()
		m.leave(Result{Status: statusSuccess}, now)
	case flag != frame.DisconnectToPort || m.mux:
	case m.cfg.task.forward:
		m.detach()
		m.out.Clear() // for the connection that the client has closed
	default: // the agent's read of the port fails
		m.detach()
		m.out.Clear()
		m.leave(Result{Status: statusFailed}, now)
	}
}

// --- sending ---

// push adds a message to the node's stream.
func (m *machine) push(typ frame.PayloadType, payload []byte) {
	m.control = append(m.control, control{frame.OutputStreamData, typ, payload})
}

// Pending implements transport.Machine.
func (m *machine) Pending() bool {
	return m.state != over && m.link.Up() && (m.end.Pending() || len(m.control) > 0 && m.speaks() || m.dataSize() > 0)
}

// speaks reports whether the machine may send its own messages. The first goes to the service; the others wait while the client is
// absent.
func (m *machine) speaks() bool { return m.control[0].typ != frame.OutputStreamData || !m.end.Paused() }

// Fill implements transport.Machine.
func (m *machine) Fill(b *reliable.Batch, now time.Time) {
	if m.state == over || !m.link.Up() {
		return
	}
	m.end.AppendAcks(b, now)
	limit := len(b.Buf) + batchBytes
	m.end.AppendResends(b, limit, now)
	for len(m.control) > 0 && m.speaks() {
		c := m.control[0]
		m.control = m.control[1:]
		if c.typ == frame.OutputStreamData {
			m.end.Push(b, c.payloadType, frame.FlagData, c.payload, len(c.payload), now)
			continue
		}
		m.end.Append(b, &frame.Message{Type: c.typ, Created: now, Flags: frame.FlagAck, Payload: c.payload})
	}
	for len(b.Buf) < limit {
		n := m.dataSize()
		if n == 0 {
			break
		}
		if cap(m.scratch) < n {
			m.scratch = make([]byte, n)
		}
		data := m.scratch[:n]
		m.out.Read(data)
		m.end.Push(b, frame.PayloadOutput, frame.FlagData, data, n, now)
	}
	m.advance(now)
}

// dataSize returns how many written bytes the next message may carry now; 0 means that it must wait.
func (m *machine) dataSize() int {
	backlog := m.out.Len()
	if backlog == 0 {
		return 0
	}
	return min(backlog, m.end.Room(backlog))
}

// --- time ---

// Deadline implements transport.Machine.
func (m *machine) Deadline() time.Time {
	if m.state == over {
		return time.Time{}
	}
	at := m.link.Deadline()
	if m.link.Up() {
		at = reliable.Earliest(at, m.end.Deadline())
	}
	switch m.state {
	case asked:
		at = reliable.Earliest(at, m.askedAt.Add(handshakeTimeout))
	case leaving:
		at = reliable.Earliest(reliable.Earliest(at, m.closeBy), m.closeLast)
		if !m.idleSince.IsZero() {
			at = reliable.Earliest(at, m.idleSince.Add(lastWords))
		}
	}
	return at
}

// OnTimer implements transport.Machine.
func (m *machine) OnTimer(now time.Time) {
	if m.state == over {
		return
	}
	if m.link.Up() {
		if m.end.OnTimer(now) {
			m.link.Probe(now)
		}
		m.checkLength(now)
	}
	connect, ping := m.link.OnTimer(now)
	m.wants.Connect = m.wants.Connect || connect
	m.wants.Ping = cmp.Or(ping, m.wants.Ping)
	if m.state == asked && reliable.Due(m.askedAt.Add(handshakeTimeout), now) {
		m.leave(failed("Encountered error while initiating handshake. Handshake timed out. "+
			"Please ensure that you have the latest version of the session manager plugin."), now)
	}
	m.advance(now)
}

// checkLength ends the session if its messages have become too long for the path.
func (m *machine) checkLength(now time.Time) {
	if limit, ok := m.end.Oversize(now); ok {
		m.finish(failed("messages of more than %d bytes do not get through", limit))
	}
}

// --- the handshake ---

// The handshake's JSON, with the keys in the agent's order.
type (
	sessionState struct {
		SchemaVersion int
		SessionState  string
		SessionID     string `json:"SessionId"`
	}
	handshakeRequest struct {
		AgentVersion           string
		RequestedClientActions []clientAction
	}
	clientAction struct {
		ActionType       string
		ActionParameters sessionTypeRequest
	}
	sessionTypeRequest struct {
		SessionType string
		Properties  json.RawMessage
	}
	handshakeResponse struct {
		ClientVersion          string
		ProcessedClientActions []struct {
			ActionType   string
			ActionStatus int
			Error        string
		}
	}
	handshakeComplete struct {
		HandshakeTimeToComplete time.Duration
		CustomerMessage         string
	}
)

const actionSuccess = 1

// mustJSON encodes a value that always can be.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic("node: " + err.Error())
	}
	return b
}

// ask begins the session.
func (m *machine) ask(now time.Time) {
	m.state, m.askedAt = asked, now
	m.control = append(m.control, control{
		typ: frame.AgentSessionState, payload: mustJSON(sessionState{1, "Connected", m.cfg.task.SessionID}),
	})
	m.push(frame.PayloadHandshakeRequest, mustJSON(handshakeRequest{
		agentVersion, []clientAction{{"SessionType", sessionTypeRequest{sessionTypePort, m.cfg.task.properties}}},
	}))
}

// shake takes in the client's answer to the handshake.
func (m *machine) shake(payload []byte, now time.Time) {
	const where = "Encountered error while initiating handshake. "
	var res handshakeResponse
	if err := json.Unmarshal(payload, &res); err != nil {
		m.leave(failed(where+"Unmarshalling of HandshakeResponse message failed, %v", err), now)
		return
	}
	for _, a := range res.ProcessedClientActions {
		if a.ActionStatus != actionSuccess {
			m.leave(failed(where+"%s failed on client with status %d error: %s", a.ActionType, a.ActionStatus, a.Error), now)
			return
		}
	}
	m.push(frame.PayloadHandshakeComplete, mustJSON(handshakeComplete{HandshakeTimeToComplete: now.Sub(m.askedAt)}))
	m.mux = m.cfg.task.forward && compareVersions(res.ClientVersion, muxSince) >= 0
	if !m.mux && !m.cfg.served {
		m.leave(Result{statusFailed, fmt.Sprintf("Unable to connect to specified port: port %d is not served", m.cfg.task.Port)}, now)
		return
	}
	m.state = connected
	m.keepAlive = m.mux && compareVersions(res.ClientVersion, muxKeepAliveUntil) <= 0
	m.open()
}

// --- the end ---

// leave ends the session once the client has what was written.
func (m *machine) leave(r Result, now time.Time) {
	m.result, m.state = r, leaving
	m.closeBy, m.closeLast = now.Add(closeWait), now.Add(closeLimit)
	m.advance(now)
}

// finish ends the session now.
func (m *machine) finish(r Result) {
	if m.state != over {
		m.result, m.state = r, over
		m.detach()
		m.out.Clear()
	}
}

// advance takes the steps that wait for a time or an ack.
func (m *machine) advance(now time.Time) {
	if m.state != over && m.link.Expired(now) {
		m.finish(cmp.Or(m.result, failed("the connection to the service was lost: %v", m.link.Err())))
	}
	if m.state != leaving {
		return
	}
	idle := len(m.control) == 0 && m.out.Len() == 0 && m.end.Outstanding() == 0 && m.end.Stats().Acks == 0
	switch {
	case !idle:
		m.idleSince = time.Time{}
	case m.idleSince.IsZero():
		m.idleSince = now
	}
	if reliable.Due(m.closeBy, now) || reliable.Due(m.closeLast, now) || idle && reliable.Due(m.idleSince.Add(lastWords), now) {
		m.finish(m.result)
	}
}

// Ended implements transport.Machine.
func (m *machine) Ended() bool { return m.state == over }
