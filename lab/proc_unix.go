//go:build unix

package lab

import (
	"os"
	"syscall"
)

// terminate sends SIGTERM; the process may have ended already.
func terminate(p *os.Process) { _ = p.Signal(syscall.SIGTERM) }

// exitCodeOfSignal returns a container engine's exit code for a program that a signal ended.
func exitCodeOfSignal(s *os.ProcessState) int {
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return 255
}
