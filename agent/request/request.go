// Package request turns the targets of a command line, and the names that the configuration gives them, into requests to the agent.
package request

import (
	"context"
	"fmt"
	"net"
	"slices"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
)

// Parse reads the targets and ports of a command line, and the forwards in the form of ssh -L. Names of the configuration are replaced by
// what they stand for. notes are what the user may have meant otherwise.
func Parse(args, local []string, s config.Settings) (_ []api.ForwardRequest, notes []string, _ error) {
	pairs, err := targets.ParsePair(args)
	if err != nil && !(len(args) == 0 && len(local) > 0) {
		return nil, nil, err
	}
	for _, l := range local {
		pair, err := targets.ParseL(l)
		if err != nil {
			return nil, nil, err
		}
		pairs = append(pairs, pair)
	}
	if len(pairs) == 0 {
		return nil, nil, fail.Usagef("name a target, for example: bastion forward rds:orders 12345", "forward: the target is missing")
	}
	for i := range pairs {
		target := pairs[i].Target
		if named, ok := s.Targets[target.ID]; ok && target.Kind == targets.Name && pairs[i].Local == (targets.Local{}) {
			pairs[i].Local.Port = named.LocalPort
		}
	}
	if err := targets.CheckPairs(pairs); err != nil {
		return nil, nil, err
	}
	addresses, _ := net.InterfaceAddrs() // only for a note
	requests, err := For(pairs, s)
	return requests, notesOfTargets(pairs, addresses), err
}

// For returns the requests for pairs.
func For(pairs []targets.Pair, s config.Settings) ([]api.ForwardRequest, error) {
	out := make([]api.ForwardRequest, len(pairs))
	for i, p := range pairs {
		var err error
		if out[i], err = one(p, s); err != nil {
			return nil, err
		}
	}
	return out, nil
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
			p.Target, p.Target, pairs[i-1].Target))
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

// unknownName is the error of a name that the configuration does not have.
func unknownName(spec targets.Spec, s config.Settings) error {
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

// WithoutPort is the Name of the target that a text is, else the text.
func WithoutPort(text string) string {
	spec, err := targets.Parse(text)
	if err != nil {
		return text
	}
	return Name(spec)
}
