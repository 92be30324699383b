//go:build unix

package rig

import (
	"os/exec"
	"syscall"
)

// ownGroup makes the program the head of a new process group, so that signals reach its children too. It takes the terminal from
// it: a program in the background that sets up a terminal is stopped.
func ownGroup(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
}

func signalGroup(cmd *exec.Cmd, sig syscall.Signal) error { return syscall.Kill(-cmd.Process.Pid, sig) }
