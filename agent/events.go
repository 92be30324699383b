package agent

import (
	"sync"

	"github.com/bastion-ssm/bastion/agent/api"
)

// maxEvents is how many events may wait for a request's client to read them. More are left out, except the last.
const maxEvents = 256

// events hands the events of a request to its client, one at a time, however many goroutines they come from.
type events struct {
	queue chan api.Event
	done  chan struct{} // closed once all have been handed over

	mu     sync.Mutex
	closed bool
}

func newEvents(emit func(api.Event)) *events {
	e := &events{queue: make(chan api.Event, maxEvents), done: make(chan struct{})}
	go func() {
		defer close(e.done)
		for ev := range e.queue {
			emit(ev)
		}
	}()
	return e
}

// try hands an event over unless too many wait. It does not block.
func (e *events) try(ev api.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	select {
	case e.queue <- ev:
	default:
	}
}

// last hands an event over that must not be left out. It waits for its place, which a client that has gone makes: then all are
// thrown away. It is for the goroutine that calls close, and holds no lock, because try must never wait.
func (e *events) last(ev api.Event) { e.queue <- ev }

// close waits until all have been handed over.
func (e *events) close() {
	e.mu.Lock()
	e.closed = true
	close(e.queue)
	e.mu.Unlock()
	<-e.done
}
