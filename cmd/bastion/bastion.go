package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
)

// up runs `bastion up`.
func (a *app) up(c *cli.Context) error {
	run, err := a.begin(c, "up")
	if err != nil {
		return err
	}
	defer run.close()
	r, err := run.agent.Up(c.Context)
	if err != nil {
		if r.New && c.Context.Err() != nil {
			run.progress.Idle()
			fmt.Fprintln(a.err, "bastion: the task that was started stays; bastion down stops it")
		}
		return err
	}
	run.progress.Idle()
	if run.settings.Output == "json" {
		return a.printJSON(r)
	}
	verb := "is running"
	if r.New {
		verb = "was started"
	}
	_, err = fmt.Fprintf(a.out, "bastion %s %s in cluster %s (bastiond %s)\n", r.TaskID, verb, r.Cluster, r.Version)
	return err
}

// down runs `bastion down`.
func (a *app) down(c *cli.Context) error {
	run, err := a.begin(c, "down")
	if err != nil {
		return err
	}
	defer run.close()
	stopped, err := run.agent.Down(c.Context)
	if err != nil {
		return err
	}
	run.progress.Idle()
	if run.settings.Output == "json" {
		return a.printJSON(map[string]any{"stopped": stopped})
	}
	if len(stopped) == 0 {
		_, err = fmt.Fprintf(a.out, "no bastion of yours runs in cluster %s\n", run.settings.Cluster)
		return err
	}
	for _, b := range stopped {
		if _, err = fmt.Fprintf(a.out, "bastion %s is being stopped\n", b.TaskID); err != nil {
			return err
		}
	}
	return nil
}

// statusOutput is the JSON output of status.
type statusOutput struct {
	agent.Status
	Processes []agent.Process `json:"processes"` // running commands with links
}

func (a *app) statusCommand() *cli.Command {
	var watch bool
	return &cli.Command{
		Name:     "status",
		Usage:    "show your bastion, and the links to it",
		Category: "Bastion",
		Description: text(`
			Shows the bastion tasks of yours in the cluster, and what they wait for; then the links of the agent and of commands
			that run without it, and the SSM sessions that they use: age, rates, round trip, what is in flight and what was sent
			again. With --watch it shows them again whenever something has changed, until Ctrl-C.`,
			"bastion status",
			"bastion status --watch",
			"bastion status -o json | jq '.processes[].links[].sessions'"),
		Flags:  a.settingFlags(showCommon, switchFlag(&watch, "go on and show each change", "watch", "w")),
		Action: func(c *cli.Context) error { return a.status(c, watch) },
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
	if err != nil && !s.Quiet {
		fmt.Fprintf(a.err, "bastion: the agent's links cannot be shown: %s\n", oneLine(err.Error()))
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
				if err := pause(ctx, statusPause); err != nil {
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
	processes, err := agent.Processes(ctx, s)
	if err != nil && !s.Quiet {
		fmt.Fprintf(a.err, "bastion: the links of running commands cannot be shown: %s\n", oneLine(err.Error()))
	}
	processes = append(agentProcess(agentState), processes...)
	st, awsErr := a.awsStatus(ctx, s)
	if awsErr != nil && len(processes) == 0 {
		return awsErr
	}
	out := statusOutput{Status: st, Processes: processes}
	switch {
	case s.Output == "json" && several:
		err = json.NewEncoder(a.out).Encode(out)
	case s.Output == "json":
		err = a.printJSON(out)
	case awsErr == nil:
		err = a.printStatus(out)
	default:
		err = a.printProcesses(out.Processes)
	}
	return cmp.Or(awsErr, err)
}

// agentProcess is the agent as one of the processes with links, if it has any.
func agentProcess(st api.State) []agent.Process {
	var out []agent.Process
	for _, l := range st.Links {
		if len(l.Live) > 0 {
			out = append(out, agent.Process{
				V: 1, PID: st.PID, Command: "agent", Version: st.Version, Region: l.Region, Started: st.Started, Links: l.Live,
			})
		}
	}
	return out
}

func (a *app) awsStatus(ctx context.Context, s config.Settings) (agent.Status, error) {
	run, err := a.open(ctx, "status", s)
	if err != nil {
		return agent.Status{}, err
	}
	defer run.close()
	return run.agent.Status(ctx)
}

func (a *app) printStatus(st statusOutput) error {
	if err := a.printBastions(st.Status); err != nil {
		return err
	}
	return a.printProcesses(st.Processes)
}

func (a *app) printBastions(st agent.Status) error {
	if st.Target != "" {
		_, err := fmt.Fprintf(a.out, "using the OpenSSH server at %s; there is no bastion task\n", st.Target)
		return err
	}
	if len(st.Bastions) == 0 {
		_, err := fmt.Fprintf(a.out, "no bastion of %s in cluster %s\n", st.Owner, st.Cluster)
		return err
	}
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "TASK\tSTATUS\tEXEC AGENT\tAGE\tTARGET")
	for _, b := range st.Bastions {
		age := "-"
		if b.Created != nil {
			age = time.Since(*b.Created).Round(time.Second).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", b.TaskID, b.Status, dash(b.Exec), age, dash(b.Target))
	}
	return w.Flush()
}

// printProcesses shows the links of running commands and their sessions.
func (a *app) printProcesses(all []agent.Process) error {
	var b strings.Builder
	for _, p := range all {
		for _, l := range p.Links {
			fmt.Fprintf(&b, "\n%s (process %d) to %s: %s for %s, %s\n", dash(p.Command), p.PID, l.Bastion, l.State,
				time.Since(l.Since).Round(time.Second), count(l.Channels, "connection"))
			if l.Error != "" {
				fmt.Fprintf(&b, "  %s\n", oneLine(l.Error))
			}
			for _, lack := range l.Lacks {
				fmt.Fprintf(&b, "  %s\n", lack)
			}
			w := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "  SESSION\tSTATE\tAGE\tUP\tDOWN\tROUND TRIP\tIN FLIGHT\tREINJECTED")
			for _, s := range l.Sessions {
				age := time.Duration(s.Age * float64(time.Second)).Round(time.Second)
				fmt.Fprintf(w, "  %s\t%s\t%s\t%s/s\t%s/s\t%.1f ms\t%s\t%s\n", s.ID, s.State, age,
					size(s.SendRate), size(s.ReceiveRate), s.RTT, size(float64(s.InFlight)), size(float64(s.Reinjected)))
			}
			if err := w.Flush(); err != nil {
				return err
			}
		}
	}
	_, err := io.WriteString(a.out, b.String())
	return err
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// size prints a number of bytes.
func size(n float64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", n/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", n/1e3)
	}
	return fmt.Sprintf("%.0f B", n)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
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
