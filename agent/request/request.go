// Package request turns the targets of a command line, and the names that the configuration gives them, into requests to the agent.
package request

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
)

// Load returns the settings of an environment, "" being the command's own, and of a named target of it.
type Load func(environment string, target config.Target) (config.Settings, error)

// Group has the requests of a command that share their settings. Each group has a link of its own.
type Group struct {
	Settings config.Settings
	Pairs    []targets.Pair
	Requests []api.ForwardRequest
	At       []int // the places of the requests among the command's targets
}

// Item is a request with its settings and the pair that it is for.
type Item struct {
	Settings config.Settings
	Pair     targets.Pair
	Request  *api.ForwardRequest // of its group
}

// Items returns the requests of all groups in the order of the command line.
func Items(groups []Group) []Item {
	n := 0
	for _, g := range groups {
		n += len(g.At)
	}
	out := make([]Item, n)
	for _, g := range groups {
		for i, at := range g.At {
			out[at] = Item{Settings: g.Settings, Request: &g.Requests[i]}
			if i < len(g.Pairs) { // a proxy has none
				out[at].Pair = g.Pairs[i]
			}
		}
	}
	return out
}

// PairsOf returns the targets of items.
func PairsOf(items []Item) []targets.Pair {
	out := make([]targets.Pair, len(items))
	for i, item := range items {
		out[i] = item.Pair
	}
	return out
}

// One returns the group of requests with the command's own settings.
func One(s config.Settings, requests ...api.ForwardRequest) []Group {
	g := Group{Settings: s, Requests: requests}
	for i := range requests {
		g.At = append(g.At, i)
	}
	return []Group{g}
}

// Parse reads the targets and ports of a command line, and the forwards in the form of ssh -L. Names of the configuration are replaced by
// what they stand for. notes are what the user may have meant otherwise. load is for targets of other settings than s.
func Parse(args, local []string, s config.Settings, load Load) (_ []Group, notes []string, _ error) {
	pairs, err := Pairs(args, local)
	if err != nil {
		return nil, nil, err
	}
	return Of(pairs, s, load)
}

// Pairs reads the targets and ports of a command line, and the forwards in the form of ssh -L.
func Pairs(args, local []string) ([]targets.Pair, error) {
	pairs, err := targets.ParsePair(args)
	if err != nil && !(len(args) == 0 && len(local) > 0) {
		return nil, err
	}
	for _, l := range local {
		pair, err := targets.ParseL(l)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, pair)
	}
	if len(pairs) == 0 {
		return nil, fail.Usagef("name a target, for example: bastion forward rds:orders 12345", "forward: the target is missing")
	}
	return pairs, nil
}

// Of is Parse for what Pairs has read.
func Of(pairs []targets.Pair, s config.Settings, load Load) (_ []Group, notes []string, _ error) {
	groups, err := For(pairs, s, load)
	if err != nil {
		return nil, nil, err
	}
	for _, g := range groups {
		for i := range g.Pairs {
			target := g.Pairs[i].Target
			if named, ok := g.Settings.Targets[target.ID]; ok && target.Kind == targets.Name && g.Pairs[i].Local == (targets.Local{}) {
				g.Pairs[i].Local.Port = named.LocalPort
				g.Requests[i].Listen = g.Pairs[i].Local.String()
				pairs[g.At[i]].Local = g.Pairs[i].Local
			}
		}
	}
	if err := targets.CheckPairs(pairs); err != nil {
		return nil, nil, err
	}
	addresses, _ := net.InterfaceAddrs() // only for a note
	return groups, notesOfTargets(pairs, addresses), nil
}

// For returns the requests for pairs, in groups of the same settings. The groups are in the order of their first pairs.
func For(pairs []targets.Pair, s config.Settings, load Load) ([]Group, error) {
	var groups []Group
	var texts []map[string]string
	for i, p := range pairs {
		if p.Environment == "" {
			p.Target = named(p.Target, s)
		}
		settings, err := SettingsOf(p, s, load)
		if err != nil {
			return nil, err
		}
		p.Target = named(p.Target, settings)
		r, err := one(p, settings)
		if err != nil {
			return nil, err
		}
		own := settings.Texts()
		at := slices.IndexFunc(texts, func(other map[string]string) bool { return maps.Equal(own, other) })
		if at < 0 {
			at = len(groups)
			groups, texts = append(groups, Group{Settings: settings}), append(texts, own)
		}
		g := &groups[at]
		g.Pairs, g.Requests, g.At = append(g.Pairs, p), append(g.Requests, r), append(g.At, i)
	}
	return groups, nil
}

// SettingsOf returns the settings for a target: those of the environment before it, or of the chosen one, else s; and a named target may have an environment,
// a profile or a region of its own.
func SettingsOf(p targets.Pair, s config.Settings, load Load) (config.Settings, error) {
	environment := cmp.Or(p.Environment, p.Chosen)
	if environment != "" {
		if !slices.Contains(s.Environments, environment) {
			return s, unknownEnvironment(p, s)
		}
		if load == nil {
			return s, nil
		}
		var err error
		if s, err = load(environment, config.Target{}); err != nil {
			return s, err
		}
	}
	if named, ok := s.Targets[p.Target.ID]; ok && p.Target.Kind == targets.Name && named.HasOwn() && load != nil {
		own, err := load(environment, named)
		own.Targets = s.Targets // the name stands for what it does where it was found
		return own, err
	}
	others := elsewhere(p.Target, s, load)
	if len(others) == 0 {
		return s, nil
	}
	where := "no environment is in force"
	if s.Environment != "" {
		where = fmt.Sprintf("the environment %s does not have it", s.Environment)
	}
	return s, fail.New(fail.NoTarget, fmt.Sprintf("target %q", p), errors.New(where),
		"write "+strings.Join(others, " or ")+", or choose an environment by -e or bastion use")
}

// elsewhere returns a name with each environment that has it, if the settings lack it and can be read.
func elsewhere(name targets.Spec, s config.Settings, load Load) []string {
	_, known := s.Targets[name.ID]
	if known || load == nil || s.Unread != nil || name.Kind != targets.Name || name.Port != 0 {
		return nil
	}
	var others []string
	for _, environment := range s.Environments {
		if environment == s.Environment {
			continue
		}
		// An error is not about the target that was named.
		if there, err := load(environment, config.Target{}); err == nil && there.Targets[name.ID].Spec != "" {
			others = append(others, targets.InEnvironment(environment, name.ID))
		}
	}
	return others
}

// unknownEnvironment is the error of a target whose environment the configuration does not have.
func unknownEnvironment(p targets.Pair, s config.Settings) error {
	op := fmt.Sprintf("target %q", p)
	if s.Unread != nil {
		return fail.New(fail.Other, op, fmt.Errorf("unknown environment %q: %w", p.Environment, config.UnreadError(s.Unread)), "")
	}
	if len(s.Environments) == 0 {
		return fail.New(fail.Usage, op, fmt.Errorf("unknown environment %q: the configuration has none", p.Environment),
			"add it to bastion.yaml; docs/environments.md shows how")
	}
	next := "bastion use lists the environments"
	if near := config.Nearest(p.Environment, s.Environments); near != "" {
		next = "did you mean " + targets.InEnvironment(near, p.Target.String()) + "?"
	}
	return fail.New(fail.Usage, op, fmt.Errorf("unknown environment %q: there are %s", p.Environment, strings.Join(s.Environments, ", ")), next)
}

// notesOfTargets says of each target that is an address of this machine how to listen there, which its place after another target may mean.
func notesOfTargets(pairs []targets.Pair, addresses []net.Addr) []string {
	var notes []string
	for i, p := range pairs {
		ip := net.ParseIP(p.Target.Host)
		own := slices.ContainsFunc(addresses, func(a net.Addr) bool {
			n, ok := a.(*net.IPNet)
			return ok && ip != nil && n.IP.Equal(ip)
		})
		if i == 0 || !own || pairs[i-1].Local != (targets.Local{}) || p.Target.Kind != targets.Host {
			continue
		}
		notes = append(notes, fmt.Sprintf("%s is a target here, and an address of this machine; to listen there write -L %s:%s",
			p.Target, p.Target, pairs[i-1]))
	}
	return notes
}

// one is the request for one pair.
func one(p targets.Pair, s config.Settings) (api.ForwardRequest, error) {
	r := api.ForwardRequest{Kind: api.KindTCP, Listen: p.Local.String()}
	spec := p.Target
	if spec.Kind == targets.Name {
		named, ok := s.Targets[spec.ID]
		switch {
		case ok:
			resolved, err := Named(named)
			if err != nil {
				return r, err
			}
			if spec.Port != 0 {
				resolved.Port = spec.Port
			}
			if forwards.ValidName(spec.ID) { // else it is named after its target
				r.Name = spec.ID
			}
			spec = resolved
		case spec.Port == 0:
			return r, unknownName(spec, s)
		}
	}
	r.Target = spec.String()
	return r, nil
}

// named is the name of the configuration that a bare kind of target may be too.
func named(spec targets.Spec, s config.Settings) targets.Spec {
	return spec.Named(func(name string) bool {
		_, ok := s.Targets[name]
		return ok
	})
}

// unknownName is the error of a name that the configuration does not have.
func unknownName(spec targets.Spec, s config.Settings) error {
	if s.Unread != nil {
		return fail.New(fail.Other, fmt.Sprintf("target %q", spec.ID), config.UnreadError(s.Unread), "")
	}
	names := make(map[string]targets.Named, len(s.Targets))
	for name, t := range s.Targets {
		names[name] = targets.Named{Target: t.Spec}
	}
	// asks nobody: it is no target of AWS's
	_, err := (&targets.Resolver{Names: names}).Resolve(context.Background(), spec)
	return err
}

// Named returns what a name of the configuration stands for.
func Named(t config.Target) (targets.Spec, error) {
	spec, err := targets.Parse(t.Spec)
	if err == nil && spec.Kind == targets.Name && spec.Port == 0 {
		err = fmt.Errorf("%q is a name; a target is rds:ID, cache:ID or HOST:PORT", t.Spec)
	}
	if err != nil {
		return spec, fail.New(fail.Usage, t.Where, err, fail.NextOf(err))
	}
	return spec, nil
}

// Name is what variables and names are made of: the target as the user calls it, without its port unless it is a host.
func Name(spec targets.Spec) string {
	if spec.Kind != targets.Host {
		spec.Port = 0
	}
	return spec.String()
}

// NameOf is the Name of a pair's target, with the environment that the user wrote before it.
func NameOf(p targets.Pair) string { return targets.InEnvironment(p.Environment, Name(p.Target)) }

// WithoutPort is the Name of the target that a text is, else the text.
func WithoutPort(text string) string {
	spec, err := targets.Parse(text)
	if err != nil {
		return text
	}
	return Name(spec)
}
