// Package words formats values for people.
package words

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Count formats a number of things; its plural ends in s.
func Count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Bytes formats a number of bytes in decimal units.
func Bytes(n float64) string {
	switch {
	case n >= 1e6:
		return fmt.Sprintf("%.1f MB", n/1e6)
	case n >= 1e3:
		return fmt.Sprintf("%.1f kB", n/1e3)
	}
	return fmt.Sprintf("%.0f B", n)
}

// Parenthesis returns " (text)", or "" for an empty text.
func Parenthesis(text string) string {
	if text == "" {
		return ""
	}
	return " (" + text + ")"
}

// Dash returns text, or "-" for an empty text.
func Dash(text string) string { return cmp.Or(text, "-") }

// InParentheses lists what is not empty.
func InParentheses(parts ...string) string {
	parts = slices.DeleteFunc(parts, func(p string) bool { return p == "" })
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s)", strings.Join(parts, ", "))
}
