package invocation

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// Program returns a path of this program that stays when it is updated: as it was called, not where that leads.
func (in *Invocation) Program() (string, error) {
	path, err := exec.LookPath(in.Self)
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		path, err = os.Executable()
	}
	if err != nil {
		return "", fail.New(fail.Other, "find this program's path", err, "call it by its absolute path")
	}
	return path, nil
}

// GivenFlags returns the settings that were given as flags, as flags, for another run of this program.
func (in *Invocation) GivenFlags() []string {
	var out []string
	if in.Line.ConfigFile != "" {
		path, err := filepath.Abs(in.Line.ConfigFile)
		if err != nil {
			path = in.Line.ConfigFile
		}
		out = append(out, "--config="+path)
	}
	for _, key := range slices.Sorted(maps.Keys(in.Line.Settings)) {
		if setting := config.Lookup(key); setting.Group != config.GroupOutput {
			out = append(out, "--"+setting.Flag()+"="+in.Line.Settings[key])
		}
	}
	return out
}
