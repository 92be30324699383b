//go:build !linux && !windows

package vpc

import (
	"os/exec"
	"syscall"
)

// setChildAttributes puts the program in a process group of its own. This system cannot tie its life to its parent's.
func setChildAttributes(cmd *exec.Cmd, _ syscall.Signal) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
}
