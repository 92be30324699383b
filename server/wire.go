package server

import (
	"net"
	"sync"
)

// wire is the transport under an SSH connection. x/crypto/ssh ends every channel with io.EOF both when the client ends
// the channel and when the whole connection ends. The first is a clean end that the destination must see as one; after
// the second, what the destination has got is cut short, and it must not take it for all. wire tells the two apart.
type wire struct {
	net.Conn
	closed   chan struct{} // closed when closeErr is set
	closeErr error

	mu      sync.Mutex
	change  sync.Cond // of the two below
	reading bool      // the SSH transport's reader is inside Read
	ended   bool      // Read failed, Write failed, or Close was called
	closing bool      // Close was called
}

func newWire(conn net.Conn) *wire {
	w := &wire{Conn: conn, closed: make(chan struct{})}
	w.change.L = &w.mu
	return w
}

func (w *wire) set(reading, ended bool) {
	w.mu.Lock()
	w.reading = reading
	w.ended = w.ended || ended
	w.change.Broadcast()
	w.mu.Unlock()
}

// Read notes the end before the SSH transport can tell the channels of it.
func (w *wire) Read(p []byte) (int, error) {
	w.set(true, false)
	n, err := w.Conn.Read(p)
	w.set(false, err != nil)
	return n, err
}

// Write closes the wire when it fails: the SSH transport notes the failure, but reads on.
func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if err != nil {
		_ = w.Close()
	}
	return n, err
}

// Close may be called more than once, and returns when the wire is closed. That of a bond takes seconds at worst.
func (w *wire) Close() error {
	w.mu.Lock()
	first := !w.closing
	w.closing, w.ended = true, true
	w.change.Broadcast()
	w.mu.Unlock()
	if first {
		w.closeErr = w.Conn.Close()
		close(w.closed)
	}
	<-w.closed
	return w.closeErr
}

// alive is called after a channel has returned io.EOF, and says whether the client ended that channel, rather than the
// connection ending. It waits until the transport's reader is back in Read, which means that the connection goes on, or
// has ended. One of them comes: the reader hands on what it has and reads again, or it fails, and then the SSH
// connection calls Close (after a disconnect message or a bad packet, just after it has ended the channels).
func (w *wire) alive() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.reading && !w.ended {
		w.change.Wait()
	}
	return !w.ended
}
