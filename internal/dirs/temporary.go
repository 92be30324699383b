package dirs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/process"
)

// Temporary writes a file for a program that this process runs into the runtime directory: the setting's, or else the default. Its name
// begins with prefix and ends with suffix, which is empty or begins with a dot. remove removes it. The files of the prefix that killed
// processes have left are removed first.
func Temporary(setting, prefix, suffix string, text []byte) (path string, remove func() error, err error) {
	dir, err := Runtime(setting)
	if err != nil {
		return "", nil, err
	}
	files.Sweep(dir, func(info fs.FileInfo) bool {
		id, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(info.Name(), "."), prefix), ".")
		return !process.Alive(id)
	}, prefix)
	path = filepath.Join(dir, prefix+process.NewID()+suffix)
	if err := files.Replace(path, text, 0o600); err != nil {
		return "", nil, fail.New(fail.Other, "write "+path, err, "check runtime_dir (BASTION_RUNTIME_DIR)")
	}
	return path, func() error {
		if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}, nil
}
