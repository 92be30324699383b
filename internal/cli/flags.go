package cli

import (
	"flag"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/internal/config"
)

// Option is an option of the command line: a setting, or an option of one command.
type Option interface {
	cli.Flag
	Value() string        // the form of its value; "": a switch
	Meaning() string      // its text in help
	note(text string)     // keeps the value for completion, without an error
	choices() []Candidate // its possible values; nil: not listed
}

// Switch returns an option without a value. --name=false turns it off, as for a setting that is a switch.
func Switch(into *bool, help string, names ...string) *Flag {
	return &Flag{
		names: names, help: help, get: func() string { return strconv.FormatBool(*into) },
		set: func(v string) (err error) {
			*into, err = config.ParseSwitch(v)
			return err
		},
	}
}

// Text returns an option with a text value of the given form.
func Text(into *string, form, help string, names ...string) *Flag {
	return Func(form, help, func(v string) error { *into = v; return nil }, names...)
}

// Func returns an option that passes each value to set, which may refuse it. The user may repeat the option.
func Func(form, help string, set func(string) error, names ...string) *Flag {
	return &Flag{names: names, form: form, help: help, set: set}
}

// settingFlag is the option of a setting. It keeps the text; package config parses it.
type settingFlag struct {
	setting *config.Setting
	program *Program
}

// Value implements Option.
func (f *settingFlag) Value() string        { return f.setting.Value }
func (f *settingFlag) note(text string)     { f.program.Settings[f.setting.Key] = text }
func (f *settingFlag) choices() []Candidate { return f.program.Values(f.setting.Key) }

// Meaning returns the setting's help with its default.
func (f *settingFlag) Meaning() string {
	if f.setting.Default != "" && !f.setting.IsSwitch() {
		return f.setting.Help + " (default: " + f.setting.Default + ")"
	}
	return f.setting.Help
}

func (f *settingFlag) Names() []string {
	if f.setting.Short != "" {
		return []string{f.setting.Flag(), f.setting.Short}
	}
	return []string{f.setting.Flag()}
}

func (f *settingFlag) Apply(set *flag.FlagSet) error {
	v := textValue{
		isSwitch: f.setting.IsSwitch(),
		get:      func() string { return f.program.Settings[f.setting.Key] },
		set:      func(text string) error { f.note(text); return nil },
	}
	for _, name := range f.Names() {
		set.Var(v, name, f.setting.Help)
	}
	return nil
}

func (f *settingFlag) IsSet() bool    { return false } // urfave/cli does not use it
func (f *settingFlag) String() string { return optionTerm(f) }

// Flag is an option of one command, not a setting.
type Flag struct {
	names      []string
	form, help string // an empty form means a switch
	set        func(string) error
	get        func() string // needed with several names
	values     []Candidate
	refused    error // of the last value: the parser makes a text of it
}

// Choices sets the values that completion proposes.
func (f *Flag) Choices(values ...Candidate) *Flag {
	f.values = values
	return f
}

// Value implements Option.
func (f *Flag) Value() string { return f.form }

// Meaning implements Option.
func (f *Flag) Meaning() string { return f.help }

// Names implements cli.Flag.
func (f *Flag) Names() []string { return f.names }

// IsSet implements cli.Flag; urfave/cli does not use it.
func (f *Flag) IsSet() bool { return false }

func (f *Flag) String() string       { return optionTerm(f) }
func (f *Flag) choices() []Candidate { return f.values }
func (f *Flag) note(text string)     { _ = f.set(text) }

// Apply implements cli.Flag.
func (f *Flag) Apply(set *flag.FlagSet) error {
	for _, name := range f.names {
		set.Var(textValue{isSwitch: f.form == "", get: f.get, set: func(text string) error {
			f.refused = f.set(text)
			return f.refused
		}}, name, f.help)
	}
	return nil
}

// optionTerm returns an option as help shows it: "-o, --output text|json".
func optionTerm(o Option) string {
	names := slices.Clone(o.Names())
	slices.Reverse(names) // the short name first
	for i, n := range names {
		names[i] = dashes(n)
	}
	return strings.TrimSpace(strings.Join(names, ", ") + " " + o.Value())
}

// textValue is a flag.Value that passes its text on. The parser copies the values of flags with several names by calling String.
type textValue struct {
	isSwitch bool
	get      func() string // nil with a single name
	set      func(string) error
}

func (v textValue) String() string {
	if v.get == nil {
		return ""
	}
	return v.get()
}

func (v textValue) IsBoolFlag() bool      { return v.isSwitch }
func (v textValue) Set(text string) error { return v.set(text) }
