package main

import (
	"context"
	"errors"
	"io"
	"syscall"

	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/process"
)

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

// finish prints err, if it needs to be printed, and returns the exit code. A signal that ended ctx decides the code,
// whatever the command made of it.
func finish(ctx context.Context, stderr io.Writer, err error) int {
	if sig, ok := errors.AsType[process.Interrupted](context.Cause(ctx)); ok {
		// The sender of the signal needs no message about an error that it caused.
		if err != nil && !errors.Is(err, context.Canceled) && !errors.As(err, new(process.Interrupted)) {
			printError(stderr, err)
		}
		if n, ok := sig.Signal.(syscall.Signal); ok {
			return 128 + int(n)
		}
		return 130
	}
	if err == nil || console.ReaderGone(err) {
		return 0
	}
	if exit, ok := errors.AsType[*process.ExitError](err); ok {
		if exit.Err != nil {
			printError(stderr, exit.Err)
		}
		return exit.Code
	}
	if told, ok := errors.AsType[*invocation.Told](err); ok {
		return exitCodes[told.Kind]
	}
	printError(stderr, err)
	return exitCodes[fail.KindOf(err)]
}

// printError prints an error and its next step.
func printError(w io.Writer, err error) {
	_ = console.Printf(w, "bastion: %s\n", console.Paragraph(err.Error())) // nobody is left to be told
	if next := fail.NextOf(err); next != "" {
		_ = console.Printf(w, "  hint: %s\n", console.Paragraph(next))
	}
}
