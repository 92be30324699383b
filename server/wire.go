package server

import (
	"net"
	"sync/atomic"

	"github.com/bastion-ssm/bastion/internal/sshwire"
)

// wire is the transport under an SSH connection. The end of a channel is a clean end that the destination must see as one; after
// the end of the whole connection, what the destination has got is cut short, and it must not take it for all. The Watch
// tells the two apart.
type wire struct {
	net.Conn
	watch *sshwire.Watch

	closing  atomic.Bool
	closed   chan struct{} // closed when closeErr is set
	closeErr error
}

func newWire(conn net.Conn) *wire {
	return &wire{Conn: conn, watch: sshwire.New(), closed: make(chan struct{})}
}

func (w *wire) Read(p []byte) (int, error) { return w.watch.Read(w.Conn, p) }

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
	w.watch.End()
	if !w.closing.Swap(true) {
		w.closeErr = w.Conn.Close()
		close(w.closed)
	}
	<-w.closed
	return w.closeErr
}
