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

	"github.com/bastion-ssm/bastion/agent"
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
	mfa        agent.MFA         // what codes have opened
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
	c := a.cli()
	sorted, err := flagsFirst(c, args)
	if err == nil {
		err = c.RunContext(ctx, sorted)
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
	if !s.Quiet {
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
			_ = printf(a.err, "bastion: the variable %s is no setting and is ignored; did you mean %s?\n",
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
	if !s.Verbose {
		return slog.New(slog.DiscardHandler)
	}
	w := a.err
	if p != nil {
		w = p // above the live line
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func init() {
	// -v is --verbose; the version is a command.
	cli.HelpFlag = &cli.BoolFlag{Name: "help", Aliases: []string{"h"}, Usage: "show help", DisableDefaultText: true}
}

// The groups of settings that a command shows in its help; all others are accepted too.
var (
	showCommon  = []string{config.GroupAWS, config.GroupOutput}
	showBastion = []string{config.GroupAWS, config.GroupBastion, config.GroupOutput}
)

// cli returns the command line: its commands, flags and help.
func (a *app) cli() *cli.App {
	c := &cli.App{
		Name:      "bastion",
		Usage:     "reach private AWS networks through SSM, with no inbound port",
		UsageText: "bastion COMMAND [options] [arguments]",
		Description: text(`
			bastion starts a task of yours on ECS Fargate, opens SSM sessions to it and forwards local ports through SSH.
			Nothing listens on the internet, no key is kept on disk.

			Settings come from flags, then BASTION_* variables, then ./bastion.yaml (looked for upwards, see bastion help trust) or
			~/.config/bastion/config.yaml; bastion help settings lists them. AWS credentials are found as the AWS CLI does.`,
			"bastion forward rds:orders 12345",
			"bastion forward -d orders          # stays; bastion ls, url and stop know it as orders",
			"bastion exec orders -- psql",
			"bastion browser http://wiki.corp.internal/",
			"bastion status",
			"bastion down"),
		Writer:          a.out,
		ErrWriter:       a.err,
		HideVersion:     true,
		HideHelpCommand: true,
		Flags:           a.settingFlags(nil, cli.HelpFlag),
		Action:          a.noCommand,
		OnUsageError:    usageError,
		ExitErrHandler:  func(*cli.Context, error) {},
		Commands: []*cli.Command{
			a.forwardCommand(),
			a.execCommand(),
			a.urlCommand(),
			a.tokenCommand(),
			a.socksCommand(),
			a.browserCommand(),
			a.proxyCommand(),
			{
				Name:      "known-hosts",
				Usage:     "print the host key of the bastion that a running proxy is connected to (KnownHostsCommand)",
				Category:  "Connect",
				ArgsUsage: "HOST",
				Description: text(`
					Asks the bastion proxy that the same ssh has started, waits until it knows the key, and prints a known_hosts line
					for HOST. Nothing is printed for a host that is not the bastion: OpenSSH then consults known_hosts files.`,
					"ssh -o KnownHostsCommand='/usr/local/bin/bastion known-hosts %H' bastion"),
				Flags:  a.settingFlags([]string{config.GroupLocal}),
				Action: a.knownHosts,
			},
			a.sshConfigCommand(),
			{
				Name:     "up",
				Usage:    "start the bastion, or find the one that runs, and wait until it answers",
				Category: "Bastion",
				Description: text(`
					Finds your own task by the identity of your AWS credentials, or starts one; then waits until it runs, its exec agent
					is connected and bastiond answers. forward, socks and proxy do the same by themselves.`,
					"bastion up",
					"bastion up -o json | jq -r .task_arn"),
				Flags:  a.settingFlags(showBastion),
				Action: a.up,
			},
			a.downCommand(),
			a.statusCommand(),
			a.agentCommand(),
			a.serviceCommand(),
			a.lsCommand(),
			a.stopCommand(),
			a.waitCommand(),
			a.dashboardCommand(),
			a.topCommand(),
			{
				Name:        "version",
				Usage:       "print the version",
				Category:    "Other",
				Description: text(`Prints the version, the Go version and the platform.`, "bastion version", "bastion version -o json"),
				Flags:       a.settingFlags([]string{config.GroupOutput}),
				Action:      a.version,
			},
			{
				Name:      "completion",
				Usage:     "print a completion script for a shell",
				Category:  "Other",
				ArgsUsage: "bash|zsh|fish|powershell",
				Description: text(`Prints a script that completes commands, flags and the configuration's target names.`,
					"source <(bastion completion bash)",
					"bastion completion zsh > \"${fpath[1]}/_bastion\"",
					"bastion completion fish > ~/.config/fish/completions/bastion.fish",
					"bastion completion powershell | Out-String | Invoke-Expression"),
				Flags:  a.settingFlags(nil),
				Action: a.completion,
			},
			a.manCommand(),
			a.trustCommand(),
			{
				Name:        "help",
				Usage:       "show help about a command, or about the settings",
				Category:    "Other",
				ArgsUsage:   "[COMMAND|settings]",
				Description: text(`Shows the help of a command. The topic "settings" lists every setting with its flag, variable and key.`, "bastion help forward", "bastion help settings"),
				Flags:       a.settingFlags(nil),
				Action:      a.help,
			},
		},
	}
	for _, cmd := range c.Commands {
		cmd.OnUsageError = usageError
		cmd.HideHelpCommand = true
		cmd.CustomHelpTemplate = commandHelp
	}
	c.CustomAppHelpTemplate = appHelp
	return c
}

// commandHelp and appHelp are the layouts of --help.
const (
	commandHelp = `{{.HelpName}} - {{.Usage}}

Usage: {{.HelpName}} [options]{{if .ArgsUsage}} {{.ArgsUsage}}{{end}}

{{.Description}}

Options:{{range .VisibleFlagCategories}}
{{if .Name}} {{.Name}}
{{end}}{{range .Flags}}  {{.}}
{{end}}{{end}}
Every setting is an option of every command: see bastion help settings.
`
	appHelp = `{{.Name}} - {{.Usage}}

Usage: {{.UsageText}}

{{.Description}}

Commands:{{range .VisibleCategories}}{{if .Name}}
 {{.Name}}{{range .VisibleCommands}}
  {{.Name}}{{"\t"}}{{.Usage}}{{end}}{{end}}{{end}}

bastion COMMAND --help explains a command and gives examples; bastion help settings lists the settings.
`
)

// text joins a description, freed of the source's indentation, and its examples.
func text(description string, examples ...string) string {
	lines := strings.Split(strings.TrimSpace(description), "\n")
	indent := 0
	for _, l := range lines[1:] {
		if strings.TrimSpace(l) != "" {
			indent = len(l) - len(strings.TrimLeft(l, "\t"))
			break
		}
	}
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(l, strings.Repeat("\t", indent))
	}
	out := strings.Join(lines, "\n") + "\n\nExamples:"
	for _, e := range examples {
		out += "\n  " + e
	}
	return out
}

// noCommand is what happens without a command, or with an unknown one.
func (a *app) noCommand(c *cli.Context) error {
	if !c.Args().Present() {
		if err := cli.ShowAppHelp(c); err != nil {
			return err
		}
		return nil
	}
	return unknownCommand(c.App, c.Args().First())
}

func unknownCommand(c *cli.App, name string) error {
	var names []string
	for _, cmd := range c.Commands {
		names = append(names, cmd.Name)
	}
	next := "bastion --help lists the commands"
	if near := config.Nearest(name, names); near != "" {
		next = fmt.Sprintf("did you mean bastion %s?", near)
	}
	return usage(next, "no such command: %q", name)
}

// usageError turns the parser's complaint into ours.
func usageError(c *cli.Context, err error, _ bool) error {
	where := "bastion"
	if c.Command != nil && c.Command.Name != "" && c.Command.Name != "bastion" {
		where = "bastion " + c.Command.Name
	}
	msg := err.Error()
	if name, ok := strings.CutPrefix(msg, "flag provided but not defined: -"); ok {
		return unknownFlag(where, name)
	}
	if name, ok := strings.CutPrefix(msg, "flag needs an argument: -"); ok {
		return usage(where+" --help lists the options", "the option %s needs a value", dashes(strings.TrimPrefix(name, "-")))
	}
	return usage(where+" --help lists the options", "%s", msg)
}

func unknownFlag(where, name string) error {
	name = strings.TrimPrefix(name, "-")
	var names []string
	for _, s := range config.All() {
		names = append(names, s.Flag())
	}
	next := where + " --help lists the options"
	if near := config.Nearest(strings.ReplaceAll(name, "_", "-"), append(names, "config", "help")); near != "" {
		next = "did you mean --" + near + "?"
	}
	return usage(next, "no such option: %s", dashes(name))
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
		return usage("usage: "+strings.TrimSpace(c.Command.HelpName+" "+c.Command.ArgsUsage), "%s: %s", c.Command.Name, msg)
	}
	return nil
}

func (a *app) help(c *cli.Context) error {
	if err := argCount(c, 0, 1); err != nil {
		return err
	}
	switch name := c.Args().First(); {
	case name == "":
		var text strings.Builder
		cli.HelpPrinter(&text, c.App.CustomAppHelpTemplate, c.App)
		return a.document("help", text.String())
	case name == "settings":
		return a.printSettings()
	case c.App.Command(name) == nil:
		return unknownCommand(c.App, name)
	default:
		cmd := c.App.Command(name)
		var text strings.Builder
		cli.HelpPrinter(&text, cmd.CustomHelpTemplate, cmd)
		return a.document("help", text.String())
	}
}

// printSettings prints the table of settings.
func (a *app) printSettings() error {
	var b strings.Builder
	b.WriteString("Settings: option, variable, key of the configuration file. The first that is given wins, in this order.\n")
	for _, group := range config.Groups() {
		fmt.Fprintf(&b, "\n%s\n", group)
		for _, s := range config.All() {
			if s.Group != group {
				continue
			}
			flag := "--" + s.Flag()
			if s.Short != "" {
				flag = "-" + s.Short + ", " + flag
			}
			if s.Value != "" {
				flag += " " + s.Value
			}
			fmt.Fprintf(&b, "  %s  %s  %s\n", flag, s.Env(), s.Key)
			def := s.Default
			if def == "" {
				def = "none"
			}
			if s.Trust != config.Project {
				def += "; from a bastion.yaml only after bastion trust"
			}
			fmt.Fprintf(&b, "      %s (default: %s)\n", s.Help, def)
		}
	}
	b.WriteString("\n--config FILE, or BASTION_CONFIG, names the configuration file.\n")
	return a.document("help", b.String())
}
