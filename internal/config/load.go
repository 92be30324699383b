package config

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// FileName is the name of the configuration file in the working directory or above it.
const FileName = "bastion.yaml"

// userFile is the path of the user's own file in the XDG configuration directories.
const userFile = "bastion/config.yaml"

// maxFile bounds the size of a configuration file, in bytes.
const maxFile = 1 << 20

// Source is the source of the settings. The zero value reads the process's environment and working directory.
type Source struct {
	// Flags are the given flags, by key.
	Flags map[string]string
	// File is the named configuration file; "": BASTION_CONFIG, or else a search.
	File string
	// LookupEnv reads the environment; nil: os.LookupEnv.
	LookupEnv func(string) (string, bool)
	// Dir is where the search for bastion.yaml starts; "": the working directory.
	Dir string
	// NoProject skips project files, so that the working directory does not matter.
	NoProject bool
	// NoFile skips all files.
	NoFile bool
	// Ignored receives the error of each bastion.yaml that is passed over; nil: ignored.
	Ignored func(error)
}

func (src Source) env() func(string) (string, bool) {
	if src.LookupEnv == nil {
		return os.LookupEnv
	}
	return src.LookupEnv
}

// Load merges flags, environment, file and defaults, in this order of precedence. Its errors are of kind fail.Usage and name
// the value's source: the flag, the variable or file:line:column.
func Load(src Source) (Settings, error) {
	env := src.env()
	var s Settings
	file, err := src.read(env)
	if err != nil {
		return s, err
	}
	path := file.Path
	given := func(setting *Setting) (value, bool) {
		if text, ok := src.Flags[setting.Key]; ok {
			return value{text: text, where: "--" + setting.Flag()}, true
		}
		if text, ok := env(setting.Env()); ok && text != "" {
			return value{text: text, where: setting.Env()}, true
		}
		return value{}, false
	}
	if err := file.allowed(func(s *Setting) bool { _, ok := given(s); return ok }); err != nil {
		return s, err
	}
	s.File = path
	s.Targets = file.Targets
	for _, setting := range table {
		v := file.values[setting.Key]
		if v.where == "" {
			v = value{text: setting.Default, where: "the default of " + setting.Key}
		} else if setting.path != nil && setting.path(v.text) {
			v.text = relativeTo(filepath.Dir(path), v.text)
		}
		if g, ok := given(setting); ok {
			v = g
		}
		if v.text == "" && setting.Default == "" {
			continue
		}
		if setting.path != nil && setting.path(v.text) {
			v.text = expandHome(v.text, env)
		}
		if err := setting.kind.set(&s, v.text); err != nil {
			return s, fail.New(fail.Usage, v.where, err, "see bastion help settings for what "+setting.Key+" takes")
		}
	}
	if err := s.validate(); err != nil {
		return s, fail.New(fail.Usage, "", err, "see docs/configuration.md")
	}
	return s, nil
}

// display returns path relative to the working directory if it lies there.
func display(path string) string {
	wd, err := os.Getwd()
	if err != nil {
		return path
	}
	rel, err := filepath.Rel(wd, path)
	if err != nil || strings.HasPrefix(rel, "..") {
		return path
	}
	return rel
}

func relativeTo(dir, path string) string {
	if filepath.IsAbs(path) || strings.HasPrefix(path, "~") {
		return path
	}
	return filepath.Join(dir, path)
}

func expandHome(path string, env func(string) (string, bool)) string {
	rest, ok := strings.CutPrefix(path, "~/")
	if !ok {
		return path
	}
	home, ok := env("HOME")
	if !ok || home == "" {
		return path
	}
	return filepath.Join(home, rest)
}
