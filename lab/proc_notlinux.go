//go:build !linux

package lab

import "syscall"

// dieWithParent is nothing here: only Linux can end a child with its parent.
func dieWithParent() *syscall.SysProcAttr { return nil }
