package forwarding

import (
	"context"
	"slices"

	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/targets"
)

// EachBroker replaces the MSK clusters among pairs by their brokers, for clients of Kafka need each by its name. A named target with
// settings of its own stays.
func (a *Forwarder) EachBroker(ctx context.Context, command string, s config.Settings, pairs []targets.Pair) ([]targets.Pair, error) {
	if !s.Forward.Hosts {
		return pairs, nil
	}
	var out []targets.Pair
	for _, p := range pairs {
		specs, err := a.brokersFor(ctx, command, s, p)
		if err != nil {
			return nil, err
		}
		for _, spec := range specs {
			p.Target = spec
			out = append(out, p)
		}
	}
	return out, nil
}

// brokersFor returns the brokers of a pair's MSK cluster; for another target, the target.
func (a *Forwarder) brokersFor(ctx context.Context, command string, s config.Settings, p targets.Pair) ([]targets.Spec, error) {
	same := []targets.Spec{p.Target}
	settings, err := request.SettingsOf(p, s, a.SettingsOf)
	if err != nil {
		return nil, err
	}
	spec := p.Target
	if named, ok := settings.Targets[spec.ID]; ok && spec.Kind == targets.Name {
		if named.HasOwn() {
			return same, nil
		}
		spec, _ = targets.Parse(named.Spec) // the configuration has been checked
	}
	if spec.Kind != targets.MSK {
		return same, nil
	}
	run, err := a.Open(ctx, command, settings)
	if err != nil {
		return nil, err
	}
	defer run.Close()
	run.Progress.Step("looking up the brokers of " + p.String())
	return run.Access.Brokers(ctx, p.Target)
}

// BrokersOf is EachBroker for groups.
func (a *Forwarder) BrokersOf(ctx context.Context, s config.Settings, groups []request.Group) ([]request.Group, error) {
	pairs := request.PairsOf(request.Items(groups))
	all, err := a.EachBroker(ctx, "forward", s, pairs)
	if err != nil || slices.Equal(all, pairs) {
		return groups, err
	}
	return request.For(all, s, a.SettingsOf)
}
