package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/agent"
)

// up runs `bastion up`.
func (a *app) up(c *cli.Context) error {
	run, err := a.begin(c)
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
	run, err := a.begin(c)
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

// status runs `bastion status`.
func (a *app) status(c *cli.Context) error {
	run, err := a.begin(c)
	if err != nil {
		return err
	}
	defer run.close()
	st, err := run.agent.Status(c.Context)
	if err != nil {
		return err
	}
	run.progress.Idle()
	if run.settings.Output == "json" {
		return a.printJSON(st)
	}
	return a.printStatus(st)
}

func (a *app) printStatus(st agent.Status) error {
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

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// begin does what up, down and status have in common.
func (a *app) begin(c *cli.Context) (*session, error) {
	if err := argCount(c, 0, 0); err != nil {
		return nil, err
	}
	s, err := a.settings()
	if err != nil {
		return nil, err
	}
	return a.open(c.Context, s)
}
