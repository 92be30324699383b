//go:build unix

package process

import (
	"os/exec"
	"syscall"
)

// Detach makes cmd outlive this process and its terminal.
func Detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// NoCoreDumps keeps the memory of this process out of files.
func NoCoreDumps() { _ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }
