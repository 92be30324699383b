package ready

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// maxFile bounds what is read of a file that may be one of ours.
const maxFile = 1 << 20

// File is a file that exists while forwards are open.
type File struct {
	path string
	data []byte // as it was written; nil: it was not
}

// NewFile makes place for the file at path: it removes an empty one, such as mktemp makes, and one that a killed command has left.
func NewFile(path string) (*File, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, refused(path, err)
	}
	if err := files.CheckPlace(path); err != nil {
		return nil, refused(path, err)
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err == nil && !dir.IsDir() {
		err = fmt.Errorf("%s is not a directory", filepath.Dir(path))
	}
	if err != nil {
		return nil, refused(path, err)
	}
	if err := makePlace(path); err != nil {
		return nil, refused(path, err)
	}
	return &File{path: path}, nil
}

func refused(path string, err error) error {
	return fail.New(fail.Usage, "--ready-file "+path, err, "name a new file in a directory of yours")
}

// makePlace removes what NewFile may remove.
func makePlace(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("it is there already, and not a file")
	}
	data, err := files.Read(path, maxFile)
	if err != nil {
		return err
	}
	var m Message
	switch err := json.Unmarshal(data, &m); {
	case len(data) == 0:
	case err != nil || m.PID == 0 || m.Forwards == nil:
		return errors.New("it is there already, and not a file of bastion forward")
	case m.alive():
		return fmt.Errorf("process %d has it, whose forwards are open", m.PID)
	}
	return os.Remove(path)
}

// Write writes the message, for the user alone. A reader finds the whole file or none.
func (f *File) Write(m Message) error {
	data, err := m.line()
	if err == nil {
		err = makePlace(f.path) // another command may have made one meanwhile
	}
	if err == nil {
		err = files.Replace(f.path, data, 0o600)
	}
	if err != nil {
		return refused(f.path, err)
	}
	f.data = data
	return nil
}

// Remove removes the file, if it is still the one that Write wrote.
func (f *File) Remove() error {
	if f.data == nil {
		return nil
	}
	data, err := files.Read(f.path, maxFile)
	if err == nil && bytes.Equal(data, f.data) {
		err = os.Remove(f.path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fail.New(fail.Other, "remove the ready file", err, "remove it: its forwards are closed")
	}
	return nil
}
