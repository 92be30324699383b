package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/internal/sleep"
	"github.com/bastion-ssm/bastion/internal/words"
)

// up runs `bastion up`.
func (a *app) up(c *cli.Context) error {
	run, err := a.begin(c, "up")
	if err != nil {
		return err
	}
	defer run.close()
	r, err := run.access.Up(c.Context)
	if err != nil {
		if r.New && c.Context.Err() != nil {
			run.progress.Idle()
			fmt.Fprintln(a.err, "bastion: the task that was started stays; bastion down stops it")
		}
		return err
	}
	run.progress.Idle()
	if run.settings.Output.Format == "json" {
		return a.printJSON(r)
	}
	verb := "is running"
	if r.New {
		verb = "was started"
	}
	if err := printf(a.out, "bastion %s %s in cluster %s (bastiond %s)\n", r.TaskID, verb, r.Cluster, r.Version); err != nil {
		return err
	}
	if size := r.Size.String(); size != "" {
		err = printf(a.out, "it has %s\n", size)
	}
	return err
}

func (a *app) upCommand() *command {
	return &command{
		name:    "up",
		summary: "start your bastion, or find the running one, and wait until it answers",
		group:   groupBastion,
		about: []passage{para(`Finds your own task by the identity of your AWS credentials, or starts one. It then waits until the task runs,
			its exec agent is connected and bastiond answers. forward, socks and proxy do the same by themselves.`)},
		examples: []string{"bastion up", "bastion up -o json | jq -r .task_arn"},
		settings: showBastion,
		run:      a.up,
	}
}

func (a *app) downCommand() *command {
	var refused bool
	return &command{
		name:    "down",
		summary: "stop your bastion",
		group:   groupBastion,
		about: []passage{para(`Stops all your bastion tasks in the cluster. An idle bastion also stops by itself. A task that is marked as
			yours but differs from bastion's own may be another user's: bastion shows it, and stops it only with --refused.`)},
		examples: []string{"bastion down", "bastion down --refused"},
		flags: []option{
			switchFlag(&refused, "also stop tasks that are marked as yours but that bastion does not use", "refused"),
		},
		settings: showCommon,
		run:      func(c *cli.Context) error { return a.down(c, refused) },
	}
}

// down runs `bastion down`.
func (a *app) down(c *cli.Context, refused bool) error {
	run, err := a.begin(c, "down")
	if err != nil {
		return err
	}
	defer run.close()
	ctx, cancel := bounded(c.Context, run.settings)
	defer cancel()
	r, err := run.access.Down(ctx, refused)
	if err != nil {
		return err
	}
	run.progress.Idle()
	if run.settings.Output.Format == "json" {
		return a.printJSON(r)
	}
	var b strings.Builder
	if len(r.Stopped) == 0 {
		_ = printf(&b, "no bastion of yours runs in cluster %s\n", run.settings.Bastion.Cluster)
	}
	for _, t := range r.Stopped {
		_ = printf(&b, "bastion %s is being stopped\n", t.TaskID)
	}
	for _, t := range r.Left {
		_ = printf(&b, "task %s is left alone: it is marked as yours, but it %s (bastion down --refused stops it)\n",
			t.TaskID, t.Refused)
	}
	_, err = io.WriteString(a.out, b.String())
	return err
}

// statusOutput is the JSON output of status.
type statusOutput struct {
	report.Status
	Processes []report.Process `json:"processes"` // running commands with links
}

func (a *app) statusCommand() *command {
	var watch bool
	return &command{
		name:    "status",
		summary: "show your bastion and the links to it",
		group:   groupBastion,
		about: []passage{para(`Shows your bastion tasks in the cluster and what they wait for. Then it shows the links of the agent, and of
			commands without the agent, with their SSM sessions: age, rates, round trip, bytes in flight and sent again.`)},
		examples: []string{
			"bastion status",
			"bastion status --watch",
			"bastion status -o json | jq '.processes[].links[].sessions'",
		},
		flags:    []option{switchFlag(&watch, "show each change, until Ctrl-C", "watch", "w")},
		settings: showCommon,
		run:      func(c *cli.Context) error { return a.status(c, watch) },
	}
}

// status runs `bastion status`. The links are shown also when AWS does not answer: then most of all one wants to know.
func (a *app) status(c *cli.Context, watch bool) error {
	if err := argCount(c, 0, 0); err != nil {
		return err
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	st, err := a.agentState(c.Context, s)
	if err != nil && !s.Output.Quiet {
		_ = printf(a.err, "bastion: the agent's links cannot be shown: %s\n", err)
	}
	if err := a.printStatusOnce(c.Context, s, st, watch); err != nil || !watch {
		return err
	}
	return a.watchStatus(c.Context, s, st)
}

// watchStatus shows each new revision of the agent's state. While there is no agent it looks now and then whether there
// is one.
func (a *app) watchStatus(ctx context.Context, s config.Settings, st api.State) error {
	client, err := a.agentClient(s)
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
	if err != nil && !s.Output.Quiet {
		_ = printf(a.err, "bastion: the links of running commands cannot be shown: %s\n", err)
	}
	processes = append(agentProcess(agentState), processes...)
	st, awsErr := a.awsStatus(ctx, s)
	if awsErr != nil && len(processes) == 0 {
		return awsErr
	}
	out := statusOutput{Status: st, Processes: processes}
	switch {
	case s.Output.Format == "json" && several:
		err = a.printLine(out)
	case s.Output.Format == "json":
		err = a.printJSON(out)
	case awsErr == nil:
		err = a.printStatus(out)
	default:
		err = a.printProcesses(out.Processes)
	}
	return cmp.Or(awsErr, err)
}

// agentProcess is the agent as one of the processes with links, if it has any.
func agentProcess(st api.State) []report.Process {
	var out []report.Process
	for _, l := range st.Links {
		live := l.Live
		if l.HasGivenUp() {
			live = []report.Link{{
				State: string(l.State), Since: l.Since, Error: l.Error, Next: l.Next, Retry: l.Retry, Kind: "none", Sessions: []report.Session{},
			}}
		}
		if len(live) > 0 {
			out = append(out, report.Process{
				V: 1, PID: st.PID, Command: "agent", Version: st.Version, Region: l.Region, Started: st.Started, Links: live,
			})
		}
	}
	return out
}

// callsInTime is how many calls that AWS answers just in time a command makes before it gives up.
const callsInTime = 2

// bounded returns the context of a command that only asks AWS, and waits for nothing else.
func bounded(ctx context.Context, s config.Settings) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, callsInTime*s.AWS.Timeout)
}

func (a *app) awsStatus(ctx context.Context, s config.Settings) (report.Status, error) {
	run, err := a.open(ctx, "status", s)
	if err != nil {
		return report.Status{}, err
	}
	defer run.close()
	defer run.progress.StepIfSlow("looking at your bastions")()
	ctx, cancel := bounded(ctx, s)
	defer cancel()
	return run.access.Status(ctx)
}

func (a *app) printStatus(st statusOutput) error {
	if err := a.printBastions(st.Status); err != nil {
		return err
	}
	return a.printProcesses(st.Processes)
}

func (a *app) printBastions(st report.Status) error {
	if st.Target != "" {
		err := printf(a.out, "using the OpenSSH server at %s, without a bastion task\n", st.Target)
		return err
	}
	if len(st.Bastions) == 0 {
		err := printf(a.out, "no bastion of %s in cluster %s\n", st.Owner, st.Cluster)
		return err
	}
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "TASK\tSTATUS\tEXEC AGENT\tAGE\tTARGET")
	for _, b := range st.Bastions {
		age := "-"
		if b.Created != nil {
			age = time.Since(*b.Created).Round(time.Second).String()
		}
		fmt.Fprintln(w, printable.Row(b.TaskID, b.Status, words.Dash(b.Exec), age, words.Dash(b.Target)))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return a.printDoubts(st.Bastions)
}

// printDoubts says which tasks are not used, or used unchecked, and why.
func (a *app) printDoubts(all []report.Bastion) error {
	var out strings.Builder
	for _, b := range all {
		switch {
		case b.Refused != "":
			_ = printf(&out, "task %s is not used: it is marked as yours, but bastion would not have started it: it %s "+
				"(bastion down --refused stops it)\n", b.TaskID, b.Refused)
		case b.Outdated != "":
			_ = printf(&out, "task %s is not used: it %s (bastion down stops it)\n", b.TaskID, b.Outdated)
		case b.Unchecked != "":
			_ = printf(&out, "not checked of task %s: %s\n", b.TaskID, b.Unchecked)
		}
	}
	_, err := io.WriteString(a.out, out.String())
	return err
}

// printProcesses shows the links of running commands and their sessions.
func (a *app) printProcesses(all []report.Process) error {
	var b strings.Builder
	for _, p := range all {
		for _, l := range p.Links {
			_ = printf(&b, "\n%s (process %d) to %s: %s for %s, %s\n", words.Dash(p.Command), p.PID, cmp.Or(l.Bastion, "a bastion in "+p.Region),
				l.State, time.Since(l.Since).Round(time.Second), words.Count(l.Channels, "connection"))
			if l.Error != "" {
				_ = printf(&b, "  %s\n", l.Trouble(time.Now()))
			}
			for _, lack := range l.Lacks {
				_ = printf(&b, "  %s\n", lack)
			}
			if l.Far != nil && l.Far.String() != "" {
				_ = printf(&b, "  %s\n", l.Far)
			}
			if l.Limit != nil {
				_ = printf(&b, "  %s\n", l.Limit)
			}
			if err := printSessions(&b, l.Sessions); err != nil {
				return err
			}
			if l.Document != "" {
				_ = printf(&b, "  document: %s%s\n", l.Document, words.Parenthesis(l.DocumentReason))
			}
			if bond := l.Bond(); bond != "" {
				_ = printf(&b, "  %s\n", bond)
			}
		}
	}
	_, err := io.WriteString(a.out, b.String())
	return err
}

// printSessions shows the sessions of a link, if it has any.
func printSessions(out io.Writer, sessions []report.Session) error {
	if len(sessions) == 0 {
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "  SESSION\tSTATE\tAGE\tUP\tDOWN\tROUND TRIP\tIN FLIGHT\tREINJECTED")
	for _, s := range sessions {
		age := time.Duration(s.Age * float64(time.Second)).Round(time.Second)
		fmt.Fprintln(w, printable.Row("  "+s.ID, s.State, age, words.Bytes(s.SendRate)+"/s", words.Bytes(s.ReceiveRate)+"/s",
			fmt.Sprintf("%.1f ms", s.RTT), words.Bytes(float64(s.InFlight)), words.Bytes(float64(s.Reinjected))))
	}
	return w.Flush()
}

// begin does what up and down have in common.
func (a *app) begin(c *cli.Context, command string) (*session, error) {
	if err := argCount(c, 0, 0); err != nil {
		return nil, err
	}
	s, err := a.settings()
	if err != nil {
		return nil, err
	}
	return a.open(c.Context, command, s)
}
