package cli

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// Program is a command line.
type Program struct {
	Root    *Command                         // its verbs are the commands, its name is the program's
	Groups  []string                         // the groups of commands, in the order of the list
	Default func() error                     // runs without a command
	Values  func(setting string) []Candidate // the possible values of a setting, by its key; nil: not listed

	// Run and completion fill in the settings given as options, by key, and the file given by --config.
	Settings   map[string]string
	ConfigFile string
}

// Call is a command line that Parse has read.
type Call struct {
	Command *Command
	Path    string // the command's full name, such as "bastion agent run"
	Options []Given
	Args    []string
}

// Given is an option of a command line.
type Given struct {
	Name, Value string
	HasValue    bool

	isSetting bool
}

// Run runs the command of a command line.
func (p *Program) Run(ctx context.Context, args []string) error {
	c, err := p.Parse(args)
	if err != nil {
		return err
	}
	if err := p.set(c); err != nil {
		return err
	}
	if c.Command == p.Root {
		if len(c.Args) > 0 { // behind "--"
			return unknownCommand(p.Root, p.Root.Name, c.Args[0])
		}
		return p.Default()
	}
	if err := p.checkCount(c); err != nil {
		return err
	}
	return c.Command.Run(ctx, c.Args)
}

// Parse reads a command line: the command and its verb, its options and its arguments. Options may stand anywhere before "--"; all
// words after it are arguments. --help and --version, anywhere before that, become the commands of those names. Run checks the
// options and counts the arguments.
func (p *Program) Parse(args []string) (*Call, error) {
	c := &Call{Command: p.Root, Path: p.Root.Name}
	var special string
	rest := args[1:]
	for i := 0; i < len(rest); i++ {
		arg := rest[i]
		name, value, hasValue := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		switch {
		case arg == "--":
			if c.Command.Divided {
				c.Args = append(c.Args, arg)
			}
			c.Args = append(c.Args, rest[i+1:]...)
			i = len(rest)
		case !IsOption(arg) && len(c.Command.Verbs) == 0:
			c.Args = append(c.Args, arg)
		case !IsOption(arg):
			next := c.Command.Verb(arg)
			if next == nil {
				return nil, unknownCommand(c.Command, c.Path, arg)
			}
			c.Command, c.Path = next, c.Path+" "+arg
		case name == "help" || name == "h" || name == "version":
			special = cmp.Or(special, name)
		default:
			o := FindOption(p.reachable(c.Command), name)
			if o != nil && !hasValue && o.Value != "" {
				if i++; i == len(rest) {
					return nil, needsValue(p.Root.Name+" help settings lists the options", name)
				}
				value, hasValue = rest[i], true
			}
			c.Options = append(c.Options, Given{name, value, hasValue, o != nil && o.isSetting})
		}
	}
	if special != "" {
		return p.special(c, special), nil
	}
	if c.Command != p.Root && len(c.Command.Verbs) > 0 {
		if c.Command.Usual == "" {
			return nil, fail.Usagef("usage: "+c.Path+" "+c.Command.arguments(), "%s: a subcommand is missing", p.called(c))
		}
		c.Command, c.Path = c.Command.Verb(c.Command.Usual), c.Path+" "+c.Command.Usual
	}
	return c, nil
}

// special returns the call of help for c, or of version, with those of c's options that every command takes.
func (p *Program) special(c *Call, option string) *Call {
	out := &Call{Options: slices.DeleteFunc(c.Options, func(g Given) bool { return !g.isSetting })}
	name := "version"
	if option != name {
		name, out.Args = "help", strings.Fields(p.called(c))
	}
	out.Command, out.Path = p.Root.Verb(name), p.Root.Name+" "+name
	return out
}

// called returns a command's full name without the program's.
func (p *Program) called(c *Call) string {
	return strings.TrimSpace(strings.TrimPrefix(c.Path, p.Root.Name))
}

// Options returns every option that the command takes.
func (p *Program) Options(c *Command) []*Option {
	out := slices.Clone(c.Flags)
	for _, s := range config.All() {
		out = append(out, settingOption(s, p))
	}
	return append(out, Text(&p.ConfigFile, "FILE", "configuration file [$BASTION_CONFIG]", "config"))
}

// set sets a call's options. It refuses those that its command does not take.
func (p *Program) set(c *Call) error {
	options, lists := p.Options(c.Command), c.Path+" --help lists the options"
	names := make(map[*Option]string) // the name by which an option was given
	for _, g := range c.Options {
		o := FindOption(options, g.Name)
		switch {
		case o == nil:
			return unknownOption(options, lists, g.Name)
		case o.Value == "" && !g.HasValue:
			g.Value = "true"
		case !g.HasValue:
			return needsValue(lists, g.Name)
		}
		if first, ok := names[o]; ok && first != g.Name {
			same := o.spellings()
			return fail.Usagef("give one of the two", "%s and %s are the same option", same[0], same[1])
		}
		names[o] = g.Name
		if err := o.set(g.Value); err != nil {
			return fail.Usagef(lists, "%s: %s", dashes(g.Name), err)
		}
	}
	return nil
}

// checkCount refuses too few or too many arguments for a command.
func (p *Program) checkCount(c *Call) error {
	msg := "too many arguments"
	switch n := len(c.Args); {
	case n < c.Command.MinArgs:
		msg = "arguments are missing"
	case n <= c.Command.MaxArgs || c.Command.MaxArgs == AnyNumber:
		return nil
	}
	return fail.Usagef("usage: "+strings.TrimSpace(c.Path+" "+c.Command.arguments()), "%s: %s", p.called(c), msg)
}

func needsValue(next, name string) error {
	return fail.Usagef(next, "the option %s needs a value", dashes(name))
}

// unknownOption returns the error for a name that none of the options has.
func unknownOption(options []*Option, lists, name string) error {
	names := []string{"help"}
	for _, o := range options {
		names = append(names, o.Names...)
	}
	next := config.DidYouMean(strings.ReplaceAll(name, "_", "-"), names, "--", lists)
	return fail.Usagef(next, "unknown option %s", dashes(name))
}

// reachable returns the options of the command and of its verbs.
func (p *Program) reachable(c *Command) []*Option {
	out := p.Options(c)
	for _, v := range c.Verbs {
		if c != p.Root {
			out = append(out, v.Flags...)
		}
	}
	return out
}
