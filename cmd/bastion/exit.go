package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// interrupted is the cause of a context that a signal ended.
type interrupted struct{ sig os.Signal }

func (i interrupted) Error() string { return "ended by signal: " + i.sig.String() }

// exitCodes are the exit codes by kind of failure; docs/exit-codes.md explains them, and a test compares the two.
var exitCodes = map[fail.Kind]int{
	fail.Other:       1,
	fail.Usage:       2,
	fail.NoTarget:    3,
	fail.Credentials: 4,
	fail.Denied:      5,
	fail.Start:       6,
	fail.PortInUse:   7,
	fail.Lost:        8,
	fail.Timeout:     9,
}

// exitError is an exit code that is not bastion's to choose, such as that of a program it has run.
type exitError struct {
	code int
	err  error // nil: there is nothing to say
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// finish prints err, if it needs to be printed, and returns the exit code. A signal that ended ctx decides the code,
// whatever the command made of it.
func finish(ctx context.Context, stderr io.Writer, err error) int {
	var sig interrupted
	if errors.As(context.Cause(ctx), &sig) {
		// What was cut short by the signal is no news to who sent it.
		if err != nil && !errors.Is(err, context.Canceled) && !errors.As(err, new(interrupted)) {
			printError(stderr, err)
		}
		if n, ok := sig.sig.(syscall.Signal); ok {
			return 128 + int(n)
		}
		return 130
	}
	if err == nil || readerGone(err) {
		return 0
	}
	if exit := (*exitError)(nil); errors.As(err, &exit) {
		if exit.err != nil {
			printError(stderr, exit.err)
		}
		return exit.code
	}
	printError(stderr, err)
	return exitCodes[fail.KindOf(err)]
}

// printError prints an error and its next step.
func printError(w io.Writer, err error) {
	_ = printf(w, "bastion: %s\n", paragraph(err.Error())) // nobody is left to be told
	if next := fail.NextOf(err); next != "" {
		_ = printf(w, "  hint: %s\n", paragraph(next))
	}
}

func usage(next, format string, args ...any) error {
	return fail.New(fail.Usage, "", fmt.Errorf(format, args...), next)
}
