//go:build unix && !linux

package lab

import "syscall"

// childAttributes puts a child in a process group of its own, because a Ctrl-C at the lab is not meant for it. Only Linux can end a
// child with its parent.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
