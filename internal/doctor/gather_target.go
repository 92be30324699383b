package doctor

import (
	"context"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/targets"
)

// where looks the target up, as a forward does, and then at the rules of its security groups.
func (g *gatherer) where(ctx context.Context, way *access.Access) {
	f := g.facts
	if f.Target == "" || f.TargetErr != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*callLimit)
	defer cancel()
	w := &f.Where
	w.Endpoint, w.Thing, w.Err = way.ExamineTarget(ctx, f.Spec)
	if w.Err == nil && (w.Thing.What != "" || targets.RegionOf(w.Endpoint.Host) != "") {
		w.Places = way.Places(ctx, w.Endpoint)
	}
	if w.Places.Differ() && g.Serving != nil {
		w.Serving = g.Serving(ctx, w.Places.Target)
	}
	if len(w.Thing.Groups) > 0 {
		w.Rules, w.RulesErr = g.securityGroups(ctx, filters("group-id", w.Thing.Groups, nil))
	}
}
