package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/daemon"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/tunnel"
)

func (a *app) lsCommand() *cli.Command {
	return &cli.Command{
		Name:      "ls",
		Usage:     "list the agent's forwards, your bastions, or the targets that can be reached",
		Category:  "Agent",
		ArgsUsage: "[forwards|bastions|targets]",
		Description: text(`
			forwards  those that the agent has, with who is connected and how much went through (the default)
			bastions  your bastion tasks in AWS
			targets   the names of the configuration, and the databases and caches of the region`,
			"bastion ls",
			"bastion ls targets",
			"bastion ls forwards -o json | jq -r '.forwards[].listen'"),
		Flags: a.settingFlags(showCommon),
		Action: func(c *cli.Context) error {
			if err := argCount(c, 0, 1); err != nil {
				return err
			}
			s, err := a.settings()
			if err != nil {
				return err
			}
			switch what := c.Args().First(); what {
			case "", "forwards":
				return a.lsForwards(c.Context, s)
			case "bastions":
				return a.lsBastions(c.Context, s)
			case "targets":
				return a.lsTargets(c.Context, s)
			default:
				next := "it is one of forwards, bastions and targets"
				if near := config.Nearest(what, []string{"forwards", "bastions", "targets"}); near != "" {
					next = "did you mean bastion ls " + near + "?"
				}
				return usage(next, "ls has no list of %q", what)
			}
		},
	}
}

// agentState returns the agent's state; an empty one where it does not run, for then it has nothing.
func (a *app) agentState(ctx context.Context, s config.Settings) (api.State, error) {
	none := api.State{Forwards: []api.Forward{}, Links: []api.Link{}}
	client, err := a.agentClient(s)
	if err != nil {
		return none, err
	}
	st, err := client.State(ctx)
	if errors.Is(err, api.ErrNotRunning) {
		daemon.RemoveStale(client.Socket())
		return none, nil
	}
	return st, err
}

func (a *app) lsForwards(ctx context.Context, s config.Settings) error {
	st, err := a.agentState(ctx, s)
	if err != nil {
		return err
	}
	if s.Output == "json" {
		return a.printJSON(map[string]any{"forwards": st.Forwards})
	}
	if len(st.Forwards) == 0 {
		_, err := fmt.Fprintln(a.out, "no forwards")
		return err
	}
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tLISTEN\tTARGET\tSTATE\tOF\tAGE\tCONNECTIONS\tUP\tDOWN")
	for _, f := range st.Forwards {
		of := "the agent"
		if !f.Detached {
			of = fmt.Sprintf("%s (process %d)", f.Command, f.PID)
		}
		target := f.Target
		if f.Kind == api.KindProxy {
			target = "(proxy)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", f.Name, f.Listen, target, f.State, of,
			time.Since(f.Opened).Round(time.Second), f.Stats.Active, size(float64(f.Stats.BytesUp)),
			size(float64(f.Stats.BytesDown)))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	for _, f := range st.Forwards {
		if f.Error != "" {
			if _, err := fmt.Fprintf(a.out, "%s: %s\n", f.Name, oneLine(f.Error)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *app) lsBastions(ctx context.Context, s config.Settings) error {
	st, err := a.awsStatus(ctx, s)
	if err != nil {
		return err
	}
	if s.Output == "json" {
		return a.printJSON(st)
	}
	return a.printBastions(st)
}

// listedTarget is a line of ls targets.
type listedTarget struct {
	Spec   string `json:"spec"`
	Name   string `json:"name,omitempty"` // in the configuration
	Host   string `json:"host,omitempty"` // with its port
	Engine string `json:"engine,omitempty"`
}

func (a *app) lsTargets(ctx context.Context, s config.Settings) error {
	all := []listedTarget{}
	for _, name := range slices.Sorted(maps.Keys(s.Targets)) {
		all = append(all, listedTarget{Spec: s.Targets[name].Spec, Name: name})
	}
	run, err := a.open(ctx, "ls", s)
	if err == nil {
		defer run.close()
		run.progress.Step("looking up databases and caches")
		var found []listedTarget
		found, err = discover(ctx, run)
		run.progress.Idle()
		all = append(all, found...)
	}
	if err != nil && len(all) == 0 {
		return err
	}
	if s.Output == "json" {
		if printErr := a.printJSON(map[string]any{"targets": all}); printErr != nil {
			return printErr
		}
		return err
	}
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "TARGET\tNAME\tENGINE\tADDRESS")
	for _, t := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", t.Spec, dash(t.Name), dash(t.Engine), dash(t.Host))
	}
	if flushErr := w.Flush(); flushErr != nil {
		return flushErr
	}
	return err
}

func discover(ctx context.Context, run *session) ([]listedTarget, error) {
	endpoints, err := run.agent.Targets(ctx)
	out := make([]listedTarget, len(endpoints))
	for i, e := range endpoints {
		out[i] = listedTarget{Spec: e.Name, Engine: e.Engine}
		if e.Host != "" {
			out[i].Host = fmt.Sprintf("%s:%d", e.Host, e.Port)
		}
	}
	return out, err
}

func (a *app) stopCommand() *cli.Command {
	return &cli.Command{
		Name:      "stop",
		Usage:     "end forwards of the agent",
		Category:  "Agent",
		ArgsUsage: "NAME...|all",
		Description: text(`Ends the forwards of these names, and with them their connections. A command that has them in the foreground ends too.`,
			"bastion stop orders",
			"bastion stop all"),
		Flags: a.settingFlags([]string{config.GroupOutput}),
		Action: func(c *cli.Context) error {
			if c.NArg() == 0 {
				return usage("usage: bastion stop NAME...|all", "say which forwards to end")
			}
			s, err := a.settings()
			if err != nil {
				return err
			}
			return a.stop(c.Context, s, c.Args().Slice())
		},
	}
}

func (a *app) stop(ctx context.Context, s config.Settings, names []string) error {
	client, err := a.agentClient(s)
	if err != nil {
		return err
	}
	stopped := []api.Forward{}
	var firstErr error
	for _, name := range names {
		some, err := client.Stop(ctx, name)
		if errors.Is(err, api.ErrNotRunning) {
			if name == "all" {
				err = nil
			} else {
				err = fail.New(fail.NoTarget, "stop the forward "+name, errors.New("no agent is running, so there are no forwards"),
					"bastion forward -d opens one")
			}
		}
		if firstErr == nil {
			firstErr = err
		}
		stopped = append(stopped, some...)
	}
	if s.Output == "json" {
		if err := a.printJSON(map[string]any{"stopped": stopped}); err != nil {
			return err
		}
		return firstErr
	}
	for _, f := range stopped {
		if _, err := fmt.Fprintf(a.out, "%s is stopped\n", f.Name); err != nil {
			return err
		}
	}
	return firstErr
}

func (a *app) waitCommand() *cli.Command {
	timeout := time.Minute
	return &cli.Command{
		Name:      "wait",
		Usage:     "wait until a forward of the agent serves",
		Category:  "Agent",
		ArgsUsage: "NAME",
		Description: text(`
			Waits until the agent has a forward of this name that serves, and prints where it listens: its link is up, or has been
			closed because nobody used it, and the next connection makes another. It fails with exit code 9 when the time is over.`,
			"bastion wait orders --timeout 30s",
			"bastion forward orders & bastion wait orders && psql -h 127.0.0.1"),
		Flags: a.settingFlags([]string{config.GroupOutput}, &textFlag{
			names: []string{"timeout"}, value: "DURATION", help: "how long to wait (default: 1m)",
			setErr: func(v string) (err error) {
				timeout, err = time.ParseDuration(v)
				if err == nil && timeout <= 0 {
					err = errors.New("it must be more than nothing")
				}
				return err
			},
		}),
		Action: func(c *cli.Context) error {
			if err := argCount(c, 1, 1); err != nil {
				return err
			}
			s, err := a.settings()
			if err != nil {
				return err
			}
			return a.wait(c.Context, s, c.Args().First(), timeout)
		},
	}
}

func (a *app) wait(ctx context.Context, s config.Settings, name string, timeout time.Duration) error {
	client, err := a.agentClient(s)
	if err != nil {
		return err
	}
	until := time.Now().Add(timeout)
	var st api.State
	for {
		left := time.Until(until)
		next, err := client.Wait(ctx, st.Revision, max(left, 0))
		switch {
		case errors.Is(err, api.ErrNotRunning):
			st = api.State{}
			if left > 0 { // whoever opens the forward starts the agent
				if err := pause(ctx, min(left, agentPoll)); err != nil {
					return err
				}
			}
		case err != nil:
			return err
		default:
			st = next
		}
		if f, ok := readyForward(st, name); ok {
			if s.Output == "json" {
				return a.printJSON(f)
			}
			_, err := fmt.Fprintln(a.out, f.Listen)
			return err
		}
		if left <= 0 {
			return fail.New(fail.Timeout, "wait for the forward "+name, fmt.Errorf("%s after %s", missing(st, name), timeout),
				"bastion ls forwards shows the forwards; allow more time with --timeout")
		}
	}
}

// readyForward returns the forward of a name if it serves: its link is up, or there is none now and who connects gets one.
func readyForward(st api.State, name string) (api.Forward, bool) {
	for _, f := range st.Forwards {
		if f.Name == name && f.State == api.ForwardReady {
			return f, !slices.ContainsFunc(st.Links, func(l api.Link) bool {
				return l.ID == f.Link && len(l.Live) > 0 && l.Live[0].State != string(tunnel.Up)
			})
		}
	}
	return api.Forward{}, false
}

// missing says what a forward lacks.
func missing(st api.State, name string) string {
	for _, f := range st.Forwards {
		if f.Name == name {
			if f.Error != "" {
				return "it does not work (" + f.Error + ")"
			}
			return "its link is not up"
		}
	}
	return "there is none"
}
