package tunnel

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// flushGrace bounds the wait for a transport to take what was written before it is closed.
const flushGrace = time.Second

// wire is the transport under an SSH connection. It counts what arrives, for the keepalive, and what is sent, and knows
// whether the stream still goes on, for telling the end of a channel from the end of everything.
type wire struct {
	net.Conn
	received atomic.Int64  // bytes; any byte is a sign of life
	sent     atomic.Int64  // bytes
	broken   chan struct{} // closed at the first failed write: x/crypto/ssh notes it, but reads on for ever

	// lost, if set, is called once the stream has ended and before the failing Read returns.
	lost atomic.Pointer[func()]

	closeOnce sync.Once
	shut      chan struct{} // closed once the transport's own Close has returned, and nothing is written any more
	out       *outbox

	mu      sync.Mutex
	cond    sync.Cond // signals changes of the two below
	reading bool      // x/crypto/ssh's read loop is inside Read
	ended   bool      // Read failed or Close was called
	readErr error     // why Read failed before Close was called, or nil
}

func newWire(c net.Conn) *wire {
	w := &wire{Conn: c, broken: make(chan struct{}), shut: make(chan struct{})}
	w.cond.L = &w.mu
	w.out = newOutbox(w.send, func() { close(w.broken) })
	return w
}

func (w *wire) Read(p []byte) (int, error) {
	w.mu.Lock()
	w.reading = true
	w.cond.Broadcast()
	w.mu.Unlock()

	n, err := w.Conn.Read(p)
	w.received.Add(int64(n))

	w.mu.Lock()
	w.reading = false
	if err != nil {
		if !w.ended {
			w.readErr = err
		}
		w.ended = true
	}
	w.cond.Broadcast()
	w.mu.Unlock()
	if err != nil {
		_ = w.Close()
		if lost := w.lost.Load(); lost != nil {
			(*lost)()
		}
	}
	return n, err
}

// Write never waits, see outbox. An error may come with a later Write than the one whose bytes are lost.
func (w *wire) Write(p []byte) (int, error) {
	if w.hasEnded() {
		return 0, net.ErrClosed
	}
	return w.out.write(p)
}

// send writes to the transport.
func (w *wire) send(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	w.sent.Add(int64(n))
	return n, err
}

// Close makes reads and writes fail; what has been written before is sent, if the transport takes it soon. Close does not wait
// for that, nor for the transport's Close, which may take its time to say goodbye, because x/crypto/ssh calls Close while
// it tells the channels' users; shut is for those who want to wait.
func (w *wire) Close() error {
	w.mu.Lock()
	w.ended = true
	failed := w.readErr != nil
	w.cond.Broadcast()
	w.mu.Unlock()
	w.closeOnce.Do(func() {
		w.out.close()
		go func() {
			defer close(w.shut)
			if !failed {
				w.flush()
			}
			_ = w.Conn.Close() // nobody is left who could do something about an error
			<-w.out.done
		}()
	})
	return nil
}

// flush waits until the transport has taken all that was written, but not for long.
func (w *wire) flush() {
	t := time.NewTimer(flushGrace)
	defer t.Stop()
	select {
	case <-w.out.done:
	case <-t.C:
	}
}

func (w *wire) hasEnded() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended
}

// failure returns why the stream ended if it was not this end that closed it.
func (w *wire) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.readErr
}

// alive is asked after a channel has returned io.EOF and reports whether the peer sent that EOF. x/crypto/ssh returns
// the same io.EOF from every channel when the whole connection ends, so the question is which of the two it was:
//
//   - If the transport failed or was closed, ended was set before the channels were told: Read and Close set it first.
//   - If the peer ended the connection inside SSH (a disconnect message, a bad packet), the read loop stops without
//     calling Read again, and x/crypto/ssh then calls Close.
//   - Otherwise the read loop is in Read, or comes back to it once it has handed on what it has.
//
// So one of the three always comes, and alive waits for the first. It errs on the safe side only: an EOF that the peer
// sent just before the connection was lost may count as lost.
func (w *wire) alive() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.reading && !w.ended {
		w.cond.Wait()
	}
	return !w.ended
}
