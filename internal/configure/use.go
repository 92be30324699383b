package configure

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/internal/shared"
	"github.com/bastion-ssm/bastion/internal/words"
)

// useOptions are the options of use that are no settings.
type useOptions struct{ none bool }

func (a *program) useCommand() *cli.Command {
	var o useOptions
	return &cli.Command{
		Name:    "use",
		Summary: "choose the environment for later commands, or list the environments",
		Args:    "[NAME]", MaxArgs: 1,
		About: []cli.Passage{
			cli.Para(`An environment is a named set of settings and targets under environments in bastion.yaml, for example dev or prod.
				This command records which one later commands use, for the configuration file in force and for no other. Without an
				argument it lists the file's environments and marks the one that counts.`),
			cli.Para(`The option -e and BASTION_ENVIRONMENT count before the record, and the file's own key environment after it. ENV/TARGET
				names an environment for one target. docs/environments.md has more.`),
		},
		Examples: []string{"bastion use", "bastion use dev", "bastion use --none"},
		Flags:    []cli.Option{cli.Switch(&o.none, "use none, whatever the file says", "none")},
		Settings: []string{config.GroupOutput},
		Complete: func([]string) []cli.Candidate { return Environments(a.Invocation) },
		Run:      func(ctx context.Context, args []string) error { return a.use(ctx, cli.Optional(args), o) },
	}
}

// use runs `bastion use`. Its settings are not the file's: the file may need trust, or lack the environment in use.
func (a *program) use(ctx context.Context, name string, o useOptions) error {
	src := a.Source(ctx, shared.Usual)
	src.Ignored = a.WarnIgnored
	s, err := config.Load(config.Source{Flags: a.Line.Settings, NoFile: true})
	if err != nil {
		return err
	}
	switch {
	case o.none && name != "":
		return fail.Usagef("give a name, or --none", "use: a name and --none exclude each other")
	case o.none || name != "":
		if err := src.Choose(ctx, name, time.Now()); err != nil {
			return err
		}
	}
	src.Ignored = nil // it has said so
	c, err := src.Choices()
	if err != nil {
		return err
	}
	if !o.none && name == "" {
		return a.listEnvironments(c, s)
	}
	if c.Environment != name {
		a.Note(s, "%s names the environment %s, which counts before bastion use", c.Where, words.Dash(c.Environment))
	}
	text := fmt.Sprintf("commands with %s use the environment %s", c.File.Path, name)
	if name == "" {
		text = fmt.Sprintf("commands with %s use no environment", c.File.Path)
	}
	return a.Outcome(s, map[string]any{"file": c.File.Path, "environment": name}, text)
}

// listedEnvironment is an environment in the JSON output of use.
type listedEnvironment struct {
	Name    string `json:"name"`
	Colour  string `json:"colour,omitempty"`
	Confirm bool   `json:"confirm"`
	Where   string `json:"where"` // file:line:column
	InForce bool   `json:"in_force"`
}

func (a *program) listEnvironments(c config.Choices, s config.Settings) error {
	if c.Unknown {
		a.Note(s, "%s names the environment %s, which %s does not have", c.Where, c.Environment, words.Dash(c.File.Path))
	}
	if s.Output.Format == "json" {
		all := []listedEnvironment{}
		for _, e := range c.Environments {
			all = append(all, listedEnvironment{e.Name, e.Colour, e.Confirm, e.Where, e.Name == c.Environment})
		}
		return a.PrintJSON(map[string]any{"file": c.File.Path, "environment": c.Environment, "chosen_by": c.Where, "environments": all})
	}
	if len(c.Environments) == 0 {
		return console.Printf(a.Out, "no environments; docs/environments.md shows how to add some to bastion.yaml\n")
	}
	w := tabwriter.NewWriter(a.Out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "ENVIRONMENT\tCONFIRM\tIN FORCE BY\tWHERE")
	for _, e := range c.Environments {
		confirm, by := "", ""
		if e.Confirm {
			confirm = "yes"
		}
		if e.Name == c.Environment {
			by = c.Where
		}
		fmt.Fprintln(w, strings.TrimRight(printable.Row(e.Name, words.Dash(confirm), words.Dash(by), e.Where), " "))
	}
	return w.Flush()
}

// Environments are the environments of the configuration file.
func Environments(in *invocation.Invocation) []cli.Candidate {
	c, err := in.Source(context.Background(), shared.Cached).Choices()
	if err != nil {
		return nil
	}
	var out []cli.Candidate
	for _, e := range c.Environments {
		out = append(out, cli.Candidate{Value: e.Name, Help: "environment"})
	}
	return out
}
