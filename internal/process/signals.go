// Package process has what a command does about processes: it heeds the signals that end it, runs a program in the foreground whose
// signals those are meanwhile, and starts programs that outlive it.
package process

import (
	"context"
	"os"
	"os/signal"
	"slices"
	"sync"
)

// Interrupted is the cause of a context that a signal ended.
type Interrupted struct{ Signal os.Signal }

func (i Interrupted) Error() string { return "ended by signal: " + i.Signal.String() }

// Signals are those that end a command. exec diverts them while its program runs: they are meant for that then.
type Signals struct {
	mu sync.Mutex
	to func(os.Signal)
}

// Watch begins to turn the first signal that is not diverted into the end of a context. A second one then has its
// default effect: it ends the process at once. A signal that was ignored when the process began stays ignored, by its programs
// too: that is what nohup is for, and how a shell without job control keeps Ctrl-C from what it runs in the background.
func Watch(cancel context.CancelCauseFunc) *Signals {
	s := &Signals{}
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
			cancel(Interrupted{sig})
			return
		}
	}()
	return s
}

// heeded returns the signals without those that are ignored. Beware of none: to signal's functions that means all.
func heeded(all []os.Signal) []os.Signal { return slices.DeleteFunc(slices.Clone(all), signal.Ignored) }

func (s *Signals) diverted() func(os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to
}

// divert sends the signals to f, which must not block, until the function that it returns is called. A nil *Signals has
// none.
func (s *Signals) divert(f func(os.Signal)) (restore func()) {
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
