//go:build unix

package files

import (
	"errors"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// maxGiven bounds the size of a file that GiveBack reads, in bytes.
const maxGiven = 64 << 10

// GiveBack makes the owner of the home directory the owner of root's files in one of that user's directories. A library that
// replaces its files there, as the AWS SDK does with SSO tokens, would otherwise leave files that the user cannot read.
//
// The user can move root's files from another directory of the user's into dir, and must not gain access to them. So GiveBack
// changes a file only if written accepts its name and text as the library's. It checks the open file, and skips a file with a
// second name. Without the directory it does nothing.
func GiveBack(dir string, written func(name string, text []byte) bool) error {
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
	if err := unix.Fstat(int(d.Fd()), &of); err != nil || of.Uid == 0 || !slices.Contains(owners(), int(of.Uid)) {
		return err
	}
	entries, err := d.ReadDir(-1)
	for _, e := range entries {
		if e.Type().IsRegular() {
			err = errors.Join(err, giveBack(root, e.Name(), int(of.Uid), int(of.Gid), written))
		}
	}
	return err
}

func giveBack(dir *os.Root, name string, uid, gid int, written func(name string, text []byte) bool) error {
	f, err := dir.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Uid != 0 || st.Nlink != 1 || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return err
	}
	if text, err := ReadAll(f, maxGiven); err != nil || !written(name, text) {
		return nil // an unreadable file is not the library's
	}
	return f.Chown(uid, gid)
}
