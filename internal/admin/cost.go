package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/account/billing"
	"github.com/bastion-ssm/bastion/account/review"
	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/fargate"
	"github.com/bastion-ssm/bastion/internal/invocation"
)

// costOptions are the options of cost that are no settings.
type costOptions struct {
	month  string
	tag    string // key of the tag to add up by; empty: by owner
	by     bool   // add up
	billed bool   // ask Cost Explorer too
}

func (a *program) costCommand() *cli.Command {
	var o costOptions
	return &cli.Command{
		Name:    "cost",
		Summary: "estimate what the bastions cost: the running ones so far, or a month",
		About: []cli.Passage{
			cli.Para(`Without --month it lists every owner's running tasks in the cluster, by ECS's start time and size. With --month it adds up by
				owner how long each bastion ran, by the audit log (--audit-log-group): from its first line to its last, or until now.`),
			cli.Para(`Both are estimates: hours times the settings price_vcpu_hour and price_gb_hour, without discounts, logs, endpoints and NAT.
				ECS forgets a stopped task after an hour.`),
			cli.Para(`--billed asks Cost Explorer beside it what AWS billed for all that has the tag bastion, by service or by a tag. AWS charges
				$0.01 for the question. Activate the tag as a cost allocation tag before (docs/cost.md).`),
			cli.Para("Needs the permissions of bastion iam-policy admin."),
		},
		Examples: []string{
			"bastion cost",
			"bastion cost --month 2026-11",
			"bastion cost --month 2026-11 --billed --by tag:team",
		},
		Flags: []cli.Option{
			cli.Text(&o.month, "MONTH", "a month by the audit log: 2026-11, or this", "month"),
			cli.Switch(&o.billed, "with --month: ask Cost Explorer too, for $0.01", "billed"),
			cli.Func("owner|tag:KEY", "add up; by a tag only those that run, or with --billed", func(v string) error {
				key, isTag := strings.CutPrefix(v, "tag:")
				if v != "owner" && (!isTag || key == "") {
					return fmt.Errorf("%q: want owner or tag:KEY", v)
				}
				o.by, o.tag = true, ""
				if isTag {
					o.tag = key
				}
				return nil
			}, "by"),
		},
		Settings: invocation.BastionSettings,
		Run:      a.WithCSV(func(ctx context.Context, s config.Settings, _ []string) error { return a.cost(ctx, s, o) }),
	}
}

// CostOutput is the JSON output of cost.
type CostOutput struct {
	Source   string                `json:"source"` // of the figures
	Cluster  string                `json:"cluster"`
	From     *time.Time            `json:"from,omitempty"` // of a month
	To       *time.Time            `json:"to,omitempty"`
	Price    fargate.Price         `json:"price"`
	Bastions []access.OwnedBastion `json:"bastions"` // running ones
	Groups   []review.Spent        `json:"groups"`
	TotalUSD float64               `json:"total_usd"`
	Billed   *billing.Bill         `json:"billed,omitempty"` // by Cost Explorer
}

// cost runs `bastion cost`.
func (a *program) cost(ctx context.Context, s config.Settings, o costOptions) error {
	out := CostOutput{
		Cluster: s.Bastion.Cluster, Price: fargate.Price{VCPUHour: s.Local.PriceVCPUHour, GBHour: s.Local.PriceGBHour},
		Bastions: []access.OwnedBastion{}, Groups: []review.Spent{},
	}
	switch {
	case o.month != "" && o.tag != "" && !o.billed:
		return fail.Usagef("add --billed: Cost Explorer groups by a tag that is activated for cost allocation, for $0.01",
			"the audit log has no tags, and ECS forgets stopped tasks after an hour: a month cannot be added up by tag")
	case o.month == "" && o.billed:
		return fail.Usagef("add --month this, or another month", "--billed is for a month")
	}
	var month review.Range
	if o.month != "" {
		var err error
		if month, err = review.Month(o.month, time.Now()); err != nil {
			return fail.Usagef("bastion cost --help lists the options", "--month: %w", err)
		}
	}
	running, err := a.running(ctx, s)
	if o.month != "" && awsanswer.Of(err).Code == "ClusterNotFoundException" { // the log outlives the cluster, in which nothing runs then
		a.Note(s, "cluster %s is gone: counting no bastion as running", s.Bastion.Cluster)
		running, err = nil, nil
	}
	if err != nil {
		return err
	}
	if o.month == "" {
		out.Source = "ECS: the running tasks' start times and sizes; the price settings"
		out.Bastions = running
		for _, b := range running {
			out.TotalUSD += costOf(b)
		}
		if o.by {
			out.Groups = spentBy(running, o.tag)
		}
		return a.printCost(s, out, o)
	}
	return a.costOfMonth(ctx, s, o, month, out, running)
}

// running returns the running bastions of every owner.
func (a *program) running(ctx context.Context, s config.Settings) (all []access.OwnedBastion, err error) {
	err = a.Ask(ctx, "cost", s, func(ctx context.Context, run *invocation.Session) (err error) {
		all, err = run.Access.All(ctx)
		return err
	})
	return all, err
}

// standard is the size of a bastion that does not say its own: the task definition's that bastion's stack makes.
var standard = fargate.Size{CPU: 1024, Memory: 2048}

func (a *program) costOfMonth(
	ctx context.Context, s config.Settings, o costOptions, r review.Range, out CostOutput, running []access.OwnedBastion,
) error {
	log, progress, err := a.openLog(ctx, s)
	if err != nil {
		return err
	}
	defer progress.Close()
	progress.Step("reading " + log.Group)
	lives, err := log.Lives(ctx, r, func(task string) bool {
		return slices.ContainsFunc(running, func(b access.OwnedBastion) bool { return b.TaskID == task })
	})
	if err != nil {
		return err
	}
	progress.Idle()
	assumed := s.TaskSize()
	if assumed.CPU == 0 || assumed.Memory == 0 {
		assumed = standard
	}
	out.Source = "the audit log " + log.Group + ": each bastion's first line to its last; the price settings"
	out.From, out.To, out.Groups = &r.From, &r.To, review.Spend(lives, out.Price, assumed)
	missing := 0
	for _, g := range out.Groups {
		out.TotalUSD += g.USD
		missing += g.Assumed
	}
	if missing > 0 {
		a.Note(s, "%d of the bastions did not say their size, and count with %v", missing, assumed)
	}
	if o.billed {
		progress.Step("asking Cost Explorer")
		if out.Billed, err = a.billed(ctx, s, r, o.tag); err != nil {
			return err
		}
		progress.Idle()
	}
	return a.printCost(s, out, o)
}

// billed returns what AWS billed in a month.
func (a *program) billed(ctx context.Context, s config.Settings, r review.Range, tag string) (*billing.Bill, error) {
	cfg, progress, err := a.LoadAWS(ctx, s)
	if err != nil {
		return nil, err
	}
	defer progress.Close()
	bill, err := billing.New(cfg).Ask(ctx, r.From, r.To, tag)
	if err != nil {
		return nil, err
	}
	if len(bill.Parts) == 0 {
		a.Note(s, "Cost Explorer knows no cost with the tag %s: it counts from the day after somebody activates the tag for cost allocation "+
			"(aws ce update-cost-allocation-tags-status --cost-allocation-tags-status TagKey=%s,Status=Active)", billing.Tag, billing.Tag)
	}
	return &bill, nil
}

func costOf(b access.OwnedBastion) float64 {
	if b.Cost == nil {
		return 0
	}
	return b.Cost.SoFar
}

// spentBy adds running bastions up by a tag, or by owner.
func spentBy(running []access.OwnedBastion, tag string) []review.Spent {
	sums := make(map[string]review.Spent)
	for _, b := range running {
		name := b.Owner
		if tag != "" {
			name = b.Tags[tag]
		}
		g := sums[name]
		g.Name, g.Bastions, g.USD = name, g.Bastions+1, g.USD+costOf(b)
		if b.Created != nil {
			g.Hours += time.Since(*b.Created).Hours()
		}
		sums[name] = g
	}
	out := make([]review.Spent, 0, len(sums))
	for _, g := range sums {
		out = append(out, g)
	}
	slices.SortFunc(out, func(a, b review.Spent) int { return cmp.Or(cmp.Compare(b.USD, a.USD), cmp.Compare(a.Name, b.Name)) })
	return out
}

// printCost prints what was found and what it was computed from.
func (a *program) printCost(s config.Settings, out CostOutput, o costOptions) error {
	rows := bastionCosts(out.Bastions, s.Output.Format == invocation.CSV)
	if o.by || o.month != "" {
		rows = groupCosts(out.Groups, s.Output.Format == invocation.CSV)
	}
	switch {
	case s.Output.Format == "json":
		return a.PrintJSON(out)
	case s.Output.Format == invocation.CSV && out.Billed != nil:
		return a.printRows(s, billedRows(*out.Billed, true))
	case s.Output.Format == invocation.CSV:
		return a.printRows(s, rows)
	case out.Billed != nil:
		bill := *out.Billed
		err := a.printRows(s, rows)
		err = errors.Join(err, console.Printf(a.Out, "total: about $%.2f, by %s\n\n", out.TotalUSD, out.Source))
		err = errors.Join(err, a.printRows(s, billedRows(bill, false)))
		final := ""
		if bill.Estimated {
			final = ", which AWS may still change"
		}
		return errors.Join(err, console.Printf(a.Out, "billed: %.2f %s for all with the tag %s%s\n", bill.Total, bill.Currency, billing.Tag,
			final))
	case len(rows) == 1:
		return console.Printf(a.Out, "no bastion in cluster %s (%s)\n", out.Cluster, out.Source)
	}
	err := a.printRows(s, rows)
	return errors.Join(err, console.Printf(a.Out, "total: about $%.2f, by %s\n", out.TotalUSD, out.Source))
}

// bastionCosts are bastions as rows with a header, for a program or a reader.
func bastionCosts(all []access.OwnedBastion, full bool) [][]string {
	rows := [][]string{{"TASK", "OWNER", "STATUS", "VCPU", "GB", "AGE", "USD AN HOUR", "USD SO FAR"}}
	if full {
		rows = [][]string{{"task_id", "owner", "status", "vcpu", "memory_gb", "age_seconds", "usd_per_hour", "usd_so_far"}}
	}
	for _, b := range all {
		row := []string{b.TaskID, b.Owner, b.Status, "", "", "", "", ""}
		if b.Size.CPU > 0 && b.Size.Memory > 0 {
			row[3] = strconv.FormatFloat(float64(b.Size.CPU)/1024, 'g', -1, 64)
			row[4] = strconv.FormatFloat(float64(b.Size.Memory)/1024, 'g', -1, 64)
		}
		if b.Created != nil {
			age := int64(time.Since(*b.Created).Seconds())
			if row[5] = span(age); full {
				row[5] = strconv.FormatInt(age, 10)
			}
		}
		if b.Cost != nil {
			row[6], row[7] = usd(b.Cost.PerHour), usd(b.Cost.SoFar)
		}
		rows = append(rows, row)
	}
	return rows
}

// groupCosts are sums as rows with a header, for a program or a reader.
func groupCosts(all []review.Spent, full bool) [][]string {
	rows := [][]string{{"NAME", "BASTIONS", "HOURS", "USD"}}
	if full {
		rows = [][]string{{"name", "bastions", "hours", "usd"}}
	}
	for _, g := range all {
		rows = append(rows, []string{g.Name, strconv.Itoa(g.Bastions), strconv.FormatFloat(g.Hours, 'f', 1, 64), usd(g.USD)})
	}
	return rows
}

// billedRows are the parts of a bill as rows with a header.
func billedRows(b billing.Bill, full bool) [][]string {
	kind, key, isTag := strings.Cut(b.By, ":")
	if isTag {
		kind = key
	}
	rows := [][]string{{strings.ToUpper(kind), "BILLED " + b.Currency}}
	if full {
		rows = [][]string{{kind, "billed_" + strings.ToLower(b.Currency)}}
	}
	for _, p := range b.Parts {
		rows = append(rows, []string{p.Name, usd(p.Amount)})
	}
	return rows
}

// usd is an amount of US dollars; a bastion's hour is a few cents.
func usd(v float64) string { return strconv.FormatFloat(v, 'f', 4, 64) }
