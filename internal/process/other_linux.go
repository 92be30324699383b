package process

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// pidfd is a descriptor of a process, which is readable once the process has ended.
type pidfd int

// watch returns a watcher of a process, or os.ErrProcessDone.
func watch(pid int) (watcher, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	switch {
	case errors.Is(err, unix.ESRCH), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT): // none, or a thread's id
		return nil, os.ErrProcessDone
	case err != nil: // before Linux 5.3, or forbidden by a container's filter of calls
		return poll(pid)
	}
	if ended, err := readable(fd, -1, 0); err != nil || ended {
		_ = unix.Close(fd)
		if err == nil {
			err = os.ErrProcessDone // a zombie
		}
		return nil, err
	}
	return pidfd(fd), nil
}

// readable waits for one of two descriptors (-1: none), or for a time in milliseconds (-1: for ever), and reports whether it was the
// first one.
func readable(fd, other, timeout int) (bool, error) {
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(other), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, timeout)
		if !errors.Is(err, unix.EINTR) {
			return fds[0].Revents != 0, err
		}
	}
}

func (p pidfd) wait(ctx context.Context) error {
	fd, done, err := cancelled(ctx)
	if err != nil {
		return err
	}
	defer done()
	if ended, err := readable(int(p), fd, -1); err != nil || ended {
		return err
	}
	return context.Cause(ctx)
}

func (p pidfd) close() { _ = unix.Close(int(p)) }
