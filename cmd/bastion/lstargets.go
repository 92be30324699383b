package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
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

func (a *app) lsTargetsCommand() *cli.Command {
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
		Run: a.With(func(ctx context.Context, s config.Settings, _ []string) error { return a.lsTargets(ctx, s, o) }),
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

// listedTarget is a line of ls targets.
type listedTarget struct {
	targetlist.Item

	Name        string `json:"name,omitempty"` // in the configuration
	Environment string `json:"environment,omitempty"`

	prefix string // the environment, where the user must write it
}

// listedScope is a list in the JSON output of ls targets: an environment's, or that of the settings outside of environments.
type listedScope struct {
	Environment string     `json:"environment,omitempty"`
	Account     string     `json:"account,omitempty"`
	AsOf        *time.Time `json:"as_of,omitempty"` // when AWS was asked; absent: never
	Age         float64    `json:"age_seconds"`
	Kept        bool       `json:"kept"`              // AWS was asked by an earlier command
	Missing     string     `json:"missing,omitempty"` // what the list lacks
}

// targetsOutput is the JSON output of ls targets.
type targetsOutput struct {
	Targets []listedTarget `json:"targets"`
	Lists   []listedScope  `json:"lists"`
}

// lsTargets runs `bastion ls targets`.
func (a *app) lsTargets(ctx context.Context, s config.Settings, o listOptions) error {
	scopes, err := a.listScopes(s, o.all)
	if err != nil {
		return err
	}
	lists := a.targetLists(ctx, s, scopes, o.refresh, o.kinds)
	out := targetsOutput{Targets: []listedTarget{}, Lists: []listedScope{}}
	now := time.Now()
	var ages []string
	for _, l := range lists {
		out.Targets = append(out.Targets, l.lines(s, o)...)
		scope := listedScope{Environment: l.settings.Environment, Account: l.list.Account, Kept: l.kept}
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
	if printErr := a.printTargets(out.Targets); printErr != nil {
		return printErr
	}
	if len(ages) > 0 {
		a.Note(s, "%s; bastion ls targets --refresh asks AWS again", strings.Join(ages, ", "))
	}
	return err
}

func (a *app) printTargets(all []listedTarget) error {
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

// scopedList is the list of targets for some settings.
type scopedList struct {
	settings config.Settings
	list     targetlist.List
	kept     bool  // an earlier command has asked AWS
	err      error // what the list lacks
}

// prefix is the environment that the user of a command with settings s must write before the list's targets; "": none.
func (l *scopedList) prefix(s config.Settings) string {
	if l.settings.Environment == s.Environment {
		return ""
	}
	return l.settings.Environment
}

// names are the configuration's names, sorted. Names with a place of their own are in the list of the command's own settings only.
func (l *scopedList) names(s config.Settings) []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(l.settings.Targets)), func(name string) bool {
		return l.prefix(s) != "" && l.settings.Targets[name].HasOwn()
	})
}

// lines are the configuration's names, each with what AWS says of the target that it stands for, and then AWS's targets without a name.
func (l *scopedList) lines(s config.Settings, o listOptions) []listedTarget {
	found := make(map[string]targetlist.Item, len(l.list.Items))
	for _, item := range l.list.Items {
		found[item.Spec] = item
	}
	filtered := len(o.kinds) > 0 || len(o.tags) > 0
	var out []listedTarget
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
		out = append(out, listedTarget{item, name, l.settings.Environment, l.prefix(s)})
	}
	for _, item := range l.list.Items {
		if !named[item.Spec] && item.Has(o.kinds, o.tags) {
			out = append(out, listedTarget{item, "", l.settings.Environment, l.prefix(s)})
		}
	}
	return out
}

// missingOf is what lists lack; nil if they are whole.
func missingOf(lists []scopedList) error {
	var errs []error
	for _, l := range lists {
		err := l.err
		if err != nil && len(lists) > 1 && l.settings.Environment != "" {
			err = fail.New(fail.Other, "environment "+l.settings.Environment, err, "")
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// listScopes returns the settings whose targets a command lists: s, and those of all environments if the configuration has some and
// none counts, or if all.
func (a *app) listScopes(s config.Settings, all bool) ([]config.Settings, error) {
	own := a.Line.Settings["profile"] != "" || a.Line.Settings["region"] != ""
	if len(s.Environments) == 0 || !all && (s.Environment != "" || own) {
		return []config.Settings{s}, nil
	}
	var scopes []config.Settings
	if m := a.LookupScope(s); s.Environment == "" && (m.Profile != "" || m.Region != "" || m.ByVariables) {
		scopes = append(scopes, s)
	}
	environments, err := a.Environments(s)
	return append(scopes, environments...), err
}

// targetLists returns the lists of scopes: the kept ones while they are fresh, else AWS's answers. Of some kinds alone it keeps nothing.
func (a *app) targetLists(ctx context.Context, s config.Settings, scopes []config.Settings, refresh bool, kinds []string) []scopedList {
	lists := make([]scopedList, len(scopes))
	var stale []*scopedList
	for i := range lists {
		l := &lists[i]
		l.settings = scopes[i]
		if dir, err := dirs.State(l.settings.Local.StateDir); err == nil {
			l.list, l.kept = targetlist.Load(dir, a.targetScope(l.settings))
		}
		if l.kept && !refresh && l.list.Age(time.Now()) < targetlist.Fresh {
			l.err = l.list.Err()
			continue
		}
		stale = append(stale, l)
	}
	if len(stale) == 0 {
		return lists
	}
	progress := a.NewProgress(s)
	defer progress.Close()
	var asking sync.WaitGroup
	for _, l := range stale {
		p := progress.In(l.settings.Environment, l.settings.Colour)
		way, err := a.Access(ctx, "ls", l.settings, p, access.Options{Progress: p.Step})
		if err != nil {
			l.err = err
			continue
		}
		asking.Go(func() {
			defer way.Close()
			p.Step("looking up targets")
			a.renew(ctx, l, way, p, kinds)
		})
	}
	asking.Wait()
	progress.Idle()
	return lists
}

// renew asks AWS for a list. An older one stays if there is no answer.
func (a *app) renew(ctx context.Context, l *scopedList, way *access.Access, p *console.Progress, kinds []string) {
	list, err := a.askForTargets(ctx, l.settings, way, kindsOf(kinds))
	l.err = err
	if err != nil && list.Items == nil {
		return
	}
	list.Scope = a.targetScope(l.settings)
	l.list, l.kept = list, false
	if len(kinds) > 0 {
		return
	}
	dir, err := dirs.State(l.settings.Local.StateDir)
	if err == nil {
		err = targetlist.Save(dir, list)
	}
	if err != nil {
		p.Note(fmt.Sprintf("the list is not kept: %v", err))
	}
}

// askForTargets asks AWS for targets of the kinds, or of all. A list without items and with an error is none.
func (a *app) askForTargets(ctx context.Context, s config.Settings, way *access.Access, kinds []targets.Kind) (targetlist.List, error) {
	ctx, cancel := invocation.Bounded(ctx, s)
	defer cancel()
	list := targetlist.List{At: time.Now().UTC().Truncate(time.Millisecond)}
	found, err := way.Targets(ctx, kinds...)
	if err != nil && len(found) == 0 {
		return targetlist.List{}, err
	}
	list.Items, list.Problem = make([]targetlist.Item, len(found)), targetlist.Missing(err)
	for i, f := range found {
		list.Items[i] = targetlist.Item{Spec: f.Name, Kind: f.Kind, Engine: f.Engine, Status: f.Status, Host: f.Host, Tags: f.Tags}
		if f.Host != "" && f.Port != 0 {
			list.Items[i].Host = net.JoinHostPort(f.Host, strconv.Itoa(f.Port))
		}
	}
	if owner, err := way.Owner(ctx); err == nil {
		if parsed, err := arn.Parse(owner); err == nil {
			list.Account = parsed.AccountID
		}
	}
	return list, err
}

// targetScope is the scope of the command's list of targets. It asks nobody.
func (a *app) targetScope(s config.Settings) targetlist.Scope {
	m := a.LookupScope(s)
	env := awssdk.NewEnv(awssdk.RelevantEnv(os.Environ())).Public()
	return targetlist.NewScope(m.Environment, m.Profile, m.Region, env, profileFiles()...)
}

// profileFiles are the files of the AWS configuration.
func profileFiles() []string {
	home, _ := os.UserHomeDir()
	var paths []string
	for _, f := range []struct{ variable, name string }{{"AWS_CONFIG_FILE", "config"}, {"AWS_SHARED_CREDENTIALS_FILE", "credentials"}} {
		paths = append(paths, cmp.Or(os.Getenv(f.variable), filepath.Join(home, ".aws", f.name)))
	}
	return paths
}

// keptTargets are completion's candidates from the kept list, whatever its age.
func (a *app) keptTargets(s config.Settings, keep func(targets.Description) bool) []cli.Candidate {
	dir := cmp.Or(s.Local.StateDir, dirs.DefaultState()) // not created
	list, ok := targetlist.Load(dir, a.targetScope(s))
	if !ok {
		return nil
	}
	var prefixes []string
	for _, d := range targets.Kinds() {
		if keep(d) {
			prefixes = append(prefixes, d.Prefix)
		}
	}
	var out []cli.Candidate
	for _, item := range list.Items {
		if slices.Contains(prefixes, item.Kind) && strings.Trim(item.Spec, plainText) == "" {
			out = append(out, cli.Candidate{Value: item.Spec, Help: itemHelp(item)})
		}
	}
	return out
}

// itemHelp describes a target in a few words: "postgres, available".
func itemHelp(item targetlist.Item) string {
	if item.Status == "" {
		return item.Engine
	}
	return strings.TrimPrefix(item.Engine+", "+item.Status, ", ")
}

// plainText are the characters of candidates that no shell takes for something else.
const plainText = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:/._-"
