//go:build !unix

package process

import (
	"os"
	"syscall"
)

// endSignals are the signals that end a command in order.
var endSignals = []os.Signal{os.Interrupt, syscall.SIGTERM}

// AskToEnd has no signal to send: the process is killed in time.
func AskToEnd(int) error { return nil }

// KeepPipeErrors has nothing to do here: a write to a closed standard output is an error.
func KeepPipeErrors() {}
