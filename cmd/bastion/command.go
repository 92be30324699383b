package main

import (
	"cmp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/internal/config"
)

// command is a row of the table of commands, which the parser, help, the manual pages and completion read. The program itself is
// the row whose verbs are the commands.
type command struct {
	name     string
	summary  string // what it does, in a phrase of one line
	group    string // its heading in the list of commands
	args     string // its arguments, for usage
	about    []passage
	examples []string
	flags    []option // its own; every setting is an option too
	settings []string // the groups of settings that matter to it
	verbs    []*command
	usual    string // the verb that runs if none is given; "": one must be
	divided  bool   // a "--" divides its arguments, and is one of them
	hidden   bool   // not listed, not completed
	complete func(args []string) []candidate
	run      func(*cli.Context) error
}

// passage is a part of a description: either a paragraph, or a list of terms, or a list of items.
type passage struct {
	text  string
	terms []entry
	items []string
}

type entry struct{ name, meaning string }

func para(text string) passage { return passage{text: text} }

// terms makes a list of pairs of a term and its meaning.
func terms(pairs ...string) passage {
	var b passage
	for pair := range slices.Chunk(pairs, 2) {
		b.terms = append(b.terms, entry{pair[0], pair[1]})
	}
	return b
}

func items(texts ...string) passage { return passage{items: texts} }

// The groups of commands, in the order of the list.
const (
	groupConnect   = "Connect"
	groupDatabases = "Databases"
	groupBastion   = "Bastion"
	groupAgent     = "Agent"
	groupOther     = "Other"
)

var commandGroups = []string{groupConnect, groupDatabases, groupBastion, groupAgent, groupOther}

// verb returns the subcommand of that name, or nil.
func (c *command) verb(name string) *command {
	for _, v := range c.verbs {
		if v.name == name {
			return v
		}
	}
	return nil
}

// listed returns the subcommands that are listed.
func (c *command) listed() []*command {
	return slices.DeleteFunc(slices.Clone(c.verbs), func(v *command) bool { return v.hidden })
}

// verbNames returns the names of the subcommands that are listed.
func (c *command) verbNames() []string {
	var names []string
	for _, v := range c.listed() {
		names = append(names, v.name)
	}
	return names
}

// arguments returns what follows the command's name in its usage, beside options.
func (c *command) arguments() string {
	if len(c.verbs) == 0 {
		return c.args
	}
	verbs := strings.Join(c.verbNames(), "|")
	if c.usual != "" {
		verbs = "[" + verbs + "]"
	}
	return verbs
}

// options returns every option that the command takes.
func (a *app) options(c *command) []option {
	out := slices.Clone(c.flags)
	for _, s := range config.All() {
		out = append(out, &settingFlag{setting: s, into: a.flags})
	}
	return append(out, a.configFlag())
}

// parsed returns the command as urfave/cli parses it.
func (a *app) parsed(c *command) *cli.Command {
	out := &cli.Command{
		Name: c.name, Usage: c.summary, ArgsUsage: c.arguments(), Hidden: c.hidden, Action: c.run,
		HideHelp: true, HideHelpCommand: true, OnUsageError: usageError, Flags: urfaveFlags(a.options(c)),
	}
	for _, v := range c.verbs {
		out.Subcommands = append(out.Subcommands, a.parsed(v))
	}
	return out
}

func urfaveFlags(options []option) []cli.Flag {
	out := make([]cli.Flag, len(options))
	for i, o := range options {
		out[i] = o
	}
	return out
}

// find returns the command that names lead to from c, and how it is called. Its errors are usage errors.
func (c *command) find(names []string) (*command, string, error) {
	path := c.name
	for _, name := range names {
		next := c.verb(name)
		if next == nil {
			return nil, "", unknownCommand(c, path, name)
		}
		c, path = next, path+" "+name
	}
	return c, path, nil
}

// unknownCommand is the error of a name that no subcommand of c has.
func unknownCommand(c *command, path, name string) error {
	kind := "command"
	if path != programName {
		kind = "subcommand"
	}
	if len(c.verbs) == 0 {
		return usage(path+" --help explains it", "%s has no subcommands", path)
	}
	next := path + " --help lists the " + kind + "s"
	if near := config.Nearest(name, c.verbNames()); near != "" {
		next = "did you mean " + path + " " + near + "?"
	}
	return usage(next, "unknown %s %q", kind, name)
}

// arrange rewrites a command line into the form that the parser takes: the command and its verb, its options, then its arguments.
// The parser stops at the first argument, while users write `bastion forward rds:orders 12345 --region eu-west-1`. What follows "--"
// stays as it is. --help and --version, wherever they stand before that, become the commands of those names.
func (a *app) arrange(args []string) ([]string, error) {
	root := a.root()
	cmd, path := root, []string{args[0]}
	var options, positional []string
	var shared []string // of options: settings, which every command takes
	var special string
	rest := args[1:]
	for i := 0; i < len(rest); i++ {
		arg := rest[i]
		name, _, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		switch {
		case arg == "--":
			if cmd.divided {
				positional = append(positional, arg)
			}
			positional = append(positional, rest[i+1:]...)
			i = len(rest)
		case !isOption(arg):
			next := cmd.verb(arg)
			switch {
			case next != nil:
				cmd, path = next, append(path, arg)
			case len(cmd.verbs) > 0:
				return nil, unknownCommand(cmd, strings.Join(append([]string{programName}, path[1:]...), " "), arg)
			default:
				positional = append(positional, arg)
			}
		case name == "help" || name == "h" || name == "version":
			special = cmp.Or(special, name)
		default:
			words := []string{arg}
			o := findOption(a.reachable(cmd), name)
			if o != nil && !hasValue && o.value() != "" {
				if i++; i == len(rest) {
					return nil, usage("bastion help settings lists the options", "the option %s needs a value", dashes(name))
				}
				words = append(words, rest[i]) //nolint:gosec // i is at most len(rest), and was just compared with it
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
	if cmd != root && len(cmd.verbs) > 0 {
		if cmd.usual == "" {
			called := strings.Join(path[1:], " ")
			return nil, usage("usage: "+programName+" "+called+" "+cmd.arguments(), "%s: a subcommand is missing", called)
		}
		path = append(path, cmd.usual)
	}
	path = append(path, options...)
	if len(positional) > 0 {
		path = append(append(path, "--"), positional...)
	}
	return path, nil
}

// reachable returns the options of the command and of its verbs, which may follow them.
func (a *app) reachable(c *command) []option {
	out := a.options(c)
	for _, v := range c.verbs {
		if c.name != programName {
			out = append(out, v.flags...)
		}
	}
	return out
}

func isOption(arg string) bool { return len(arg) > 1 && strings.HasPrefix(arg, "-") }

func findOption(options []option, name string) option {
	for _, o := range options {
		if slices.Contains(o.Names(), name) {
			return o
		}
	}
	return nil
}
