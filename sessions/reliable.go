package sessions

import (
	"encoding/binary"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"github.com/mmmorris1975/ssm-session-client/datachannel"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

const (
	// ackDelay is how long an ack waits for others, or for outgoing data. Each write costs a system call here and a wake-up at the
	// agent, and a busy session has an ack to send every millisecond. An agent that misses an ack resends, at the earliest, 10 ms
	// after the average delay of acks.
	ackDelay = 4 * time.Millisecond
	// ackBatch is how many acks wait for others at most.
	ackBatch = 16
	// spareBytes bounds the frames kept for reuse.
	spareBytes = 1 << 20
)

// batch is a number of messages to send at once, one after the other in one slice.
type batch struct {
	buf  []byte
	ends []int
}

func (b *batch) end() { b.ends = append(b.ends, len(b.buf)) }

func (b *batch) add(msg []byte) {
	b.buf = append(b.buf, msg...)
	b.end()
}

func (b *batch) reset() { b.buf, b.ends = b.buf[:0], b.ends[:0] }

// heldPayload is a message that waits for earlier ones. The buffer in holds its payload.
type heldPayload struct {
	typ     datachannel.PayloadType
	payload []byte
	in      *inbound
}

// pendingAck is an ack that waits to be sent.
type pendingAck struct {
	id  uuid.UUID
	seq int64
}

// reliable is the part that both ends of a data channel share. It numbers its own stream's messages and resends them until the peer
// acknowledges them. It acknowledges the messages of the peer's stream and puts them in order. It is pure, as machine is.
type reliable struct {
	sends, takes datachannel.MessageType // message types of the two streams
	eager        bool                    // acks do not wait
	rng          *rand.Rand              // for message ids: unique, not secret

	send   *sendQueue
	recv   *recvQueue[heldPayload]
	acks   []pendingAck
	ackBy  time.Time // when the acks become due; zero: due already, or none
	ackDue bool

	spare   [][]byte
	spareN  int
	scratch []byte

	resends, duplicates, dropped uint64 // messages
}

// receive takes in a message of the peer's stream. consumable says whether the caller could consume its payload at once. After
// recvNext the caller consumes the message, and then those that recv.pop returns. After recvHeld the queue owns the buffer in.
func (r *reliable) receive(msg *frame.Message, in *inbound, consumable bool, now time.Time) recvVerdict {
	r.send.wake()
	verdict := r.recv.push(msg.Seq, heldPayload{msg.PayloadType, msg.Payload, in}, cap(in.b), consumable)
	switch verdict {
	case recvDropped:
		r.dropped++
		return verdict
	case recvDuplicate:
		r.duplicates++
	}
	r.acks = append(r.acks, pendingAck{msg.ID, msg.Seq})
	switch {
	case r.eager || len(r.acks) == ackBatch:
		r.ackBy, r.ackDue = time.Time{}, true
	case len(r.acks) == 1:
		r.ackBy = now.Add(ackDelay)
	}
	return verdict
}

// receiveAck takes in the payload of an acknowledge message.
func (r *reliable) receiveAck(payload []byte, now time.Time) error {
	ack, err := frame.ParseAck(payload)
	if err != nil {
		r.dropped++
		return err
	}
	if ack.Type == r.sends {
		r.send.wake()
		r.send.onAck(ack.Seq, now)
	}
	return nil
}

// disconnected takes in that the websocket is gone. The peer, which then misses acks, sends its messages again.
func (r *reliable) disconnected() {
	r.send.onPathLost()
	r.clearAcks()
}

func (r *reliable) clearAcks() { r.acks, r.ackBy, r.ackDue = r.acks[:0], time.Time{}, false }

// pending reports whether acks or resends are due.
func (r *reliable) pending() bool { return r.ackDue || r.send.nextLost() != nil }

// appendAcks adds all acks to b.
func (r *reliable) appendAcks(b *batch, now time.Time) {
	for _, a := range r.acks {
		r.scratch = frame.AppendAck(r.scratch[:0], &frame.Message{Type: r.takes, ID: a.id, Seq: a.seq})
		m := frame.Message{
			Type: datachannel.Acknowledge, Created: now, Flags: frame.FlagAck, ID: r.newID(), Payload: r.scratch,
		}
		b.buf = m.Append(b.buf)
		b.end()
	}
	r.clearAcks()
}

// appendResends adds lost messages to b, within the window, until b has limit bytes.
func (r *reliable) appendResends(b *batch, limit int, now time.Time) {
	for len(b.buf) < limit {
		msg, ok := r.send.resend(now)
		if !ok {
			return
		}
		r.resends++
		b.add(msg)
	}
}

// push makes the next message of this end's stream and adds it to b. n is the length of the payload before encryption.
func (r *reliable) push(b *batch, typ datachannel.PayloadType, flags uint64, payload []byte, n int, now time.Time) {
	m := frame.Message{
		Type: r.sends, Created: now, Seq: r.send.nextSeq(), Flags: flags, ID: r.newID(), PayloadType: typ, Payload: payload,
	}
	if m.Seq == 0 {
		m.Flags = frame.FlagSYN
	}
	msg := m.Append(r.spareFrame(frame.Overhead + len(payload)))
	r.send.push(msg, n, now)
	b.add(msg)
}

// deadline returns when the owner must call onTimer; zero means never.
func (r *reliable) deadline() time.Time { return earliest(r.send.deadline(), r.ackBy) }

// onTimer does everything that is due. It reports whether acks have been missing for so long that the path is doubtful.
func (r *reliable) onTimer(now time.Time) (doubtful bool) {
	if due(r.ackBy, now) {
		r.ackBy, r.ackDue = time.Time{}, true
	}
	if !due(r.send.deadline(), now) {
		return false
	}
	r.send.onTimer(now)
	return r.send.backoff == probeAfter
}

func (r *reliable) newID() uuid.UUID {
	var id uuid.UUID
	binary.LittleEndian.PutUint64(id[:8], r.rng.Uint64())
	binary.LittleEndian.PutUint64(id[8:], r.rng.Uint64())
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// spareFrame returns an empty slice with room for n bytes.
func (r *reliable) spareFrame(n int) []byte {
	if last := len(r.spare) - 1; last >= 0 {
		b := r.spare[last]
		r.spare = r.spare[:last]
		r.spareN -= cap(b)
		if cap(b) >= n {
			return b[:0]
		}
	}
	return make([]byte, 0, n)
}

// keepFrame takes back the frame of an acknowledged message. Batches hold copies, so no one else uses the frame.
func (r *reliable) keepFrame(b []byte) {
	if r.spareN+cap(b) <= spareBytes && cap(b) >= minPayload {
		r.spare = append(r.spare, b)
		r.spareN += cap(b)
	}
}

// earliest returns the earlier of two times. A zero time means none.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// due reports whether a time has come; zero never does.
func due(at, now time.Time) bool { return !at.IsZero() && !now.Before(at) }
