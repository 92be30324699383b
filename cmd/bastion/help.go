package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/internal/config"
)

const (
	helpWidth  = 100 // columns
	termColumn = 26  // the widest term that its meaning stands beside
)

// helpText is what --help prints for a command that is called as path.
func helpText(c *command, path string) string {
	var h helpPage
	h.fill(0, path+" - "+c.summary)
	h.WriteString("\nUsage: " + usageOf(c, path) + "\n")
	for _, b := range c.about {
		h.WriteString("\n")
		h.passage(b)
	}
	if len(c.examples) > 0 {
		h.WriteString("\nExamples:\n")
		for _, e := range c.examples {
			h.WriteString("  " + e + "\n")
		}
	}
	h.commands(c)
	if len(c.flags) > 0 {
		h.WriteString("\nOptions:\n")
		var list []entry
		for _, o := range c.flags {
			list = append(list, entry{optionTerm(o), o.meaning()})
		}
		h.terms(list)
	}
	if len(c.settings) > 0 {
		h.WriteString("\nSettings, which are options too:\n")
		h.terms(settingNames(c.settings))
	}
	switch {
	case c.name == programName:
		h.WriteString("\nbastion COMMAND --help explains a command; bastion help settings explains the settings.\n")
	case len(c.verbs) > 0:
		h.WriteString("\n" + path + " COMMAND --help explains a subcommand; bastion help settings explains all settings.\n")
	default:
		h.WriteString("\nbastion help settings explains all settings.\n")
	}
	return h.String()
}

// usageOf is how a command is called.
func usageOf(c *command, path string) string {
	if c.name == programName {
		return path + " COMMAND [options] [arguments]"
	}
	if len(c.verbs) > 0 {
		return path + " " + c.arguments() + " [options]"
	}
	return strings.TrimSpace(path + " [options] " + c.args)
}

// settingNames lists the options of the groups' settings.
func settingNames(groups []string) []entry {
	var out []entry
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
		out = append(out, entry{group, strings.Join(names, ", ")})
	}
	return out
}

// helpPage is a text of at most helpWidth columns.
type helpPage struct{ strings.Builder }

// commands lists the subcommands, under the headings of their groups.
func (h *helpPage) commands(c *command) {
	if len(c.verbs) == 0 {
		return
	}
	h.WriteString("\nCommands:\n")
	if c.name != programName {
		h.terms(summaries(c.listed()))
		return
	}
	for _, group := range commandGroups {
		var of []*command
		for _, v := range c.listed() {
			if v.group == group {
				of = append(of, v)
			}
		}
		h.WriteString(" " + group + "\n")
		h.terms(summaries(of))
	}
}

func summaries(commands []*command) []entry {
	var out []entry
	for _, c := range commands {
		out = append(out, entry{c.name, c.summary})
	}
	return out
}

func (h *helpPage) passage(b passage) {
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

// terms writes a list: each term, with its meaning beside it, or below it where the term is long.
func (h *helpPage) terms(list []entry) {
	width := 0
	for _, t := range list {
		if n := len(t.name); n > width && n <= termColumn {
			width = n
		}
	}
	for _, t := range list {
		if len(t.name) > width {
			fmt.Fprintf(h, "  %s\n  %-*s  ", t.name, width, "")
		} else {
			fmt.Fprintf(h, "  %-*s  ", width, t.name)
		}
		h.fill(width+4, t.meaning)
	}
}

// fill writes running text whose further lines are indented. The first line has that indent already.
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

// settingsTopic is the topic of help that lists the settings.
const settingsTopic = "settings"

func (a *app) helpCommand() *command {
	return &command{
		name:    "help",
		summary: "show help for a command or for the settings",
		group:   groupOther,
		args:    "[COMMAND [SUBCOMMAND]|settings]",
		about: []passage{para(`Shows the help of a command, as --help does. The topic "settings" lists every setting with its option,
			variable and key.`)},
		examples: []string{"bastion help forward", "bastion help agent start", "bastion help settings"},
		run:      a.help,
		complete: func(args []string) []candidate {
			of, _, err := a.root().find(args)
			if err != nil {
				return nil
			}
			out := commandCandidates(of)
			if len(args) == 0 {
				out = append(out, candidate{settingsTopic, "every setting"})
			}
			return out
		},
	}
}

func (a *app) help(c *cli.Context) error {
	names := c.Args().Slice()
	if len(names) == 1 && names[0] == settingsTopic {
		return a.printSettings()
	}
	cmd, path, err := a.root().find(names)
	if err != nil {
		return err
	}
	return a.document("help", helpText(cmd, path))
}

// printSettings prints the table of settings.
func (a *app) printSettings() error {
	var h helpPage
	h.WriteString("Settings: option, variable, key of the configuration file. The first that is given wins, in this order.\n")
	for _, group := range config.Groups() {
		h.WriteString("\n" + group + "\n")
		for _, s := range config.All() {
			if s.Group != group {
				continue
			}
			fmt.Fprintf(&h, "  %s  %s  %s\n      ", optionTerm(&settingFlag{setting: s}), s.Env(), s.Key)
			def := s.Default
			if def == "" {
				def = "none"
			}
			if s.Trust != config.Project {
				def += "; from a bastion.yaml only after bastion trust"
			}
			h.fill(6, fmt.Sprintf("%s (default: %s)", s.Help, def))
		}
	}
	h.WriteString("\n--config FILE, or BASTION_CONFIG, names the configuration file.\n")
	return a.document("help", h.String())
}
