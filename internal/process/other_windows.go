package process

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// handle is a process's handle, which is signalled once the process has ended.
type handle windows.Handle

// watch returns a watcher of a process, or os.ErrProcessDone.
func watch(pid int) (watcher, error) {
	h, err := windows.OpenProcess(windows.SYNCHRONIZE, false, uint32(pid)) //nolint:gosec // G115: a process id
	switch {
	case errors.Is(err, windows.ERROR_INVALID_PARAMETER):
		return nil, os.ErrProcessDone
	case err != nil: // another user's
		return poll(pid)
	}
	if event, err := windows.WaitForSingleObject(h, 0); err == nil && event == windows.WAIT_OBJECT_0 {
		_ = windows.CloseHandle(h)
		return nil, os.ErrProcessDone // somebody else still has a handle
	}
	return handle(h), nil
}

func (h handle) wait(ctx context.Context) error {
	cancelled, err := windows.CreateEvent(nil, 1, 0, nil)
	if err != nil {
		return err
	}
	defer func() { _ = windows.CloseHandle(cancelled) }()
	told := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(told)
		_ = windows.SetEvent(cancelled)
	})
	defer func() {
		if !stop() {
			<-told // it has used the event
		}
	}()
	event, err := windows.WaitForMultipleObjects([]windows.Handle{windows.Handle(h), cancelled}, false, windows.INFINITE)
	if err == nil && event != windows.WAIT_OBJECT_0 {
		return context.Cause(ctx)
	}
	return err
}

func (h handle) close() { _ = windows.CloseHandle(windows.Handle(h)) }
