package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/adrg/xdg"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// FileName is the name of the configuration file that is looked for in the working directory and its parents.
const FileName = "bastion.yaml"

// userFile is the place of the user's own file, below the XDG configuration directories.
const userFile = "bastion/config.yaml"

// maxFile bounds the size of a configuration file, in bytes.
const maxFile = 1 << 20

// Source says where settings come from. The zero value reads the real environment and working directory.
type Source struct {
	// Flags are the flags that were given, by key.
	Flags map[string]string
	// File is the configuration file that was named, or "" to look for one. The flag's text wins over BASTION_CONFIG.
	File string
	// LookupEnv reads the environment; nil means os.LookupEnv.
	LookupEnv func(string) (string, bool)
	// Dir is where the search for bastion.yaml starts; "" means the working directory.
	Dir string
}

// Load merges flags, environment, file and defaults, in this order of precedence. Its errors are of kind fail.Usage and
// name the place of the value: the flag, the variable or file:line:column.
func Load(src Source) (Settings, error) {
	env := src.LookupEnv
	if env == nil {
		env = os.LookupEnv
	}
	var s Settings
	path, err := find(src, env)
	if err != nil {
		return s, err
	}
	file := &File{}
	if path != "" {
		data, err := readFile(path)
		if err != nil {
			return s, fail.New(fail.Usage, "read the configuration", err, "check the path of --config or BASTION_CONFIG")
		}
		if file, err = Parse(display(path), data); err != nil {
			return s, fail.New(fail.Usage, "", err, "docs/configuration.md lists every key; bastion help settings does too")
		}
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
		if text, ok := env(setting.Env()); ok && text != "" {
			v = value{text: text, where: setting.Env()}
		}
		if text, ok := src.Flags[setting.Key]; ok {
			v = value{text: text, where: "--" + setting.Flag()}
		}
		if v.text == "" && setting.Default == "" {
			continue
		}
		if err := setting.set(&s, v.text); err != nil {
			return s, fail.New(fail.Usage, v.where, err, "see bastion help settings for what "+setting.Key+" takes")
		}
		if setting.path != nil && setting.path(v.text) {
			p := setting.field(&s).(*string)
			*p = expandHome(*p, env)
		}
	}
	if err := s.validate(); err != nil {
		return s, fail.New(fail.Usage, "", err, "see docs/configuration.md")
	}
	return s, nil
}

// find returns the path of the configuration file, or "" when there is none.
func find(src Source, env func(string) (string, bool)) (string, error) {
	if src.File != "" {
		return src.File, nil
	}
	if named, ok := env("BASTION_CONFIG"); ok && named != "" {
		return named, nil
	}
	dir := src.Dir
	if dir == "" {
		wd, err := os.Getwd()
		if err != nil {
			return "", fail.New(fail.Usage, "find the configuration", err, "name the file with --config")
		}
		dir = wd
	}
	for {
		path := filepath.Join(dir, FileName)
		if isFile(path) {
			return path, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			break
		}
		dir = parent
	}
	if path, err := xdg.SearchConfigFile(userFile); err == nil {
		return path, nil
	}
	return "", nil
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && !info.IsDir()
}

// readFile reads a regular file of bounded size.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, plainPathError(err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, plainPathError(err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return data, nil
}

// plainPathError drops the system call's name from err.
func plainPathError(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return fmt.Errorf("%s: %w", p.Path, p.Err)
	}
	return err
}

// display shortens path to one relative to the working directory where that is simpler.
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
