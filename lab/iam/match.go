package iam

import (
	"regexp"
	"slices"
	"strings"
)

// Wildcards are private characters from the moment when variables have their values, because * and ? in a value are literal.
const (
	anyText = '\ue000' // *
	anyOne  = '\ue001' // ?
)

var wildcards = strings.NewReplacer("*", string(anyText), "?", string(anyOne))

// variable is a variable in a policy, with its default: ${aws:username}, ${aws:username, 'nobody'}.
var variable = regexp.MustCompile(`\$\{([^},]*?)\s*(?:,\s*'([^']*)'\s*)?\}`)

// expand returns a text of a policy with values in place of variables, and wildcards in place of * and ? if it is a pattern. It returns
// false if a variable has no single value: AWS then applies no statement that needs it.
func expand(text string, in Context, pattern bool) (string, bool) {
	var b strings.Builder
	literal := func(s string) {
		if pattern {
			s = wildcards.Replace(s)
		}
		b.WriteString(s)
	}
	at := 0
	for _, m := range variable.FindAllStringSubmatchIndex(text, -1) {
		literal(text[at:m[0]])
		at = m[1]
		name := text[m[2]:m[3]]
		if slices.Contains([]string{"*", "?", "$"}, name) { // the character itself
			b.WriteString(name)
			continue
		}
		switch values := in[strings.ToLower(name)]; {
		case len(values) == 1:
			b.WriteString(values[0])
		case m[4] >= 0 && len(values) == 0:
			b.WriteString(text[m[4]:m[5]])
		default:
			return "", false
		}
	}
	literal(text[at:])
	return b.String(), true
}

// like reports whether a text matches a pattern whose wildcards are anyText and anyOne. It takes time that grows with the product of the
// lengths, whatever the pattern.
func like(pattern, text string) bool { return matches([]rune(pattern), []rune(text)) }

func matches(pattern, text []rune) bool {
	p, t, star, mark := 0, 0, -1, 0
	for t < len(text) {
		switch {
		case p < len(pattern) && pattern[p] == anyText:
			star, mark = p, t
			p++
		case p < len(pattern) && (pattern[p] == anyOne || pattern[p] == text[t]):
			p++
			t++
		case star >= 0: // let the last * take one more
			mark++
			p, t = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == anyText {
		p++
	}
	return p == len(pattern)
}

const arnParts = 6 // arn:partition:service:region:account:resource

// likeARN is like for ARNs as ArnLike compares them: each of the six parts for itself.
func likeARN(pattern, arn string) bool {
	want, got := strings.SplitN(pattern, ":", arnParts), strings.SplitN(arn, ":", arnParts)
	if len(want) != arnParts || len(got) != arnParts {
		return false
	}
	for i := range want {
		if !like(want[i], got[i]) {
			return false
		}
	}
	return true
}

// MatchAction reports whether an action matches a pattern, in which * stands for any text and ? for any character. Case does not count.
func MatchAction(pattern, action string) bool {
	return like(wildcards.Replace(strings.ToLower(pattern)), strings.ToLower(action))
}
