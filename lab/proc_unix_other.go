//go:build unix && !linux

package lab

import "syscall"

// childAttributes put a child in a process group of its own, as a Ctrl-C at the lab is not meant for it. Only Linux
// can end it with its parent.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
