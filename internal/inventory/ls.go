package inventory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/internal/targetlist"
	"github.com/bastion-ssm/bastion/internal/words"
	"github.com/bastion-ssm/bastion/targets"
)

// listOptions are the options of ls targets that are no settings.
type listOptions struct {
	refresh bool
	all     bool // of all environments
	kinds   []string
	tags    map[string]string
}

// ListCommand is `bastion ls targets`.
func (a *Inventory) ListCommand() *cli.Command {
	var o listOptions
	var kinds []cli.Candidate
	for _, d := range targets.Kinds() {
		kinds = append(kinds, cli.Candidate{Value: d.Prefix, Help: d.Lists})
	}
	return &cli.Command{
		Name: "targets", Summary: "list the configuration's names, and the region's databases and other targets", Settings: invocation.CommonSettings,
		About: []cli.Passage{
			cli.Para(`Asks AWS, and keeps the list in the state directory: for an hour it is printed from there, with its age. What AWS
			denies or does not answer is named after the list, and ends the command with an error. bastion help targets has the kinds.`),
			cli.Para(`Where the configuration has environments and none counts, it lists the targets of all, as ENV/TARGET.`),
		},
		Examples: []string{
			"bastion ls targets", "bastion ls targets --kind eks --refresh", "bastion ls targets --tag team=data -o json | jq -r '.targets[].spec'",
		},
		Flags: []cli.Option{
			cli.Switch(&o.all, "list the targets of all environments", "all"),
			cli.Switch(&o.refresh, "ask AWS, whatever has been kept", "refresh"),
			cli.Func("KIND", "only targets of a kind, such as rds; may be repeated", func(v string) error {
				o.kinds = append(o.kinds, v)
				return checkKind(v)
			}, "kind").Choices(kinds...),
			cli.Func("KEY=VALUE", "only targets with a tag; may be repeated (caches, proxies and some others show none)", func(v string) error {
				key, value, err := targetlist.ParseTag(v)
				if o.tags == nil {
					o.tags = make(map[string]string)
				}
				o.tags[key] = value
				return err
			}, "tag"),
		},
		Run: a.With(func(ctx context.Context, s config.Settings, _ []string) error { return a.ls(ctx, s, o) }),
	}
}

// checkKind refuses a prefix of no kind.
func checkKind(prefix string) error {
	if len(kindsOf([]string{prefix})) == 0 {
		return fmt.Errorf("%q is no kind of target; bastion help targets has them", prefix)
	}
	return nil
}

// kindsOf returns the kinds with the prefixes.
func kindsOf(prefixes []string) []targets.Kind {
	var kinds []targets.Kind
	for _, d := range targets.Kinds() {
		if slices.Contains(prefixes, d.Prefix) {
			kinds = append(kinds, d.Kind)
		}
	}
	return kinds
}

// Line is a line of ls targets.
type Line struct {
	targetlist.Item

	Name        string `json:"name,omitempty"` // in the configuration
	Environment string `json:"environment,omitempty"`

	prefix string // the environment, where the user must write it
}

// scopeLine is a list in the JSON output of ls targets: an environment's, or that of the settings outside of environments.
type scopeLine struct {
	Environment string     `json:"environment,omitempty"`
	Account     string     `json:"account,omitempty"`
	AsOf        *time.Time `json:"as_of,omitempty"` // when AWS was asked; absent: never
	Age         float64    `json:"age_seconds"`
	Kept        bool       `json:"kept"`              // AWS was asked by an earlier command
	Missing     string     `json:"missing,omitempty"` // what the list lacks
}

// Output is the JSON output of ls targets.
type Output struct {
	Targets []Line      `json:"targets"`
	Lists   []scopeLine `json:"lists"`
}

// ls runs `bastion ls targets`.
func (a *Inventory) ls(ctx context.Context, s config.Settings, o listOptions) error {
	scopes, err := a.scopes(s, o.all)
	if err != nil {
		return err
	}
	lists := a.lists(ctx, s, scopes, o.refresh, o.kinds)
	out := Output{Targets: []Line{}, Lists: []scopeLine{}}
	now := time.Now()
	var ages []string
	for _, l := range lists {
		out.Targets = append(out.Targets, l.lines(s, o)...)
		scope := scopeLine{Environment: l.settings.Environment, Account: l.list.Account, Kept: l.kept}
		if !l.list.At.IsZero() {
			scope.AsOf, scope.Age = &l.list.At, l.list.Age(now).Seconds()
		}
		if l.err != nil {
			scope.Missing = l.err.Error()
		}
		out.Lists = append(out.Lists, scope)
		if l.kept {
			ages = append(ages, "as of "+targetlist.AgeText(l.list.Age(now))+" ago"+words.InParentheses(l.prefix(s)))
		}
	}
	err = missingOf(lists)
	if err != nil && len(out.Targets) == 0 {
		return err
	}
	if s.Output.Format == "json" {
		return cmp.Or(a.PrintJSON(out), err)
	}
	if printErr := a.print(out.Targets); printErr != nil {
		return printErr
	}
	if len(ages) > 0 {
		a.Note(s, "%s; bastion ls targets --refresh asks AWS again", strings.Join(ages, ", "))
	}
	return err
}

func (a *Inventory) print(all []Line) error {
	w := tabwriter.NewWriter(a.Out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "TARGET\tNAME\tENGINE\tSTATUS\tADDRESS")
	for _, t := range all {
		if t.Name != "" {
			t.Name = targets.InEnvironment(t.prefix, t.Name)
		}
		fmt.Fprintln(w, printable.Row(targets.InEnvironment(t.prefix, t.Spec), words.Dash(t.Name), words.Dash(t.Engine), words.Dash(t.Status),
			words.Dash(t.Host)))
	}
	return w.Flush()
}

// lines are the configuration's names, each with what AWS says of the target that it stands for, and then AWS's targets without a name.
func (l *scopedList) lines(s config.Settings, o listOptions) []Line {
	found := make(map[string]targetlist.Item, len(l.list.Items))
	for _, item := range l.list.Items {
		found[item.Spec] = item
	}
	filtered := len(o.kinds) > 0 || len(o.tags) > 0
	var out []Line
	named := make(map[string]bool)
	for _, name := range l.names(s) {
		target := l.settings.Targets[name]
		item, ok := found[target.Spec]
		if !ok || target.HasOwn() { // a host, or a target that is not in this list
			item, ok = targetlist.Item{Spec: target.Spec}, false
		}
		if filtered && !(ok && item.Has(o.kinds, o.tags)) {
			continue
		}
		named[target.Spec] = named[target.Spec] || ok
		out = append(out, Line{item, name, l.settings.Environment, l.prefix(s)})
	}
	for _, item := range l.list.Items {
		if !named[item.Spec] && item.Has(o.kinds, o.tags) {
			out = append(out, Line{item, "", l.settings.Environment, l.prefix(s)})
		}
	}
	return out
}
