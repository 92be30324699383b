// Package cli is the program's command line, made from a table of commands (Command). The parser, help, manual pages and shell
// completion read the same rows, so they cannot contradict each other. Every setting of package config is an option of every
// command. The package knows nothing of what the commands do: cmd/bastion and the packages of its commands have the rows and their actions.
package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// Command is a row of the table of commands. The program itself is the root row, whose verbs are the commands.
type Command struct {
	Name     string
	Summary  string // its purpose, in a phrase of one line
	Group    string // its heading in the list of commands
	Args     string // its arguments, for usage
	MinArgs  int    // the fewest arguments
	MaxArgs  int    // the most arguments, or AnyNumber
	About    []Passage
	Examples []string
	Flags    []Option // its own options; every setting is an option too
	Settings []string // the groups of settings that help shows for it
	Verbs    []*Command
	Usual    string // the verb that runs by default; "": the user must name one
	Divided  bool   // a "--" divides its arguments and is one of them
	Hidden   bool   // not listed, not completed
	Complete func(args []string) []Candidate
	Run      func(ctx context.Context, args []string) error
}

// AnyNumber is the MaxArgs of a command that counts its arguments itself.
const AnyNumber = -1

// Passage is a part of a description: a paragraph, a list of terms, or a list of items.
type Passage struct {
	text  string
	terms []Term
	items []string
}

// Term is a term and its meaning.
type Term struct{ Name, Meaning string }

// Para returns a paragraph.
func Para(text string) Passage { return Passage{text: text} }

// Terms returns a list of terms, from pairs of a term and its meaning.
func Terms(pairs ...string) Passage {
	var b Passage
	for pair := range slices.Chunk(pairs, 2) {
		b.terms = append(b.terms, Term{pair[0], pair[1]})
	}
	return b
}

// Items returns a list of items.
func Items(texts ...string) Passage { return Passage{items: texts} }

// Verb returns the subcommand of that name, or nil.
func (c *Command) Verb(name string) *Command {
	for _, v := range c.Verbs {
		if v.Name == name {
			return v
		}
	}
	return nil
}

// Listed returns the subcommands without the hidden ones.
func (c *Command) Listed() []*Command {
	return slices.DeleteFunc(slices.Clone(c.Verbs), func(v *Command) bool { return v.Hidden })
}

// verbNames returns the names of the listed subcommands.
func (c *Command) verbNames() []string {
	var names []string
	for _, v := range c.Listed() {
		names = append(names, v.Name)
	}
	return names
}

// arguments returns the part of a command's usage after its name, without options.
func (c *Command) arguments() string {
	if len(c.Verbs) == 0 {
		return c.Args
	}
	verbs := strings.Join(c.verbNames(), "|")
	if c.Usual != "" {
		verbs = "[" + verbs + "]"
	}
	return verbs
}

// Find follows names from c to a command, and returns it with its full name. Its errors are usage errors.
func (c *Command) Find(names []string) (*Command, string, error) {
	path := c.Name
	for _, name := range names {
		next := c.Verb(name)
		if next == nil {
			return nil, "", unknownCommand(c, path, name)
		}
		c, path = next, path+" "+name
	}
	return c, path, nil
}

// unknownCommand returns the error for a name that is not a subcommand of c.
func unknownCommand(c *Command, path, name string) error {
	kind := "command"
	if strings.Contains(path, " ") {
		kind = "subcommand"
	}
	if len(c.Verbs) == 0 {
		return fail.Usagef(path+" --help explains it", "%s has no subcommands", path)
	}
	next := config.DidYouMean(name, c.verbNames(), path+" ", path+" --help lists the "+kind+"s")
	return fail.Usagef(next, "unknown %s %q", kind, name)
}

// Optional returns the argument of a command that may have one, else "".
func Optional(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

// InGroup puts rows under one heading and returns them.
func InGroup(group string, rows ...*Command) []*Command {
	for _, row := range rows {
		row.Group = group
	}
	return rows
}
