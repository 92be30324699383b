package config

import "github.com/bastion-ssm/bastion/internal/near"

// DidYouMean returns the hint for a misspelt word: the nearest known one, after prefix, or else otherwise.
func DidYouMean(word string, known []string, prefix, otherwise string) string {
	if near := Nearest(word, known); near != "" {
		return "did you mean " + prefix + near + "?"
	}
	return otherwise
}

// Nearest returns the known word nearest to word, or "" if word is not a plausible misspelling of any.
func Nearest(word string, known []string) string {
	if len(word) < 3 {
		return ""
	}
	best, bestDist := "", 1+min(3, len(word)/3)
	for _, k := range known {
		if longer := len(k) - len(word); max(longer, -longer) >= bestDist {
			continue
		}
		if d := near.Distance(word, k); d < bestDist {
			best, bestDist = k, d
		}
	}
	return best
}
