package inventory

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/shared"
	"github.com/bastion-ssm/bastion/internal/targetlist"
	"github.com/bastion-ssm/bastion/targets"
)

// Candidates are the names of the configuration, the targets of kept lists, and what begins the other specs: of all kinds, or of
// those that only accepts. Those of other environments have their names in front.
func (a *Inventory) Candidates(only ...func(targets.Description) bool) []cli.Candidate {
	keep := func(d targets.Description) bool { return len(only) == 0 || only[0](d) }
	var out []cli.Candidate
	for _, d := range targets.Kinds() {
		if keep(d) {
			out = append(out, cli.Candidate{Value: d.Prefix + ":", Help: d.Help})
		}
	}
	s, err := config.Load(a.Source(context.Background(), shared.Cached))
	if err != nil {
		return out
	}
	out = append(a.known(s, keep), out...)
	for _, name := range s.Environments {
		other, err := a.SettingsOf(name, config.Target{})
		if err != nil || name == s.Environment {
			continue
		}
		for _, c := range a.known(other, keep) {
			out = append(out, cli.Candidate{Value: targets.InEnvironment(name, c.Value), Help: c.Help})
		}
	}
	return out
}

// known are the names of the configuration and the targets of the kept list.
func (a *Inventory) known(s config.Settings, keep func(targets.Description) bool) []cli.Candidate {
	var names []cli.Candidate
	for name, t := range s.Targets {
		names = append(names, cli.Candidate{Value: name, Help: t.Spec})
	}
	slices.SortFunc(names, func(x, y cli.Candidate) int { return strings.Compare(x.Value, y.Value) })
	return append(names, a.kept(s, keep)...)
}

// kept are completion's candidates from the kept list, whatever its age.
func (a *Inventory) kept(s config.Settings, keep func(targets.Description) bool) []cli.Candidate {
	dir := cmp.Or(s.Local.StateDir, dirs.DefaultState()) // not created
	list, ok := targetlist.Load(dir, a.scope(s))
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
