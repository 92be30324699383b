package sessions

// recvVerdict says what became of a message, and so whether it is acknowledged.
type recvVerdict uint8

const (
	recvDropped   recvVerdict = iota // no place for it: not acknowledged, the agent sends it again
	recvDuplicate                    // had already: acknowledged again, for the first ack may be lost
	recvHeld                         // kept until those before it come: acknowledged
	recvNext                         // the one that was expected: acknowledged, to be consumed at once
)

// recvQueue puts messages back in order and finds duplicates. It does no I/O, owns no goroutine and reads no clock. What it
// holds is bounded in bytes and in sequence numbers; the bound does not apply to the message that is expected next, without
// which nothing could move on.
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

// push takes message seq of size bytes of memory. consumable says whether it could be consumed at once. When push returns
// recvNext the caller consumes v and then what pop gives; on recvHeld the queue owns v; otherwise the caller keeps it.
func (q *recvQueue[T]) push(seq int64, v T, size int, consumable bool) recvVerdict {
	switch {
	case seq < q.next:
		return recvDuplicate
	case seq == q.next:
		if !consumable {
			return recvDropped
		}
		q.next++
		return recvNext
	}
	if _, dup := q.held[seq]; dup {
		return recvDuplicate
	}
	if seq-q.next >= q.maxSpan || q.bytes+size > q.maxBytes {
		return recvDropped
	}
	q.held[seq] = heldMessage[T]{v, size}
	q.bytes += size
	return recvHeld
}

// pop returns the next message in order, if it is held.
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

// gap reports whether messages are held that wait for one that has not come.
func (q *recvQueue[T]) gap() bool { return len(q.held) > 0 }
