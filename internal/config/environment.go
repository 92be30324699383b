package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Environment is a named set of settings and targets of a configuration file, for example dev or prod. Its values count before the
// file's own ones, and after options and variables.
type Environment struct {
	Name    string
	Colour  string // one of colours, or #rrggbb; "": none
	Confirm bool   // a command asks before it opens or starts something there
	Targets map[string]Target
	Where   string // file:line:column

	values map[string]value
}

// colours are the names that an environment's colour can have, besides #rrggbb.
var colours = []string{"red", "green", "yellow", "blue", "magenta", "cyan", "white"}

// colour checks the colour of an environment.
func colour(text string) error {
	if slices.Contains(colours, text) {
		return nil
	}
	if digits, ok := strings.CutPrefix(text, "#"); ok && len(digits) == 6 && strings.Trim(strings.ToLower(digits), "0123456789abcdef") == "" {
		return nil
	}
	return fmt.Errorf("%q is not a colour: use #rrggbb in quotes, or one of %s", text, strings.Join(colours, ", "))
}

// outside are the settings that an environment cannot give, because they choose the agent and its files for all environments.
var outside = []string{"environment", "runtime_dir", "state_dir"}

// environments reads the environments of a file.
func (p *fileParser) environments(n ast.Node) map[string]*Environment {
	if n == nil || n.Type() == ast.NullType {
		return nil
	}
	out := make(map[string]*Environment)
	for _, e := range p.mapping(n, "environments") {
		if err := checkName(e.key); err != nil {
			p.at(e.token, "environments: %s", err)
			continue
		}
		out[e.key] = p.environment(e)
	}
	return out
}

func (p *fileParser) environment(e entry) *Environment {
	env := &Environment{Name: e.key, Where: p.place(e.token)}
	if e.isEmpty() {
		return env
	}
	env.values = p.settings(p.mapping(e.value, "environments: "+e.key), func(f entry) bool {
		switch {
		case f.key == "targets":
			env.Targets = p.targets(f.value)
		case f.key == "environments":
			p.at(f.token, "environments: %s: an environment cannot contain others", e.key)
		case slices.Contains(outside, f.key):
			p.at(f.token, "environments: %s: %s belongs to the file itself, not to one environment", e.key, f.key)
		case f.key == "colour":
			p.own(e.key, f, func(text string) error { env.Colour = text; return colour(text) })
		case f.key == "confirm":
			p.own(e.key, f, func(text string) (err error) { env.Confirm, err = ParseSwitch(text); return err })
		default:
			return false
		}
		return true
	}, "targets", "colour", "confirm")
	for key, v := range env.values {
		v.from = FromEnvironment
		env.values[key] = v
	}
	return env
}

// own reads a value of an environment that is not a setting.
func (p *fileParser) own(environment string, f entry, set func(string) error) {
	text, ok := scalar(f.value)
	if f.value == nil || !ok {
		p.at(f.token, "environments: %s: %s: expected one value", environment, f.key)
		return
	}
	if err := set(text); err != nil {
		p.at(valueToken(f.value), "environments: %s: %s: %s", environment, f.key, err)
	}
}

// Names returns the names of the file's environments, sorted.
func (f *File) Names() []string { return slices.Sorted(maps.Keys(f.Environments)) }

// environment returns the environment in force, and its name with the place that chose it. All are zero without one.
func (src Source) environment(file *File, given func(*Setting) (value, bool)) (*Environment, value, error) {
	setting := Lookup(environmentKey)
	if src.NoEnvironment || src.NoFile {
		return nil, value{}, nil
	}
	v, ok := given(setting)
	if !ok {
		if v = src.Target.own[environmentKey]; v.where == "" {
			used, err := src.used(file)
			if err != nil {
				return nil, v, err
			}
			if v = used; used.where == "" {
				v = file.values[environmentKey]
			}
		}
	}
	switch {
	case v.text == "" && v.from == FromFlag: // a script's empty variable must not choose the default
		return nil, v, fail.New(fail.Usage, v.where, errors.New("the name of the environment is empty"),
			"name one, or leave the option out; bastion use lists them")
	case v.text == "":
		return nil, v, nil
	}
	if env := file.Environments[v.text]; env != nil {
		return env, v, nil
	}
	return nil, v, file.noEnvironment(v)
}

const environmentKey = "environment"

// noEnvironment returns the error of an environment that the file does not have.
func (f *File) noEnvironment(v value) error {
	names := f.Names()
	next := DidYouMean(v.text, names, "", "add it under environments; docs/environments.md shows how")
	if v.from == FromUse {
		next = "bastion use chooses another, bastion use --none ends the choice"
	}
	switch {
	case f.unread != nil:
		return fail.New(fail.Other, v.where, fmt.Errorf("unknown environment %q: %w", v.text, UnreadError(f.unread)), "")
	case f.Path == "":
		return fail.New(fail.Usage, v.where, fmt.Errorf("unknown environment %q: there is no configuration file", v.text),
			"write a bastion.yaml with environments; docs/environments.md shows how")
	case len(names) == 0:
		return fail.New(fail.Usage, v.where, fmt.Errorf("unknown environment %q: %s has none", v.text, display(f.Path)), next)
	}
	return fail.New(fail.Usage, v.where, fmt.Errorf("unknown environment %q: %s has %s", v.text, display(f.Path), strings.Join(names, ", ")), next)
}

// merge returns the targets of the file and of an environment, which may be nil; the environment's count.
func (f *File) merge(env *Environment) map[string]Target {
	if env == nil || len(env.Targets) == 0 {
		return f.Targets
	}
	out := maps.Clone(f.Targets)
	if out == nil {
		out = make(map[string]Target)
	}
	maps.Copy(out, env.Targets)
	return out
}
