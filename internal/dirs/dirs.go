// Package dirs knows where the program keeps what is the user's alone, and makes these directories.
package dirs

import (
	"os"
	"path/filepath"

	"github.com/adrg/xdg"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// DefaultRuntime returns where sockets and remembered host keys are unless a setting names another directory.
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

// Runtime returns the directory of sockets and remembered host keys: the one that the setting names, or else the default. It creates
// it, and refuses one that others can enter.
func Runtime(setting string) (dir string, err error) {
	if dir = setting; dir == "" {
		if dir, err = DefaultRuntime(); err != nil {
			return "", err
		}
	}
	return private(dir, "use the runtime directory", "runtime_dir (BASTION_RUNTIME_DIR)")
}

// DefaultState is the state directory where no setting names one.
func DefaultState() string { return filepath.Join(xdg.StateHome, "bastion") }

// State returns the directory of what outlives the processes, and makes it.
func State(setting string) (string, error) {
	if setting == "" {
		setting = DefaultState()
	}
	return private(setting, "use the state directory", "state_dir (BASTION_STATE_DIR)")
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
