// Package cli makes a command line of a table of commands: the parser, help, manual pages and completion read the same rows, so that
// they cannot drift apart. Every setting of package config is an option of every command. What the commands do is their own business.
package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// Command is a row of the table of commands, which the parser, help, the manual pages and completion read. The program itself is the row
// whose verbs are the commands.
type Command struct {
	Name     string
	Summary  string // what it does, in a phrase of one line
	Group    string // its heading in the list of commands
	Args     string // its arguments, for usage
	MinArgs  int    // how many there must be
	MaxArgs  int    // how many there may be; or AnyNumber
	About    []Passage
	Examples []string
	Flags    []Option // its own; every setting is an option too
	Settings []string // the groups of settings that matter to it
	Verbs    []*Command
	Usual    string // the verb that runs if none is given; "": one must be
	Divided  bool   // a "--" divides its arguments, and is one of them
	Hidden   bool   // not listed, not completed
	Complete func(args []string) []Candidate
	Run      func(ctx context.Context, args []string) error
}

// AnyNumber is the MaxArgs of a command that counts its arguments itself.
const AnyNumber = -1

// Passage is a part of a description: either a paragraph, or a list of terms, or a list of items.
type Passage struct {
	text  string
	terms []Term
	items []string
}

// Term is a term and its meaning.
type Term struct{ Name, Meaning string }

// Para is a paragraph.
func Para(text string) Passage { return Passage{text: text} }

// Terms makes a list of pairs of a term and its meaning.
func Terms(pairs ...string) Passage {
	var b Passage
	for pair := range slices.Chunk(pairs, 2) {
		b.terms = append(b.terms, Term{pair[0], pair[1]})
	}
	return b
}

// Items makes a list of items.
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

// Listed returns the subcommands that are listed.
func (c *Command) Listed() []*Command {
	return slices.DeleteFunc(slices.Clone(c.Verbs), func(v *Command) bool { return v.Hidden })
}

// verbNames returns the names of the subcommands that are listed.
func (c *Command) verbNames() []string {
	var names []string
	for _, v := range c.Listed() {
		names = append(names, v.Name)
	}
	return names
}

// arguments returns what follows the command's name in its usage, beside options.
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

// Find returns the command that names lead to from c, and how it is called. Its errors are usage errors.
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

// unknownCommand is the error of a name that no subcommand of c has.
func unknownCommand(c *Command, path, name string) error {
	kind := "command"
	if strings.Contains(path, " ") {
		kind = "subcommand"
	}
	if len(c.Verbs) == 0 {
		return fail.Usagef(path+" --help explains it", "%s has no subcommands", path)
	}
	next := path + " --help lists the " + kind + "s"
	if near := config.Nearest(name, c.verbNames()); near != "" {
		next = "did you mean " + path + " " + near + "?"
	}
	return fail.Usagef(next, "unknown %s %q", kind, name)
}
