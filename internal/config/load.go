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
	// NoEnvironment takes no environment's values, whatever chooses one: the agent's process serves all of them.
	NoEnvironment bool
	// Target is a named target whose own environment, profile and region count, after options and variables.
	Target Target
	// Ignored receives the error of each bastion.yaml that is passed over; nil: ignored.
	Ignored func(error)
	// Shared returns the shared configuration in AWS, which counts where there is no file; nil without one. It gets the settings of
	// flags and variables, and their defaults. nil: there is none.
	Shared func(Settings) (*Found, error)
}

func (src Source) env() func(string) (string, bool) {
	if src.LookupEnv == nil {
		return os.LookupEnv
	}
	return src.LookupEnv
}

// Origin is the kind of source that a value comes from.
type Origin string

// The origins, in the order of their precedence.
const (
	FromFlag        Origin = "flag"
	FromVariable    Origin = "variable"
	FromTarget      Origin = "target"      // a named target's own environment, profile or region
	FromUse         Origin = "use"         // bastion use, for the environment alone
	FromEnvironment Origin = "environment" // the environment in force
	FromFile        Origin = "file"
	FromDefault     Origin = "default"
)

// Explained is a setting's value with its source.
type Explained struct {
	Key    string `json:"key"`
	Value  string `json:"value"`
	Origin Origin `json:"origin"`
	Where  string `json:"where"` // the flag, the variable or file:line:column
}

// Load merges flags, environment variables, the named target, the environment in force, the file and the defaults, in this order of
// precedence. Its errors are of kind fail.Usage and name the value's source: the flag, the variable or file:line:column.
func Load(src Source) (Settings, error) {
	s, _, err := Explain(src)
	return s, err
}

// Explain is Load, and says for each setting where its value comes from, in the table's order.
func Explain(src Source) (Settings, []Explained, error) {
	env := src.env()
	var s Settings
	file, err := src.read(env)
	if err != nil {
		return s, nil, err
	}
	given := src.given(env)
	environment, chosen, err := src.environment(file, given)
	if err != nil {
		return s, nil, err
	}
	if err := file.allowed(environment, src.Target, func(s *Setting) bool { _, ok := given(s); return ok }); err != nil {
		return s, nil, err
	}
	s.File, s.Targets, s.Environments, s.Unread = file.Path, file.merge(environment), file.Names(), file.unread
	if environment != nil {
		s.Colour, s.Confirm = environment.Colour, environment.Confirm
	}
	var explained []Explained
	for _, setting := range table {
		v := chosen
		if setting.Key != environmentKey {
			v = src.value(setting, given, file, environment)
		}
		if v.where == "" || v.text == "" && v.from == FromUse {
			v = value{text: setting.Default, where: "the default of " + setting.Key, from: FromDefault}
		}
		explained = append(explained, Explained{Key: setting.Key, Value: v.text, Origin: v.from, Where: v.where})
		if v.text == "" && setting.Default == "" {
			continue
		}
		if setting.path != nil && setting.path(v.text) {
			v.text = expandHome(v.text, env)
			explained[len(explained)-1].Value = v.text
		}
		if err := setting.kind.set(&s, v.text); err != nil {
			return s, nil, fail.New(fail.Usage, v.where, err, "see bastion help settings for what "+setting.Key+" takes")
		}
	}
	if err := s.validate(); err != nil {
		return s, nil, fail.New(fail.Usage, "", err, "see docs/configuration.md")
	}
	return s, explained, nil
}

// given returns the values of flags and variables.
func (src Source) given(env func(string) (string, bool)) func(*Setting) (value, bool) {
	return func(setting *Setting) (value, bool) {
		if text, ok := src.Flags[setting.Key]; ok {
			return value{text: text, where: "--" + setting.Flag(), from: FromFlag}, true
		}
		if text, ok := env(setting.Env()); ok && text != "" {
			return value{text: text, where: setting.Env(), from: FromVariable}, true
		}
		return value{}, false
	}
}

// value returns a setting's value; its where is empty if nothing gives it.
func (src Source) value(setting *Setting, given func(*Setting) (value, bool), file *File, environment *Environment) value {
	if v, ok := given(setting); ok {
		return v
	}
	v := src.Target.own[setting.Key]
	if v.where == "" && environment != nil {
		v = environment.values[setting.Key]
	}
	if v.where == "" {
		v = file.values[setting.Key]
	}
	if v.where != "" && setting.path != nil && setting.path(v.text) {
		v.text = relativeTo(filepath.Dir(file.Path), v.text)
	}
	return v
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
