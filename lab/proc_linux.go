package lab

import "syscall"

// dieWithParent has the kernel end a child with the thread that made it.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
