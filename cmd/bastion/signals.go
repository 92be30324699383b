package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
)

// signals are those that end a command. exec diverts them while its program runs: they are meant for that then.
type signals struct {
	mu sync.Mutex
	to func(os.Signal)
}

// watch begins to turn the first signal that is not diverted into the end of a context. A second one then has its
// default effect: it ends the process at once.
func watchSignals(cancel context.CancelCauseFunc) *signals {
	s := &signals{}
	ch := make(chan os.Signal, 8)
	signal.Notify(ch, endSignals...)
	go func() {
		for sig := range ch {
			if to := s.diverted(); to != nil {
				to(sig)
				continue
			}
			signal.Reset(endSignals...)
			cancel(interrupted{sig})
			return
		}
	}()
	return s
}

func (s *signals) diverted() func(os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to
}

// divert sends the signals to f, which must not block, until the function that it returns is called. A nil *signals has
// none.
func (s *signals) divert(f func(os.Signal)) (restore func()) {
	if s == nil {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.to = f
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.to = nil
	}
}
