package config

import "github.com/bastion-ssm/bastion/internal/near"

// Nearest returns the known word nearest to word, or "" if word is not a plausible misspelling of any.
func Nearest(word string, known []string) string {
	if len(word) < 3 {
		return ""
	}
	best, bestDist := "", 1+min(3, len(word)/3)
	for _, k := range known {
		if abs(len(k)-len(word)) >= bestDist {
			continue
		}
		if d := near.Distance(word, k); d < bestDist {
			best, bestDist = k, d
		}
	}
	return best
}

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}
