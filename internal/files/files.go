// Package files reads, replaces and locks files with regard to their owners. It holds three rules for all of the program:
//
//   - A file that was found by its place is used only if nobody but the user and root could have written it (OpenTrusted).
//   - Root creates nothing below another user's directories (CheckPlace), as commands under sudo -E, su -m or doas would.
//   - A file that is replaced keeps its owner, group, mode and access list, and a symbolic link to it stays (Update).
//
// Windows has no owner rules of this kind: a user's profile directory keeps others out there.
package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// ForeignError says that root was about to create something below a directory of another user.
type ForeignError struct {
	Path string // that was to be created
	Of   string // the file, directory or link on the way there that belongs to another user
	UID  int
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("%s belongs to another user (uid %d), and root creates nothing there", e.Of, e.UID)
}

// IsForeign reports whether err is, or wraps, a ForeignError.
func IsForeign(err error) bool {
	_, ok := errors.AsType[*ForeignError](err)
	return ok
}

// UntrustedError says who else could have written a file.
type UntrustedError struct {
	Path   string // of the file, or of the directory on the way to it that is the reason
	Reason string
	Fix    string // what the user can type; "" if only an owner can change it
}

func (e *UntrustedError) Error() string { return e.Reason }

// OpenRegular opens a regular file to read it, and waits for nothing: opening a pipe would wait for its writer, past every signal,
// and opening a device may do something. Anything else is an *UntrustedError.
func OpenRegular(path string) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	var f *os.File
	if info.Mode().IsRegular() {
		if f, err = os.OpenFile(path, os.O_RDONLY|nonBlock, 0); err != nil {
			return nil, err
		}
		if info, err = f.Stat(); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	if !info.Mode().IsRegular() {
		err := error(&UntrustedError{Path: path, Reason: path + " is not a regular file"})
		if f != nil {
			err = errors.Join(err, f.Close())
		}
		return nil, err
	}
	return f, nil
}

// MkdirAll is os.MkdirAll, within the rule of CheckPlace.
func MkdirAll(dir string, perm fs.FileMode) error {
	if err := CheckPlace(dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, perm)
}

// PrivateDir creates a directory of mode 0700, or checks that the existing one is the user's alone.
func PrivateDir(dir string) error {
	if err := MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return CheckPrivate(dir)
}

// CheckPrivate refuses a directory that belongs to another user or that others can enter.
func CheckPrivate(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	return checkPrivate(dir, info)
}

// ReadAll reads at most limit bytes of a file; a larger one is an error.
func ReadAll(f *os.File, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", f.Name(), limit)
	}
	return data, err
}
