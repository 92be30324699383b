package doctor

import (
	"context"

	"github.com/bastion-ssm/bastion/access"
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
	if len(w.Thing.Groups) > 0 {
		w.Rules, w.RulesErr = g.securityGroups(ctx, filters("group-id", w.Thing.Groups, nil))
	}
}
