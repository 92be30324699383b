package targets

import (
	"cmp"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/internal/near"
)

// closest returns up to three of names that resemble name, the best first: a few typing errors away, or one contains the other.
func closest(name string, names []string) []string {
	type scored struct {
		name string
		cost int
	}
	want := strings.ToLower(name)
	limit := max(2, len(want)/3)
	var found []scored
	for _, n := range names {
		have := strings.ToLower(n)
		cost := near.Distance(want, have)
		if len(want) >= 3 && (strings.Contains(have, want) || len(have) >= 3 && strings.Contains(want, have)) {
			cost = min(cost, limit)
		}
		if cost <= limit && cost < max(len(want), len(have)) {
			found = append(found, scored{n, cost})
		}
	}
	slices.SortFunc(found, func(a, b scored) int { return cmp.Or(a.cost-b.cost, strings.Compare(a.name, b.name)) })
	var best []string
	for _, s := range found[:min(len(found), 3)] {
		best = append(best, s.name)
	}
	return best
}
