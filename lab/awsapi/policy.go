package awsapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Policy is an identity-based policy: Allow statements with the elements and operators that this package knows. ParsePolicy refuses
// all others, so that no policy works in the lab but means something else on AWS.
type Policy struct{ statements []policyStatement }

type policyStatement struct {
	Sid, Effect string
	Action      oneOrMore
	Resource    oneOrMore
	Condition   map[string]map[string]oneOrMore // by operator and key
}

// oneOrMore is a string or a list of strings.
type oneOrMore []string

// UnmarshalJSON implements json.Unmarshaler.
func (l *oneOrMore) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*l = oneOrMore{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(l))
}

// operators compare a request's value with a policy's value after the substitution of its variables.
var operators = map[string]func(pattern, value string) bool{
	"StringEquals": func(pattern, value string) bool { return hide.Replace(pattern) == hide.Replace(value) },
	"ArnEquals":    like,
	"ArnLike":      like,
	"StringLike":   like,
	"Bool":         strings.EqualFold,
}

// ParsePolicy reads a policy document.
func ParsePolicy(document []byte) (*Policy, error) {
	var p struct {
		Version   string
		Statement []policyStatement
	}
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	if p.Version != "2012-10-17" {
		return nil, fmt.Errorf("read policy: version %q is not known", p.Version)
	}
	for _, s := range p.Statement {
		if s.Effect != "Allow" {
			return nil, fmt.Errorf("read policy: statement %s: effect %q is not known", s.Sid, s.Effect)
		}
		for operator := range s.Condition {
			if operators[strings.TrimSuffix(operator, "IfExists")] == nil {
				return nil, fmt.Errorf("read policy: statement %s: operator %s is not known", s.Sid, operator)
			}
		}
	}
	return &Policy{p.Statement}, nil
}

// Access is a permission that a call needs: an action on a resource, with its condition keys. The keys' names are in lower case,
// because IAM ignores their case.
type Access struct {
	Action   string
	Resource string
	Keys     map[string]string
}

// allows reports whether a statement allows the access.
func (p *Policy) allows(a Access) bool {
	return slices.ContainsFunc(p.statements, func(s policyStatement) bool {
		return MatchAny(s.Action, a.Action) &&
			slices.ContainsFunc(s.Resource, func(pattern string) bool { return like(a.substitute(pattern), a.Resource) }) &&
			s.holds(a)
	})
}

// holds reports whether all conditions hold; one matching value of a key is enough.
func (s policyStatement) holds(a Access) bool {
	for operator, conditions := range s.Condition {
		name, ifExists := strings.CutSuffix(operator, "IfExists")
		for key, patterns := range conditions {
			value, exists := a.Keys[strings.ToLower(key)]
			if !exists {
				if ifExists {
					continue
				}
				return false
			}
			if !slices.ContainsFunc(patterns, func(p string) bool { return operators[name](a.substitute(p), value) }) {
				return false
			}
		}
	}
	return true
}

var variable = regexp.MustCompile(`\$\{([^}]*)\}`)

// hide replaces wildcards by private characters, because those in a variable's value are literal.
var hide = strings.NewReplacer("*", "\ue000", "?", "\ue001")

// substitute replaces variables by the request's values. A variable without a value matches nothing.
func (a Access) substitute(pattern string) string {
	return variable.ReplaceAllStringFunc(pattern, func(v string) string {
		value, exists := a.Keys[strings.ToLower(v[2:len(v)-1])]
		if !exists {
			return "\x00"
		}
		return hide.Replace(value)
	})
}

// like reports whether a value matches a pattern with wildcards.
func like(pattern, value string) bool { return wild(pattern, hide.Replace(value)) }
