package main

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"sync"
)

// signals are those that end a command. exec diverts them while its program runs: they are meant for that then.
type signals struct {
	mu sync.Mutex
	to func(os.Signal)
}

// watchSignals begins to turn the first signal that is not diverted into the end of a context. A second one then has its
// default effect: it ends the process at once. A signal that was ignored when the process began stays ignored, by its programs
// too: that is what nohup is for, and how a shell without job control keeps Ctrl-C from what it runs in the background.
func watchSignals(cancel context.CancelCauseFunc) *signals {
	s := &signals{}
	ending := heeded(endSignals)
	if len(ending) == 0 {
		return s
	}
	ch := make(chan os.Signal, 8)
	signal.Notify(ch, ending...)
	go func() {
		for sig := range ch {
			if to := s.diverted(); to != nil {
				to(sig)
				continue
			}
			signal.Reset(ending...)
			cancel(interrupted{sig})
			return
		}
	}()
	return s
}

// heeded returns the signals without those that are ignored. Beware of none: to signal's functions that means all.
func heeded(all []os.Signal) []os.Signal { return slices.DeleteFunc(slices.Clone(all), signal.Ignored) }

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
