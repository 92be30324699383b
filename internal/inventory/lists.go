package inventory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/arn"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/targetlist"
	"github.com/bastion-ssm/bastion/targets"
)

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

// scopes returns the settings whose targets a command lists: s, and those of all environments if the configuration has some and
// none counts, or if all.
func (a *Inventory) scopes(s config.Settings, all bool) ([]config.Settings, error) {
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

// lists returns the lists of scopes: the kept ones while they are fresh, else AWS's answers. Of some kinds alone it keeps nothing.
func (a *Inventory) lists(ctx context.Context, s config.Settings, scopes []config.Settings, refresh bool, kinds []string) []scopedList {
	lists := make([]scopedList, len(scopes))
	var stale []*scopedList
	for i := range lists {
		l := &lists[i]
		l.settings = scopes[i]
		if dir, err := dirs.State(l.settings.Local.StateDir); err == nil {
			l.list, l.kept = targetlist.Load(dir, a.scope(l.settings))
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
func (a *Inventory) renew(ctx context.Context, l *scopedList, way *access.Access, p *console.Progress, kinds []string) {
	list, err := a.ask(ctx, l.settings, way, kindsOf(kinds))
	l.err = err
	if err != nil && list.Items == nil {
		return
	}
	list.Scope = a.scope(l.settings)
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

// ask asks AWS for targets of the kinds, or of all. A list without items and with an error is none.
func (a *Inventory) ask(ctx context.Context, s config.Settings, way *access.Access, kinds []targets.Kind) (targetlist.List, error) {
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

// scope is the scope of the command's list of targets. It asks nobody.
func (a *Inventory) scope(s config.Settings) targetlist.Scope {
	m := a.LookupScope(s)
	env := awssdk.NewEnv(awssdk.RelevantEnv(os.Environ())).Public()
	return targetlist.NewScope(m.Environment, m.Profile, m.Region, env, awssdk.ProfileFiles()...)
}
