package reliable

import (
	"encoding/binary"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

const (
	// AckDelay is how long an ack waits for others, or for outgoing data. Each write costs a system call here and a wake-up at the
	// peer, and a busy session has an ack to send every millisecond. An agent that misses an ack resends, at the earliest, 10 ms
	// after the average delay of acks.
	AckDelay = 4 * time.Millisecond
	// ackBatch is how many acks wait for others at most.
	ackBatch = 16
	// SpareBytes bounds the frames kept for reuse.
	SpareBytes = 1 << 20
	// probeAfter is how many retransmission timeouts in succession make the path doubtful.
	probeAfter = 3
	// MostAcks stops the reader while the writer is stuck, because every message needs an ack.
	MostAcks = 1 << 10
	// StarvedPause is how long nothing may be outstanding until a slow reader again holds the peer back.
	StarvedPause = time.Second
)

// Batch is a number of messages to send at once, one after the other in one slice.
type Batch struct {
	Buf  []byte
	Ends []int // where each message ends in Buf
}

func (b *Batch) end() { b.Ends = append(b.Ends, len(b.Buf)) }

func (b *Batch) add(msg []byte) {
	b.Buf = append(b.Buf, msg...)
	b.end()
}

// Reset empties the batch and keeps its storage.
func (b *Batch) Reset() { b.Buf, b.Ends = b.Buf[:0], b.Ends[:0] }

// Inbound is the buffer of a received message.
type Inbound struct{ B []byte }

// Held is a message that waited for earlier ones. The buffer In holds its payload.
type Held struct {
	Type    frame.PayloadType
	Payload []byte
	In      *Inbound
}

// pendingAck is an ack that waits to be sent.
type pendingAck struct {
	id  uuid.UUID
	seq int64
}

// Config has an End's settings.
type Config struct {
	Sends, Takes frame.MessageType // message types of the two streams
	Eager        bool              // acks do not wait
	SendWindow   int               // bounds the bytes in flight
	MaxPayload   int               // bounds the payload of a message, to which it grows
	HeldBytes    int               // bounds the messages out of order
	HeldSpan     int64
	Rand         *rand.Rand // for message ids: unique, not secret
}

// End is one end of a data channel: its numbers, acknowledgements, retransmission and order.
type End struct {
	cfg  Config
	send *sendQueue
	recv *recvQueue[Held]

	acks   []pendingAck
	ackBy  time.Time // when the acks become due; zero: due already, or none
	ackDue bool

	throttling bool // the owner was told to take no more messages
	starved    bool // the reader is slow, but the End needs the waiting messages

	spare  [][]byte
	spareN int
	ack    []byte // the payload of the ack being made

	resends, duplicates, dropped uint64 // messages
}

// NewEnd returns the end of a new data channel.
func NewEnd(cfg Config) *End {
	e := &End{cfg: cfg, recv: newRecvQueue[Held](cfg.HeldBytes, cfg.HeldSpan)}
	e.send = newSendQueue(cfg.SendWindow, cfg.MaxPayload, e.keepFrame)
	return e
}

// Stats are an End's figures.
type Stats struct {
	RTT                          time.Duration // smoothed round trip of a message and its ack; 0: not measured yet
	Window                       int           // bytes that may be in flight
	Payload                      int           // of new messages
	InFlight                     int           // bytes
	Lost                         int           // messages that wait to be sent again
	Paused                       bool
	ProbeCuts                    int   // losses of the websocket with the longest message on the way
	Next                         int64 // the expected number of the peer's stream
	HeldMessages, HeldBytes      int   // out of order
	Acks                         int   // that wait to be sent
	Spare                        int   // bytes kept for reuse
	Starved                      bool  // a slow reader does not hold the peer back, because acks are missing
	Resends, Duplicates, Dropped uint64
}

// Stats returns the present figures.
func (e *End) Stats() Stats {
	q := e.send
	return Stats{
		RTT: q.rtt.srtt, Window: q.window, Payload: q.payload, InFlight: q.inFlight, Lost: q.lost, Paused: q.paused, ProbeCuts: q.probeCuts,
		Next: e.recv.next, HeldMessages: len(e.recv.held), HeldBytes: e.recv.bytes, Acks: len(e.acks), Spare: e.spareN, Starved: e.starved,
		Resends: e.resends, Duplicates: e.duplicates, Dropped: e.dropped,
	}
}

// --- receiving ---

// Receive takes in a message of the peer's stream. consumable says whether the caller could consume its payload at once. After
// Consume the caller consumes the message, and then those that Next returns. After Keep the End owns the buffer in.
func (e *End) Receive(msg *frame.Message, in *Inbound, consumable bool, now time.Time) Verdict {
	e.send.wake()
	verdict := e.recv.push(msg.Seq, Held{msg.PayloadType, msg.Payload, in}, cap(in.B), consumable)
	switch verdict {
	case Drop:
		e.dropped++
		return verdict
	case Duplicate:
		e.duplicates++
	}
	e.acks = append(e.acks, pendingAck{msg.ID, msg.Seq})
	switch {
	case e.cfg.Eager || len(e.acks) == ackBatch:
		e.ackBy, e.ackDue = time.Time{}, true
	case len(e.acks) == 1:
		e.ackBy = now.Add(AckDelay)
	}
	return verdict
}

// Next returns the next message in order, if it is there. The caller then owns its buffer.
func (e *End) Next() (Held, bool) { return e.recv.pop() }

// Gap reports whether messages wait for a missing one.
func (e *End) Gap() bool { return e.recv.gap() }

// Has reports whether message seq of the peer's stream has been consumed or is kept.
func (e *End) Has(seq int64) bool {
	_, held := e.recv.held[seq]
	return held || seq < e.recv.next
}

// Throttled reports whether the owner must leave messages on the websocket. over says that its reader is slow, and waiting that it
// has bytes to send. The messages stay on the websocket then, which holds the peer back as AWS's own client does. Acks of this end's
// messages, or the end of a pause, stay there too. If the End misses those, it takes messages after all, until it has had nothing to
// send for a while.
func (e *End) Throttled(over, waiting bool, now time.Time) bool {
	switch {
	case !over:
		e.starved = false
	case e.send.stalled(), e.send.paused && waiting:
		e.starved = true
	case e.send.outstanding() == 0 && now.Sub(e.send.lastProgress) > StarvedPause:
		e.starved = false
	}
	e.throttling = over && !e.starved || len(e.acks) >= MostAcks
	return e.throttling
}

// Throttling returns Throttled's last answer.
func (e *End) Throttling() bool { return e.throttling }

// ReceiveAck takes in the payload of an acknowledge message.
func (e *End) ReceiveAck(payload []byte, now time.Time) error {
	ack, err := frame.ParseAck(payload)
	if err != nil {
		e.dropped++
		return err
	}
	if ack.Type == e.cfg.Sends {
		e.send.wake()
		e.send.onAck(ack.Seq, now)
	}
	return nil
}

// Ignored counts a message that could not be decoded.
func (e *End) Ignored() { e.dropped++ }

// --- the path ---

// Disconnected takes in that the websocket is gone. The peer, which then misses acks, sends its messages again.
func (e *End) Disconnected() {
	e.send.onPathLost()
	e.clearAcks()
}

// SetPaused takes in the service's word on whether the peer is absent.
func (e *End) SetPaused(paused bool) { e.send.setPaused(paused) }

// Wake takes in a sign that the peer is present.
func (e *End) Wake() { e.send.wake() }

// Paused reports whether the service says that the peer is absent.
func (e *End) Paused() bool { return e.send.paused }

// Oversize reports whether the path refuses messages of a length that End has tried, and returns the longest length that got through.
// The stream cannot go on then.
func (e *End) Oversize(now time.Time) (int, bool) { return e.send.oversize(now) }

// --- sending ---

// Room returns how many bytes the next message may carry, while backlog bytes wait; 0 means that it must wait.
func (e *End) Room(backlog int) int { return e.send.room(backlog) }

// Outstanding returns how many messages are not acknowledged.
func (e *End) Outstanding() int { return e.send.outstanding() }

// Pending reports whether acks or resends are due.
func (e *End) Pending() bool { return e.ackDue || e.send.nextLost() != nil }

func (e *End) clearAcks() { e.acks, e.ackBy, e.ackDue = e.acks[:0], time.Time{}, false }

// AppendAcks adds all acks to b.
func (e *End) AppendAcks(b *Batch, now time.Time) {
	for _, a := range e.acks {
		e.ack = frame.AppendAck(e.ack[:0], &frame.Message{Type: e.cfg.Takes, ID: a.id, Seq: a.seq})
		e.Append(b, &frame.Message{Type: frame.Acknowledge, Created: now, Flags: frame.FlagAck, Payload: e.ack})
	}
	e.clearAcks()
}

// Append adds a message to b that is not part of this end's stream. It gives the message its id.
func (e *End) Append(b *Batch, m *frame.Message) {
	m.ID = e.NewID()
	b.Buf = m.Append(b.Buf)
	b.end()
}

// AppendResends adds lost messages to b, within the window, until b has limit bytes.
func (e *End) AppendResends(b *Batch, limit int, now time.Time) {
	for len(b.Buf) < limit {
		msg, ok := e.send.resend(now)
		if !ok {
			return
		}
		e.resends++
		b.add(msg)
	}
}

// Push makes the next message of this end's stream and adds it to b. n is the length of the payload before encryption. The
// protocol's own messages may ignore Room, because they are few.
func (e *End) Push(b *Batch, typ frame.PayloadType, flags uint64, payload []byte, n int, now time.Time) {
	m := frame.Message{
		Type: e.cfg.Sends, Created: now, Seq: e.send.nextSeq(), Flags: flags, ID: e.NewID(), PayloadType: typ, Payload: payload,
	}
	if m.Seq == 0 {
		m.Flags = frame.FlagSYN
	}
	msg := m.Append(e.spareFrame(frame.Overhead + len(payload)))
	e.send.push(msg, n, now)
	b.add(msg)
}

// --- time ---

// Deadline returns when the owner must call OnTimer; zero means never.
func (e *End) Deadline() time.Time { return Earliest(e.send.deadline(), e.ackBy) }

// OnTimer does everything that is due. It reports whether acks have been missing for so long that the path is doubtful.
func (e *End) OnTimer(now time.Time) (doubtful bool) {
	if Due(e.ackBy, now) {
		e.ackBy, e.ackDue = time.Time{}, true
	}
	if !Due(e.send.deadline(), now) {
		return false
	}
	e.send.onTimer(now)
	return e.send.backoff == probeAfter
}

// NewID returns a new message id.
func (e *End) NewID() uuid.UUID {
	var id uuid.UUID
	binary.LittleEndian.PutUint64(id[:8], e.cfg.Rand.Uint64())
	binary.LittleEndian.PutUint64(id[8:], e.cfg.Rand.Uint64())
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// spareFrame returns an empty slice with room for n bytes.
func (e *End) spareFrame(n int) []byte {
	if last := len(e.spare) - 1; last >= 0 {
		b := e.spare[last]
		e.spare = e.spare[:last]
		e.spareN -= cap(b)
		if cap(b) >= n {
			return b[:0]
		}
	}
	return make([]byte, 0, n)
}

// keepFrame takes back the frame of an acknowledged message. Batches hold copies, so no one else uses the frame.
func (e *End) keepFrame(b []byte) {
	if e.spareN+cap(b) <= SpareBytes && cap(b) >= minPayload {
		e.spare = append(e.spare, b)
		e.spareN += cap(b)
	}
}

// Earliest returns the earlier of two times. A zero time means none.
func Earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// Due reports whether a time has come; zero never does.
func Due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }
