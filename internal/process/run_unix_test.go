//go:build unix

package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// The outcome of a program is an exit code as shells have it.
func TestRun(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 3": 3, "kill -TERM $$": 128 + int(syscall.SIGTERM)} {
		var signals *Signals
		err := signals.Run(t.Context(), "exec", exec.Command("/bin/sh", "-c", script), func() { t.Error("it is not lost") })
		exit := &ExitError{}
		if err != nil && !errors.As(err, &exit) || exit.Code != want {
			t.Errorf("%s: %v, want exit code %d", script, err, want)
		}
	}
	err := (&Signals{}).Run(t.Context(), "exec", exec.Command(t.TempDir()), func() {})
	if exit := new(ExitError); !errors.As(err, &exit) || exit.Code != NotExecutable || fail.NextOf(err) == "" {
		t.Errorf("a directory: %v", err)
	}
}

// A signal for the program reaches it, even after its purpose has ended; the caller learns of that end once. One that came before
// the start keeps it from starting.
func TestRunPassesSignalsOn(t *testing.T) {
	s := &Signals{}
	ctx, cancel := context.WithCancelCause(t.Context())
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = r.Close(), w.Close() }()
	cmd := exec.Command("/bin/sh", "-c", "trap 'exit 7' TERM; echo; while :; do sleep 0.01; done")
	cmd.Stdout = w
	lost := make(chan struct{})
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, "exec", cmd, func() { close(lost) }) }()
	if _, err := r.Read(make([]byte, 1)); err != nil { // it traps the signal
		t.Fatal(err)
	}
	gone := errors.New("gone")
	cancel(gone)
	<-lost
	s.diverted()(syscall.SIGTERM)
	if exit := new(ExitError); !errors.As(<-done, &exit) || exit.Code != 7 {
		t.Errorf("%v", exit)
	}
	if s.diverted() != nil {
		t.Error("signals are still the program's")
	}
	if err := s.Run(ctx, "exec", exec.Command("/bin/false"), func() {}); !errors.Is(err, gone) {
		t.Errorf("%v, want %v", err, gone)
	}
}
