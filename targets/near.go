package targets

import (
	"slices"
	"strings"
)

// closest returns up to three of names that look like name, the best first: a few typing errors away, or one part of
// the other.
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
		cost := distance(want, have)
		if len(want) >= 3 && (strings.Contains(have, want) || len(have) >= 3 && strings.Contains(want, have)) {
			cost = min(cost, limit)
		}
		if cost <= limit && cost < max(len(want), len(have)) {
			found = append(found, scored{n, cost})
		}
	}
	slices.SortFunc(found, func(a, b scored) int {
		if a.cost != b.cost {
			return a.cost - b.cost
		}
		return strings.Compare(a.name, b.name)
	})
	var best []string
	for _, s := range found[:min(len(found), 3)] {
		best = append(best, s.name)
	}
	return best
}

// distance is the number of inserted, deleted, replaced or swapped neighbouring bytes between a and b (optimal string
// alignment).
func distance(a, b string) int {
	before := make([]int, len(b)+1)
	prev := make([]int, len(b)+1)
	cur := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			differ := 1
			if a[i-1] == b[j-1] {
				differ = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+differ)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
