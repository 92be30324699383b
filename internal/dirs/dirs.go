// Package dirs locates and creates the program's private directories.
package dirs

import (
	"cmp"
	"os"
	"path/filepath"

	"github.com/adrg/xdg"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// DefaultRuntime returns the default directory of sockets and remembered host keys.
func DefaultRuntime() (string, error) {
	base := os.Getenv("XDG_RUNTIME_DIR")
	if base == "" || !filepath.IsAbs(base) {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fail.New(fail.Other, "find the runtime directory", err, "set runtime_dir (BASTION_RUNTIME_DIR)")
		}
		base = cache
	}
	return filepath.Join(base, "bastion"), nil
}

// Runtime returns the directory of sockets and remembered host keys: the setting's, or else the default. It creates the
// directory, and refuses one that others can enter.
func Runtime(setting string) (dir string, err error) {
	if dir = setting; dir == "" {
		if dir, err = DefaultRuntime(); err != nil {
			return "", err
		}
	}
	return private(dir, "use the runtime directory", "runtime_dir (BASTION_RUNTIME_DIR)")
}

// DefaultState returns the default state directory.
func DefaultState() string { return filepath.Join(xdg.StateHome, "bastion") }

// State returns the directory of files that outlive processes: the setting's, or else the default. It creates the directory.
func State(setting string) (string, error) {
	return private(cmp.Or(setting, DefaultState()), "use the state directory", "state_dir (BASTION_STATE_DIR)")
}

func private(dir, op, setting string) (string, error) {
	err := files.PrivateDir(dir)
	if err == nil {
		return dir, nil
	}
	next := "give " + dir + " mode 0700, or set another " + setting
	if files.IsForeign(err) {
		next = "run the command as that user, or set another " + setting
	}
	return "", fail.New(fail.Other, op, err, next)
}
