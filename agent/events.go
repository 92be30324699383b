package agent

import (
	"sync"

	"github.com/bastion-ssm/bastion/agent/api"
)

// maxEvents bounds the events that wait for a request's client. The agent drops further ones, except the last.
const maxEvents = 256

// events passes a request's events from any goroutine to its client, one at a time.
type events struct {
	queue chan api.Event
	done  chan struct{} // closed once emit has returned for every event

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

// try queues an event, or drops it if the queue is full. It does not block.
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

// last queues an event that must not be dropped. It waits for a place in the queue. A client that has left does not block it,
// because emit then drops its events. Only the goroutine that calls close may call it, without holding a lock.
func (e *events) last(ev api.Event) { e.queue <- ev }

// close waits until emit has returned for every event.
func (e *events) close() {
	e.mu.Lock()
	e.closed = true
	close(e.queue)
	e.mu.Unlock()
	<-e.done
}
