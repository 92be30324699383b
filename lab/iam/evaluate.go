package iam

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Context is a request's condition keys with their values. Keys are in lower case, because IAM ignores their case; With writes them so.
type Context map[string][]string

// With returns the context with a key. Without values the key is absent.
func (c Context) With(key string, values ...string) Context {
	out := maps.Clone(c)
	if out == nil {
		out = make(Context)
	}
	delete(out, strings.ToLower(key))
	if len(values) > 0 {
		out[strings.ToLower(key)] = values
	}
	return out
}

// Request is what a caller asks: an action, such as "ecs:RunTask", on a resource, which is an ARN or "*".
type Request struct {
	Action, Resource string
	Context          Context
}

// Effect is what policies say to a request.
type Effect uint8

// The effects. A request that no statement allows is denied implicitly.
const (
	ImplicitDeny Effect = iota
	ExplicitDeny
	Allow
)

// String returns the effect as IAM's simulator writes it.
func (e Effect) String() string { return [...]string{"implicitDeny", "explicitDeny", "allowed"}[e] }

// Grant is what in a policy decided on a request: its statement, and in it the pattern of the action and that of the resource.
type Grant struct{ Policy, Sid, Action, Resource string }

// Decision is an effect, and the grants that led to it: all that allow, or the first that denies.
type Decision struct {
	Effect Effect
	By     []Grant
}

// Evaluate decides on a request: a statement that denies wins over all that allow. The error is for a request on which AWS's documentation
// does not say what happens.
func Evaluate(r Request, policies ...*Policy) (Decision, error) {
	var d Decision
	for _, p := range policies {
		for _, s := range p.Statements {
			g, applies, err := s.applies(r)
			if err != nil {
				return Decision{}, fmt.Errorf("policy %s: statement %s: %s on %s: %w", p.Name, s.Sid, r.Action, r.Resource, err)
			}
			g.Policy = p.Name
			switch {
			case !applies:
			case s.Deny:
				return Decision{ExplicitDeny, []Grant{g}}, nil
			default:
				d.Effect, d.By = Allow, append(d.By, g)
			}
		}
	}
	return d, nil
}

// applies reports whether a statement is about a request.
func (s Statement) applies(r Request) (g Grant, applies bool, err error) {
	at := slices.IndexFunc(s.Actions, func(a string) bool { return MatchAction(a, r.Action) })
	if (at >= 0) == s.NotAction {
		return g, false, nil
	}
	g = Grant{Sid: s.Sid, Action: r.Action, Resource: "*"}
	if at >= 0 {
		g.Action = s.Actions[at]
	}
	at, ok := s.resource(r)
	if (at >= 0) == s.NotResource || !ok {
		return g, false, nil
	}
	if at >= 0 {
		g.Resource = s.Resources[at]
	}
	for _, c := range s.conditions {
		if holds, err := c.holds(r.Context); err != nil || !holds {
			return g, false, err
		}
	}
	return g, true, nil
}

// resource returns which of the statement's resources is the request's, -1 if none is. It returns false if that cannot be told, because
// a variable has no value and the statement is about all other resources.
func (s Statement) resource(r Request) (at int, ok bool) {
	for i, pattern := range s.Resources {
		expanded, resolved := expand(pattern, r.Context, true)
		switch {
		case !resolved && s.NotResource:
			return -1, false
		case resolved && like(expanded, r.Resource):
			return i, true
		}
	}
	return -1, true
}
