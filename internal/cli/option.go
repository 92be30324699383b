package cli

import (
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/internal/config"
)

// Option is an option of the command line: a setting, or an option of one command.
type Option struct {
	Names   []string // the long one first
	Value   string   // the form of its value; "": a switch
	Meaning string   // its text in help

	isSetting bool
	set       func(text string) error // takes or refuses a value
	choices   func() []Candidate      // its possible values; nil: not listed
}

// Switch returns an option without a value. --name=false turns it off, as for a setting that is a switch.
func Switch(into *bool, help string, names ...string) *Option {
	return Func("", help, func(v string) (err error) {
		*into, err = config.ParseSwitch(v)
		return err
	}, names...)
}

// Text returns an option with a text value of the given form.
func Text(into *string, form, help string, names ...string) *Option {
	return Func(form, help, func(v string) error { *into = v; return nil }, names...)
}

// Func returns an option that passes each value to set, which may refuse it. The user may repeat the option. Without a form it is a
// switch, whose value is true.
func Func(form, help string, set func(string) error, names ...string) *Option {
	return &Option{Names: names, Value: form, Meaning: help, set: set, choices: func() []Candidate { return nil }}
}

// Choices sets the values that completion proposes.
func (o *Option) Choices(values ...Candidate) *Option {
	o.choices = func() []Candidate { return values }
	return o
}

// settingOption returns the option of a setting. It keeps the text in p, which is nil for help; package config parses it.
func settingOption(s *config.Setting, p *Program) *Option {
	o := &Option{
		Names: []string{s.Flag()}, Value: s.Value, Meaning: s.Help, isSetting: true,
		set:     func(text string) error { p.Settings[s.Key] = text; return nil },
		choices: func() []Candidate { return p.Values(s.Key) },
	}
	if s.Short != "" {
		o.Names = append(o.Names, s.Short)
	}
	if s.Default != "" && !s.IsSwitch() {
		o.Meaning += " (default: " + s.Default + ")"
	}
	return o
}

// term returns the option as help shows it: "-o, --output text|json".
func (o *Option) term() string {
	return strings.TrimSpace(strings.Join(o.spellings(), ", ") + " " + o.Value)
}

// spellings returns the names with their dashes, the short one first.
func (o *Option) spellings() []string {
	var out []string
	for _, name := range slices.Backward(o.Names) {
		out = append(out, dashes(name))
	}
	return out
}

func dashes(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// IsOption reports whether an argument has the form of an option.
func IsOption(arg string) bool { return len(arg) > 1 && strings.HasPrefix(arg, "-") }

// FindOption returns the option of that name, or nil.
func FindOption(options []*Option, name string) *Option {
	for _, o := range options {
		if slices.Contains(o.Names, name) {
			return o
		}
	}
	return nil
}
