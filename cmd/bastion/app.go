package main

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/admin"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/execenv"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/internal/process"
	"github.com/bastion-ssm/bastion/internal/shared"
)

// stdio are the standard streams of an invocation.
type stdio struct {
	in       *os.File
	out, err io.Writer
	signals  *process.Signals // nil: the process takes none
}

// app is one invocation of the command line.
type app struct {
	stdio                   // for text: characters that do not print never get through, whoever writes them
	raw     stdio           // for streams of bytes, and for displays, which sanitize what they show
	written *console.Output // what out is
	line    *cli.Program    // with the settings that are given as options
	self    string          // the program's path, for what other programs must call
	mfa     awssdk.MFA      // what codes have opened
	team    team

	registry http.RoundTripper // to ECR's registry; nil: the usual one
}

func newApp(std stdio) *app {
	a := &app{stdio: std, raw: std, written: console.NewOutput(printable.NewWriter(std.out))}
	a.out, a.err = a.written, printable.NewWriter(std.err)
	a.line = &cli.Program{
		Groups: commandGroups, Out: a.out, Err: a.err, Values: a.settingChoices, Settings: make(map[string]string),
		Default: func() error { return a.document("help", a.line.Help(a.line.Root, programName)) },
	}
	a.line.Root = a.root()
	return a
}

// run runs one command line and returns its exit code.
func run(ctx context.Context, args []string, std stdio) int {
	a := newApp(std)
	a.self = args[0]
	if len(args) > 1 && args[1] == cli.CompleteCommand {
		a.line.Complete(a.out, args[2:])
		return 0
	}
	return finish(ctx, a.err, a.written.Outcome(a.line.Run(ctx, args)))
}

// settings merges flags, environment and file, or the shared configuration.
func (a *app) settings(ctx context.Context, how shared.How) (config.Settings, error) {
	s, err := a.tableSettings(ctx, how)
	if err == nil && s.Output.Format == admin.CSV {
		return s, fail.Usagef("use -o json", "the command has no output in CSV")
	}
	return s, err
}

// tableSettings are the settings of a command that can print CSV.
func (a *app) tableSettings(ctx context.Context, how shared.How) (config.Settings, error) {
	src := a.source(ctx, how)
	src.Ignored = a.warnIgnored
	s, err := a.load(src)
	a.noteUnread(s)
	return s, err
}

// runner is what runs a command with its settings and its arguments.
type runner = func(context.Context, config.Settings, []string) error

// with returns what runs a command with its settings and its arguments.
func (a *app) with(run runner) func(context.Context, []string) error {
	return withSettings(a.settings, shared.Usual, run)
}

// withLocal is with for a command that asks AWS nothing: it takes the last copy of the shared configuration.
func (a *app) withLocal(run runner) func(context.Context, []string) error {
	return withSettings(a.settings, shared.Cached, run)
}

// withCSV is with for a command that can print CSV.
func (a *app) withCSV(run runner) func(context.Context, []string) error {
	return withSettings(a.tableSettings, shared.Usual, run)
}

func withSettings(
	settings func(context.Context, shared.How) (config.Settings, error), how shared.How, run runner,
) func(context.Context, []string) error {
	return func(ctx context.Context, args []string) error {
		s, err := settings(ctx, how)
		if err != nil {
			return err
		}
		return run(ctx, s, args)
	}
}

// agentSettings are the settings of the agent itself. It serves every directory of the user's, so the project file of the one where
// it happens to start has no say. A service manager starts it in the home directory.
func (a *app) agentSettings() (config.Settings, error) {
	return a.load(config.Source{Flags: a.line.Settings, File: a.line.ConfigFile, NoProject: true, NoEnvironment: true})
}

func (a *app) load(src config.Source) (config.Settings, error) {
	s, err := config.Load(src)
	if err != nil {
		return s, err
	}
	// What a target looks like is for package targets to say.
	for _, name := range slices.Sorted(maps.Keys(s.Targets)) {
		if _, err := request.Named(s.Targets[name]); err != nil {
			return s, err
		}
	}
	underSudo(&s, os.Getenv, os.Geteuid())
	a.warnOfVariables(s, os.Environ())
	return s, nil
}

// warnOfVariables names the variables that look like a setting misspelt. Others that begin alike are not ours to judge.
func (a *app) warnOfVariables(settings config.Settings, environ []string) {
	const prefix = "BASTION_"
	known := []string{"CONFIG", "MFA_DEVICE", strings.TrimPrefix(shared.Variable, prefix), strings.TrimPrefix(execenv.List, prefix)}
	var given []string // prefixes of what bastion exec has set
	for name := range strings.SplitSeq(os.Getenv(execenv.List), ",") {
		if name != "" {
			given = append(given, name+"_")
		}
	}
	for _, s := range config.All() {
		known = append(known, strings.TrimPrefix(s.Env(), prefix))
	}
	for _, variable := range environ {
		full, _, _ := strings.Cut(variable, "=")
		name, ours := strings.CutPrefix(full, prefix)
		if !ours || strings.HasPrefix(name, "LAB_") || slices.Contains(known, name) ||
			slices.ContainsFunc(given, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			continue
		}
		if near := config.Nearest(name, known); near != "" {
			a.note(settings, "the variable %s is not a setting and is ignored; did you mean %s?", full, prefix+near)
		}
	}
}

// logger returns where the libraries log: nowhere, unless --verbose.
func (a *app) logger(s config.Settings, p *console.Progress) *slog.Logger {
	if !s.Output.Verbose {
		return slog.New(slog.DiscardHandler)
	}
	w := a.err
	if p != nil {
		w = p // above the live line
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// programName is the name of the program in what it says, whatever its file is called.
const programName = "bastion"

// The groups of settings that matter to most commands.
var (
	showCommon  = []string{config.GroupAWS, config.GroupOutput}
	showBastion = []string{config.GroupAWS, config.GroupBastion, config.GroupOutput}
)

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
		Verbs: append([]*cli.Command{
			a.forwardCommand(),
			a.socksCommand(),
			a.browserCommand(),
			a.openCommand(),
			a.rdpCommand(),
			a.proxyCommand(),
			a.knownHostsCommand(),
			a.sshConfigCommand(),
			a.execCommand(),
			a.kubeconfigCommand(),
			a.eksTokenCommand(),
			a.urlCommand(),
			a.tokenCommand(),
			a.loginCommand(),
			a.upCommand(),
			a.downCommand(),
			a.statusCommand(),
			a.agentCommand(),
			a.serviceCommand(),
			a.lsCommand(),
			a.stopCommand(),
			a.waitCommand(),
			a.dashboardCommand(),
			a.topCommand(),
			a.versionCommand(),
			a.completionCommand(),
			a.manCommand(),
			a.useCommand(),
			a.configCommand(),
			a.trustCommand(),
			a.doctorCommand(),
			a.helpCommand(),
		}, admin.Commands(a.adminHost(), groupAccount)...),
	}
}

// optional returns the argument of a command that may have one, else "".
func optional(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}
