//go:build unix

package hosts

import (
	"errors"

	"golang.org/x/sys/unix"
)

const (
	defaultCRLF = false
	replaceable = true
	elevate     = "sudo -E"
)

func defaultFile() string { return "/etc/hosts" }

func exists(pid int) bool { return !errors.Is(unix.Kill(pid, 0), unix.ESRCH) }
