//go:build !unix

package process

import (
	"os/exec"
	"syscall"
)

// Detach makes cmd outlive this process and its console.
func Detach(cmd *exec.Cmd) {
	const detached, newGroup = 0x8, 0x200 // DETACHED_PROCESS, CREATE_NEW_PROCESS_GROUP
	cmd.SysProcAttr = &syscall.SysProcAttr{HideWindow: true, CreationFlags: detached | newGroup}
}

// NoCoreDumps does nothing: Windows makes no dumps by default.
func NoCoreDumps() {}
