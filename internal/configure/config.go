package configure

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/internal/shared"
	"github.com/bastion-ssm/bastion/internal/words"
)

// showOptions are the options of config show that are no settings.
type showOptions struct{ all, refresh bool }

func (a *program) configCommand() *cli.Command {
	var show showOptions
	var o shareOptions
	return &cli.Command{
		Name:    "config",
		Summary: "show the settings that count and where they come from, or check the file",
		About: []cli.Passage{cli.Para(`Without a subcommand it shows the settings. -e shows those of an environment. docs/configuration.md has the order
			of the sources.`)},
		Examples: []string{"bastion config", "bastion config show -e prod -o json | jq -r .settings[].key", "bastion config check"},
		Settings: invocation.CommonSettings,
		Usual:    "show",
		Verbs: []*cli.Command{
			{
				Name: "show", Summary: "print each setting with its value and source", Settings: invocation.CommonSettings,
				About: []cli.Passage{cli.Para(`Prints the settings that are not at their defaults, the targets and the environments. The source is an
					option, a variable, a target's own entry, bastion use, the environment, the file, or the default.`)},
				Examples: []string{"bastion config show", "bastion config show --all", "bastion config show -e prod"},
				Flags: []cli.Option{
					cli.Switch(&show.all, "also print the settings at their defaults", "all"),
					cli.Switch(&show.refresh, "ask AWS for the shared configuration now", "refresh"),
				},
				Run: func(ctx context.Context, _ []string) error { return a.show(ctx, show) },
			},
			{
				Name: "check", Summary: "print all errors of the configuration file", Settings: []string{config.GroupOutput},
				About: []cli.Passage{cli.Para(`Checks the file that commands here would use, or the one of --config: keys, values, targets and
					environments, trusted or not. The exit code is 2 if it has errors.`)},
				Examples: []string{"bastion config check", "bastion config check --config ~/src/shop/bastion.yaml"},
				Run:      func(ctx context.Context, _ []string) error { return a.check(ctx) },
			},
			{
				Name: "share", Summary: "write a file as the account's shared configuration", Args: "[FILE]", MaxArgs: 1, Settings: invocation.CommonSettings,
				About: []cli.Passage{cli.Para(`Commands without a configuration file take that of the account and region: the SSM parameter
					/bastion/config, or that of BASTION_SHARED_CONFIG. This command shows a file, the project's by default, asks, and writes it
					there. It needs ssm:PutParameter; docs/environments.md has more.`)},
				Examples: []string{"bastion config share", "bastion config share --profile admin --yes ~/src/shop/bastion.yaml", "bastion config share --remove"},
				Flags: []cli.Option{
					cli.Switch(&o.yes, "agree without a question, for scripts", "yes", "y"),
					cli.Switch(&o.remove, "remove the shared configuration", "remove"),
				},
				Run: func(ctx context.Context, args []string) error { return a.share(ctx, cli.Optional(args), o) },
			},
		},
	}
}

// configTarget is a target in the JSON output of config show.
type configTarget struct {
	Name        string `json:"name"`
	Target      string `json:"target"`
	LocalPort   int    `json:"local_port,omitempty"`
	Environment string `json:"environment,omitempty"`
	Profile     string `json:"profile,omitempty"`
	Region      string `json:"region,omitempty"`
	Where       string `json:"where"`
}

// show runs `bastion config show`.
func (a *program) show(ctx context.Context, o showOptions) error {
	how := shared.Usual
	if o.refresh {
		how = shared.Anew
	}
	src := a.Source(ctx, how)
	src.Ignored = a.WarnIgnored
	s, explained, err := config.Explain(src)
	if err != nil {
		return err
	}
	a.NoteUnread(s)
	for i := range explained {
		byAWS(&explained[i])
	}
	var targets []configTarget
	for _, name := range slices.Sorted(maps.Keys(s.Targets)) {
		t := s.Targets[name]
		targets = append(targets, configTarget{name, t.Spec, t.LocalPort, t.Own("environment"), t.Own("profile"), t.Own("region"), t.Where})
	}
	if s.Output.Format == "json" {
		return a.PrintJSON(map[string]any{
			"file": s.File, "environment": s.Environment, "environments": s.Environments, "settings": explained, "targets": targets,
			"shared": sharedOutputOf(a.Shared, s),
		})
	}
	file := words.Dash(s.File)
	if a.Shared.Found != nil {
		file += " (" + describeShared(a.Shared, time.Now()) + ")"
	}
	if err := console.Printf(a.Out, "file: %s\nenvironment: %s\n\n", file, words.Dash(s.Environment)); err != nil {
		return err
	}
	w := tabwriter.NewWriter(a.Out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "SETTING\tVALUE\tFROM")
	for _, e := range explained {
		from := e.Where
		if e.Origin == config.FromEnvironment {
			from += " (environment " + s.Environment + ")"
		}
		if e.Origin == config.FromDefault {
			if from = "default"; !o.all {
				continue
			}
		}
		fmt.Fprintln(w, printable.Row(e.Key, words.Dash(e.Value), from))
	}
	for i, t := range targets {
		if i == 0 {
			fmt.Fprintln(w, "\t\t\nTARGET\tVALUE\tFROM")
		}
		fmt.Fprintln(w, printable.Row(t.Name, t.Target+words.InParentheses(t.Environment, t.Profile, t.Region), t.Where))
	}
	return w.Flush()
}

// byAWS fills in the profile and the region that the AWS SDK takes from its variables where no setting gives one.
func byAWS(e *config.Explained) {
	if e.Value != "" {
		return
	}
	for _, name := range map[string][]string{
		"profile": {"AWS_PROFILE", "AWS_DEFAULT_PROFILE"}, "region": {"AWS_REGION", "AWS_DEFAULT_REGION"},
	}[e.Key] {
		if value := os.Getenv(name); value != "" && e.Value == "" {
			e.Value, e.Origin, e.Where = value, config.FromVariable, name
		}
	}
}

// check runs `bastion config check`.
func (a *program) check(ctx context.Context) error {
	s, err := config.Load(config.Source{Flags: a.Line.Settings, NoFile: true})
	if err != nil {
		return err
	}
	src := a.Source(ctx, shared.Usual)
	src.Ignored = a.WarnIgnored
	path, problems, err := src.Check(checkNamed)
	if err != nil {
		return err
	}
	if path == "" {
		return a.Outcome(s, map[string]any{"file": "", "problems": problems}, "there is no configuration file")
	}
	if s.Output.Format == "json" {
		err = a.PrintJSON(map[string]any{"file": path, "problems": problems})
	}
	for _, p := range problems {
		if s.Output.Format != "json" && err == nil {
			err = console.Printf(a.Out, "%s: %s\n", p.Where, p.Message)
		}
	}
	switch {
	case err != nil:
		return err
	case len(problems) > 0:
		return fail.New(fail.Usage, "", fmt.Errorf("%s has %s", path, words.Count(len(problems), "error")), "docs/configuration.md lists every key")
	case s.Output.Format == "json":
		return nil
	}
	return console.Printf(a.Out, "%s has no errors\n", path)
}

// checkNamed checks what a named target stands for. The error is without its place.
func checkNamed(t config.Target) error {
	_, err := request.Named(t)
	if f, ok := errors.AsType[*fail.Error](err); ok {
		return f.Err
	}
	return err
}
