package admin

import (
	"context"
	"io"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/account/review"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/duration"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/words"
)

// gcOptions are the options of gc that are no settings.
type gcOptions struct {
	olderThan time.Duration
	dry       bool
}

func (a *program) gcCommand() *cli.Command {
	var o gcOptions
	return &cli.Command{
		Name:    "gc",
		Summary: "stop every owner's bastions that are past their life",
		About: []cli.Passage{
			cli.Para(`Stops the tasks in the cluster that bastion started, whoever owns them, and that are older than they may become. It is for a
				schedule: bastiond stops by itself, and this finds one that does not. Connections through such a bastion end after a drain.`),
			cli.Para(`Without --older-than a life is BASTIOND_MAX_LIFE of the task definition (else 12h), and half an hour for its start and its
				drain. A task without each of bastion's marks (owner tag, startedBy, task definition) is left alone.`),
			cli.Para(`Needs the permissions of bastion iam-policy admin. Exit code 0: nothing old is left. A bastion that could not be stopped gives
				the code of its failure, after all others have been tried.`),
		},
		Examples: []string{
			"bastion gc --dry-run",
			"bastion gc --older-than 12h",
			"bastion gc -o json | jq -r '.expired[] | [.task_id, .owner] | @tsv'",
		},
		Flags: []cli.Option{
			cli.Func("SPAN", "stop those older than this: 90m, 12h, 2d (default: their life)", func(v string) (err error) {
				o.olderThan, err = review.Ago(v)
				return err
			}, "older-than"),
			cli.Switch(&o.dry, "stop nothing, say what would be stopped", "dry-run"),
		},
		Settings: invocation.BastionSettings,
		Run:      a.With(func(ctx context.Context, s config.Settings, _ []string) error { return a.gc(ctx, s, o) }),
	}
}

// gc runs `bastion gc`.
func (a *program) gc(ctx context.Context, s config.Settings, o gcOptions) error {
	run, err := a.Open(ctx, "gc", s)
	if err != nil {
		return err
	}
	defer run.Close()
	r, err := run.Access.Sweep(ctx, o.olderThan, o.dry)
	run.Progress.Idle()
	if err != nil && len(r.Expired)+len(r.Kept) == 0 {
		return err
	}
	if s.Output.Format == "json" {
		if printErr := a.PrintJSON(r); printErr != nil {
			return printErr
		}
		return err
	}
	if printErr := writeSwept(a.Out, r); printErr != nil {
		return printErr
	}
	return err
}

// writeSwept writes what became of each old bastion, a line for each.
func writeSwept(out io.Writer, r access.SweepResult) error {
	var b strings.Builder
	for _, s := range r.Expired {
		what := "is being stopped"
		switch {
		case s.Error != "":
			what = "could not be stopped"
		case r.DryRun:
			what = "would be stopped"
		}
		_ = console.Printf(&b, "bastion %s of %s %s: it is %s old, of %s\n", s.TaskID, s.Owner, what, span(s.AgeSeconds), span(s.LifeSeconds))
	}
	unknown := 0
	for _, s := range r.Kept {
		if s.Error != "" {
			unknown++
			_ = console.Printf(&b, "bastion %s of %s is left alone, %s old: its life cannot be read\n", s.TaskID, s.Owner, span(s.AgeSeconds))
		}
	}
	if len(r.Expired) == 0 {
		_ = console.Printf(&b, "no bastion in cluster %s is past its life\n", r.Cluster)
	}
	if younger := len(r.Kept) - unknown; younger > 0 {
		_ = console.Printf(&b, "%s left alone\n", words.Count(younger, "younger bastion"))
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// span is a number of seconds as people write it.
func span(seconds int64) string {
	d := time.Duration(seconds) * time.Second
	if d > time.Hour {
		d = d.Round(time.Minute)
	}
	return duration.String(d)
}
