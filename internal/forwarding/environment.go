package forwarding

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/targets"
)

// scout asks AWS about targets with the settings of an environment, or of none.
type scout struct {
	settings config.Settings
	way      *access.Access // nil: err says why
	err      error
}

// seen is what a scout knows of a target.
type seen struct {
	*scout
	places report.Places
	err    error // the target was not found
}

// WorkOut chooses an environment for each target that AWS knows by a name, where the configuration has environments and the user chose
// none. The settings outside of environments have precedence, unless their bastion is in another VPC than the target. Of the
// environments, the only one counts whose bastion is in the target's VPC, or else the only one that finds the target.
func (a *Forwarder) WorkOut(ctx context.Context, command string, s config.Settings, pairs []targets.Pair) ([]targets.Pair, error) {
	own := a.Line.Settings["profile"] != "" || a.Line.Settings["region"] != ""
	if s.Environment != "" || len(s.Environments) == 0 || own || !slices.ContainsFunc(pairs, func(p targets.Pair) bool { return a.isOpen(s, p) }) {
		return pairs, nil
	}
	progress := a.NewProgress(s)
	defer progress.Close()
	var outside []*scout
	if m := a.LookupScope(s); m.Profile != "" || m.Region != "" || m.ByVariables {
		outside = a.scouts(ctx, command, s)
	}
	var inside []*scout
	defer func() {
		for _, one := range slices.Concat(outside, inside) {
			one.close()
		}
	}()
	out := slices.Clone(pairs)
	for i := range out {
		p := &out[i]
		if !a.isOpen(s, *p) {
			continue
		}
		progress.Step("looking for the environment of " + p.Target.String())
		first := ask(ctx, outside, p.Target)
		if len(first) > 0 && first[0].err == nil && !first[0].places.Differ() {
			continue
		}
		if inside == nil {
			all, err := a.Environments(s)
			if err != nil {
				return nil, err
			}
			inside = a.scouts(ctx, command, all...)
		}
		all := ask(ctx, inside, p.Target)
		chosen, err := choose(p.Target, first, all)
		if err != nil {
			return nil, err
		}
		p.Chosen = chosen.settings.Environment
		if p.Chosen != "" {
			where := ": " + chosen.places.String()
			if chosen.places.Same() {
				where = ", whose bastion is in its VPC: " + chosen.places.Target.String()
			}
			a.Note(s, "%s is in the environment %s%s%s", p.Target, p.Chosen, where, unasked(all))
		}
	}
	progress.Idle()
	return out, nil
}

// Groups reads the targets of a command line, as request.Parse does, and works out their environments.
func (a *Forwarder) Groups(ctx context.Context, command string, s config.Settings, args, local []string) (_ []request.Group, notes []string, _ error) {
	pairs, err := request.Pairs(args, local)
	if err != nil {
		return nil, nil, err
	}
	if pairs, err = a.WorkOut(ctx, command, s, pairs); err != nil {
		return nil, nil, err
	}
	return request.Of(pairs, s, a.SettingsOf)
}

// isOpen reports whether nothing says which environment a target is of, and AWS may.
func (a *Forwarder) isOpen(s config.Settings, p targets.Pair) bool {
	if p.Environment != "" {
		return false
	}
	named, ok := s.Targets[p.Target.ID]
	switch {
	case p.Target.Kind == targets.Host:
		return false
	case p.Target.Kind == targets.Name && ok:
		spec, err := request.Named(named)
		return err == nil && !named.HasOwn() && spec.Kind.Prefix() != ""
	case p.Target.Kind == targets.Name: // one of an environment, or else a host
		return p.Target.Port == 0
	}
	return true
}

// Environments returns the settings of all environments.
func (a *Forwarder) Environments(s config.Settings) ([]config.Settings, error) {
	var all []config.Settings
	for _, name := range s.Environments {
		settings, err := a.SettingsOf(name, config.Target{})
		if err != nil {
			return nil, err
		}
		all = append(all, settings)
	}
	return all, nil
}

// scouts opens the way to AWS for each of the settings. The caller closes them.
func (a *Forwarder) scouts(ctx context.Context, command string, all ...config.Settings) []*scout {
	out := make([]*scout, len(all))
	for i, settings := range all {
		p := a.NewProgress(settings)
		way, err := a.Access(ctx, command, settings, p, access.Options{Progress: p.Step})
		p.Close()
		out[i] = &scout{settings, way, err}
	}
	return out
}

func (s *scout) close() {
	if s.way != nil {
		s.way.Close()
	}
}

// ask asks the scouts about a target, at once.
func ask(ctx context.Context, scouts []*scout, spec targets.Spec) []seen {
	out := make([]seen, len(scouts))
	var asking sync.WaitGroup
	for i, one := range scouts {
		asking.Go(func() {
			out[i].scout = one
			out[i].places, out[i].err = one.look(ctx, spec)
		})
	}
	asking.Wait()
	return out
}

// look returns where a target and the scout's bastion are.
func (s *scout) look(ctx context.Context, spec targets.Spec) (report.Places, error) {
	if s.err != nil {
		return report.Places{}, s.err
	}
	ctx, cancel := invocation.Bounded(ctx, s.settings)
	defer cancel()
	found, err := s.way.Resolve(ctx, []targets.Spec{spec})
	if err != nil {
		return report.Places{}, err
	}
	return s.way.Places(ctx, found[0]), nil
}

// choose returns the settings of the bastion that serves a target. outside is the view of the settings outside of environments, if they
// have any of their own.
func choose(spec targets.Spec, outside, environments []seen) (seen, error) {
	found := slices.DeleteFunc(slices.Clone(environments), func(s seen) bool { return s.err != nil })
	near := slices.DeleteFunc(slices.Clone(found), func(s seen) bool { return !s.places.Same() })
	known := slices.DeleteFunc(slices.Clone(outside), func(s seen) bool { return s.err != nil })
	switch {
	case len(near) == 1:
		return near[0], nil
	case len(near) == 0 && len(known) > 0: // peering may lead there
		return known[0], nil
	case len(near) == 0 && len(found) == 1:
		return found[0], nil
	case len(near) > 1:
		found = near
	case len(found) == 0:
		return seen{}, nowhere(spec, slices.Concat(outside, environments))
	}
	var where, names []string
	for _, s := range found {
		where = append(where, fmt.Sprintf("%s (%s)", s.settings.Environment, s.places.Target))
		names = append(names, targets.InEnvironment(s.settings.Environment, spec.String()))
	}
	return seen{}, fail.New(fail.NoTarget, "target "+spec.String(),
		fmt.Errorf("several environments have it: %s", strings.Join(where, ", ")), "name one: "+strings.Join(names, " or "))
}

// nowhere is the error for a target that no settings find.
func nowhere(spec targets.Spec, all []seen) error {
	var texts []string
	kind, next := fail.NoTarget, ""
	for _, s := range all {
		texts = append(texts, fmt.Sprintf("%s: %v", cmp.Or(s.settings.Environment, "outside of environments"), s.err))
		if k := fail.KindOf(s.err); kind == fail.NoTarget && k != fail.NoTarget {
			kind, next = k, fail.NextOf(s.err) // the target may be there
		}
		if kind == fail.NoTarget {
			next = cmp.Or(next, fail.NextOf(s.err))
		}
	}
	return fail.New(kind, "target "+spec.String(), errors.New("no environment finds it: "+strings.Join(texts, "; ")), next)
}

// unasked names the environments that could not be asked, for a note.
func unasked(all []seen) string {
	var out []string
	for _, s := range all {
		if s.err != nil && fail.KindOf(s.err) != fail.NoTarget {
			out = append(out, fmt.Sprintf("; %s could not be asked: %v", s.settings.Environment, s.err))
		}
	}
	return strings.Join(out, "")
}

// Serving returns the name of another environment whose bastion is at a place; "": none is, as far as AWS tells. It asks nobody for
// a code or a login.
func (a *Forwarder) Serving(ctx context.Context, s config.Settings, place report.Place) string {
	var all []config.Settings
	for _, name := range s.Environments {
		settings, err := a.SettingsOf(name, config.Target{})
		if err == nil && name != s.Environment && place.VPC != "" {
			settings.AWS.MFACommand = ""
			all = append(all, settings)
		}
	}
	found := make([]bool, len(all))
	var asking sync.WaitGroup
	for i, settings := range all {
		asking.Go(func() {
			ctx, cancel := invocation.Bounded(ctx, settings)
			defer cancel()
			way, err := access.New(ctx, settings, access.Options{Version: a.Version})
			if err != nil {
				return
			}
			defer way.Close()
			at := way.Place(ctx)
			found[i] = at.VPC == place.VPC && at.Region == place.Region
		})
	}
	asking.Wait()
	if i := slices.Index(found, true); i >= 0 {
		return all[i].Environment
	}
	return ""
}

// apart names the environment that reaches a target in another VPC than the bastion, once for each VPC.
type apart struct {
	app      *Forwarder
	settings config.Settings // of the forwards
	note     func(string)
	asking   sync.WaitGroup

	mu   sync.Mutex
	told map[string]bool // by VPC
}

// event takes in an event of the forwards. The look-up ends with ctx.
func (t *apart) event(ctx context.Context, e api.Event) {
	if e.Places == nil {
		return
	}
	at := e.Places.Target
	t.mu.Lock()
	told := t.told[at.VPC]
	t.told[at.VPC] = true
	t.mu.Unlock()
	if told {
		return
	}
	t.asking.Go(func() {
		if name := t.app.Serving(ctx, t.settings, at); name != "" {
			t.note(fmt.Sprintf("the bastion of the environment %s is in %s: name the target as %s/TARGET", name, at, name))
		}
	})
}
