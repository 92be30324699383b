//go:build unix

package ready

import (
	"context"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/bastion-ssm/bastion/internal/fail"
)

const (
	fdPiece = 512 // POSIX's least PIPE_BUF: if poll says that there is room, so much does not block
	fdPoll  = 100 // milliseconds between two looks at the context
)

// FD is an inherited file descriptor.
type FD struct{ n int } // -1: closed

// openFD checks a descriptor. One that the runtime has opened closes when a program is started, an inherited one does not: else it
// would not be here.
func openFD(n int) (*FD, error) {
	next := "open it for the command; in a shell, write a redirection such as 3>FILE behind it"
	flags, err := unix.FcntlInt(uintptr(n), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC != 0 {
		return nil, fail.Usagef(next, "--ready-fd %d is not open", n)
	}
	mode, err := unix.FcntlInt(uintptr(n), unix.F_GETFL, 0)
	if err != nil || mode&unix.O_ACCMODE == unix.O_RDONLY {
		return nil, fail.Usagef(next, "--ready-fd %d is not open for writing", n)
	}
	unix.CloseOnExec(n)
	return &FD{n}, nil
}

// write writes data in pieces for which there is room.
func (f *FD) write(ctx context.Context, data []byte) error {
	for len(data) > 0 {
		if err := f.room(ctx); err != nil {
			return err
		}
		n, err := unix.Write(f.n, data[:min(len(data), fdPiece)])
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		case err != nil:
			return err
		default:
			data = data[n:]
		}
	}
	return nil
}

// room waits until a write does not block, or fails at once.
func (f *FD) room(ctx context.Context) error {
	for {
		fds := []unix.PollFd{{Fd: int32(f.n), Events: unix.POLLOUT}}
		_, err := unix.Poll(fds, fdPoll)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case fds[0].Revents != 0:
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// Close closes the descriptor; again it does nothing.
func (f *FD) Close() error {
	if f.n < 0 {
		return nil
	}
	n := f.n
	f.n = -1
	return unix.Close(n)
}
