package config

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// use is the user's choice of an environment, for one configuration file.
type use struct {
	Path        string    `json:"file"`        // without symbolic links
	Environment string    `json:"environment"` // "": none, whatever the file says
	At          time.Time `json:"used_at"`
}

const usedName = "used.json"

type usedFile struct {
	V    int   `json:"v"`
	Used []use `json:"used"`
}

// used returns the choices, sorted by path.
func (s Store) used() ([]use, error) {
	var in usedFile
	if err := s.read("read which environment is used", usedName, "choose anew, with bastion use", &in, &in.V); err != nil {
		return nil, err
	}
	slices.SortFunc(in.Used, func(x, y use) int { return strings.Compare(x.Path, y.Path) })
	return in.Used, nil
}

// use records the choice of an environment of a file; "": none.
func (s Store) use(ctx context.Context, f *File, environment string, now time.Time) error {
	path := f.real()
	return s.update(ctx, "write which environment is used", usedName, func(old []byte) (any, error) {
		var in usedFile
		if err := decode(old, &in, &in.V); err != nil {
			return nil, err
		}
		in.Used = slices.DeleteFunc(in.Used, func(u use) bool { return u.Path == path })
		if environment != "" || f.values[environmentKey].text != "" {
			in.Used = append(in.Used, use{Path: path, Environment: environment, At: now.UTC().Truncate(time.Second)})
		}
		return in, nil
	})
}

// used returns the choice of bastion use for a file; its where is empty without one.
func (src Source) used(f *File) (value, error) {
	if f.Path == "" {
		return value{}, nil
	}
	all, err := src.Store().used()
	if err != nil {
		return value{}, err
	}
	path := f.real()
	for _, u := range all {
		if u.Path == path {
			return value{text: u.Environment, where: "bastion use", from: FromUse}, nil
		}
	}
	return value{}, nil
}

// real returns the file's path without symbolic links, for records of the user's choices.
func (f *File) real() string {
	if f.id != "" {
		return f.id
	}
	path := f.Path
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		path = resolved
	}
	return path
}

// Choices is what bastion use chooses from.
type Choices struct {
	File         *File
	Environments []*Environment // by their names
	Environment  string         // the one in force; "": none
	Where        string         // what chose it; "": nothing
	Unknown      bool           // the file does not have Environment
}

// Choices returns the environments of the configuration file in force. A file that needs trust, or an environment in force that the
// file does not have, is not an error: bastion use mends that.
func (src Source) Choices() (Choices, error) {
	env := src.env()
	file, err := src.read(env)
	if err != nil {
		return Choices{}, err
	}
	c := Choices{File: file}
	for _, name := range file.Names() {
		c.Environments = append(c.Environments, file.Environments[name])
	}
	found, chosen, err := src.environment(file, src.given(env))
	if err != nil && chosen.text == "" {
		return c, err
	}
	c.Environment, c.Where, c.Unknown = chosen.text, chosen.where, found == nil && chosen.text != ""
	return c, nil
}

// Choose records that commands with the file in force use the environment name; "": none.
func (src Source) Choose(ctx context.Context, name string, now time.Time) error {
	file, err := src.read(src.env())
	switch {
	case err != nil:
		return err
	case file.Path == "":
		return fail.New(fail.Usage, "", errors.New("there is no configuration file, and so no environment to use"),
			"write a bastion.yaml with environments; docs/environments.md shows how")
	case name != "" && file.Environments[name] == nil:
		return file.noEnvironment(value{text: name})
	}
	return src.Store().use(ctx, file, name, now)
}
