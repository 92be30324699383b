package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Exit codes for a program that could not be started, as shells use them.
const (
	NotExecutable = 126
	NotFound      = 127
)

// ExitError is an exit code that bastion does not choose, such as that of a program that it ran.
type ExitError struct {
	Code int
	Err  error // nil: no message
}

func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap returns the message's error, or nil.
func (e *ExitError) Unwrap() error { return e.Err }

// Find finds the program for op, before the command starts anything for it. The error is an *ExitError.
func Find(op, name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	if errors.Is(err, exec.ErrDot) {
		return path, &ExitError{NotFound, fail.Usagef("write ."+string(os.PathSeparator)+name+" if that is meant",
			"%s: %s is in the working directory only", op, name)}
	}
	if errors.Is(err, os.ErrPermission) {
		return "", &ExitError{NotExecutable, fail.Usagef("make it executable, or name another program",
			"%s: %s cannot be run: permission denied", op, name)}
	}
	return "", &ExitError{NotFound, fail.Usagef("check the name and PATH; the program comes after --",
		"%s: program %s not found", op, name)}
}

// Run runs a program to its end, even if ctx ends meanwhile, and passes signals on to it. It calls lost if ctx ends first. The
// error is nil, or an *ExitError with the program's exit code. op is the operation in messages.
func (s *Signals) Run(ctx context.Context, op string, cmd *exec.Cmd, lost func()) error {
	sigs := make(chan os.Signal, 16)
	defer s.divert(func(sig os.Signal) {
		select {
		case sigs <- sig:
		default: // as with signals in general, too many at once are less
		}
	})()
	if passed := heeded(passedSignals); len(passed) > 0 {
		signal.Notify(sigs, passed...)
		defer signal.Stop(sigs)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx) // a signal came just before
	}
	if err := cmd.Start(); err != nil {
		return &ExitError{NotExecutable, fail.New(fail.Other, op, err, "check that this machine can run "+cmd.Path)}
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	isLost := ctx.Done()
	for {
		select {
		case sig := <-sigs:
			if !fromTerminal(sig) {
				_ = cmd.Process.Signal(sig) // it may have ended just now
			}
		case <-isLost:
			isLost = nil
			lost()
		case err := <-ended:
			return outcome(op, cmd.ProcessState, err)
		}
	}
}

// outcome returns the error of a program that has ended; err is Wait's.
func outcome(op string, state *os.ProcessState, err error) error {
	if n := endedBy(state); n != 0 {
		return &ExitError{Code: 128 + n}
	}
	if code := state.ExitCode(); code != 0 {
		return &ExitError{Code: code}
	}
	if err != nil && !errors.As(err, new(*exec.ExitError)) {
		return fail.New(fail.Other, op, err, "")
	}
	return nil
}
