package vpc

import (
	"os/exec"
	"syscall"
)

// setChildAttributes puts the program in a process group of its own and ties its life to the thread that starts it.
func setChildAttributes(cmd *exec.Cmd, orphanSignal syscall.Signal) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	cmd.SysProcAttr.Pdeathsig = orphanSignal
}
