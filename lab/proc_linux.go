package lab

import "syscall"

// childAttributes put a child in a process group of its own, as a Ctrl-C at the lab is not meant for it, and have the
// kernel end it with the thread that made it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
