//go:build unix

package process

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Exists reports whether a process, or a zombie, has the id.
func Exists(pid int) bool { return !errors.Is(unix.Kill(pid, 0), unix.ESRCH) }
