// Package pattern compiles regular expressions at their first use. Compiled at the start of the program, those of all packages cost each
// command, however short, a millisecond.
package pattern

import (
	"regexp"
	"sync"
)

// Lazy returns what compiles an expression at its first call. That call panics if the expression is invalid, so each needs a test that
// uses it.
func Lazy(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}
