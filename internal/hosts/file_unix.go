//go:build unix

package hosts

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	defaultCRLF = false
	replaceable = true
	elevate     = "sudo -E"
)

func defaultFile() string { return "/etc/hosts" }

// openLocked opens the file for its only writer. A writer replaces the file, so that a lock may turn out to be on the old one.
func openLocked(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		for {
			if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
				break
			}
		}
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		mine, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if now, err := os.Stat(path); err == nil && os.SameFile(mine, now) {
			return f, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

func sameOwner(f *os.File, as os.FileInfo) error {
	st, ok := as.Sys().(*syscall.Stat_t)
	if !ok {
		return errors.ErrUnsupported
	}
	return f.Chown(int(st.Uid), int(st.Gid))
}

func exists(pid int) bool { return !errors.Is(unix.Kill(pid, 0), unix.ESRCH) }
