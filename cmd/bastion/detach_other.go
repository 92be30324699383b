//go:build !unix

package main

import (
	"os/exec"
	"syscall"
)

// detachProcess makes cmd outlive this process and its console.
func detachProcess(cmd *exec.Cmd) {
	const detached, newGroup = 0x8, 0x200 // DETACHED_PROCESS, CREATE_NEW_PROCESS_GROUP
	cmd.SysProcAttr = &syscall.SysProcAttr{HideWindow: true, CreationFlags: detached | newGroup}
}

// noCoreDumps has nothing to do: Windows makes no dumps unless it is told to.
func noCoreDumps() {}
