//go:build unix

package gateway

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// killGroup kills the process group that pty.Start made of p.
func killGroup(p *os.Process) error { return syscall.Kill(-p.Pid, syscall.SIGKILL) }

// resize sets the size of a terminal. Unlike pty.Setsize it may be called while the terminal is being closed.
func resize(tty *os.File, cols, rows int) error {
	conn, err := tty.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = conn.Control(func(fd uintptr) {
		set = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(cols), Row: uint16(rows)})
	})
	return errors.Join(err, set)
}
