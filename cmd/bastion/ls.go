package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/launch"
	"github.com/bastion-ssm/bastion/agent/lookup"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/duration"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/sleep"
	"github.com/bastion-ssm/bastion/internal/statusview"
)

func (a *app) lsCommand() *cli.Command {
	list := func(name, summary string, with func(invocation.Run) func(context.Context, []string) error, list func(context.Context, config.Settings) error) *cli.Command {
		return &cli.Command{
			Name: name, Summary: summary, Settings: invocation.CommonSettings,
			Examples: []string{"bastion ls " + name, "bastion ls " + name + " -o json"},
			Run:      with(func(ctx context.Context, s config.Settings, _ []string) error { return list(ctx, s) }),
		}
	}
	return &cli.Command{
		Name:    "ls",
		Summary: "list the agent's forwards, your bastions, or the available targets",
		Group:   groupAgent,
		About:   []cli.Passage{cli.Para("Without a subcommand it lists the forwards.")},
		Examples: []string{
			"bastion ls",
			"bastion ls targets",
			"bastion ls forwards -o json | jq -r '.forwards[].listen'",
		},
		Settings: invocation.CommonSettings,
		Usual:    "forwards",
		Verbs: []*cli.Command{
			list("forwards", "list the agent's forwards, with their clients and traffic", a.WithLocal, a.lsForwards),
			list("bastions", "list your bastion tasks in AWS", a.With, a.lsBastions),
			a.inventory().ListCommand(),
		},
	}
}

func (a *app) lsForwards(ctx context.Context, s config.Settings) error {
	st, err := launch.State(ctx, s)
	if err != nil {
		return err
	}
	if s.Output.Format == "json" {
		return a.PrintJSON(map[string]any{"forwards": st.Forwards})
	}
	return statusview.Forwards(a.Out, st.Forwards)
}

func (a *app) lsBastions(ctx context.Context, s config.Settings) error {
	st, err := a.awsStatus(ctx, s)
	if err != nil {
		return err
	}
	if s.Output.Format == "json" {
		return a.PrintJSON(st)
	}
	return statusview.Bastions(a.Out, st)
}

func (a *app) stopCommand() *cli.Command {
	return &cli.Command{
		Name:    "stop",
		Summary: "end forwards of the agent",
		Group:   groupAgent,
		Args:    "NAME...|all", MinArgs: 1, MaxArgs: cli.AnyNumber,
		About: []cli.Passage{
			cli.Para("Ends the forwards with these names, and their connections. A command that has them in the foreground ends too."),
			cli.Para(`Names belong to a profile, account and region. With a profile or region (--profile, AWS_PROFILE, ...) the command looks
				only there; without one it refuses a name that several have. NAME@LINK, as bastion ls shows it, names one exactly. The
				word all means the forwards of every profile, or of --profile.`),
		},
		Examples: []string{"bastion stop orders", "bastion stop orders --profile prod", "bastion stop all"},
		Settings: []string{config.GroupAWS, config.GroupOutput},
		Complete: func([]string) []cli.Candidate {
			return append(a.forwardCandidates(), cli.Candidate{Value: "all", Help: "every forward"})
		},
		Run: a.WithLocal(a.stop),
	}
}

func (a *app) stop(ctx context.Context, s config.Settings, names []string) error {
	client, err := launch.Client(s)
	if err != nil {
		return err
	}
	st, err := launch.State(ctx, s)
	if err != nil {
		return err
	}
	stopped := []api.Forward{}
	var firstErr error
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			continue
		}
		some, err := a.stopNamed(ctx, client, s, st, name)
		if firstErr == nil {
			firstErr = err
		}
		stopped = append(stopped, some...)
	}
	if s.Output.Format == "json" {
		if err := a.PrintJSON(map[string]any{"stopped": stopped}); err != nil {
			return err
		}
		return firstErr
	}
	if len(stopped) == 0 && firstErr == nil {
		return console.Printf(a.Out, "no forwards\n")
	}
	for _, f := range stopped {
		if err := console.Printf(a.Out, "%s is stopped\n", f.Name); err != nil {
			return err
		}
	}
	return firstErr
}

// stopNamed ends the forward that name means in the command's scope, or all.
func (a *app) stopNamed(ctx context.Context, client *api.Client, s config.Settings, st api.State, name string) ([]api.Forward, error) {
	s, name, err := a.Scoped(s, name)
	if err != nil {
		return nil, err
	}
	m := a.LookupScope(s)
	switch {
	case name == "all" && s.Environment == "" && a.Line.Settings["profile"] == "" && a.Line.Settings["region"] == "":
		return launch.StopForward(ctx, client, s, name)
	case name == "all":
		var stopped []api.Forward
		var firstErr error
		for _, f := range st.Forwards {
			if !m.Has(f) {
				continue
			}
			some, err := launch.StopForward(ctx, client, s, f.Reference())
			stopped = append(stopped, some...)
			if firstErr == nil {
				firstErr = err
			}
		}
		return stopped, firstErr
	}
	f, err := lookup.Choose(ctx, st.Forwards, name, m)
	switch {
	case err == nil:
		return launch.StopForward(ctx, client, s, f.Reference())
	case errors.Is(err, lookup.ErrNone):
		return launch.StopForward(ctx, client, s, name) // the agent says which names it has
	}
	return nil, err
}

// waitOptions are the options of wait that are no settings.
type waitOptions struct{ timeout time.Duration }

func (a *app) waitCommand() *cli.Command {
	o := waitOptions{timeout: time.Minute}
	return &cli.Command{
		Name:    "wait",
		Summary: "wait until a forward of the agent is ready",
		Group:   groupAgent,
		Args:    "NAME", MinArgs: 1, MaxArgs: 1,
		About: []cli.Passage{cli.Para(`Waits until the agent has a forward of this name that is ready, and prints its local address. A forward is ready
			when its link is up, or is closed because it was idle: the next connection opens another. NAME is as for bastion url. At the
			timeout it ends with exit code 9.`)},
		Examples: []string{
			"bastion wait orders --timeout 30s",
			"bastion forward orders & bastion wait orders && psql -h 127.0.0.1",
		},
		Flags: []cli.Option{cli.Func("DURATION", "how long to wait (default: 1m)", func(v string) (err error) {
			o.timeout, err = duration.Parse(v)
			if err == nil && o.timeout <= 0 {
				err = errors.New("the timeout must be more than 0")
			}
			return err
		}, "timeout")},
		Settings: []string{config.GroupAWS, config.GroupOutput},
		Complete: func([]string) []cli.Candidate { return a.forwardCandidates() },
		Run:      a.WithLocal(func(ctx context.Context, s config.Settings, args []string) error { return a.wait(ctx, s, args[0], o) }),
	}
}

func (a *app) wait(ctx context.Context, s config.Settings, name string, o waitOptions) error {
	client, err := launch.Client(s)
	if err != nil {
		return err
	}
	until := time.Now().Add(o.timeout)
	s, name, err = a.Scoped(s, name)
	if err != nil {
		return err
	}
	m := a.LookupScope(s)
	var st api.State
	for {
		left := time.Until(until)
		next, err := client.Wait(ctx, st.Revision, max(left, 0))
		switch {
		case errors.Is(err, api.ErrNotRunning):
			st = api.State{}
			if st.Forwards, err = launch.Kept(s); err != nil {
				return err
			}
			if left > 0 { // whoever opens the forward starts the agent
				if err := sleep.For(ctx, min(left, launch.Poll)); err != nil {
					return err
				}
			}
		case err != nil:
			return err
		default:
			st = next
		}
		f, err := lookup.Choose(ctx, st.Forwards, name, m)
		switch {
		case err == nil && f.State == api.ForwardReady:
			return a.Outcome(s, f, f.Listen)
		case left <= 0:
			lacks, next := lookup.Missing(f, err)
			return fail.New(fail.Timeout, "wait for the forward "+name, fmt.Errorf("%s after %s", lacks, o.timeout), next)
		}
	}
}
