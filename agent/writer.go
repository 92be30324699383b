package agent

import (
	"log/slog"
	"sync"

	"github.com/bastion-ssm/bastion/agent/forwards"
)

// writer keeps the file of detached forwards equal to the registry. It does not hold the Agent's lock while it writes. Writes
// follow one another. Each takes the records at its start, so the last state wins and changes during a write share the next
// one.
type writer struct {
	write func([]forwards.Record) error
	kept  func() (records []forwards.Record, revision uint64) // takes the Agent's lock
	log   *slog.Logger

	mu       sync.Mutex // held during a write; taken before the Agent's lock, never with it held
	revision uint64     // of the records in the file
	failed   string     // the last write's error
	closed   bool
}

// save returns once the file has all changes from before the call. It fails if the write failed; the next call retries.
func (w *writer) save() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.saveLocked()
}

func (w *writer) saveLocked() error {
	if w.closed {
		return nil
	}
	records, revision := w.kept()
	if revision == w.revision {
		return nil
	}
	if err := w.write(records); err != nil {
		if w.failed != err.Error() {
			w.log.Warn("the detached forwards could not be saved and will not come back when the agent starts again", "err", err)
		}
		w.failed = err.Error()
		return err
	}
	w.revision, w.failed = revision, ""
	return nil
}

// loaded notes that the file has the records of this revision.
func (w *writer) loaded(revision uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.revision = revision
}

// close writes for the last time. Forwards that end after it stay in the file and come back.
func (w *writer) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = w.saveLocked()
	w.closed = true
}
