package sshcommands

import (
	"context"
	"strings"

	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/shared"
	"github.com/bastion-ssm/bastion/internal/sshconfig"
)

// sshConfigOptions are the options of ssh-config that are no settings.
type sshConfigOptions struct {
	write, remove bool
	connect       bool
	file          string
	yes           bool
}

func (a *program) sshConfigCommand() *cli.Command {
	var o sshConfigOptions
	return &cli.Command{
		Name:    "ssh-config",
		Summary: "print the block that ssh_config needs, or keep it in ~/.ssh/config",
		Args:    "[PATTERN]...", MaxArgs: cli.AnyNumber,
		About: []cli.Passage{
			cli.Para(`Prints a block for ssh_config: the bastion's own SSH server, the hosts behind it that match a PATTERN (default:
				*.internal) and EC2 instances by id. The block has this program's path and the options that are given here, for example
				--profile. docs/openssh.md explains it; ssh_config.example is the same with comments.`),
			cli.Para(`ssh compares a PATTERN with the name as typed, without user and port. "!" before a PATTERN excludes its hosts.
				Hosts of ENV/PATTERN are reached in that environment; the name ENV.bastion is its bastion.`),
			cli.Para(`With --write the block is kept at the top of ~/.ssh/config, between "# BEGIN bastion" and "# END bastion". Writing it
				again replaces it; the rest of the file stays as it is.`),
		},
		Examples: []string{
			"bastion ssh-config --write '*.internal' '10.*'",
			"bastion ssh-config --write 'prod/*.prod.internal' '*.internal'",
			"bastion ssh-config --write --profile prod --instance-connect",
		},
		Flags: []cli.Option{
			cli.Switch(&o.write, "add the block to the file, or replace the one there", "write"),
			cli.Switch(&o.remove, "remove the block from the file", "remove"),
			cli.Switch(&o.connect, "sign in to EC2 instances with an ephemeral key, by EC2 Instance Connect", "instance-connect"),
			invocation.YesFlag(&o.yes),
			cli.Text(&o.file, "FILE", "file that --write and --remove change (default: ~/.ssh/config)", "file"),
		},
		Settings: []string{config.GroupAWS},
		Run:      func(ctx context.Context, args []string) error { return a.sshConfig(ctx, args, o) },
	}
}

// sshConfig runs `bastion ssh-config`.
func (a *program) sshConfig(ctx context.Context, args []string, o sshConfigOptions) error {
	switch {
	case o.write && o.remove:
		return fail.Usagef("leave out --write or --remove", "--write and --remove exclude each other")
	case o.file != "" && !o.write && !o.remove:
		return fail.Usagef("add --write or --remove", "--file needs --write or --remove: without them the block is printed")
	case o.remove && len(args) > 0:
		return fail.Usagef("usage: bastion ssh-config --remove [--file FILE]", "--remove takes no patterns")
	}
	path, err := sshconfig.File(o.file)
	if err != nil {
		return err
	}
	if o.remove {
		changed, err := sshconfig.Edit(path, nil)
		if err != nil {
			return err
		}
		text := path + " has no block of bastion's"
		if changed {
			text = "removed bastion's block from " + path
		}
		return a.edited(path, changed, text)
	}
	s, err := a.Settings(ctx, shared.Usual)
	if err != nil {
		return err
	}
	b, err := a.sshBlock(ctx, s, args, o)
	if err != nil {
		return err
	}
	text := b.String()
	if !o.write && a.WantsJSON() {
		return a.Document("config", text)
	}
	if !o.write {
		return a.PrintExact("the configuration", strings.TrimSuffix(text, "\n"), "add --write, which writes it to ssh's file")
	}
	changed, err := sshconfig.Edit(path, []byte(text))
	if err != nil {
		return err
	}
	verb := "is up to date"
	if changed {
		verb = "was written"
	}
	return a.edited(path, changed, "bastion's block in "+path+" "+verb)
}

// edited prints the result of the change of ssh's file.
func (a *program) edited(path string, changed bool, text string) error {
	if a.WantsJSON() {
		return a.PrintJSON(map[string]any{"file": path, "changed": changed})
	}
	return console.Printf(a.Out, "%s\n", text)
}

// sshBlock returns the block for this program and the options that it was given.
func (a *program) sshBlock(ctx context.Context, s config.Settings, patterns []string, o sshConfigOptions) (sshconfig.Block, error) {
	program, err := a.Program()
	if err != nil {
		return sshconfig.Block{}, err
	}
	dir, err := dirs.Runtime(s.Local.RuntimeDir)
	if err != nil {
		return sshconfig.Block{}, err
	}
	return sshconfig.New(ctx, sshconfig.Options{
		Program: program, Given: a.GivenFlags(), Dir: dir, Patterns: patterns, Connect: o.connect, Yes: o.yes,
		Environments: s.Environments,
	})
}
