// Package files reads, replaces and locks files with regard to their owners. It enforces three rules for the whole program:
//
//   - A file that the search found is used only if nobody but the user and root could have written it (OpenTrusted).
//   - Root creates nothing below another user's directories (CheckPlace), as commands under sudo -E, su -m or doas would.
//   - A replaced file keeps its owner, group, mode and ACL. A symbolic link to it stays (Update).
//
// Windows has no such owner rules; there, other users have no access to a user's profile directory.
package files

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// ForeignError says that root was about to create a file below another user's directory.
type ForeignError struct {
	Path string // the file to create
	Of   string // the file, directory or link on the way that belongs to another user
	UID  int
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("%s belongs to another user (uid %d), and root creates nothing there", e.Of, e.UID)
}

// IsForeign reports whether err is, or wraps, a ForeignError.
func IsForeign(err error) bool { return errors.As(err, new(*ForeignError)) }

// UntrustedError says who else could have written a file.
type UntrustedError struct {
	Path   string // the file, or the directory on the way that is the reason
	Reason string
	Fix    string // command for the user; "" if only the owner can change it
}

func (e *UntrustedError) Error() string { return e.Reason }

// OpenRegular opens a regular file for reading without blocking. Opening a pipe would wait for its writer, past every signal,
// and opening a device may have effects. For these it returns an *UntrustedError.
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

// MkdirAll is os.MkdirAll with the rule of CheckPlace.
func MkdirAll(dir string, perm fs.FileMode) error {
	if err := CheckPlace(dir); err != nil {
		return err
	}
	return os.MkdirAll(dir, perm)
}

// PrivateDir creates a directory of mode 0700, or checks an existing one with CheckPrivate.
func PrivateDir(dir string) error {
	if err := MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return CheckPrivate(dir)
}

// CheckPrivate returns an error if the directory belongs to another user or if others can enter it.
func CheckPrivate(dir string) error {
	info, err := directory(dir)
	if err != nil {
		return err
	}
	return checkPrivate(dir, info)
}

// CheckPrivateOrRoots is CheckPrivate, but lets root's group search the directory: root may then enter it without a capability. It
// reports whether that group may.
func CheckPrivateOrRoots(dir string) (roots bool, err error) {
	info, err := directory(dir)
	if err != nil {
		return false, err
	}
	if rootsGroupSearches(info) {
		return true, checkOwned(dir, info)
	}
	return false, checkPrivate(dir, info)
}

func directory(path string) (os.FileInfo, error) {
	info, err := os.Lstat(path)
	if err == nil && !info.IsDir() {
		err = fmt.Errorf("%s is not a directory", path)
	}
	return info, err
}

// Read reads a file of at most limit bytes that OpenRegular opens.
func Read(path string, limit int64) ([]byte, error) { return read(path, limit, OpenRegular) }

// ReadTrusted reads a file of at most limit bytes that OpenTrusted opens.
func ReadTrusted(path string, limit int64) ([]byte, error) { return read(path, limit, OpenTrusted) }

func read(path string, limit int64, open func(string) (*os.File, error)) ([]byte, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return ReadAll(f, limit)
}

// ReadAll reads a file of at most limit bytes; a larger one is an error.
func ReadAll(f *os.File, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", f.Name(), limit)
	}
	return data, err
}
