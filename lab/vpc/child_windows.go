package vpc

import (
	"os/exec"
	"syscall"
)

// setChildAttributes puts the program in a process group of its own. This system cannot tie its life to its parent's.
func setChildAttributes(cmd *exec.Cmd, _ syscall.Signal) {
	cmd.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}
