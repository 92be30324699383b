//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// detachProcess makes cmd outlive this process and its terminal.
func detachProcess(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// noCoreDumps keeps the memory of this process out of files.
func noCoreDumps() { _ = syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}) }
