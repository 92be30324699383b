package bond

import (
	"errors"
	"io"
	"net"
	"sync"
)

// watchedStream reports that a subflow's stream was closed, and why it ended.
type watchedStream struct {
	net.Conn
	closed func(reason string) // called once

	mu   sync.Mutex
	done bool
	err  error // of the first Read or Write that failed
}

func (w *watchedStream) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.note(err)
	return n, err
}

func (w *watchedStream) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	w.note(err)
	return n, err
}

func (w *watchedStream) note(err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	if w.err == nil && !w.done {
		w.err = err
	}
	w.mu.Unlock()
}

// Close may be called more than once.
func (w *watchedStream) Close() error {
	w.mu.Lock()
	again, reason := w.done, w.err
	w.done = true
	w.mu.Unlock()
	if again {
		return nil
	}
	err := w.Conn.Close()
	switch {
	case reason == nil:
		w.closed("closed by this end")
	case errors.Is(reason, io.EOF):
		w.closed("ended by the far end")
	default:
		w.closed(cause(reason))
	}
	return err
}
