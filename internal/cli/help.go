package cli

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/bastion-ssm/bastion/internal/config"
)

const (
	helpWidth  = 100 // columns
	termColumn = 26  // the widest term with its meaning on the same line
)

// Help returns the output of --help for a command whose full name is path.
func (p *Program) Help(c *Command, path string) string {
	var h helpPage
	h.fill(0, path+" - "+c.Summary)
	h.WriteString("\nUsage: " + p.usageOf(c, path) + "\n")
	for _, b := range c.About {
		h.WriteString("\n")
		h.passage(b)
	}
	if len(c.Examples) > 0 {
		h.WriteString("\nExamples:\n")
		for _, e := range c.Examples {
			h.WriteString("  " + e + "\n")
		}
	}
	h.commands(p, c)
	if len(c.Flags) > 0 {
		h.WriteString("\nOptions:\n")
		var list []Term
		for _, o := range c.Flags {
			list = append(list, Term{optionTerm(o), o.Meaning()})
		}
		h.terms(list)
	}
	if len(c.Settings) > 0 {
		h.WriteString("\nSettings, which are options too:\n")
		h.terms(settingNames(c.Settings))
	}
	switch {
	case c == p.Root:
		h.WriteString("\n" + path + " COMMAND --help explains a command; " + path + " help settings explains the settings.\n")
	case len(c.Verbs) > 0:
		h.WriteString("\n" + path + " COMMAND --help explains a subcommand; " + p.Root.Name + " help settings explains all settings.\n")
	default:
		h.WriteString("\n" + p.Root.Name + " help settings explains all settings.\n")
	}
	return h.String()
}

// usageOf returns a command's usage line.
func (p *Program) usageOf(c *Command, path string) string {
	if c == p.Root {
		return path + " COMMAND [options] [arguments]"
	}
	if len(c.Verbs) > 0 {
		return path + " " + c.arguments() + " [options]"
	}
	return strings.TrimSpace(path + " [options] " + c.Args)
}

// settingNames lists the options of the groups' settings.
func settingNames(groups []string) []Term {
	var out []Term
	for _, group := range groups {
		var names []string
		for _, s := range config.All() {
			if s.Group == group {
				name := "--" + s.Flag()
				if s.Short != "" {
					name = "-" + s.Short + "/" + name
				}
				names = append(names, name)
			}
		}
		out = append(out, Term{group, strings.Join(names, ", ")})
	}
	return out
}

// helpPage is a text with lines of at most helpWidth columns.
type helpPage struct{ strings.Builder }

// commands lists the subcommands, under the headings of their groups.
func (h *helpPage) commands(p *Program, c *Command) {
	if len(c.Verbs) == 0 {
		return
	}
	h.WriteString("\nCommands:\n")
	if c != p.Root {
		h.terms(summaries(c.Listed()))
		return
	}
	for _, group := range p.Groups {
		var of []*Command
		for _, v := range c.Listed() {
			if v.Group == group {
				of = append(of, v)
			}
		}
		h.WriteString(" " + group + "\n")
		h.terms(summaries(of))
	}
}

func summaries(commands []*Command) []Term {
	var out []Term
	for _, c := range commands {
		out = append(out, Term{c.Name, c.Summary})
	}
	return out
}

func (h *helpPage) passage(b Passage) {
	switch {
	case b.terms != nil:
		h.terms(b.terms)
	case b.items != nil:
		for _, item := range b.items {
			h.WriteString("  - ")
			h.fill(4, item)
		}
	default:
		h.fill(0, b.text)
	}
}

// terms writes a list of terms, each with its meaning on the same line, or below a long term.
func (h *helpPage) terms(list []Term) {
	width := 0
	for _, t := range list {
		if n := len(t.Name); n > width && n <= termColumn {
			width = n
		}
	}
	for _, t := range list {
		if len(t.Name) > width {
			fmt.Fprintf(h, "  %s\n  %-*s  ", t.Name, width, "")
		} else {
			fmt.Fprintf(h, "  %-*s  ", width, t.Name)
		}
		h.fill(width+4, t.Meaning)
	}
}

// fill writes running text, and indents all lines but the first, which the caller has indented.
func (h *helpPage) fill(indent int, text string) {
	at := indent
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case at+1+len(word) > helpWidth:
			h.WriteString("\n" + strings.Repeat(" ", indent))
			at = indent
		default:
			h.WriteString(" ")
			at++
		}
		h.WriteString(word)
		at += len(word)
	}
	h.WriteString("\n")
}

// SettingsHelp returns the table of settings.
func SettingsHelp() string {
	var h helpPage
	h.WriteString("Settings: option, variable, key of the configuration file. The first that is given wins, in this order.\n")
	for _, group := range config.Groups() {
		h.WriteString("\n" + group + "\n")
		for _, s := range config.All() {
			if s.Group != group {
				continue
			}
			fmt.Fprintf(&h, "  %s  %s  %s\n      ", optionTerm(&settingFlag{setting: s}), s.Env(), s.Key)
			def := cmp.Or(s.Default, "none")
			if s.Trust != config.Project {
				def += "; from a bastion.yaml only after bastion trust"
			}
			h.fill(6, fmt.Sprintf("%s (default: %s)", s.Help, def))
		}
	}
	h.WriteString("\n--config FILE, or BASTION_CONFIG, names the configuration file.\n")
	return h.String()
}
