//go:build unix

package gateway

import (
	"os"
	"syscall"
)

// killGroup kills the process group that pty.Start made of p.
func killGroup(p *os.Process) error { return syscall.Kill(-p.Pid, syscall.SIGKILL) }
