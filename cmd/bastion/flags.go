package main

import (
	"flag"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/internal/config"
)

// settingFlags returns a flag for every setting, of which only those of the groups shown appear in help, the flag of the
// configuration file, and more.
func (a *app) settingFlags(shown []string, more ...cli.Flag) []cli.Flag {
	flags := more
	for _, s := range config.All() {
		flags = append(flags, &settingFlag{setting: s, into: a.flags, shown: slices.Contains(shown, s.Group)})
	}
	return append(flags, &textFlag{
		names: []string{"config"}, value: "FILE", help: "configuration file [$BASTION_CONFIG]",
		set: func(v string) { a.configFile = v },
	})
}

// localFlag is OpenSSH's -L.
func (a *app) localFlag() cli.Flag {
	return &textFlag{
		names: []string{"L"}, value: "[BIND:]PORT:HOST:HOSTPORT", help: "forward as ssh -L does, also to rds:ID or cache:ID; may be repeated",
		set: func(v string) { a.extraLocal = append(a.extraLocal, v) },
	}
}

// switchFlag is a flag without a value that is no setting.
func switchFlag(into *bool, help string, names ...string) cli.Flag {
	return &textFlag{
		names: names, help: help, set: func(v string) { *into = v == "true" },
		get: func() string { return strconv.FormatBool(*into) },
	}
}

// settingFlag is the flag of a setting. It notes the text; package config reads it.
type settingFlag struct {
	setting *config.Setting
	into    map[string]string
	shown   bool
}

// String is the flag's line in help.
func (f *settingFlag) String() string {
	line := flagNames(f.Names(), f.setting.Value) + "\t" + f.setting.Help
	if f.setting.Default != "" && !f.setting.IsSwitch() {
		line += " (default: " + f.setting.Default + ")"
	}
	return line + " [$" + f.setting.Env() + "]"
}

// flagNames is how help writes a flag: "-o, --output text|json".
func flagNames(names []string, value string) string {
	var out []string
	for _, n := range names {
		out = append([]string{dashes(n)}, out...) // the short one first
	}
	text := strings.Join(out, ", ")
	if value != "" {
		text += " " + value
	}
	return text
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
		set:      func(text string) { f.into[f.setting.Key] = text },
	}
	for _, name := range f.Names() {
		set.Var(v, name, f.setting.Help)
	}
	return nil
}

func (f *settingFlag) IsSet() bool            { return false } // urfave need not know
func (f *settingFlag) IsVisible() bool        { return f.shown }
func (f *settingFlag) TakesValue() bool       { return !f.setting.IsSwitch() }
func (f *settingFlag) GetCategory() string    { return f.setting.Group }
func (f *settingFlag) GetValue() string       { return f.setting.Default }
func (f *settingFlag) GetEnvVars() []string   { return []string{f.setting.Env()} }
func (f *settingFlag) GetDefaultText() string { return f.setting.Default }

func (f *settingFlag) GetUsage() string { return f.setting.Help }

// textFlag is a flag that is no setting.
type textFlag struct {
	names       []string
	value, help string // no value: a switch
	set         func(string)
	setErr      func(string) error // in place of set, where a text may be wrong
	get         func() string      // of one with several names
}

func (f *textFlag) String() string         { return flagNames(f.names, f.value) + "\t" + f.help }
func (f *textFlag) Names() []string        { return f.names }
func (f *textFlag) IsSet() bool            { return false }
func (f *textFlag) IsVisible() bool        { return true }
func (f *textFlag) TakesValue() bool       { return f.value != "" }
func (f *textFlag) GetCategory() string    { return "Command" }
func (f *textFlag) GetUsage() string       { return f.help }
func (f *textFlag) GetValue() string       { return "" }
func (f *textFlag) GetEnvVars() []string   { return nil }
func (f *textFlag) GetDefaultText() string { return "" }

func (f *textFlag) Apply(set *flag.FlagSet) error {
	for _, name := range f.names {
		set.Var(textValue{isSwitch: f.value == "", get: f.get, set: f.set, setErr: f.setErr}, name, f.help)
	}
	return nil
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

// flagsFirst moves the flags of a command line in front of its arguments, because the parser stops at the first argument
// while users write `bastion forward rds:orders 12345 --region eu-west-1`. What follows "--" stays as it is.
func flagsFirst(c *cli.App, args []string) ([]string, error) {
	out := []string{args[0]}
	rest := args[1:]
	takesValue := func(flags []cli.Flag, name string) bool {
		for _, f := range flags {
			if slices.Contains(f.Names(), name) {
				d, ok := f.(cli.DocGenerationFlag)
				return ok && d.TakesValue()
			}
		}
		return false
	}
	// The command is the first argument that is neither a flag nor a flag's value.
	var cmd *cli.Command
	flags := c.Flags
	var positional []string
	for i := 0; i < len(rest); i++ {
		arg := rest[i]
		switch {
		case arg == "--":
			if cmd == nil {
				return args, nil
			}
			if cmd.Name == execCommandName {
				positional = append(positional, arg) // it divides
			}
			positional = append(positional, rest[i+1:]...)
			i = len(rest)
		case len(arg) > 1 && strings.HasPrefix(arg, "-"):
			out = append(out, arg)
			name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
			if !hasValue && takesValue(flags, name) {
				if i++; i == len(rest) {
					return nil, usage("bastion help settings says which", "the option %s needs a value", dashes(name))
				}
				out = append(out, rest[i]) //nolint:gosec // i is at most len(rest), and was just compared with it
			}
		case cmd == nil:
			if cmd = c.Command(arg); cmd == nil {
				return args, nil // the parser says what is wrong
			}
			flags = cmd.Flags
			out = append(out, arg)
		default:
			positional = append(positional, arg)
		}
	}
	if cmd == nil || len(positional) == 0 {
		return out, nil
	}
	return append(append(out, "--"), positional...), nil
}
