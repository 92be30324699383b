//go:build unix

package process

import (
	"os/exec"
	"syscall"
)

// Detach makes cmd outlive this process and its terminal.
func Detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// NoCoreDumps keeps the system from writing this process's memory to a file after a crash.
func NoCoreDumps() { _ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }
