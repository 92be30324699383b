// Package statusview prints the tables of `bastion status` and `bastion ls` for people: bastions, processes with links and
// sessions, and forwards.
package statusview

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/internal/words"
)

// Agent returns the agent as a process with links, or nothing if it has none.
func Agent(st api.State) []report.Process {
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
				V: api.LinksVersion, PID: st.PID, Command: "agent", Version: st.Version, Region: l.Region, Started: st.Started, Links: live,
				Environment: l.Environment,
			})
		}
	}
	return out
}

// Bastions prints a cluster's bastion tasks, or why there is none.
func Bastions(w io.Writer, st report.Status) error {
	if st.Target != "" {
		return console.Printf(w, "using the OpenSSH server at %s, without a bastion task\n", st.Target)
	}
	if len(st.Bastions) == 0 {
		return console.Printf(w, "no bastion of %s in cluster %s\n", st.Owner, st.Cluster)
	}
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "TASK\tSTATUS\tEXEC AGENT\tAGE\tTARGET")
	for _, b := range st.Bastions {
		age := "-"
		if b.Created != nil {
			age = time.Since(*b.Created).Round(time.Second).String()
		}
		fmt.Fprintln(table, printable.Row(b.TaskID, b.Status, words.Dash(b.Exec), age, words.Dash(b.Target)))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	return doubts(w, st.Bastions)
}

// doubts prints which tasks bastion does not use, or has not fully checked, and why.
func doubts(w io.Writer, all []report.Bastion) error {
	var out strings.Builder
	for _, b := range all {
		switch {
		case b.Refused != "" && b.Service != "":
			_ = console.Printf(&out, "task %s of the shared bastion is not used: it %s\n", b.TaskID, b.Refused)
		case b.Refused != "":
			_ = console.Printf(&out, "task %s is not used: it is marked as yours, but bastion would not have started it: it %s "+
				"(bastion down --refused stops it)\n", b.TaskID, b.Refused)
		case b.Outdated != "":
			_ = console.Printf(&out, "task %s is not used: it %s (bastion down stops it)\n", b.TaskID, b.Outdated)
		case b.Unchecked != "":
			_ = console.Printf(&out, "not checked of task %s: %s\n", b.TaskID, b.Unchecked)
		}
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// Processes prints the links of running commands and their sessions.
func Processes(w io.Writer, all []report.Process) error {
	var b strings.Builder
	for _, p := range all {
		for _, l := range p.Links {
			_ = console.Printf(&b, "\n%s (process %d)%s to %s: %s for %s, %s\n", words.Dash(p.Command), p.PID, within(p.Environment),
				cmp.Or(l.Bastion, "a bastion in "+p.Region),
				l.State, time.Since(l.Since).Round(time.Second), words.Count(l.Channels, "connection"))
			if l.Error != "" {
				_ = console.Printf(&b, "  %s\n", l.Trouble(time.Now()))
			}
			if l.SignIn != nil {
				_ = console.Printf(&b, "  %s\n", l.SignIn.Ask(time.Now()))
			}
			for _, lack := range l.Lacks {
				_ = console.Printf(&b, "  %s\n", lack)
			}
			if l.Far != nil && l.Far.String() != "" {
				_ = console.Printf(&b, "  %s\n", l.Far)
			}
			if l.Limit != nil {
				_ = console.Printf(&b, "  %s\n", l.Limit)
			}
			if err := sessions(&b, l.Sessions); err != nil {
				return err
			}
			if l.Document != "" {
				_ = console.Printf(&b, "  document: %s%s\n", l.Document, words.Parenthesis(l.DocumentReason))
			}
			if bond := l.Bond(); bond != "" {
				_ = console.Printf(&b, "  %s\n", bond)
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// within names an environment, which may be "".
func within(environment string) string {
	if environment == "" {
		return ""
	}
	return " in " + environment
}

// sessions prints a link's sessions, if it has any.
func sessions(out io.Writer, all []report.Session) error {
	if len(all) == 0 {
		return nil
	}
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(table, "  SESSION\tSTATE\tAGE\tUP\tDOWN\tROUND TRIP\tIN FLIGHT\tREINJECTED")
	for _, s := range all {
		age := time.Duration(s.Age * float64(time.Second)).Round(time.Second)
		trip := words.Dash("")
		if s.RTT > 0 { // else not measured yet
			trip = fmt.Sprintf("%.1f ms", s.RTT)
		}
		fmt.Fprintln(table, printable.Row("  "+s.ID, s.State, age, words.Bytes(s.SendRate)+"/s", words.Bytes(s.ReceiveRate)+"/s",
			trip, words.Bytes(float64(s.InFlight)), words.Bytes(float64(s.Reinjected))))
	}
	return table.Flush()
}

// Forwards prints the agent's forwards, with their clients, traffic and faults.
func Forwards(w io.Writer, all []api.Forward) error {
	if len(all) == 0 {
		_, err := fmt.Fprintln(w, "no forwards")
		return err
	}
	table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	named := slices.ContainsFunc(all, func(f api.Forward) bool { return f.Environment != "" })
	heading := ""
	if named {
		heading = "ENVIRONMENT\t"
	}
	fmt.Fprintln(table, heading+"NAME\tLISTEN\tTARGET\tSTATE\tPROFILE\tACCOUNT\tREGION\tOF\tAGE\tCONNECTIONS\tUP\tDOWN")
	for _, f := range all {
		of, age := "the agent", words.Dash("")
		if !f.Opened.IsZero() {
			age = time.Since(f.Opened).Round(time.Second).String()
		}
		if !f.Detached {
			of = fmt.Sprintf("%s (process %d)", f.Command, f.PID)
		}
		target := f.Target
		if f.Kind == api.KindProxy {
			target = "(proxy)"
		}
		environment := ""
		if named {
			environment = printable.Row(words.Dash(f.Environment)) + "\t"
		}
		fmt.Fprintln(table, environment+printable.Row(f.Reference(), f.Listen, target, f.State, words.Dash(f.Profile), words.Dash(f.Account),
			words.Dash(f.Region), of, age,
			f.Stats.Active, words.Bytes(float64(f.Stats.BytesUp)), words.Bytes(float64(f.Stats.BytesDown))))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	if all[0].State == api.ForwardKept {
		_, err := fmt.Fprintln(w, "no agent is running; "+nextKept)
		return err
	}
	for _, f := range all {
		if n := f.Stats.Failed; n > 0 {
			if err := console.Printf(w, "%s: %s failed; bastion agent logs says why\n", f.Reference(),
				words.Count(int(n), "connection")); err != nil {
				return err
			}
		}
		if f.State == api.ForwardReady || f.State == api.ForwardKept {
			continue
		}
		if err := console.Printf(w, "%s: %s %s\n", f.Reference(), f.State, f.Trouble(time.Now())); err != nil {
			return err
		}
	}
	return nil
}

// nextKept is the next step for forwards that the agent keeps while it does not run.
const nextKept = "bastion agent start opens these forwards again, and so does the next forward, exec or socks"
