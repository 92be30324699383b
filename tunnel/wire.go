package tunnel

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bastion-ssm/bastion/internal/sshwire"
)

// flushGrace bounds the wait until a transport has taken all written bytes before it is closed.
const flushGrace = time.Second

// wire is the transport under an SSH connection. It counts the bytes both ways, also for the keepalive. It knows whether the stream
// goes on, which tells the end of a channel from the end of the connection.
type wire struct {
	net.Conn
	received atomic.Int64  // bytes; any byte is a sign of life
	sent     atomic.Int64  // bytes
	broken   chan struct{} // closed at the first failed write: x/crypto/ssh notices that, but reads on for ever

	// lost, if set, is called once the stream has ended, before the failing Read returns.
	lost atomic.Pointer[func()]

	closeOnce sync.Once
	shut      chan struct{} // closed once the transport's own Close has returned and nothing more is written
	out       *outbox

	watch *sshwire.Watch
}

func newWire(c net.Conn) *wire {
	w := &wire{Conn: c, broken: make(chan struct{}), shut: make(chan struct{}), watch: sshwire.New()}
	w.out = newOutbox(w.send, func() { close(w.broken) })
	return w
}

func (w *wire) Read(p []byte) (int, error) {
	n, err := w.watch.Read(w.Conn, p)
	w.received.Add(int64(n))
	if err != nil {
		_ = w.Close()
		if lost := w.lost.Load(); lost != nil {
			(*lost)()
		}
	}
	return n, err
}

// Write never waits; see outbox. An error may come with a later Write than the one whose bytes are lost.
func (w *wire) Write(p []byte) (int, error) {
	if w.watch.Ended() {
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

// Close makes reads and writes fail. The wire still sends the bytes written before, if the transport takes them soon. Close waits
// neither for that nor for the transport's Close, which may take long: x/crypto/ssh calls Close while it informs the channels'
// users. Callers that want to wait use shut.
func (w *wire) Close() error {
	w.watch.End()
	failed := w.watch.Err() != nil
	w.closeOnce.Do(func() {
		w.out.close()
		go func() {
			defer close(w.shut)
			if !failed {
				w.flush()
			}
			_ = w.Conn.Close() // an error no longer matters
			<-w.out.done
		}()
	})
	return nil
}

// flush waits briefly until the transport has taken all written bytes.
func (w *wire) flush() {
	t := time.NewTimer(flushGrace)
	defer t.Stop()
	select {
	case <-w.out.done:
	case <-t.C:
	}
}
