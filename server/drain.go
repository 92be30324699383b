package server

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/audit"
)

// drain tells the clients to go, and waits until all channels are closed, at most until the deadline.
func (s *Server) drain(reason string) {
	now := time.Now()
	deadline := now.Add(max(0, s.config.Drain)) // watch ensures that this is not after expiresAt
	s.mu.Lock()
	s.draining = true
	clients := slices.Collect(maps.Keys(s.clients))
	s.mu.Unlock()
	for _, l := range s.listeners {
		_ = l.Close()
	}
	if l := s.bond.Load(); l != nil {
		l.Drain() // clients that have lost their paths may come back, to be told and to finish
	}
	s.audit.write(audit.Record{Event: audit.Drain, Reason: reason, Deadline: stamp(deadline)})
	var told sync.WaitGroup
	var notices sync.WaitGroup
	for _, c := range clients {
		notices.Go(func() { c.drain(deadline.Sub(now)) }) // a client that does not read blocks its own notice until its end
	}
	noticed := make(chan struct{})
	told.Go(func() {
		notices.Wait()
		close(noticed)
	})

	for {
		next := s.endExpired(time.Now())
		if next.IsZero() || deadline.Before(next) {
			next = deadline
		}
		s.mu.Lock()
		open := s.open
		s.mu.Unlock()
		if open == 0 || !time.Now().Before(deadline) || s.halted.Err() != nil {
			break
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-timer.C:
		case <-s.wake:
		case <-s.halted.Done():
		}
		timer.Stop()
	}
	awaitNotices(noticed, now.Add(noticeTime), s.halted.Done())
	for _, c := range clients {
		told.Go(func() { c.end("the bastion stopped: " + reason) })
	}
	told.Wait()
}

// noticeTime is the least time of a drain, unless its notices have reached the clients before. A drain without channels would
// otherwise end at once, and a client without the notice would take its bastion for lost.
const noticeTime = 2 * time.Second

// awaitNotices waits until the notices have been sent, at most until the given time.
func awaitNotices(sent <-chan struct{}, until time.Time, halted <-chan struct{}) {
	late := time.NewTimer(time.Until(until))
	defer late.Stop()
	select {
	case <-sent:
	case <-late.C:
	case <-halted:
	}
}
