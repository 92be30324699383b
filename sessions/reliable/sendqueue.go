package reliable

import (
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
	"github.com/bastion-ssm/bastion/internal/ring"
)

// The limits of the send queue. The agent takes payloads of up to 256 KiB without pacing. AWS does not publish the limits of its
// gateway, and sessions stall when it is flooded. So a stream begins as AWS's own plugin does, with 1024 bytes a message, and grows
// step by step while acks come back soon.
const (
	minPayload     = 1024
	InitialWindow  = 16 << 10 // bytes, headers included
	minWindow      = 4 << 10
	growAfter      = 64   // messages acknowledged in succession before the payload may double
	growWindow     = 32   // ... and payloads that the window must hold, which shows that it has grown in use
	MaxSpan        = 8192 // sequence numbers between the oldest unacknowledged and the next; the agent reorders 100,000
	holdDelay      = 25 * time.Millisecond
	shrinkDelay    = 100 * time.Millisecond
	probePatience  = 15 * time.Second
	probeMinResend = 3
	ProbeMaxCuts   = 3 // a message in flight at this many losses of the websocket is their cause
)

type sendState uint8

const (
	sendInFlight sendState = iota
	sendLost               // must be sent again
	sendAcked
)

// sentMessage is a sent message that waits for its ack.
type sentMessage struct {
	frame  []byte
	sentAt time.Time // last sent
	order  uint64    // position of its last sending among all sendings
	sends  int
	state  sendState
}

type sending struct {
	seq   int64
	order uint64
}

// sendQueue is the state of this end's sending direction. It has the numbers, the unacknowledged messages and when to resend them,
// the bound on the bytes in flight, and the length of a message. It is pure: time comes as an argument, and deadline says when to
// call onTimer. One goroutine must call its methods, with times that do not go back.
//
// Invariants:
//
//   - msgs[i] has sequence number base+i, and the first of msgs is not acknowledged;
//   - inFlight is the sum of the frames in state sendInFlight, and lost is the number of those in state sendLost;
//   - every message in flight has exactly one live entry in sendings (an entry is live if its order is the message's).
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
	overrun      int // sendings that ignore the window: probes after a timeout

	window      int
	threshold   int // slow start ends here
	growing     bool
	recovery    uint64 // losses of sendings before this order have been answered already
	roundEnd    uint64
	roundMin    time.Duration
	paused      bool
	lossesTotal uint64

	payload   int // of new messages
	proven    int // the longest acknowledged one
	streak    int // messages acknowledged since the payload changed
	probing   bool
	probe     int64 // the message that is longer than all acknowledged ones
	probeSize int
	probedAt  time.Time
	probeCuts int
}

func newSendQueue(maxWindow, maxPayload int, recycle func([]byte)) *sendQueue {
	q := &sendQueue{
		maxWindow:  max(maxWindow, InitialWindow),
		maxPayload: max(maxPayload, minPayload),
		recycle:    recycle,
		payload:    minPayload,
		proven:     minPayload,
	}
	q.resetWindow()
	return q
}

func (q *sendQueue) resetWindow() {
	q.window = min(InitialWindow, q.maxWindow)
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

// room returns the payload bytes that a new message may carry now, while backlog bytes wait; 0 means that it must wait.
func (q *sendQueue) room(backlog int) int {
	if q.paused || q.lost > 0 || q.msgs.Len() >= MaxSpan {
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
		return minPayload // shows whether the probe is lost because of its length: see oversize
	}
	return 0
}

// push adds a new message with number nextSeq, which its caller sends now. n is the length of its payload. The protocol's own
// messages may ignore room, because they are few.
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

// send records that the caller sends m now.
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

// nextLost returns the message that resend would return, or nil. lostFrom is then its number.
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

// onAck takes in the ack of message seq. It reports whether the ack was news.
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
	// The ack of a resent message may answer an earlier sending. It counts for the last sending only after a whole round trip.
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

// growWindow opens the window for size acknowledged bytes. In slow start it doubles each round; later it grows by one message a
// round.
func (q *sendQueue) growWindow(size int) {
	if q.window < q.threshold {
		q.window += size
	} else {
		q.window += max(1, size*q.payload/q.window)
	}
	q.window = min(q.window, q.maxWindow)
}

// endRound judges the past round trip. The window grows only while no queue forms on the way, and shrinks while a long one does. So
// a bulk transfer does not flood the gateway, and hardly delays other traffic beside it.
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

// detectLoss marks messages as lost that were sent well before an acknowledged one.
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

// deadline returns when the owner must call onTimer; zero means never.
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

// timeout returns the retransmission timeout with backoff.
func (q *sendQueue) timeout() time.Duration {
	return backoff.After(int(q.backoff), q.rtt.rto(), maxRTO)
}

// onTimer does everything that is due. It marks messages as lost whose time has passed. After the retransmission timeout it resends
// one message whatever the window, and closes the window to its minimum.
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

// onPathLost takes in that the websocket is gone, perhaps with all messages in flight. The queue sends them again, slowly at first,
// because the next path may be a different one.
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

// setPaused takes in whether the agent is absent. Messages in flight at its return may have been dropped, so the queue sends them
// again.
func (q *sendQueue) setPaused(paused bool) {
	if q.paused && !paused {
		q.loseInFlight()
		q.backoff, q.overrun = 0, 0
	}
	q.paused = paused
}

// wake takes in a sign that the agent is present.
func (q *sendQueue) wake() { q.paused = false }

// oversize reports whether the path refuses a message longer than every acknowledged one. The sign is that later messages were
// acknowledged and it was not, or that the websocket was lost each time. The stream cannot go on without that message. oversize
// also returns the longest length that got through.
func (q *sendQueue) oversize(now time.Time) (int, bool) {
	if q.probing && q.probeCuts >= ProbeMaxCuts {
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
