package cli

import (
	"cmp"
	"context"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/pattern"
)

// Program is a command line.
type Program struct {
	Root     *Command // its verbs are the commands, its name is the program's
	Groups   []string // the groups of commands, in the order of the list
	Out, Err io.Writer
	Default  func() error                     // runs without a command
	Values   func(setting string) []Candidate // the possible values of a setting, by its key; nil: not listed

	// The parser and completion fill in the settings given as options, by key, and the file given by --config.
	Settings   map[string]string
	ConfigFile string
}

// Run runs the command of a command line.
func (p *Program) Run(ctx context.Context, args []string) error {
	arranged, err := p.Arrange(args)
	if err != nil {
		return err
	}
	return p.parser().RunContext(ctx, arranged)
}

// Options returns every option that the command takes.
func (p *Program) Options(c *Command) []Option {
	out := slices.Clone(c.Flags)
	for _, s := range config.All() {
		out = append(out, &settingFlag{setting: s, program: p})
	}
	return append(out, Text(&p.ConfigFile, "FILE", "configuration file [$BASTION_CONFIG]", "config"))
}

// parser returns urfave/cli's parser of the command line. It has no help of its own: Arrange turns --help into a command.
func (p *Program) parser() *cli.App {
	c := &cli.App{
		Name:            p.Root.Name,
		Usage:           p.Root.Summary,
		Writer:          p.Out,
		ErrWriter:       p.Err,
		HideVersion:     true,
		HideHelp:        true,
		HideHelpCommand: true,
		Flags:           urfaveFlags(p.Options(p.Root)),
		Action:          p.noCommand,
		OnUsageError:    p.usageError(p.Root),
		ExitErrHandler:  func(*cli.Context, error) {},
	}
	for _, cmd := range p.Root.Verbs {
		c.Commands = append(c.Commands, p.parsed(cmd, p.Root.Name+" "+cmd.Name))
	}
	return c
}

// parsed returns the command with the full name path in the form that urfave/cli needs.
func (p *Program) parsed(c *Command, path string) *cli.Command {
	out := &cli.Command{
		Name: c.Name, Usage: c.Summary, ArgsUsage: c.arguments(), Hidden: c.Hidden,
		HideHelp: true, HideHelpCommand: true, OnUsageError: p.usageError(c), Flags: urfaveFlags(p.Options(c)),
	}
	if c.Run != nil {
		out.Action = func(u *cli.Context) error {
			args := u.Args().Slice()
			if err := p.checkCount(c, path, len(args)); err != nil {
				return err
			}
			return c.Run(u.Context, args)
		}
	}
	for _, v := range c.Verbs {
		out.Subcommands = append(out.Subcommands, p.parsed(v, path+" "+v.Name))
	}
	return out
}

// checkCount refuses too few or too many arguments for a command.
func (p *Program) checkCount(c *Command, path string, n int) error {
	if n >= c.MinArgs && (n <= c.MaxArgs || c.MaxArgs == AnyNumber) {
		return nil
	}
	msg := "too many arguments"
	if n < c.MinArgs {
		msg = "arguments are missing"
	}
	return fail.Usagef("usage: "+strings.TrimSpace(path+" "+c.arguments()), "%s: %s", strings.TrimPrefix(path, p.Root.Name+" "), msg)
}

func urfaveFlags(options []Option) []cli.Flag {
	out := make([]cli.Flag, len(options))
	for i, o := range options {
		out[i] = o
	}
	return out
}

// noCommand runs without a command, or for an unknown one behind "--".
func (p *Program) noCommand(c *cli.Context) error {
	if c.Args().Present() {
		return unknownCommand(p.Root, p.Root.Name, c.Args().First())
	}
	return p.Default()
}

// usageError returns a function that rewrites the parser's error about a command's options in this program's words.
func (p *Program) usageError(c *Command) cli.OnUsageErrorFunc {
	return func(u *cli.Context, err error, _ bool) error {
		where := p.Root.Name
		if u.Command != nil && strings.HasPrefix(u.Command.HelpName, p.Root.Name+" ") {
			where = u.Command.HelpName
		}
		lists := where + " --help lists the options"
		msg := err.Error()
		if name, ok := strings.CutPrefix(msg, "flag provided but not defined: -"); ok {
			return unknownOption(p.Options(c), lists, name)
		}
		if name, ok := strings.CutPrefix(msg, "bad flag syntax: -"); ok { // a third hyphen
			return unknownOption(p.Options(c), lists, name)
		}
		if name, ok := strings.CutPrefix(msg, "flag needs an argument: -"); ok {
			return fail.Usagef(lists, "the option %s needs a value", dashes(strings.TrimPrefix(name, "-")))
		}
		if m := wrongValue().FindStringSubmatch(msg); m != nil {
			return fail.Usagef(cmp.Or(hintOf(p.Options(c), m[1]), lists), "%s: %s", dashes(m[1]), strings.TrimPrefix(m[2], dashes(m[1])+" "))
		}
		if m := twoForms().FindStringSubmatch(msg); m != nil {
			return fail.Usagef("give one of the two", "%s and %s are the same option", dashes(m[1]), dashes(m[2]))
		}
		return fail.Usagef(lists, "%s", msg)
	}
}

// hintOf returns the next step of the error by which an option refused its value, "" if it has none.
func hintOf(options []Option, name string) string {
	for _, o := range options {
		if f, ok := o.(*Flag); ok && f.refused != nil && slices.Contains(f.names, name) {
			return fail.NextOf(f.refused)
		}
	}
	return ""
}

// Errors of package flag and urfave/cli: a value that an option refuses, and an option given by two of its names.
var (
	wrongValue = pattern.Lazy(`^invalid (?:boolean )?value .* for (?:flag )?-+([a-zA-Z-]+): (.*)$`)
	twoForms   = pattern.Lazy(`^Cannot use two forms of the same flag: (\S+) (\S+)$`)
)

// unknownOption returns the error for a name that none of the options has.
func unknownOption(options []Option, lists, name string) error {
	name = strings.TrimPrefix(name, "-")
	names := []string{"help"}
	for _, o := range options {
		names = append(names, o.Names()...)
	}
	next := config.DidYouMean(strings.ReplaceAll(name, "_", "-"), names, "--", lists)
	return fail.Usagef(next, "unknown option %s", dashes(name))
}

func dashes(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// Arrange rewrites a command line into the parser's form: the command and its verb, its options, then its arguments. The parser
// stops at the first argument, but users write `bastion forward rds:orders 12345 --region eu-west-1`. Words after "--" stay in
// place. --help and --version, anywhere before that, become the commands of those names.
func (p *Program) Arrange(args []string) ([]string, error) {
	root := p.Root
	cmd, path := root, []string{args[0]}
	var options, positional []string
	var shared []string // options that are settings, for every command
	var special string
	rest := args[1:]
	for i := 0; i < len(rest); i++ {
		arg := rest[i]
		name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case arg == "--":
			if cmd.Divided {
				positional = append(positional, arg)
			}
			positional = append(positional, rest[i+1:]...)
			i = len(rest)
		case !IsOption(arg):
			next := cmd.Verb(arg)
			switch {
			case next != nil:
				cmd, path = next, append(path, arg)
			case len(cmd.Verbs) > 0:
				return nil, unknownCommand(cmd, strings.Join(append([]string{root.Name}, path[1:]...), " "), arg)
			default:
				positional = append(positional, arg)
			}
		case name == "help" || name == "h" || name == "version":
			special = cmp.Or(special, name)
		default:
			words := []string{arg}
			o := FindOption(p.reachable(cmd), name)
			if o != nil && !hasValue && o.Value() != "" {
				if i++; i == len(rest) {
					return nil, fail.Usagef(root.Name+" help settings lists the options", "the option %s needs a value", dashes(name))
				}
				words = append(words, rest[i])
			}
			options = append(options, words...)
			if _, ok := o.(*settingFlag); ok {
				shared = append(shared, words...)
			}
		}
	}
	switch special {
	case "":
	case "version":
		return append([]string{args[0], "version"}, shared...), nil
	default:
		return slices.Concat([]string{args[0], "help"}, shared, []string{"--"}, path[1:]), nil
	}
	if cmd != root && len(cmd.Verbs) > 0 {
		if cmd.Usual == "" {
			called := strings.Join(path[1:], " ")
			return nil, fail.Usagef("usage: "+root.Name+" "+called+" "+cmd.arguments(), "%s: a subcommand is missing", called)
		}
		path = append(path, cmd.Usual)
	}
	path = append(path, options...)
	if len(positional) > 0 {
		path = append(append(path, "--"), positional...)
	}
	return path, nil
}

// reachable returns the options of the command and of its verbs.
func (p *Program) reachable(c *Command) []Option {
	out := p.Options(c)
	for _, v := range c.Verbs {
		if c != p.Root {
			out = append(out, v.Flags...)
		}
	}
	return out
}

// IsOption reports whether an argument has the form of an option.
func IsOption(arg string) bool { return len(arg) > 1 && strings.HasPrefix(arg, "-") }

// FindOption returns the option of that name, or nil.
func FindOption(options []Option, name string) Option {
	for _, o := range options {
		if slices.Contains(o.Names(), name) {
			return o
		}
	}
	return nil
}
