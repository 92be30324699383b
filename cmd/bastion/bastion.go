package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/launch"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/internal/sleep"
	"github.com/bastion-ssm/bastion/internal/statusview"
)

// upOptions are the options of up that are no settings.
type upOptions struct{ timing, yes bool }

// up runs `bastion up`.
func (a *app) up(ctx context.Context, s config.Settings, o upOptions) error {
	if err := a.Confirm(ctx, o.yes, s); err != nil {
		return err
	}
	run, err := a.Open(ctx, "up", s)
	if err != nil {
		return err
	}
	defer run.Close()
	var timed access.Timed
	if o.timing {
		timed, err = run.Access.UpTimed(ctx)
	} else {
		timed.UpResult, err = run.Access.Up(ctx)
	}
	r := timed.UpResult
	if err != nil {
		if r.New && ctx.Err() != nil {
			run.Progress.Idle()
			fmt.Fprintln(a.Err, "bastion: the task that was started stays; bastion down stops it")
		}
		return err
	}
	run.Progress.Idle()
	switch {
	case s.Output.Format == "json" && o.timing:
		return a.PrintJSON(timed)
	case s.Output.Format == "json":
		return a.PrintJSON(r)
	}
	verb := "is running"
	if r.New {
		verb = "was started"
	}
	if err := console.Printf(a.Out, "bastion %s %s in cluster %s (bastiond %s)\n", r.TaskID, verb, r.Cluster, r.Version); err != nil {
		return err
	}
	if size := r.Size.String(); size != "" {
		err = console.Printf(a.Out, "it has %s\n", size)
	}
	if err != nil || !o.timing {
		return err
	}
	return statusview.Waterfall(a.Out, timed.Steps, timed.Seconds)
}

func (a *app) upCommand() *cli.Command {
	var o upOptions
	return &cli.Command{
		Name:    "up",
		Summary: "start your bastion, or find the running one, and wait until it answers",
		Group:   groupBastion,
		About: []cli.Passage{
			cli.Para(`Finds your own task by the identity of your AWS credentials, or starts one. It then waits until the task runs,
				its exec agent is connected and bastiond answers. forward, socks and proxy do the same by themselves.`),
			cli.Para(`--timing goes on to bastiond's first answer by SSH, and shows when each step began and how long it took. Steps that
				overlap stand beside each other.`),
		},
		Examples: []string{"bastion up", "bastion up -o json | jq -r .task_arn", "bastion down; bastion up --timing"},
		Flags:    []cli.Option{cli.Switch(&o.timing, "show how long each step took", "timing"), invocation.YesFlag(&o.yes)},
		Settings: invocation.BastionSettings,
		Run:      a.With(func(ctx context.Context, s config.Settings, _ []string) error { return a.up(ctx, s, o) }),
	}
}

// downOptions are the options of down that are no settings.
type downOptions struct{ refused, yes bool }

func (a *app) downCommand() *cli.Command {
	var o downOptions
	return &cli.Command{
		Name:    "down",
		Summary: "stop your bastion",
		Group:   groupBastion,
		About: []cli.Passage{cli.Para(`Stops all your bastion tasks in the cluster. An idle bastion also stops by itself. A task that is marked as
			yours but differs from bastion's own may be another user's: bastion shows it, and stops it only with --refused.`)},
		Examples: []string{"bastion down", "bastion down --refused"},
		Flags: []cli.Option{
			cli.Switch(&o.refused, "also stop tasks that are marked as yours but that bastion does not use", "refused"),
			invocation.YesFlag(&o.yes),
		},
		Settings: invocation.CommonSettings,
		Run:      a.With(func(ctx context.Context, s config.Settings, _ []string) error { return a.down(ctx, s, o) }),
	}
}

// down runs `bastion down`.
func (a *app) down(ctx context.Context, s config.Settings, o downOptions) error {
	if err := a.Confirm(ctx, o.yes, s); err != nil {
		return err
	}
	run, err := a.Open(ctx, "down", s)
	if err != nil {
		return err
	}
	defer run.Close()
	ctx, cancel := invocation.Bounded(ctx, s)
	defer cancel()
	r, err := run.Access.Down(ctx, o.refused)
	if err != nil {
		return err
	}
	run.Progress.Idle()
	if s.Output.Format == "json" {
		return a.PrintJSON(r)
	}
	var b strings.Builder
	if len(r.Stopped) == 0 {
		_ = console.Printf(&b, "no bastion of yours runs in cluster %s\n", s.Bastion.Cluster)
	}
	for _, t := range r.Stopped {
		_ = console.Printf(&b, "bastion %s is being stopped\n", t.TaskID)
	}
	for _, t := range r.Left {
		_ = console.Printf(&b, "task %s is left alone: it is marked as yours, but it %s (bastion down --refused stops it)\n",
			t.TaskID, t.Refused)
	}
	if _, err = io.WriteString(a.Out, b.String()); err != nil || len(r.Stopped) == 0 || s.Output.Quiet {
		return err
	}
	return a.noteOpenForwards(ctx, s)
}

// noteOpenForwards says which forwards of the command's scope start another bastion with their next connection, if there are some.
func (a *app) noteOpenForwards(ctx context.Context, s config.Settings) error {
	client, err := launch.Client(s)
	if err != nil {
		return err
	}
	st, err := client.State(ctx)
	if err != nil {
		return nil //nolint:nilerr // no agent runs; one that does not answer is no failure of down
	}
	m := a.LookupScope(s)
	var names []string
	for _, f := range st.Forwards {
		if m.Has(f) && f.State != api.ForwardKept {
			names = append(names, f.Reference())
		}
	}
	if len(names) == 0 {
		return nil
	}
	return console.Printf(a.Err, "bastion: still open: %s. The next connection starts another bastion; bastion stop all ends them\n",
		strings.Join(names, ", "))
}

// statusOutput is the JSON output of status.
type statusOutput struct {
	report.Status
	Processes []report.Process `json:"processes"` // running commands with links
}

// statusOptions are the options of status that are no settings.
type statusOptions struct{ watch bool }

func (a *app) statusCommand() *cli.Command {
	var o statusOptions
	return &cli.Command{
		Name:    "status",
		Summary: "show your bastion and the links to it",
		Group:   groupBastion,
		About: []cli.Passage{cli.Para(`Shows your bastion tasks in the cluster and what they wait for. Then it shows the links of the agent, and of
			commands without the agent, with their SSM sessions: age, rates, round trip, bytes in flight and sent again.`)},
		Examples: []string{
			"bastion status",
			"bastion status --watch",
			"bastion status -o json | jq '.processes[].links[].sessions'",
		},
		Flags:    []cli.Option{cli.Switch(&o.watch, "show each change, until Ctrl-C", "watch", "w")},
		Settings: invocation.CommonSettings,
		Run:      a.With(func(ctx context.Context, s config.Settings, _ []string) error { return a.status(ctx, s, o) }),
	}
}

// status runs `bastion status`. The links are shown also when AWS does not answer: then most of all one wants to know.
func (a *app) status(ctx context.Context, s config.Settings, o statusOptions) error {
	st, err := launch.State(ctx, s)
	if err != nil {
		a.Note(s, "the agent's links cannot be shown: %s", err)
	}
	if err := a.printStatusOnce(ctx, s, st, o.watch); err != nil || !o.watch {
		return err
	}
	return a.watchStatus(ctx, s, st)
}

// watchStatus shows each new revision of the agent's state. Without an agent it looks for one now and then.
func (a *app) watchStatus(ctx context.Context, s config.Settings, st api.State) error {
	client, err := launch.Client(s)
	if err != nil {
		return err
	}
	for {
		next, err := client.Wait(ctx, st.Revision, statusWait)
		switch {
		case errors.Is(err, api.ErrNotRunning):
			if st.Revision == 0 {
				if err := sleep.For(ctx, statusPause); err != nil {
					return err
				}
				continue
			}
			next = api.State{}
		case err != nil:
			return err
		case next.Revision == st.Revision && next.PID == st.PID:
			continue
		}
		st = next
		if err := a.printStatusOnce(ctx, s, st, true); err != nil {
			return err
		}
	}
}

const (
	statusWait  = time.Minute // of one request for a change
	statusPause = time.Second // between two looks for an agent
)

// printStatusOnce shows what AWS says and the links; JSON on one line if it is one of several.
func (a *app) printStatusOnce(ctx context.Context, s config.Settings, agentState api.State, several bool) error {
	processes, err := api.Commands(ctx, s.Local.RuntimeDir)
	if err != nil {
		a.Note(s, "the links of running commands cannot be shown: %s", err)
	}
	processes = append(statusview.Agent(agentState), processes...)
	st, awsErr := a.awsStatus(ctx, s)
	if awsErr != nil && len(processes) == 0 {
		return awsErr
	}
	out := statusOutput{Status: st, Processes: processes}
	switch {
	case s.Output.Format == "json" && several:
		err = a.PrintLine(out)
	case s.Output.Format == "json":
		err = a.PrintJSON(out)
	case awsErr == nil:
		err = a.printStatus(out)
	default:
		err = statusview.Processes(a.Out, out.Processes)
	}
	return cmp.Or(awsErr, err)
}

func (a *app) awsStatus(ctx context.Context, s config.Settings) (st report.Status, err error) {
	err = a.Ask(ctx, "status", s, func(ctx context.Context, run *invocation.Session) (err error) {
		defer run.Progress.StepIfSlow("looking at your bastions")()
		st, err = run.Access.Status(ctx)
		return err
	})
	return st, err
}

func (a *app) printStatus(st statusOutput) error {
	if err := statusview.Bastions(a.Out, st.Status); err != nil {
		return err
	}
	return statusview.Processes(a.Out, st.Processes)
}
