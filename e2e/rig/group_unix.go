//go:build unix

package rig

import (
	"os/exec"
	"syscall"
)

// ownGroup makes the program the head of a new process group, so that its children can be signalled with it.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func signalGroup(cmd *exec.Cmd, sig syscall.Signal) error { return syscall.Kill(-cmd.Process.Pid, sig) }
