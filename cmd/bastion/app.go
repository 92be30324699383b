package main

import (
	"context"
	"slices"

	agentcommands "github.com/bastion-ssm/bastion/agent/commands"
	"github.com/bastion-ssm/bastion/internal/admin"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/configure"
	"github.com/bastion-ssm/bastion/internal/forwarding"
	"github.com/bastion-ssm/bastion/internal/inventory"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/kubernetes"
	"github.com/bastion-ssm/bastion/internal/sshcommands"
)

// app has the table of commands of an invocation.
type app struct{ *forwarding.Forwarder }

// inventory has the targets that commands take.
func (a *app) inventory() *inventory.Inventory { return &inventory.Inventory{Forwarder: a.Forwarder} }

// targets completes targets of every kind.
func (a *app) targets() []cli.Candidate { return a.inventory().Candidates() }

func newApp(std invocation.Stdio) *app {
	a := &app{&forwarding.Forwarder{Invocation: invocation.New(std, readVersion().Version)}}
	a.Line = &cli.Program{
		Groups: commandGroups, Out: a.Out, Err: a.Err, Values: a.settingChoices, Settings: make(map[string]string),
		Default: func() error { return a.Document("help", a.Line.Help(a.Line.Root, programName)) },
	}
	a.Line.Root = a.root()
	return a
}

// run runs one command line and returns its exit code.
func run(ctx context.Context, args []string, std invocation.Stdio) int {
	a := newApp(std)
	a.Self = args[0]
	if len(args) > 1 && args[1] == cli.CompleteCommand {
		a.Line.Complete(a.Out, args[2:])
		return 0
	}
	return finish(ctx, a.Err, a.Run(ctx, args))
}

// programName is the name of the program in what it says, whatever its file is called.
const programName = "bastion"

// The groups of commands, in the order of the list.
const (
	groupConnect   = "Connect"
	groupDatabases = "Databases"
	groupBastion   = "Bastion"
	groupAccount   = "Account"
	groupAgent     = "Agent"
	groupOther     = "Other"
)

var commandGroups = []string{groupConnect, groupDatabases, groupBastion, groupAccount, groupAgent, groupOther}

// root returns the table of commands.
func (a *app) root() *cli.Command {
	return &cli.Command{
		Name:    programName,
		Summary: "reach private AWS networks through SSM, without an inbound port",
		About: []cli.Passage{
			cli.Para(`bastion starts your own task on ECS Fargate, opens SSM sessions to it and forwards local ports through SSH.
				Nothing listens on the internet, and the key stays in memory.`),
			cli.Para(`Settings come from options, then from BASTION_* variables, then from bastion.yaml in this directory or above (bastion
				help trust) or ~/.config/bastion/config.yaml. AWS credentials are found as the AWS CLI finds them.`),
		},
		Examples: []string{
			"bastion forward rds:orders 12345",
			"bastion forward -d orders          # stays; bastion ls, url and stop know it as orders",
			"bastion exec orders -- psql",
			"bastion browser http://wiki.corp.internal/",
			"bastion down",
		},
		Verbs: slices.Concat([]*cli.Command{
			a.forwardCommand(),
			a.socksCommand(),
			a.browserCommand(),
			a.openCommand(),
			a.rdpCommand(),
		}, sshcommands.Commands(a.Invocation, groupConnect), kubernetes.Commands(a.Forwarder, groupConnect, a.targets), []*cli.Command{
			a.execCommand(),
			a.urlCommand(),
			a.tokenCommand(),
			a.loginCommand(),
			a.upCommand(),
			a.downCommand(),
			a.statusCommand(),
		}, agentcommands.Commands(a.Invocation, groupAgent), []*cli.Command{
			a.lsCommand(),
			a.stopCommand(),
			a.waitCommand(),
			a.dashboardCommand(),
			a.topCommand(),
			a.versionCommand(),
			a.completionCommand(),
			a.manCommand(),
		}, configure.Commands(a.Invocation, groupOther), []*cli.Command{
			a.doctorCommand(),
			a.helpCommand(),
		}, admin.Commands(a.Invocation, groupAccount)),
	}
}
