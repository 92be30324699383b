package tunnel

import (
	"errors"
	"net"
	"sync"
)

const (
	// outboxRoom is how many bytes may wait to be written when a connection's next Write gets its turn.
	outboxRoom = 2 * chunk
	// maxSpare is the largest buffer that an outbox keeps for reuse.
	maxSpare = 8 * chunk
	// maxOutbox bounds the waiting bytes: a data packet for each of thousands of connections.
	maxOutbox = 256 << 20
)

// errFlooded ends a connection whose peer requests answers but does not read them.
var errFlooded = errors.New("the peer takes none of the answers that it asks for")

// outbox takes the packets that x/crypto/ssh sends, and writes them to the transport in its own goroutine. x/crypto/ssh answers
// some messages, such as the close of a channel, from the goroutine that handles all incoming ones. If such an answer had to wait
// for a full transport, that goroutine would stop reading. If the peer then waits in the same way, the connection would stand still
// for ever. So write never waits.
//
// The connections' turns bound the queue: data waits for a turn before it goes into a packet. The rest, such as window updates, is
// small. A peer could still request answers for ever without reading them, so the connection fails at maxOutbox.
type outbox struct {
	to   func([]byte) (int, error) // the transport's Write
	most int                       // maxOutbox
	fail func()                    // called once: when a write to the transport fails, or when more than most bytes would wait

	mu      sync.Mutex
	cond    sync.Cond // signals changes of queue, closed and err
	queue   []byte
	waiting []chan struct{} // closed at their turn
	size    int             // bytes of queue and of the running write
	closed  bool
	err     error // of the first failed write, or errFlooded

	done chan struct{} // closed once run has ended
}

func newOutbox(to func([]byte) (int, error), fail func()) *outbox {
	o := &outbox{to: to, most: maxOutbox, fail: fail, done: make(chan struct{})}
	o.cond.L = &o.mu
	go o.run()
	return o
}

// write queues a copy of p.
func (o *outbox) write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.err != nil:
		return 0, o.err
	case o.closed:
		return 0, net.ErrClosed
	case o.size+len(p) > o.most:
		o.failed(errFlooded)
		return 0, errFlooded
	}
	o.queue = append(o.queue, p...)
	o.size += len(p)
	o.cond.Signal()
	return len(p), nil
}

// turn waits for room for another data packet, in the order of the calls. It returns early when gone is closed or the outbox takes
// no more.
func (o *outbox) turn(gone <-chan struct{}) {
	o.mu.Lock()
	if o.closed || o.err != nil || o.size < outboxRoom && len(o.waiting) == 0 {
		o.mu.Unlock()
		return
	}
	mine := make(chan struct{})
	o.waiting = append(o.waiting, mine)
	o.mu.Unlock()
	select {
	case <-mine:
	case <-gone:
	}
}

// grant gives as many turns as there is room for. If nothing waits to be written, it gives all, because the holders of earlier
// turns may be waiting for their peers' windows. Callers hold mu.
func (o *outbox) grant() {
	n := max(outboxRoom-o.size+chunk-1, 0) / chunk
	if o.size == 0 || o.closed || o.err != nil {
		n = len(o.waiting)
	}
	n = min(n, len(o.waiting))
	for _, turn := range o.waiting[:n] {
		close(turn)
	}
	if o.waiting = o.waiting[n:]; len(o.waiting) == 0 {
		o.waiting = nil
	}
}

// close makes run end once it has written the queue.
func (o *outbox) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.grant()
	o.cond.Signal()
}

// run writes until close is called or a write fails.
func (o *outbox) run() {
	defer close(o.done)
	var spare []byte
	for {
		batch := o.next(spare)
		if len(batch) == 0 {
			return
		}
		for rest := batch; len(rest) > 0; {
			n, err := o.to(rest[:min(chunk, len(rest))])
			rest = rest[n:]
			o.written(n, err)
			if err != nil {
				return
			}
		}
		if spare = batch[:0]; cap(spare) > maxSpare {
			spare = nil
		}
	}
}

// next waits for packets and takes the whole queue; spare becomes the next queue. An empty result means that the outbox is closed.
func (o *outbox) next(spare []byte) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.queue) == 0 && !o.closed {
		o.cond.Wait()
	}
	batch := o.queue
	o.queue = spare
	return batch
}

func (o *outbox) written(n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.size -= n
	if err != nil {
		o.failed(err)
	}
	o.grant()
}

// failed records the first failure. Then the outbox takes nothing more, and no caller waits. Callers hold mu.
func (o *outbox) failed(err error) {
	if o.err != nil {
		return
	}
	o.err = err
	o.grant()
	o.fail()
}
