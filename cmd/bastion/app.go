package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/targets"
)

// stdio are the standard streams of an invocation.
type stdio struct {
	in       *os.File
	out, err io.Writer
	signals  *signals // nil: the process takes none
}

// app is one invocation of the command line.
type app struct {
	stdio                        // for text: what is not printable does not get through, whoever writes it
	raw        stdio             // for streams of bytes, and for displays, which sanitize what they show
	written    *output           // what out is
	flags      map[string]string // settings given as flags, by key
	configFile string            // --config
	extraLocal []string          // -L
	self       string            // the program's path, for what other programs must call
	mfa        awssdk.MFA        // what codes have opened
	login      login             // of the commands for databases
	execEnv    []execEnv         // exec --env
	format     string            // --format of url
	named      bool              // --name names the forward: no other name will do
}

func newApp(std stdio) *app {
	a := &app{stdio: std, raw: std, flags: make(map[string]string), written: &output{w: printable.NewWriter(std.out)}}
	a.out, a.err = a.written, printable.NewWriter(std.err)
	return a
}

// run runs one command line and returns its exit code.
func run(ctx context.Context, args []string, std stdio) int {
	a := newApp(std)
	a.self = args[0]
	if len(args) > 1 && args[1] == completeCommand {
		a.complete(args[2:])
		return 0
	}
	arranged, err := a.arrange(args)
	if err == nil {
		err = a.cli().RunContext(ctx, arranged)
	}
	return finish(ctx, a.err, a.written.outcome(err))
}

// settings merges flags, environment and file.
func (a *app) settings() (config.Settings, error) {
	return a.load(config.Source{Flags: a.flags, File: a.configFile, Ignored: a.warnIgnored})
}

// agentSettings are the settings of the agent itself. It serves every directory of the user's, so the project file of the one where
// it happens to start has no say. A service manager starts it in the home directory.
func (a *app) agentSettings() (config.Settings, error) {
	return a.load(config.Source{Flags: a.flags, File: a.configFile, NoProject: true})
}

func (a *app) load(src config.Source) (config.Settings, error) {
	s, err := config.Load(src)
	if err != nil {
		return s, err
	}
	// What a target looks like is for package targets to say.
	for _, name := range slices.Sorted(maps.Keys(s.Targets)) {
		if _, err := namedSpec(s.Targets[name]); err != nil {
			return s, err
		}
	}
	underSudo(&s, os.Getenv, os.Geteuid())
	if !s.Output.Quiet {
		a.warnOfVariables(os.Environ())
	}
	return s, nil
}

// warnOfVariables names the variables that look like a setting misspelt. Others that begin alike are not ours to judge.
func (a *app) warnOfVariables(environ []string) {
	const prefix = "BASTION_"
	known := []string{"CONFIG", strings.TrimPrefix(execVariable, prefix)}
	var given []string // prefixes of what bastion exec has set
	for name := range strings.SplitSeq(os.Getenv(execVariable), ",") {
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
			_ = printf(a.err, "bastion: the variable %s is not a setting and is ignored; did you mean %s?\n",
				full, prefix+near)
		}
	}
}

// namedSpec returns what a name of the configuration stands for.
func namedSpec(t config.Target) (targets.Spec, error) {
	spec, err := targets.Parse(t.Spec)
	if err == nil && spec.Kind == targets.Name && spec.Port == 0 {
		err = fmt.Errorf("%q is a name; a target is rds:ID, cache:ID or HOST:PORT", t.Spec)
	}
	if err != nil {
		return spec, fail.New(fail.Usage, t.Where, err, fail.NextOf(err))
	}
	return spec, nil
}

// logger returns where the libraries log: nowhere, unless --verbose.
func (a *app) logger(s config.Settings, p *progress) *slog.Logger {
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

// root returns the table of commands.
func (a *app) root() *command {
	return &command{
		name:    programName,
		summary: "reach private AWS networks through SSM, without an inbound port",
		about: []passage{
			para(`bastion starts your own task on ECS Fargate, opens SSM sessions to it and forwards local ports through SSH.
				Nothing listens on the internet, and the key stays in memory.`),
			para(`Settings come from options, then from BASTION_* variables, then from bastion.yaml in this directory or above (bastion
				help trust) or ~/.config/bastion/config.yaml. AWS credentials are found as the AWS CLI finds them.`),
		},
		examples: []string{
			"bastion forward rds:orders 12345",
			"bastion forward -d orders          # stays; bastion ls, url and stop know it as orders",
			"bastion exec orders -- psql",
			"bastion browser http://wiki.corp.internal/",
			"bastion down",
		},
		verbs: []*command{
			a.forwardCommand(),
			a.socksCommand(),
			a.browserCommand(),
			a.proxyCommand(),
			a.knownHostsCommand(),
			a.sshConfigCommand(),
			a.execCommand(),
			a.urlCommand(),
			a.tokenCommand(),
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
			a.trustCommand(),
			a.helpCommand(),
		},
	}
}

// cli returns the parser of the command line. Help is ours: arrange turns --help into a command.
func (a *app) cli() *cli.App {
	root := a.root()
	c := &cli.App{
		Name:            root.name,
		Usage:           root.summary,
		Writer:          a.out,
		ErrWriter:       a.err,
		HideVersion:     true,
		HideHelp:        true,
		HideHelpCommand: true,
		Flags:           urfaveFlags(a.options(root)),
		Action:          func(c *cli.Context) error { return a.noCommand(c, root) },
		OnUsageError:    usageError,
		ExitErrHandler:  func(*cli.Context, error) {},
	}
	for _, cmd := range root.verbs {
		c.Commands = append(c.Commands, a.parsed(cmd))
	}
	return c
}

// noCommand runs without a command, or with an unknown one behind "--".
func (a *app) noCommand(c *cli.Context, root *command) error {
	if c.Args().Present() {
		return unknownCommand(root, root.name, c.Args().First())
	}
	return a.document("help", helpText(root, root.name))
}

// usageError turns the parser's complaint into ours.
func usageError(c *cli.Context, err error, _ bool) error {
	where := programName
	if c.Command != nil && strings.HasPrefix(c.Command.HelpName, programName+" ") {
		where = c.Command.HelpName
	}
	msg := err.Error()
	if name, ok := strings.CutPrefix(msg, "flag provided but not defined: -"); ok {
		return unknownOption(where, name)
	}
	if name, ok := strings.CutPrefix(msg, "flag needs an argument: -"); ok {
		return usage(where+" --help lists the options", "the option %s needs a value", dashes(strings.TrimPrefix(name, "-")))
	}
	return usage(where+" --help lists the options", "%s", msg)
}

func unknownOption(where, name string) error {
	name = strings.TrimPrefix(name, "-")
	var names []string
	for _, s := range config.All() {
		names = append(names, s.Flag())
	}
	next := where + " --help lists the options"
	if near := config.Nearest(strings.ReplaceAll(name, "_", "-"), append(names, "config", "help")); near != "" {
		next = "did you mean --" + near + "?"
	}
	return usage(next, "unknown option %s", dashes(name))
}

func dashes(name string) string {
	if len(name) == 1 {
		return "-" + name
	}
	return "--" + name
}

// argCount refuses more arguments than a command takes, or fewer.
func argCount(c *cli.Context, low, high int) error {
	if n := c.NArg(); n < low || n > high {
		msg := "too many arguments"
		if n < low {
			msg = "arguments are missing"
		}
		return usage("usage: "+strings.TrimSpace(c.Command.HelpName+" "+c.Command.ArgsUsage), "%s: %s",
			strings.TrimPrefix(c.Command.HelpName, programName+" "), msg)
	}
	return nil
}
