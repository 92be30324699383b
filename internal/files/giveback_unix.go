//go:build unix

package files

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// GiveBack gives root's files in a directory of another user to that user. A library that replaces its files in such a directory,
// as the AWS SDK does with SSO tokens, would otherwise leave files there that the user cannot read. It looks at the open
// file, and leaves one that has another name as well. Without the directory there is nothing to do.
func GiveBack(dir string) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	var of unix.Stat_t
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	if err := unix.Fstat(int(d.Fd()), &of); err != nil || of.Uid == 0 {
		return err
	}
	entries, err := d.ReadDir(-1)
	for _, e := range entries {
		if e.Type().IsRegular() {
			err = errors.Join(err, giveBack(root, e.Name(), int(of.Uid), int(of.Gid)))
		}
	}
	return err
}

func giveBack(dir *os.Root, name string, uid, gid int) error {
	f, err := dir.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Uid != 0 || st.Nlink != 1 || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return err
	}
	return f.Chown(uid, gid)
}
