package admin

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/bastion-ssm/bastion/account/review"
	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/internal/words"
)

// rangeOptions are the options of a time range.
type rangeOptions struct {
	since    time.Duration
	from, to time.Time
}

func (o *rangeOptions) flags(since string) []cli.Option {
	moment := func(into *time.Time) func(string) error {
		return func(v string) (err error) { *into, err = review.Moment(v); return err }
	}
	return []cli.Option{
		cli.Func("SPAN", "from how long ago: 90m, 24h, 30d (default: "+since+")", func(v string) (err error) {
			o.since, err = review.Ago(v)
			return err
		}, "since"),
		cli.Func("TIME", "from when: 2026-11-30 or 2026-11-30T14:05Z; UTC without a zone", moment(&o.from), "from"),
		cli.Func("TIME", "until when (default: now)", moment(&o.to), "to"),
	}
}

// span returns the range that the options mean.
func (o *rangeOptions) span() (review.Range, error) {
	if o.since != 0 && !o.from.IsZero() {
		return review.Range{}, fail.Usagef("leave out one of them", "--since and --from both say where the range begins")
	}
	since := cmp.Or(o.since, 24*time.Hour)
	r, err := review.NewRange(time.Now().UTC(), since, o.from, o.to)
	if err != nil {
		return r, fail.Usagef("let --from be before --to, and before now", "%w", err)
	}
	return r, nil
}

// auditOptions are the options of audit that are no settings.
type auditOptions struct {
	rangeOptions
	users, destinations []string
	denied, summary     bool
}

func (a *program) auditCommand() *cli.Command {
	var o auditOptions
	add := func(into *[]string) func(string) error {
		return func(v string) error { *into = append(*into, v); return nil }
	}
	return &cli.Command{
		Name:    "audit",
		Summary: "list who reached what through the bastions, from the audit log",
		About: []cli.Passage{
			cli.Para(`Reads the log group (--audit-log-group) that bastiond's audit lines go to, for an access review. A line is a connection to a
				destination with its bytes, or what bastiond refused. Needs logs:FilterLogEvents (bastion iam-policy admin).`),
			cli.Para(`The user is the one that a grant names. The client writes that name: CloudTrail's ExecuteCommand events prove it
				(docs/threat-model.md). Patterns take * for any characters; a user's may leave out all before ROLE/SESSION or SESSION, a
				destination's the port.`),
		},
		Examples: []string{
			"bastion audit --since 7d --summary",
			"bastion audit --from 2026-10-01 --to 2026-11-01 -o csv > october.csv",
			"bastion audit --denied -o json | jq '.accesses[].reason'",
		},
		Flags: append(o.flags("24h"),
			cli.Func("PATTERN", "accesses of these users alone; repeatable", add(&o.users), "user"),
			cli.Func("PATTERN", "accesses to these destinations or addresses alone; repeatable", add(&o.destinations), "destination"),
			cli.Switch(&o.denied, "only what bastiond refused: destinations, grants, sign-ins", "denied"),
			cli.Switch(&o.summary, "a line for each user and destination: count, first, last, bytes", "summary"),
		),
		Settings: invocation.BastionSettings,
		Run:      a.WithCSV(func(ctx context.Context, s config.Settings, _ []string) error { return a.audit(ctx, s, o) }),
	}
}

// auditScope says in JSON output what was read.
type auditScope struct {
	LogGroup string    `json:"log_group"`
	Region   string    `json:"region"`
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
}

// AuditOutput is the JSON output of audit.
type AuditOutput struct {
	auditScope
	Accesses []review.Access `json:"accesses"`
}

// AuditSummary is the JSON output of audit --summary.
type AuditSummary struct {
	auditScope
	Summary []review.Total `json:"summary"`
}

// audit runs `bastion audit`.
func (a *program) audit(ctx context.Context, s config.Settings, o auditOptions) error {
	r, err := o.span()
	if err != nil {
		return err
	}
	log, progress, err := a.openLog(ctx, s)
	if err != nil {
		return err
	}
	defer progress.Close()
	progress.Step("reading " + log.Group)
	found, err := log.Accesses(ctx, review.Query{Range: r, Users: o.users, Destinations: o.destinations, Denied: o.denied})
	if err != nil {
		return err
	}
	progress.Idle()
	scope := auditScope{log.Group, log.Region, r.From, r.To}
	var out any = AuditOutput{scope, found}
	rows := accessRows(found, s.Output.Format == invocation.CSV)
	if o.summary {
		totals := review.Summarize(found)
		out, rows = AuditSummary{scope, totals}, totalRows(totals, s.Output.Format == invocation.CSV)
	}
	switch {
	case s.Output.Format == "json":
		return a.PrintJSON(out)
	case len(found) == 0 && s.Output.Format != invocation.CSV:
		return console.Printf(a.Out, "the log group %s in %s has no such access from %s to %s\n", log.Group, log.Region,
			r.From.Format(time.RFC3339), r.To.Format(time.RFC3339))
	}
	return a.printRows(s, rows)
}

// openLog returns the log of the audit lines. The caller closes the progress.
func (a *program) openLog(ctx context.Context, s config.Settings) (*review.Log, *console.Progress, error) {
	cfg, p, err := a.LoadAWS(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	return review.Open(cfg, s.Bastion.AuditLogGroup), p, nil
}

// printRows prints rows, whose first is the header, as CSV or as a table.
func (a *program) printRows(s config.Settings, rows [][]string) error {
	if s.Output.Format == invocation.CSV {
		return console.WriteCSV(a.Out, rows)
	}
	table := tabwriter.NewWriter(a.Out, 0, 4, 2, ' ', 0)
	for _, row := range rows {
		cells := make([]any, len(row))
		for i, cell := range row {
			cells[i] = words.Dash(cell)
		}
		fmt.Fprintln(table, printable.Row(cells...))
	}
	return table.Flush()
}

// accessRows are accesses as rows with a header: all that is known of them, or what a terminal has room for.
func accessRows(all []review.Access, full bool) [][]string {
	if full {
		rows := [][]string{{
			"time", "user", "event", "result", "destination", "address", "bytes_up", "bytes_down", "duration_ms", "bastion", "grant", "reason",
		}}
		for _, c := range all {
			rows = append(rows, []string{
				audit.Stamp(c.Time), c.Who, c.Event, c.Result, c.Destination, c.Address, number(c.BytesUp), number(c.BytesDown),
				number(c.DurationMS), c.Bastion, c.Grant, c.Reason,
			})
		}
		return rows
	}
	rows := [][]string{{"TIME", "USER", "DESTINATION", "RESULT", "UP", "DOWN", "LASTED", "REASON"}}
	for _, c := range all {
		result, lasted := c.Result, ""
		if c.Event != audit.Connect && c.Event != audit.Denied {
			result = c.Event
		}
		if c.DurationMS != nil && c.BytesUp != nil {
			lasted = (time.Duration(*c.DurationMS) * time.Millisecond).Round(time.Second).String()
		}
		rows = append(rows, []string{
			c.Time.Format(time.DateTime), review.ShortUser(c.Who), c.Destination, result, bytesOf(c.BytesUp), bytesOf(c.BytesDown), lasted, c.Reason,
		})
	}
	return rows
}

// totalRows are totals as rows with a header.
func totalRows(all []review.Total, full bool) [][]string {
	header := "USER DESTINATION CONNECTIONS FAILED REFUSED OPEN FIRST LAST UP DOWN"
	user, size, layout := review.ShortUser, func(n int64) string { return bytesOf(&n) }, time.DateTime
	if full {
		header = "user destination connections failed refused open first last bytes_up bytes_down"
		user, size, layout = func(arn string) string { return arn }, func(n int64) string { return number(&n) }, time.RFC3339
	}
	rows := [][]string{strings.Fields(header)}
	for _, t := range all {
		rows = append(rows, []string{
			user(t.Who), t.Destination, strconv.Itoa(t.Connections), strconv.Itoa(t.Failed), strconv.Itoa(t.Refused), strconv.Itoa(t.Open),
			t.First.Format(layout), t.Last.Format(layout), size(t.BytesUp), size(t.BytesDown),
		})
	}
	return rows
}

// number is n as digits, or "" if it is unknown; bytesOf is n in a unit that reads well.
func number(n *int64) string {
	if n == nil {
		return ""
	}
	return strconv.FormatInt(*n, 10)
}

func bytesOf(n *int64) string {
	if n == nil {
		return ""
	}
	return words.Bytes(float64(*n))
}
