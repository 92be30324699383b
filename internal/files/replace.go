package files

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// maxTries bounds Update's attempts while another process changes the file.
	maxTries = 5
	// abandonedAge is the age at which a temporary file is certainly abandoned.
	abandonedAge = time.Hour
	// minRandom is the least length of rand.Text's result, in bytes; later Go versions may return more.
	minRandom = 26
)

// ErrNotReplaceable says that a new file could not get the old one's owner, group, mode or ACL.
var ErrNotReplaceable = errors.New("it cannot be replaced and stay as it is")

var errChanged = errors.New("it changes while it is replaced")

// Replace replaces a file's content with data; a new file has mode perm. See Update.
func Replace(path string, data []byte, perm fs.FileMode) error {
	_, err := Update(path, -1, perm, func([]byte) ([]byte, error) { return data, nil })
	return err
}

// Update replaces a file with edit's result for its content of at most limit bytes (-1: edit gets nil). Readers see the old
// file or the new one. After a failure they see the old one, and no temporary file remains. An existing file keeps its owner,
// group, mode and, on Linux, ACL and extended attributes. If path is a symbolic link, the link stays and Update replaces the
// file that it leads to. If the file does not exist, edit gets an empty content, and Update creates the file with mode perm and
// the rule of CheckPlace. changed reports whether the content has changed.
func Update(path string, limit int64, perm fs.FileMode, edit func(old []byte) ([]byte, error)) (changed bool, err error) {
	for range maxTries {
		if changed, err = update(path, limit, perm, edit); !errors.Is(err, errChanged) {
			break
		}
	}
	return changed, err
}

func update(path string, limit int64, perm fs.FileMode, edit func([]byte) ([]byte, error)) (changed bool, err error) {
	target, owner, err := resolve(path)
	isNew := errors.Is(err, fs.ErrNotExist)
	if isNew {
		if _, err := os.Lstat(path); err == nil {
			return false, errors.New("it is a symbolic link that leads nowhere")
		}
		target = path
		if err := CheckPlace(path); err != nil {
			return false, err
		}
	} else if err != nil {
		return false, err
	}
	// From here on, names are relative to this directory, whatever happens to the path.
	dir, err := os.OpenRoot(filepath.Dir(target))
	if err != nil {
		return false, err
	}
	defer func() { _ = dir.Close() }()
	name := filepath.Base(target)
	var old *original
	if !isNew {
		if old, err = readOld(dir, name, limit, owner); err != nil {
			return false, err
		}
		defer func() { _ = old.Close() }()
	}
	var content []byte
	if old != nil {
		content = old.content
	}
	data, err := edit(content)
	if err != nil || limit >= 0 && bytes.Equal(data, content) {
		return false, err
	}
	return true, put(dir, name, data, old, perm, limit >= 0)
}

// original is a file that is about to be replaced.
type original struct {
	*os.File
	info    fs.FileInfo // as it was read
	content []byte
}

// readOld opens a regular file for its replacement. It refuses a file of another user than owner (-1: any): the user who
// controls the way to the file could choose which file is replaced.
func readOld(dir *os.Root, name string, limit int64, owner int) (*original, error) {
	info, err := dir.Lstat(name) // opening a pipe would wait for its writer
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a file")
	}
	old := &original{}
	if old.File, err = dir.OpenFile(name, os.O_RDONLY|nonBlock, 0); err != nil {
		return nil, err
	}
	old.info, err = old.Stat()
	switch {
	case err != nil:
	case !os.SameFile(info, old.info):
		err = errChanged
	case owner >= 0 && uidOf(old.info) != owner:
		err = &ForeignError{Path: old.Name(), Of: dir.Name(), UID: owner}
	case limit >= 0:
		old.content, err = ReadAll(old.File, limit)
	}
	if err != nil {
		return nil, errors.Join(err, old.Close())
	}
	return old, nil
}

// put writes a new file beside the old one and renames it to name. old is nil if the file is new. With edited, the file must
// not have changed since it was read.
func put(dir *os.Root, name string, data []byte, old *original, perm fs.FileMode, edited bool) (err error) {
	tmpName := temporaryName(name)
	tmp, err := dir.OpenFile(tmpName, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tmp.Close(), dir.Remove(tmpName))
		}
	}()
	if _, err = tmp.Write(data); err != nil {
		return err
	}
	if old == nil {
		err = tmp.Chmod(perm)
	} else if err = keep(old.File, tmp); err != nil {
		err = fmt.Errorf("%w: %w", ErrNotReplaceable, err)
	}
	if err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if edited {
		if err := unchanged(dir, name, old); err != nil {
			return err
		}
	}
	if err = tmp.Close(); err != nil {
		return errors.Join(err, dir.Remove(tmpName))
	}
	if err := dir.Rename(tmpName, name); err != nil {
		return err
	}
	syncDir(dir)
	sweep(dir, name)
	return nil
}

// sweep removes temporary files of processes that were killed in put.
func sweep(dir *os.Root, name string) {
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return
	}
	for _, e := range entries {
		if !isTemporary(e.Name(), name) || !e.Type().IsRegular() {
			continue
		}
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > abandonedAge {
			_ = dir.Remove(e.Name()) // the next sweep retries
		}
	}
}

// temporaryName returns a new name for the file that will replace name.
func temporaryName(name string) string { return "." + name + "." + rand.Text() }

// isTemporary reports whether s is the temporaryName of name.
func isTemporary(s, name string) bool {
	random, ok := strings.CutPrefix(s, "."+name+".")
	return ok && len(random) >= minRandom && strings.Trim(random, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// unchanged returns errChanged if the file has changed since it was read. Without a lock it cannot exclude a later change.
func unchanged(dir *os.Root, name string, old *original) error {
	now, err := dir.Lstat(name)
	switch {
	case old == nil && errors.Is(err, fs.ErrNotExist):
		return nil
	case old == nil && err != nil:
		return err
	case old == nil || err != nil || !os.SameFile(now, old.info), now.Size() != old.info.Size(),
		!now.ModTime().Equal(old.info.ModTime()):
		return errChanged
	}
	return nil
}

// syncDir makes a rename durable. Some file systems cannot do that.
func syncDir(dir *os.Root) {
	if d, err := dir.Open("."); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}
