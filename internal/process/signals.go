// Package process handles the processes of a command. It turns the signals that end a command into the end of a context. It runs a
// program in the foreground, which receives those signals meanwhile. And it starts programs that outlive the command, such as the
// agent and a browser.
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

// Signals are the signals that end a command. While exec runs its program, it diverts them to that program.
type Signals struct {
	mu sync.Mutex
	to func(os.Signal)
}

// Watch makes the first signal that is not diverted end a context. A second one has its default effect and ends the process at
// once. A signal that was ignored at the process's start stays ignored, and its programs ignore it too. nohup relies on that, and
// so does a shell without job control, which keeps Ctrl-C from its background programs.
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

// heeded returns the signals that are not ignored. An empty result is dangerous: signal's functions take it for all signals.
func heeded(all []os.Signal) []os.Signal { return slices.DeleteFunc(slices.Clone(all), signal.Ignored) }

func (s *Signals) diverted() func(os.Signal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.to
}

// divert sends the signals to f, which must not block, until the caller calls restore. With a nil *Signals it does nothing.
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
