//go:build unix

package main

import (
	"os"
	"syscall"
)

// endSignals are the signals that end the lab, or are handed on to the command that it runs.
var endSignals = []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}

// exitCode is what a shell would say of an ended process.
func exitCode(s *os.ProcessState) int {
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return s.ExitCode()
}
