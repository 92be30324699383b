package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/targets"
)

// The topics of help that are no commands.
const (
	settingsTopic = "settings"
	targetsTopic  = "targets"
)

func (a *app) helpCommand() *cli.Command {
	return &cli.Command{
		Name:    "help",
		Summary: "show help for a command, the settings or the kinds of targets",
		Group:   groupOther,
		Args:    "[COMMAND [SUBCOMMAND]|settings|targets]", MaxArgs: cli.AnyNumber,
		About: []cli.Passage{cli.Para(`Shows the help of a command, as --help does. The topic "settings" lists every setting with its option,
			variable and key; "targets" lists the kinds of targets.`)},
		Examples: []string{"bastion help forward", "bastion help settings", "bastion help targets"},
		Run:      a.help,
		Complete: func(args []string) []cli.Candidate {
			of, _, err := a.Line.Root.Find(args)
			if err != nil {
				return nil
			}
			out := of.Candidates()
			if len(args) == 0 {
				out = append(out, cli.Candidate{Value: settingsTopic, Help: "every setting"},
					cli.Candidate{Value: targetsTopic, Help: "the kinds of targets"})
			}
			return out
		},
	}
}

func (a *app) help(_ context.Context, args []string) error {
	if len(args) == 1 && args[0] == settingsTopic {
		return a.Document("help", cli.SettingsHelp())
	}
	if len(args) == 1 && args[0] == targetsTopic {
		return a.Document("help", targetsHelp())
	}
	cmd, path, err := a.Line.Root.Find(args)
	if err != nil {
		return err
	}
	return a.Document("help", a.Line.Help(cmd, path))
}

// targetsHelp lists the kinds of targets.
func targetsHelp() string {
	var b strings.Builder
	b.WriteString("A target is what bastion forward, exec and url lead to.\n\n")
	w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	for _, d := range targets.Kinds() {
		fmt.Fprintln(w, printable.Row("  "+d.Prefix+":"+d.Form, d.Help))
	}
	fmt.Fprintln(w, printable.Row("  HOST:PORT", "a host or an address, as the bastion resolves it"))
	fmt.Fprintln(w, printable.Row("  NAME", "a name from the configuration's targets"))
	_ = w.Flush() // into memory
	b.WriteString("\nDigits at the end are the port: rds:orders:5433. Without a name a kind means the region's only one: rds, rds:5432.\n" +
		"ROLE is writer or reader. bastion ls targets lists what there is; docs/targets.md has the details.\n")
	return b.String()
}
