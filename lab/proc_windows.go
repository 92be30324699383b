package lab

import (
	"os"
	"syscall"
)

// childAttributes keeps a Ctrl-C at the lab from its children.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// terminate ends the process, because the system has no signal that asks for it.
func terminate(p *os.Process) { _ = p.Kill() }

func exitCodeOfSignal(*os.ProcessState) int { return 137 }
