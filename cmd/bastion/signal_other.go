//go:build !unix

package main

import (
	"os"
	"syscall"
)

// endSignals are the signals that end a command in order.
var endSignals = []os.Signal{os.Interrupt, syscall.SIGTERM}

// signalToEnd has no signal to send: the process is killed in time.
func signalToEnd(int) error { return nil }

// keepPipeErrors has nothing to do here: a write to a closed standard output is an error.
func keepPipeErrors() {}
