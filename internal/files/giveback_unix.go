//go:build unix

package files

import (
	"errors"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// maxGiven is the size of a file that GiveBack looks at, in bytes.
const maxGiven = 64 << 10

// GiveBack gives root's files in a directory of the home directory's owner to that user. A library that replaces its files in such
// a directory, as the AWS SDK does with SSO tokens, would otherwise leave files there that the user cannot read.
//
// The user can move any file of root's there that stands in another directory of the user's, and must not get to read it so. So a
// file is given only if its name and text are those of the library's files, which written tells. It is the open file that is
// looked at, and one that has another name as well is left. Without the directory there is nothing to do.
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
		return nil // what cannot be read is nothing of the library's either
	}
	return f.Chown(uid, gid)
}
