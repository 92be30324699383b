package sessions

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/mmmorris1975/ssm-session-client/datachannel"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/sessions/frame"
)

const (
	// batchBytes is how much data fill returns at once, besides acks.
	batchBytes = 64 << 10
	// mostAcks stops the reader while the writer is stuck, because every message needs an ack.
	mostAcks = 1 << 10
	// finPatience bounds the wait for the ack of the last message: the TerminateSession flag, or a refusal.
	finPatience = 500 * time.Millisecond
	// probeAfter is how many retransmission timeouts in succession make the machine probe the path.
	probeAfter = 3
	// starvedPause is how long nothing may be outstanding until a slow reader again holds the agent back.
	starvedPause = time.Second
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

// requests are the calls that a machine requests of its owner.
type requests struct {
	connect bool          // make a websocket, then call connected or notConnected
	ping    time.Duration // if not zero: ping, wait that long for the pong, then call pinged
	key     *keyRequest   // if not nil: make a data key, then call keyMade
}

// machine is the client's end of a session's data channel, from the first websocket to the session's end. It is pure: it has no I/O
// and no clock, and is not safe for concurrent use. Its owner calls a method for each event. After each call the owner looks for
// messages to send (pending, fill), for requests (requested) and for bytes to read (in). It looks for room to write (writable), and
// whether the stream is open or has ended (err). It calls onTimer at deadline.
type machine struct {
	cfg machineConfig
	reliable
	link upkeep
	hs   handshake

	in      byteRing // received in order, for the reader
	out     byteRing // written but not sent yet
	control []reply  // the channel's own messages, which go before written bytes

	open        bool      // the handshake is complete
	absentSince time.Time // since when the service reports the agent absent; zero: present
	throttling  bool      // the owner was told to take no more messages
	starved     bool      // the reader is slow, but the machine needs the waiting messages

	closed    bool // Close was called: reads and writes have ended
	abandoned bool // ... and written bytes need not arrive
	wrote     bool // the machine has sent written bytes
	closing   closing
	closeBy   time.Time
	failure   error // of the handshake: the stream ends with it once the agent knows, or at failBy
	failBy    time.Time

	wants          requests
	sent, received uint64 // bytes
	tooLong        int    // if not zero: payloads longer than this do not get through
	err            error  // why the stream ended; set once
}

// newMachine returns a machine that requests its first websocket at once.
func newMachine(cfg machineConfig, rng *rand.Rand, now time.Time) *machine {
	m := &machine{
		cfg: cfg,
		reliable: reliable{
			sends: datachannel.InputStreamData, takes: datachannel.OutputStreamData,
			// A command may end at any time, and the session with it, so the client acknowledges its output at once.
			eager: cfg.exec,
			rng:   rng, recv: newRecvQueue[heldPayload](cfg.heldBytes, cfg.heldSpan),
		},
		link: upkeep{
			resumeTimeout: cfg.resumeTimeout, pingInterval: cfg.pingInterval, pingTimeout: cfg.pingTimeout,
			rng: rng, connectAt: now, downSince: now,
		},
		hs: handshake{exec: cfg.exec, sessionID: cfg.sessionID, targetID: cfg.targetID},
	}
	m.send = newSendQueue(cfg.sendWindow, cfg.maxPayload, m.keepFrame)
	return m
}

// requested returns the machine's requests, once.
func (m *machine) requested() requests {
	r := m.wants
	m.wants = requests{}
	return r
}

// --- the reader and the writer ---

// writable returns how many bytes the owner may write now.
func (m *machine) writable() int {
	if m.err != nil || m.closed {
		return 0
	}
	return max(0, m.cfg.writeBuffer-m.out.len())
}

// write takes up to writable bytes of p and returns how many it took.
func (m *machine) write(p []byte) int {
	n := min(len(p), m.writable())
	m.out.write(p[:n])
	return n
}

// throttled reports whether the owner must leave messages on the websocket. If the reader is slow, they stay there, which holds the
// agent back as AWS's own client does. Acks of this end's messages, or the end of a pause, stay there too. If the machine misses
// those, it takes messages after all, until it has had nothing to send for a while.
func (m *machine) throttled(now time.Time) bool {
	over := m.in.len() >= m.cfg.readSoft
	switch {
	case !over:
		m.starved = false
	case m.send.stalled(), m.send.paused && m.out.len() > 0:
		m.starved = true
	case m.send.outstanding() == 0 && now.Sub(m.send.lastProgress) > starvedPause:
		m.starved = false
	}
	m.throttling = over && !m.starved || len(m.acks) >= mostAcks
	return m.throttling
}

// close ends the stream. It first sends written bytes, for a bounded time, unless abandon is set.
func (m *machine) close(abandon bool, now time.Time) {
	m.closed = true
	m.abandoned = m.abandoned || abandon
	m.in.clear()
	m.advance(now)
}

// --- the websocket ---

// connected takes in that the owner has made a websocket.
func (m *machine) connected(now time.Time) {
	m.link.connected(now)
	m.send.wake() // the old websocket's reader may have brought a last message, even a pause, after disconnected
	m.hs.present(now)
}

// notConnected takes in that an attempt to make a websocket has failed. final says that further attempts would fail too.
func (m *machine) notConnected(err error, final bool, now time.Time) {
	m.link.notConnected(err, now)
	if final {
		m.fail(m.lost("it cannot be resumed", "open a new session: one cannot be resumed after it has ended, "+
			"after the AWS credentials that began it were replaced, or without the IAM permission ssm:ResumeSession"))
	}
}

// disconnected takes in that the websocket is gone.
func (m *machine) disconnected(cause error, now time.Time) {
	m.link.disconnected(cause, now)
	m.reliable.disconnected()
	m.checkLength(now)
	m.advance(now)
}

// pinged takes in the outcome of a requested ping. It reports whether the websocket still works.
func (m *machine) pinged(err error, silent bool, now time.Time) bool {
	return m.link.pinged(err, silent, m.throttled(now), now)
}

// lost returns the error of a session that has lost its connection for good.
func (m *machine) lost(why, next string) error {
	err := m.link.lastErr
	if err == nil {
		err = context.DeadlineExceeded
	}
	return fail.New(fail.Lost, fmt.Sprintf("session %s lost its connection and %s", m.cfg.sessionID, why), err, next)
}

// --- receiving ---

// receive takes in a message, which lies in the buffer in. kept says that the machine keeps the buffer until earlier messages have
// come. The error says why the machine ignored the message.
func (m *machine) receive(msg *frame.Message, in *inbound, now time.Time) (kept bool, err error) {
	if m.err != nil {
		return false, nil //nolint:nilerr // a message after the end does not matter
	}
	m.link.heard()
	switch msg.Type {
	case m.takes:
		kept = m.receiveData(msg, in, now)
	case datachannel.Acknowledge:
		err = m.receiveAck(msg.Payload, now)
	case datachannel.PausePublication:
		m.send.setPaused(true)
		m.hs.absent()
		m.absentSince = now
	case datachannel.StartPublication:
		m.send.setPaused(false)
		m.hs.present(now)
		m.absentSince = time.Time{}
	case datachannel.ChannelClosed:
		m.receiveClosed(msg.Payload)
	default: // of a later protocol; nothing here needs it
	}
	m.advance(now)
	return kept, err
}

// malformed counts a message that could not be decoded.
func (m *machine) malformed() {
	m.link.heard()
	m.dropped++
}

// receiveData takes in a message of the agent's stream; kept says that the machine keeps in.
func (m *machine) receiveData(msg *frame.Message, in *inbound, now time.Time) (kept bool) {
	m.absentSince = time.Time{}
	consumable := msg.PayloadType != datachannel.Output || m.in.len() < m.cfg.readHard
	verdict := m.reliable.receive(msg, in, consumable, now)
	if verdict != recvNext {
		return verdict == recvHeld
	}
	m.consume(msg.PayloadType, msg.Payload, now)
	for m.err == nil {
		next, ok := m.recv.pop()
		if !ok {
			break
		}
		m.consume(next.typ, next.payload, now)
		next.in.free()
	}
	return false
}

// consume takes in the next message of the agent's stream.
func (m *machine) consume(typ datachannel.PayloadType, payload []byte, now time.Time) {
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
		m.wants.key = r.key
	}
	m.received += uint64(len(r.data))
	if !m.closed {
		m.in.write(r.data)
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
		m.fail(&ClosedError{SessionID: m.cfg.sessionID, Output: closed.Output, Incomplete: m.recv.gap()})
	}
}

// --- sending ---

// pending reports whether fill has something to send now.
func (m *machine) pending() bool {
	return m.err == nil && m.link.state == linkUp &&
		(m.reliable.pending() || len(m.control) > 0 || m.dataSize() > 0)
}

// fill adds to b the messages that the owner may send now.
func (m *machine) fill(b *batch, now time.Time) {
	if m.err != nil || m.link.state != linkUp {
		return
	}
	m.appendAcks(b, now)
	limit := len(b.buf) + batchBytes
	m.appendResends(b, limit, now)
	for i, r := range m.control {
		m.push(b, r.payloadType, r.flags, r.payload, len(r.payload), now)
		m.control[i] = reply{}
	}
	m.control = m.control[:0]
	for len(b.buf) < limit {
		n := m.dataSize()
		if n == 0 {
			return
		}
		if cap(m.scratch) < n {
			m.scratch = make([]byte, n)
		}
		data := m.scratch[:n]
		m.out.read(data)
		m.sent += uint64(n)
		m.wrote = true
		if m.hs.cipher != nil {
			data = m.hs.cipher.seal(nil, data)
		}
		m.push(b, datachannel.Output, frame.FlagData, data, n, now)
	}
}

// dataSize returns how many written bytes the next message may carry now; 0 means that it must wait.
func (m *machine) dataSize() int {
	backlog := m.out.len()
	if backlog == 0 || !m.hs.complete() {
		return 0
	}
	return min(backlog, m.send.room(backlog))
}

// --- time ---

// deadline returns when the machine needs onTimer next; zero means never.
func (m *machine) deadline() time.Time {
	if m.err != nil {
		return time.Time{}
	}
	at := m.link.deadline()
	if m.link.state == linkUp {
		at = earliest(at, m.reliable.deadline())
		at = earliest(at, m.hs.deadline())
	}
	return earliest(earliest(at, m.closeBy), m.failBy)
}

// onTimer does everything that is due.
func (m *machine) onTimer(now time.Time) {
	if m.err != nil {
		return
	}
	if m.link.state == linkUp {
		if m.reliable.onTimer(now) {
			m.link.probe(now)
		}
		m.checkLength(now)
		m.control = append(m.control, m.hs.onTimer(now)...)
	}
	connect, ping := m.link.onTimer(now)
	if connect {
		m.wants.connect = true
	}
	if ping > 0 {
		m.wants.ping = ping
	}
	m.advance(now)
}

// checkLength ends the stream if its messages have become too long for the path.
func (m *machine) checkLength(now time.Time) {
	if limit, ok := m.send.oversize(now); ok {
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
	case m.failure != nil && (due(m.failBy, now) || m.idle()):
		m.fail(m.failure)
	case m.link.expired(now):
		m.fail(m.lost("it could not be restored within "+m.cfg.resumeTimeout.String(), "check the network, then open a new session"))
	}
	m.open = m.open || m.hs.complete()
	if m.closed {
		m.advanceClose(now)
	}
}

// idle reports whether the agent has acknowledged all messages and only written bytes wait to be sent.
func (m *machine) idle() bool { return len(m.control) == 0 && m.send.outstanding() == 0 }

// advanceClose takes the next step of close.
func (m *machine) advanceClose(now time.Time) {
	backlog := m.out.len()
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
		idle && (m.closing == finishing || m.cfg.exec || m.link.state != linkUp):
		m.fail(net.ErrClosed)
	case idle:
		m.closing = finishing
		flag := binary.BigEndian.AppendUint32(nil, uint32(datachannel.TerminateSession))
		m.control = append(m.control, reply{payloadType: datachannel.Flag, flags: frame.FlagFIN, payload: flag})
		m.closeBy = earliest(m.closeBy, now.Add(finPatience))
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
	if n, backlog := m.send.outstanding(), m.out.len(); n > 0 && m.wrote || backlog > 0 {
		return fmt.Errorf("close session %s: %d messages were not acknowledged, %d bytes not sent", m.cfg.sessionID, n, backlog)
	}
	return nil
}
