package sessions

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/mmmorris1975/ssm-session-client/datachannel"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/sessions/frame"
	"github.com/bastion-ssm/bastion/sessions/reliable"
	"github.com/bastion-ssm/bastion/sessions/transport"
)

const (
	// batchBytes is how much data Fill returns at once, besides acks.
	batchBytes = 64 << 10
	// finPatience bounds the wait for the ack of the last message: the TerminateSession flag, or a refusal.
	finPatience = 500 * time.Millisecond
)

// closing is the progress of a stream that ends in good order.
type closing uint8

const (
	notClosing closing = iota
	flushing           // sends the written bytes
	finishing          // has sent the TerminateSession flag
)

// machineConfig has a machine's settings; see Config for the limits.
type machineConfig struct {
	sessionID     string
	targetID      string
	exec          bool
	resumeTimeout time.Duration
	closeTimeout  time.Duration
	pingInterval  time.Duration
	pingTimeout   time.Duration
	sendWindow    int
	maxPayload    int
	writeBuffer   int
	readSoft      int // unread bytes above which the stream leaves messages on the websocket
	readHard      int // unread bytes above which it refuses messages
	heldBytes     int // bounds the messages out of order
	heldSpan      int64
}

// machine is the client's end of a session's data channel, from the first websocket to the session's end. It is pure: it has no I/O
// and no clock, and is not safe for concurrent use. Its owner calls a method for each event. After each call the owner looks for
// messages to send (Pending, Fill), for requests (Requested, key) and for bytes to read (in). It looks for room to write (writable), and
// whether the stream is open or has ended (err). It calls OnTimer at Deadline.
type machine struct {
	cfg  machineConfig
	end  *reliable.End
	link *reliable.Upkeep
	hs   handshake

	in      reliable.ByteRing // received in order, for the reader
	out     reliable.ByteRing // written but not sent yet
	scratch []byte            // the data of the message being made
	control []reply           // the channel's own messages, which go before written bytes

	open        bool      // the handshake is complete
	absentSince time.Time // since when the service reports the agent absent; zero: present

	closed    bool // Close was called: reads and writes have ended
	abandoned bool // ... and written bytes need not arrive
	wrote     bool // the machine has sent written bytes
	closing   closing
	closeBy   time.Time
	failure   error // of the handshake: the stream ends with it once the agent knows, or at failBy
	failBy    time.Time

	wants          transport.Requests
	key            *keyRequest // if not nil: the owner makes a data key, then calls keyMade
	sent, received uint64      // bytes
	tooLong        int         // if not zero: payloads longer than this do not get through
	err            error       // why the stream ended; set once
}

// newMachine returns a machine that requests its first websocket at once.
func newMachine(cfg machineConfig, rng *rand.Rand, now time.Time) *machine {
	return &machine{
		cfg: cfg,
		end: reliable.NewEnd(reliable.Config{
			Sends: frame.InputStreamData, Takes: frame.OutputStreamData,
			// A command may end at any time, and the session with it, so the client acknowledges its output at once.
			Eager:      cfg.exec,
			SendWindow: cfg.sendWindow, MaxPayload: cfg.maxPayload,
			HeldBytes: cfg.heldBytes, HeldSpan: cfg.heldSpan,
			Rand: rng,
		}),
		link: reliable.NewUpkeep(reliable.UpkeepConfig{
			ResumeTimeout: cfg.resumeTimeout, PingInterval: cfg.pingInterval, PingTimeout: cfg.pingTimeout, Rand: rng,
		}, now),
		hs: handshake{exec: cfg.exec, sessionID: cfg.sessionID, targetID: cfg.targetID},
	}
}

// Requested returns the machine's requests, once.
func (m *machine) Requested() transport.Requests {
	r := m.wants
	m.wants = transport.Requests{}
	return r
}

// --- the reader and the writer ---

// takeKey returns the requested data key, once, or nil.
func (m *machine) takeKey() *keyRequest {
	key := m.key
	m.key = nil
	return key
}

// Ended implements transport.Machine.
func (m *machine) Ended() bool { return m.err != nil }

// writable returns how many bytes the owner may write now.
func (m *machine) writable() int {
	if m.err != nil || m.closed {
		return 0
	}
	return max(0, m.cfg.writeBuffer-m.out.Len())
}

// write takes up to writable bytes of p and returns how many it took.
func (m *machine) write(p []byte) int {
	n := min(len(p), m.writable())
	m.out.Write(p[:n])
	return n
}

// Throttled implements transport.Machine. If the reader is slow, messages stay on the websocket.
func (m *machine) Throttled(now time.Time) bool {
	return m.end.Throttled(m.in.Len() >= m.cfg.readSoft, m.out.Len() > 0, now)
}

// Throttling implements transport.Machine.
func (m *machine) Throttling() bool { return m.end.Throttling() }

// close ends the stream. It first sends written bytes, for a bounded time, unless abandon is set.
func (m *machine) close(abandon bool, now time.Time) {
	m.closed = true
	m.abandoned = m.abandoned || abandon
	m.in.Clear()
	m.advance(now)
}

// --- the websocket ---

// Connected takes in that the owner has made a websocket.
func (m *machine) Connected(now time.Time) {
	m.link.Connected(now)
	m.end.Wake() // the old websocket's reader may have brought a last message, even a pause, after disconnected
	m.hs.present(now)
}

// NotConnected takes in that an attempt to make a websocket has failed. After errNoResume, further attempts would fail too.
func (m *machine) NotConnected(err error, now time.Time) {
	m.link.NotConnected(err, now)
	if errors.Is(err, errNoResume) {
		m.fail(m.lost("it cannot be resumed", "open a new session: one cannot be resumed after it has ended, "+
			"after the AWS credentials that began it were replaced, or without the IAM permission ssm:ResumeSession"))
	}
}

// Disconnected takes in that the websocket is gone.
func (m *machine) Disconnected(cause error, now time.Time) {
	m.link.Disconnected(cause, now)
	m.end.Disconnected()
	m.checkLength(now)
	m.advance(now)
}

// Pinged takes in the outcome of a requested ping. It reports whether the websocket still works.
func (m *machine) Pinged(err error, silent bool, now time.Time) bool {
	return m.link.Pinged(err, silent, m.Throttled(now), now)
}

// lost returns the error of a session that has lost its connection for good.
func (m *machine) lost(why, next string) error {
	err := m.link.Err()
	if err == nil {
		err = context.DeadlineExceeded
	}
	return fail.New(fail.Lost, fmt.Sprintf("session %s lost its connection and %s", m.cfg.sessionID, why), err, next)
}

// --- receiving ---

// Receive takes in a message, which lies in the buffer in. kept says that the machine keeps the buffer until earlier messages have
// come. The error says why the machine ignored the message.
func (m *machine) Receive(msg *frame.Message, in *reliable.Inbound, now time.Time) (kept bool, err error) {
	if m.err != nil {
		return false, nil //nolint:nilerr // a message after the end does not matter
	}
	m.link.Heard()
	switch msg.Type {
	case frame.OutputStreamData:
		kept = m.receiveData(msg, in, now)
	case frame.Acknowledge:
		err = m.end.ReceiveAck(msg.Payload, now)
	case frame.PausePublication:
		m.end.SetPaused(true)
		m.hs.absent()
		m.absentSince = now
	case frame.StartPublication:
		m.end.SetPaused(false)
		m.hs.present(now)
		m.absentSince = time.Time{}
	case frame.ChannelClosed:
		m.receiveClosed(msg.Payload)
	default: // of a later protocol; nothing here needs it
	}
	m.advance(now)
	return kept, err
}

// Malformed counts a message that could not be decoded.
func (m *machine) Malformed() {
	m.link.Heard()
	m.end.Ignored()
}

// receiveData takes in a message of the agent's stream; kept says that the machine keeps in.
func (m *machine) receiveData(msg *frame.Message, in *reliable.Inbound, now time.Time) (kept bool) {
	m.absentSince = time.Time{}
	consumable := msg.PayloadType != frame.PayloadOutput || m.in.Len() < m.cfg.readHard
	verdict := m.end.Receive(msg, in, consumable, now)
	if verdict != reliable.Consume {
		return verdict == reliable.Keep
	}
	m.consume(msg.PayloadType, msg.Payload, now)
	for m.err == nil {
		next, ok := m.end.Next()
		if !ok {
			break
		}
		m.consume(next.Type, next.Payload, now)
		transport.Free(next.In)
	}
	return false
}

// consume takes in the next message of the agent's stream.
func (m *machine) consume(typ frame.PayloadType, payload []byte, now time.Time) {
	r, err := m.hs.receive(typ, payload)
	m.act(r, err, now)
}

// act carries out the handshake's answer to a message, or its error.
func (m *machine) act(r received, err error, now time.Time) {
	if err != nil {
		m.fail(err)
		return
	}
	m.control = append(m.control, r.replies...)
	if r.key != nil {
		m.key = r.key
	}
	m.received += uint64(len(r.data))
	if !m.closed {
		m.in.Write(r.data)
	}
	if m.hs.state == hsAbandoned && m.failure == nil {
		m.failure = protocolError("the agent asks for what this client does not do: %s", r.replies[0].payload)
		m.failBy = now.Add(finPatience)
	}
}

// keyMade takes in the requested data key, plain and encrypted, or err.
func (m *machine) keyMade(req *keyRequest, plain, encrypted []byte, err error, now time.Time) {
	var r received
	if err != nil {
		m.failure, m.failBy = err, now.Add(finPatience)
		r, err = m.hs.keyFailed(err)
	} else {
		r, err = m.hs.keyMade(req, plain, encrypted)
	}
	m.act(r, err, now)
	m.advance(now)
}

// receiveClosed takes in the service's word that the session has ended.
func (m *machine) receiveClosed(payload []byte) {
	var closed datachannel.ChannelClosedPayload
	err := json.Unmarshal(payload, &closed)
	switch {
	case err != nil:
		m.fail(protocolError("channel_closed: %w", err))
	case m.closing == finishing:
		m.fail(net.ErrClosed) // this end asked for it
	case m.failure != nil:
		m.fail(m.failure) // the failed handshake is the reason
	default:
		m.fail(&ClosedError{SessionID: m.cfg.sessionID, Output: closed.Output, Incomplete: m.end.Gap()})
	}
}

// --- sending ---

// Pending reports whether fill has something to send now.
func (m *machine) Pending() bool {
	return m.err == nil && m.link.Up() &&
		(m.end.Pending() || len(m.control) > 0 || m.dataSize() > 0)
}

// Fill adds to b the messages that the owner may send now.
func (m *machine) Fill(b *reliable.Batch, now time.Time) {
	if m.err != nil || !m.link.Up() {
		return
	}
	m.end.AppendAcks(b, now)
	limit := len(b.Buf) + batchBytes
	m.end.AppendResends(b, limit, now)
	for i, r := range m.control {
		m.end.Push(b, r.payloadType, r.flags, r.payload, len(r.payload), now)
		m.control[i] = reply{}
	}
	m.control = m.control[:0]
	for len(b.Buf) < limit {
		n := m.dataSize()
		if n == 0 {
			return
		}
		if cap(m.scratch) < n {
			m.scratch = make([]byte, n)
		}
		data := m.scratch[:n]
		m.out.Read(data)
		m.sent += uint64(n)
		m.wrote = true
		if m.hs.cipher != nil {
			data = m.hs.cipher.seal(nil, data)
		}
		m.end.Push(b, frame.PayloadOutput, frame.FlagData, data, n, now)
	}
}

// dataSize returns how many written bytes the next message may carry now; 0 means that it must wait.
func (m *machine) dataSize() int {
	backlog := m.out.Len()
	if backlog == 0 || !m.hs.complete() {
		return 0
	}
	return min(backlog, m.end.Room(backlog))
}

// --- time ---

// Deadline returns when the machine needs onTimer next; zero means never.
func (m *machine) Deadline() time.Time {
	if m.err != nil {
		return time.Time{}
	}
	at := m.link.Deadline()
	if m.link.Up() {
		at = reliable.Earliest(at, m.end.Deadline())
		at = reliable.Earliest(at, m.hs.deadline())
	}
	return reliable.Earliest(reliable.Earliest(at, m.closeBy), m.failBy)
}

// OnTimer does everything that is due.
func (m *machine) OnTimer(now time.Time) {
	if m.err != nil {
		return
	}
	if m.link.Up() {
		if m.end.OnTimer(now) {
			m.link.Probe(now)
		}
		m.checkLength(now)
		m.control = append(m.control, m.hs.onTimer(now)...)
	}
	connect, ping := m.link.OnTimer(now)
	if connect {
		m.wants.Connect = true
	}
	if ping > 0 {
		m.wants.Ping = ping
	}
	m.advance(now)
}

// checkLength ends the stream if its messages have become too long for the path.
func (m *machine) checkLength(now time.Time) {
	if limit, ok := m.end.Oversize(now); ok {
		m.tooLong = limit
		m.fail(fail.New(fail.Lost, "use session "+m.cfg.sessionID,
			fmt.Errorf("messages of more than %d bytes do not get through", limit), "open a new session: it keeps to shorter ones"))
	}
}

// --- the end ---

// advance takes the steps that wait for a time, an ack or the handshake.
func (m *machine) advance(now time.Time) {
	switch {
	case m.err != nil:
		return
	case m.failure != nil && (reliable.Due(m.failBy, now) || m.idle()):
		m.fail(m.failure)
	case m.link.Expired(now):
		m.fail(m.lost("it could not be restored within "+m.cfg.resumeTimeout.String(), "check the network, then open a new session"))
	}
	m.open = m.open || m.hs.complete()
	if m.closed {
		m.advanceClose(now)
	}
}

// idle reports whether the agent has acknowledged all messages and only written bytes wait to be sent.
func (m *machine) idle() bool { return len(m.control) == 0 && m.end.Outstanding() == 0 }

// advanceClose takes the next step of close.
func (m *machine) advanceClose(now time.Time) {
	backlog := m.out.Len()
	switch {
	case m.abandoned, !m.hs.complete(), m.cfg.exec && !m.wrote && backlog == 0:
		m.fail(net.ErrClosed)
		return
	case m.closing == notClosing:
		m.closing, m.closeBy = flushing, now.Add(m.cfg.closeTimeout)
	}
	idle := backlog == 0 && m.idle()
	switch {
	case !now.Before(m.closeBy),
		idle && (m.closing == finishing || m.cfg.exec || !m.link.Up()):
		m.fail(net.ErrClosed)
	case idle:
		m.closing = finishing
		flag := binary.BigEndian.AppendUint32(nil, uint32(frame.TerminateSession))
		m.control = append(m.control, reply{payloadType: frame.PayloadFlag, flags: frame.FlagFIN, payload: flag})
		m.closeBy = reliable.Earliest(m.closeBy, now.Add(finPatience))
	}
}

// fail ends the stream with err, unless it has ended.
func (m *machine) fail(err error) {
	m.err = cmp.Or(m.err, err)
}

// closeError returns Close's error for a stream that has ended.
func (m *machine) closeError() error {
	if !m.closed || m.abandoned || m.closing == finishing {
		return nil // the stream ended before Close, as Err tells; or all is well
	}
	if n, backlog := m.end.Outstanding(), m.out.Len(); n > 0 && m.wrote || backlog > 0 {
		return fmt.Errorf("close session %s: %d messages were not acknowledged, %d bytes not sent", m.cfg.sessionID, n, backlog)
	}
	return nil
}
