package process

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// queue is a kernel queue with an event for a process's end.
type queue struct{ kq, pid int }

// watch returns a watcher of a process, or os.ErrProcessDone.
func watch(pid int) (watcher, error) {
	kq, err := unix.Kqueue()
	if err != nil {
		return poll(pid)
	}
	unix.CloseOnExec(kq)
	change := []unix.Kevent_t{{Fflags: unix.NOTE_EXIT}}
	unix.SetKevent(&change[0], pid, unix.EVFILT_PROC, unix.EV_ADD|unix.EV_ONESHOT)
	_, err = unix.Kevent(kq, change, nil, nil)
	if err == nil {
		return &queue{kq, pid}, nil
	}
	_ = unix.Close(kq)
	if errors.Is(err, unix.ESRCH) {
		return nil, os.ErrProcessDone
	}
	return poll(pid)
}

func (q *queue) wait(ctx context.Context) error {
	fd, done, err := cancelled(ctx)
	if err != nil {
		return err
	}
	defer done()
	change := make([]unix.Kevent_t, 1)
	unix.SetKevent(&change[0], fd, unix.EVFILT_READ, unix.EV_ADD|unix.EV_ONESHOT)
	events := make([]unix.Kevent_t, 2)
	for {
		n, err := unix.Kevent(q.kq, change, events, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		}
		for _, e := range events[:n] {
			if e.Filter == unix.EVFILT_PROC {
				return nil
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func (q *queue) close() { _ = unix.Close(q.kq) }
