package lab

import "syscall"

// childAttributes puts a child in a process group of its own, because a Ctrl-C at the lab is not meant for it. The kernel ends the
// child with the thread that started it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
