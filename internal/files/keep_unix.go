//go:build unix

package files

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// keep gives a new file the owner, group, mode and attributes of the old one.
func keep(old, tmp *os.File) error {
	info, err := old.Stat()
	if err != nil {
		return err
	}
	mine, err := tmp.Stat()
	if err != nil {
		return err
	}
	was, ok := info.Sys().(*syscall.Stat_t)
	is, isOK := mine.Sys().(*syscall.Stat_t)
	if !ok || !isOK {
		return errors.ErrUnsupported
	}
	if was.Uid != is.Uid || was.Gid != is.Gid {
		if err := tmp.Chown(int(was.Uid), int(was.Gid)); err != nil {
			return err
		}
	}
	if err := tmp.Chmod(info.Mode().Perm()); err != nil {
		return err
	}
	return copyAttributes(old, tmp)
}

// uidOf returns the owner of a file.
func uidOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}
