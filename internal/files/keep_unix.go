//go:build unix

package files

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// keep copies the old file's owner, group, mode and attributes to the new file.
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

// uidOf returns a file's owner; -1 if it is unknown.
func uidOf(info fs.FileInfo) int {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid)
	}
	return -1
}
