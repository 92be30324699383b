package server

import (
	"net"
	"sync/atomic"

	"github.com/bastion-ssm/bastion/internal/sshwire"
)

// wire is the transport under an SSH connection. The destination must see the end of a channel as a clean end. After the end of the
// whole connection its data is incomplete, and it must not take that for the whole. The Watch tells the two apart.
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

// Write closes the wire after a failure: the SSH transport notices the failure, but reads on.
func (w *wire) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if err != nil {
		_ = w.Close()
	}
	return n, err
}

// Close returns when the wire is closed, which may take seconds for a bond. Later calls do nothing more.
func (w *wire) Close() error {
	w.watch.End()
	if !w.closing.Swap(true) {
		w.closeErr = w.Conn.Close()
		close(w.closed)
	}
	<-w.closed
	return w.closeErr
}
