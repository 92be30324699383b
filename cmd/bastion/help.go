package main

import (
	"context"

	"github.com/bastion-ssm/bastion/internal/cli"
)

// settingsTopic is the topic of help that lists the settings.
const settingsTopic = "settings"

func (a *app) helpCommand() *cli.Command {
	return &cli.Command{
		Name:    "help",
		Summary: "show help for a command or for the settings",
		Group:   groupOther,
		Args:    "[COMMAND [SUBCOMMAND]|settings]", MaxArgs: cli.AnyNumber,
		About: []cli.Passage{cli.Para(`Shows the help of a command, as --help does. The topic "settings" lists every setting with its option,
			variable and key.`)},
		Examples: []string{"bastion help forward", "bastion help agent start", "bastion help settings"},
		Run:      a.help,
		Complete: func(args []string) []cli.Candidate {
			of, _, err := a.line.Root.Find(args)
			if err != nil {
				return nil
			}
			out := of.Candidates()
			if len(args) == 0 {
				out = append(out, cli.Candidate{Value: settingsTopic, Help: "every setting"})
			}
			return out
		},
	}
}

func (a *app) help(_ context.Context, args []string) error {
	if len(args) == 1 && args[0] == settingsTopic {
		return a.document("help", cli.SettingsHelp())
	}
	cmd, path, err := a.line.Root.Find(args)
	if err != nil {
		return err
	}
	return a.document("help", a.line.Help(cmd, path))
}
