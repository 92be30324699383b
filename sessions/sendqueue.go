package sessions

import (
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
	"github.com/bastion-ssm/bastion/internal/ring"
)

// The limits of the send queue. The agent takes payloads of up to 256 KiB without pacing, but what AWS's gateway takes is not
// published and sessions stall when it is flooded; so a stream starts as AWS's own plugin does, with 1024 bytes a message,
// and grows step by step while acks come back soon.
const (
	minPayload     = 1024
	initialWindow  = 16 << 10 // bytes, headers included
	minWindow      = 4 << 10
	growAfter      = 64   // messages acknowledged in a row before the payload may double
	growWindow     = 32   // ... and payloads that the window must hold; so it has grown, because it was used
	maxSpan        = 8192 // sequence numbers between the oldest unacknowledged and the next; the agent reorders 100,000
	holdDelay      = 25 * time.Millisecond
	shrinkDelay    = 100 * time.Millisecond
	probePatience  = 15 * time.Second
	probeMinResend = 3
	probeMaxCuts   = 3 // a message on which the websocket was lost so often is what it was lost for
)

type sendState uint8

const (
	sendInFlight sendState = iota
	sendLost               // to be sent again
	sendAcked
)

// sentMessage is a message that was sent and is kept until its ack comes.
type sentMessage struct {
	frame  []byte
	sentAt time.Time // last sent
	order  uint64    // of its last sending among all sendings
	sends  int
	state  sendState
}

type sending struct {
	seq   int64
	order uint64
}

// sendQueue is the state of our sending direction: numbers, what is unacknowledged, when it is sent again, how much may be in
// flight and how long a message may be. It does no I/O, owns no goroutine and reads no clock: time comes in as an argument,
// and deadline says when to call onTimer. Methods must be called by one goroutine, with times that do not go back.
//
// Invariants: msgs[i] has sequence number base+i; the first of msgs is not acknowledged; inFlight is the sum of the frames in
// state sendInFlight and lost the number of those in state sendLost; every message in flight has exactly one live entry in
// sendings (an entry is live when its order is the message's).
type sendQueue struct {
	maxWindow  int
	maxPayload int
	recycle    func(frame []byte) // takes back the frame of an acknowledged message; may be nil

	base     int64
	msgs     ring.Ring[sentMessage]
	sendings ring.Ring[sending] // in the order of sending
	order    uint64             // of the next sending
	inFlight int
	lost     int
	lostFrom int64 // no message below it is lost

	rtt          rttStats
	newestAcked  uint64 // 1 + the largest order known to be acknowledged
	lastProgress time.Time
	backoff      uint
	overrun      int // sendings that the window does not hold back: probes after a timeout

	window      int
	threshold   int // slow start ends here
	growing     bool
	recovery    uint64 // losses of sendings before this order have been answered already
	roundEnd    uint64
	roundMin    time.Duration
	paused      bool
	lossesTotal uint64

	payload   int // of new messages
	proven    int // the longest that was acknowledged
	streak    int // messages acknowledged since the payload changed
	probing   bool
	probe     int64 // the message that is longer than all acknowledged ones
	probeSize int
	probedAt  time.Time
	probeCuts int
}

func newSendQueue(maxWindow, maxPayload int, recycle func([]byte)) *sendQueue {
	q := &sendQueue{
		maxWindow:  max(maxWindow, initialWindow),
		maxPayload: max(maxPayload, minPayload),
		recycle:    recycle,
		payload:    minPayload,
		proven:     minPayload,
	}
	q.resetWindow()
	return q
}

func (q *sendQueue) resetWindow() {
	q.window = min(initialWindow, q.maxWindow)
	q.threshold = q.maxWindow
	q.growing = true
	q.roundEnd, q.roundMin = q.order, 0
	q.recovery = q.order
}

// nextSeq returns the number of the next new message.
func (q *sendQueue) nextSeq() int64 { return q.base + int64(q.msgs.Len()) }

// outstanding returns how many messages are not acknowledged.
func (q *sendQueue) outstanding() int { return q.msgs.Len() }

// stalled reports whether acks have been missing for longer than the retransmission timeout.
func (q *sendQueue) stalled() bool { return q.backoff > 0 }

// room returns the payload bytes that a new message may carry now, when backlog bytes wait: 0 when it must not be sent yet.
func (q *sendQueue) room(backlog int) int {
	if q.paused || q.lost > 0 || q.msgs.Len() >= maxSpan {
		return 0
	}
	size := q.payload
	if next := min(2*q.payload, q.maxPayload); next > size && backlog >= next && !q.probing &&
		q.streak >= growAfter && q.window >= growWindow*q.payload {
		size = next
	}
	switch {
	case q.inFlight == 0 || q.inFlight+min(size, backlog) <= q.window:
		return size
	case q.probing && q.msgs.Len() == 1 && q.stalled():
		return minPayload // it shows whether the probe is missed for its length, see oversize
	}
	return 0
}

// push takes a new message, which is being sent now; its number is nextSeq. n is the length of its payload. Messages of the
// protocol itself may be pushed whatever room says: they are few.
func (q *sendQueue) push(frame []byte, n int, now time.Time) {
	seq := q.nextSeq()
	if n > q.payload {
		if n > q.proven {
			q.probing, q.probe, q.probeSize, q.probedAt, q.probeCuts = true, seq, n, now, 0
		} else {
			q.payload, q.streak = n, 0
		}
	}
	if q.msgs.Len() == 0 {
		q.lastProgress = now
	}
	q.msgs.Push(sentMessage{frame: frame})
	q.send(seq, q.msgs.At(q.msgs.Len()-1), now)
}

// send records that m goes out now.
func (q *sendQueue) send(seq int64, m *sentMessage, now time.Time) {
	m.state, m.sentAt, m.order = sendInFlight, now, q.order
	m.sends++
	q.order++
	q.inFlight += len(m.frame)
	q.sendings.Push(sending{seq, m.order})
}

// resend returns the next message to send again, if one is due and the window allows it.
func (q *sendQueue) resend(now time.Time) ([]byte, bool) {
	m := q.nextLost()
	if m == nil {
		return nil, false
	}
	q.overrun = max(0, q.overrun-1)
	q.lost--
	q.send(q.lostFrom, m, now)
	q.lostFrom++
	return m.frame, true
}

// nextLost returns the message that resend would send, or nil. Its number is lostFrom then.
func (q *sendQueue) nextLost() *sentMessage {
	if q.lost == 0 || q.paused {
		return nil
	}
	q.lostFrom = max(q.lostFrom, q.base)
	m := q.get(q.lostFrom)
	for m.state != sendLost {
		q.lostFrom++
		m = q.get(q.lostFrom)
	}
	if q.inFlight > 0 && q.inFlight+len(m.frame) > q.window && q.overrun == 0 {
		return nil
	}
	return m
}

// get returns the unacknowledged message seq, or nil.
func (q *sendQueue) get(seq int64) *sentMessage {
	if seq < q.base || seq >= q.nextSeq() {
		return nil
	}
	return q.msgs.At(int(seq - q.base))
}

// onAck takes the ack of message seq. It reports whether that was news.
func (q *sendQueue) onAck(seq int64, now time.Time) bool {
	m := q.get(seq)
	if m == nil || m.state == sendAcked {
		return false
	}
	elapsed := now.Sub(m.sentAt)
	if m.sends == 1 {
		q.rtt.update(elapsed, now)
		q.roundMin = minNonZero(q.roundMin, max(elapsed, 1))
	}
	// The ack of a message that was sent again may answer an earlier sending: only when it took a whole round trip does it
	// say something about what was sent before the last one.
	if m.sends == 1 || elapsed >= q.rtt.base() {
		q.newestAcked = max(q.newestAcked, m.order+1)
	}
	used := 2*q.inFlight >= q.window
	size := len(m.frame)
	switch m.state {
	case sendInFlight:
		q.inFlight -= size
	case sendLost:
		q.lost--
	}
	if q.probing && seq == q.probe {
		q.probing, q.proven = false, q.probeSize
		if q.probeSize <= 2*q.payload { // no loss since
			q.payload, q.streak = q.probeSize, 0
		}
	}
	if q.recycle != nil {
		q.recycle(m.frame)
	}
	m.state, m.frame = sendAcked, nil
	order := m.order
	for q.msgs.Len() > 0 && q.msgs.At(0).state == sendAcked {
		q.msgs.Pop()
		q.base++
	}
	q.backoff, q.overrun, q.lastProgress = 0, 0, now
	q.streak++
	if used && q.growing {
		q.growWindow(size)
	}
	if order >= q.roundEnd {
		q.endRound()
	}
	q.detectLoss(now)
	return true
}

func minNonZero(a, b time.Duration) time.Duration {
	if a == 0 {
		return b
	}
	return min(a, b)
}

// growWindow opens the window for size acknowledged bytes: doubling each round in slow start, then by a message a round.
func (q *sendQueue) growWindow(size int) {
	if q.window < q.threshold {
		q.window += size
	} else {
		q.window += max(1, size*q.payload/q.window)
	}
	q.window = min(q.window, q.maxWindow)
}

// endRound judges the round trip that has ended: the window grows on only while nothing queues on the way, and shrinks when
// much does. So a bulk transfer does not flood the gateway, and adds little to the delay of what it carries beside it.
func (q *sendQueue) endRound() {
	queued := q.roundMin - q.rtt.base() - q.rtt.base()/8
	switch {
	case q.roundMin == 0: // nothing measured
	case queued > shrinkDelay:
		q.window = max(minWindow, q.window*3/4)
		q.threshold, q.growing = q.window, false
	case queued > holdDelay:
		q.threshold, q.growing = min(q.threshold, q.window), false
	default:
		q.growing = true
	}
	q.roundEnd, q.roundMin = q.order, 0
}

// detectLoss marks as lost what was sent well before something that has been acknowledged.
func (q *sendQueue) detectLoss(now time.Time) {
	for {
		seq, m := q.oldestSending()
		if m == nil || m.order >= q.newestAcked || now.Sub(m.sentAt) < q.rtt.lossDelay() {
			return
		}
		q.onLoss(seq, m)
	}
}

// oldestSending returns the message in flight whose last sending is the oldest, or nil.
func (q *sendQueue) oldestSending() (int64, *sentMessage) {
	for q.sendings.Len() > 0 {
		s := *q.sendings.At(0)
		if m := q.get(s.seq); m != nil && m.state == sendInFlight && m.order == s.order {
			return s.seq, m
		}
		q.sendings.Pop()
	}
	return 0, nil
}

func (q *sendQueue) onLoss(seq int64, m *sentMessage) {
	q.markLost(seq, m)
	q.lossesTotal++
	if m.order < q.recovery {
		return // one answer per round trip
	}
	q.recovery = q.order
	q.window = max(minWindow, q.window*7/10)
	q.threshold = q.window
	q.shrinkPayload()
}

func (q *sendQueue) shrinkPayload() {
	q.payload, q.streak = max(minPayload, q.payload/2), 0
}

func (q *sendQueue) markLost(seq int64, m *sentMessage) {
	m.state = sendLost
	q.inFlight -= len(m.frame)
	q.lost++
	q.lostFrom = min(q.lostFrom, seq)
}

// deadline returns when onTimer is to be called; zero means that there is nothing to wait for.
func (q *sendQueue) deadline() time.Time {
	if q.paused {
		return time.Time{}
	}
	_, m := q.oldestSending()
	if m == nil {
		return time.Time{}
	}
	if m.order < q.newestAcked {
		return m.sentAt.Add(q.rtt.lossDelay())
	}
	since := m.sentAt
	if q.lastProgress.After(since) {
		since = q.lastProgress
	}
	return since.Add(q.timeout())
}

// timeout returns the retransmission timeout with back-off.
func (q *sendQueue) timeout() time.Duration {
	return backoff.After(int(q.backoff), q.rtt.rto(), maxRTO)
}

// onTimer acts on the deadline: losses that time has proven, or the retransmission timeout, after which one message is sent
// again whatever the window, and the window closes to its minimum.
func (q *sendQueue) onTimer(now time.Time) {
	if q.paused {
		return
	}
	q.detectLoss(now)
	at := q.deadline()
	if at.IsZero() || now.Before(at) {
		return
	}
	seq, m := q.oldestSending()
	q.markLost(seq, m)
	q.lossesTotal++
	q.overrun = 1
	q.backoff++
	q.lastProgress = now
	q.threshold = max(minWindow, q.window/2)
	q.window = minWindow
	q.recovery = q.order
	q.shrinkPayload()
}

// onPathLost says that the websocket is gone, and what was in flight may be gone with it: all of it is sent again, slowly at
// first, since the next path may be another one.
func (q *sendQueue) onPathLost() {
	if q.probing && q.get(q.probe).state == sendInFlight {
		q.probeCuts++
	}
	q.loseInFlight()
	q.rtt = rttStats{}
	q.backoff, q.overrun, q.newestAcked = 0, 0, 0
	q.paused = false
	q.shrinkPayload()
	q.resetWindow()
}

func (q *sendQueue) loseInFlight() {
	for i := range q.msgs.Len() {
		if m := q.msgs.At(i); m.state == sendInFlight {
			q.markLost(q.base+int64(i), m)
		}
	}
	q.sendings.Clear()
}

// setPaused says whether the agent is absent. What was in flight when it came back may have been dropped, and is sent again.
func (q *sendQueue) setPaused(paused bool) {
	if q.paused && !paused {
		q.loseInFlight()
		q.backoff, q.overrun = 0, 0
	}
	q.paused = paused
}

// wake says that the agent has shown itself to be present.
func (q *sendQueue) wake() { q.paused = false }

// oversize reports whether a message longer than every acknowledged one has been refused again and again: later ones were
// acknowledged and it was not, or the websocket was lost each time. Then something on the way does not take its length, and
// since it must come first, the stream cannot go on. The length to stay at is returned with it.
func (q *sendQueue) oversize(now time.Time) (int, bool) {
	if q.probing && q.probeCuts >= probeMaxCuts {
		return q.proven, true
	}
	if !q.probing || q.paused || now.Sub(q.probedAt) < probePatience {
		return 0, false
	}
	m := q.get(q.probe)
	if m == nil || m.sends <= probeMinResend || q.msgs.Len() < 2 {
		return 0, false
	}
	for i := int(q.probe-q.base) + 1; i < q.msgs.Len(); i++ {
		if q.msgs.At(i).state == sendAcked {
			return q.proven, true
		}
	}
	return 0, false
}
