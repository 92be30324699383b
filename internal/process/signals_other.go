//go:build !unix

package process

import (
	"os"
	"syscall"
)

// endSignals are the signals that end a command in good order.
var endSignals = []os.Signal{os.Interrupt, syscall.SIGTERM}

// AskToEnd does nothing, because the system has no such signal; the caller kills the process after a while.
func AskToEnd(int) error { return nil }

// KeepPipeErrors does nothing: here a write to a closed standard output returns an error by default.
func KeepPipeErrors() {}
