// Package sshwire distinguishes the end of an SSH channel from the end of its connection. x/crypto/ssh returns the same io.EOF
// from every channel for both.
package sshwire

import (
	"io"
	"sync"
)

// Watch follows the reads of the transport under an SSH connection. Make one with New.
type Watch struct {
	mu      sync.Mutex
	changed sync.Cond // signals changes of reading and ended
	reading bool      // x/crypto/ssh's read loop is inside Read
	ended   bool      // Read failed or End was called
	err     error     // why Read failed before End was called, or nil
}

// New returns a Watch.
func New() *Watch {
	w := &Watch{}
	w.changed.L = &w.mu
	return w
}

// Read reads from the transport. It notes a failure before x/crypto/ssh tells the channels.
func (w *Watch) Read(from io.Reader, p []byte) (int, error) {
	w.mu.Lock()
	w.reading = true
	w.changed.Broadcast()
	w.mu.Unlock()

	n, err := from.Read(p)

	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading = false
	if err != nil {
		if !w.ended {
			w.err = err
		}
		w.ended = true
	}
	w.changed.Broadcast()
	return n, err
}

// End notes that this side ends the connection. Call it before closing the transport.
func (w *Watch) End() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	w.changed.Broadcast()
}

// Ended reports whether the connection has ended.
func (w *Watch) Ended() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended
}

// Err returns why the connection ended; nil if this side ended it.
func (w *Watch) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Alive reports, after a channel has returned io.EOF, whether the peer sent that EOF:
//
//   - If the transport failed or was closed, ended was set before the channels were told: Read and End set it first.
//   - If the peer ended the connection inside SSH (a disconnect message, a bad packet), the read loop does not call Read
//     again, and x/crypto/ssh then closes the transport.
//   - Otherwise the read loop is in Read, or returns to it once it has delivered its data.
//
// One of the three always happens, and Alive waits for the first. It errs on the safe side only: an EOF that the peer sent just
// before the connection was lost may count as lost.
func (w *Watch) Alive() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !w.reading && !w.ended {
		w.changed.Wait()
	}
	return !w.ended
}
