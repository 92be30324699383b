package main

import (
	"flag"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/internal/config"
)

// option is an option of the command line: a setting's, or a command's own.
type option interface {
	cli.Flag
	value() string        // what its value looks like; "": a switch
	meaning() string      // for help
	note(text string)     // keeps the value without checking it
	choices() []candidate // what its value may be; nil: not to be listed
}

// configFlag names the configuration file.
func (a *app) configFlag() option {
	return &textFlag{
		names: []string{"config"}, form: "FILE", help: "configuration file [$BASTION_CONFIG]",
		set: func(v string) { a.configFile = v },
	}
}

// localFlag is OpenSSH's -L.
func (a *app) localFlag() option {
	return &textFlag{
		names: []string{"L"}, form: "[BIND:]PORT:HOST:HOSTPORT", help: "forward as ssh -L does, also to rds:ID or cache:ID; may be repeated",
		set: func(v string) { a.extraLocal = append(a.extraLocal, v) },
	}
}

// switchFlag is a flag without a value that is not a setting.
func switchFlag(into *bool, help string, names ...string) option {
	return &textFlag{
		names: names, help: help, set: func(v string) { *into = v == "true" },
		get: func() string { return strconv.FormatBool(*into) },
	}
}

// settingFlag is the flag of a setting. It notes the text; package config reads it.
type settingFlag struct {
	setting *config.Setting
	into    map[string]string
}

func (f *settingFlag) value() string        { return f.setting.Value }
func (f *settingFlag) note(text string)     { f.into[f.setting.Key] = text }
func (f *settingFlag) choices() []candidate { return settingChoices(f.setting.Key) }

// meaning is the setting's help with its default.
func (f *settingFlag) meaning() string {
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
		get:      func() string { return f.into[f.setting.Key] },
		set:      f.note,
	}
	for _, name := range f.Names() {
		set.Var(v, name, f.setting.Help)
	}
	return nil
}

func (f *settingFlag) IsSet() bool    { return false } // urfave need not know
func (f *settingFlag) String() string { return optionTerm(f) }

// textFlag is a flag that is not a setting.
type textFlag struct {
	names      []string
	form, help string // without a form: a switch
	set        func(string)
	setErr     func(string) error // in place of set, where a text may be wrong
	get        func() string      // of one with several names
	values     []candidate
}

func (f *textFlag) value() string        { return f.form }
func (f *textFlag) meaning() string      { return f.help }
func (f *textFlag) choices() []candidate { return f.values }
func (f *textFlag) Names() []string      { return f.names }
func (f *textFlag) IsSet() bool          { return false }
func (f *textFlag) String() string       { return optionTerm(f) }

func (f *textFlag) note(text string) {
	if f.set != nil {
		f.set(text)
	}
}

func (f *textFlag) Apply(set *flag.FlagSet) error {
	for _, name := range f.names {
		set.Var(textValue{isSwitch: f.form == "", get: f.get, set: f.set, setErr: f.setErr}, name, f.help)
	}
	return nil
}

// optionTerm is how help writes an option: "-o, --output text|json".
func optionTerm(o option) string {
	names := slices.Clone(o.Names())
	slices.Reverse(names) // the short one first
	for i, n := range names {
		names[i] = dashes(n)
	}
	return strings.TrimSpace(strings.Join(names, ", ") + " " + o.value())
}

// textValue is a flag.Value that hands its text on. The parser copies the values of flags with several names by String.
type textValue struct {
	isSwitch bool
	get      func() string // nil: only one name
	set      func(string)
	setErr   func(string) error
}

func (v textValue) String() string {
	if v.get == nil {
		return ""
	}
	return v.get()
}

func (v textValue) IsBoolFlag() bool { return v.isSwitch }
func (v textValue) Set(text string) error {
	if v.setErr != nil {
		return v.setErr(text)
	}
	v.set(text)
	return nil
}
