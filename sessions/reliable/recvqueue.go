package reliable

// Verdict is the fate of a message, and so decides whether it is acknowledged.
type Verdict uint8

// The verdicts.
const (
	Drop      Verdict = iota // no room: not acknowledged, so the peer sends it again
	Duplicate                // came before: acknowledged again, because the first ack may be lost
	Keep                     // kept until earlier ones come: acknowledged
	Consume                  // expected next: acknowledged, and consumed at once
)

// recvQueue puts messages in order and drops duplicates. It bounds the messages that it holds in bytes
// and in sequence numbers. The bound does not apply to the next expected message, without which the queue could not move on.
type recvQueue[T any] struct {
	next     int64
	held     map[int64]heldMessage[T]
	bytes    int
	maxBytes int
	maxSpan  int64
}

type heldMessage[T any] struct {
	v    T
	size int
}

func newRecvQueue[T any](maxBytes int, maxSpan int64) *recvQueue[T] {
	return &recvQueue[T]{held: make(map[int64]heldMessage[T]), maxBytes: maxBytes, maxSpan: maxSpan}
}

// push takes message seq, of size bytes of memory. consumable says whether the caller could consume it at once. After Consume the
// caller consumes v and then all that pop returns. After Keep the queue owns v; otherwise the caller keeps it.
func (q *recvQueue[T]) push(seq int64, v T, size int, consumable bool) Verdict {
	switch {
	case seq < q.next:
		return Duplicate
	case seq == q.next:
		if !consumable {
			return Drop
		}
		q.next++
		return Consume
	}
	if _, dup := q.held[seq]; dup {
		return Duplicate
	}
	if seq-q.next >= q.maxSpan || q.bytes+size > q.maxBytes {
		return Drop
	}
	q.held[seq] = heldMessage[T]{v, size}
	q.bytes += size
	return Keep
}

// pop returns the next message in order, if the queue holds it.
func (q *recvQueue[T]) pop() (v T, ok bool) {
	h, ok := q.held[q.next]
	if !ok {
		return v, false
	}
	delete(q.held, q.next)
	q.bytes -= h.size
	q.next++
	return h.v, true
}

// gap reports whether the queue holds messages that wait for a missing one.
func (q *recvQueue[T]) gap() bool { return len(q.held) > 0 }
