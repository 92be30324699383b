package lab

import (
	"os"
	"syscall"
)

// childAttributes keep a Ctrl-C at the lab from its children.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// terminate ends the process: the system has no signal that asks it to.
func terminate(p *os.Process) { _ = p.Kill() }

func exitCodeOfSignal(*os.ProcessState) int { return 137 }
