package iam

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// condition is a condition operator with a key and the values that the policy names.
type condition struct {
	operator operator
	set      string // "", forAll or forAny
	ifExists bool
	key      string // in lower case
	values   []string
}

// What a key of several values must fulfil.
const (
	forAll = "ForAllValues"
	forAny = "ForAnyValue"
)

// operator compares a request's value with a policy's.
type operator struct {
	compare func(policy, request string) bool // nil: Null
	negated bool                              // holds if no value of the policy's compares, or if the request lacks the key
	pattern bool                              // * and ? are wildcards
	fixed   bool                              // variables are not replaced
	valid   func(policy string) bool          // nil: any value
}

func equal(policy, request string) bool { return policy == request }

// operators are the condition operators. AWS's are also those for dates, addresses and binary values.
var operators = map[string]operator{
	"StringEquals":              {compare: equal},
	"StringNotEquals":           {compare: equal, negated: true},
	"StringEqualsIgnoreCase":    {compare: strings.EqualFold},
	"StringNotEqualsIgnoreCase": {compare: strings.EqualFold, negated: true},
	"StringLike":                {compare: like, pattern: true},
	"StringNotLike":             {compare: like, pattern: true, negated: true},
	"ArnEquals":                 {compare: likeARN, pattern: true},
	"ArnLike":                   {compare: likeARN, pattern: true},
	"ArnNotEquals":              {compare: likeARN, pattern: true, negated: true},
	"ArnNotLike":                {compare: likeARN, pattern: true, negated: true},
	"Bool":                      {compare: strings.EqualFold, valid: isBool},
	"NumericEquals":             numeric(func(p, r float64) bool { return r == p }),
	"NumericNotEquals":          negated(numeric(func(p, r float64) bool { return r == p })),
	"NumericLessThan":           numeric(func(p, r float64) bool { return r < p }),
	"NumericLessThanEquals":     numeric(func(p, r float64) bool { return r <= p }),
	"NumericGreaterThan":        numeric(func(p, r float64) bool { return r > p }),
	"NumericGreaterThanEquals":  numeric(func(p, r float64) bool { return r >= p }),
	"Null":                      {fixed: true, valid: isBool},
}

func negated(o operator) operator {
	o.negated = true
	return o
}

func numeric(compare func(policy, request float64) bool) operator {
	return operator{fixed: true, valid: isNumber, compare: func(policy, request string) bool {
		p, err := strconv.ParseFloat(policy, 64)
		r, other := strconv.ParseFloat(request, 64)
		return err == nil && other == nil && compare(p, r)
	}}
}

func isBool(text string) bool {
	return strings.EqualFold(text, "true") || strings.EqualFold(text, "false")
}

func isNumber(text string) bool {
	_, err := strconv.ParseFloat(text, 64)
	return err == nil
}

func newCondition(name, key string, values, known []string) (condition, error) {
	c := condition{key: strings.ToLower(key), values: values}
	base := name
	if set, rest, ok := strings.Cut(name, ":"); ok && (set == forAll || set == forAny) {
		c.set, base = set, rest
	}
	base, c.ifExists = strings.CutSuffix(base, "IfExists")
	var exists bool
	if c.operator, exists = operators[base]; !exists || base == "Null" && base != name {
		return c, fmt.Errorf("condition operator %s is not known", name)
	}
	if !isKnown(known, key) {
		return c, fmt.Errorf("condition key %s is not known", key)
	}
	if len(values) == 0 {
		return c, fmt.Errorf("%s %s: want a value", name, key)
	}
	for _, v := range values {
		if c.operator.valid != nil && !variable.MatchString(v) && !c.operator.valid(v) {
			return c, fmt.Errorf("%s %s: value %q is not of the operator's type", name, key, v)
		}
	}
	return c, nil
}

// isKnown reports whether a condition key is among known. Case does not count.
func isKnown(known []string, key string) bool {
	return slices.ContainsFunc(known, func(k string) bool {
		if strings.HasSuffix(k, "/") || strings.HasSuffix(k, ":") {
			return len(key) > len(k) && strings.EqualFold(key[:len(k)], k)
		}
		return strings.EqualFold(key, k)
	})
}

// holds reports whether the condition holds in a context. The error is for what AWS does not define.
func (c condition) holds(in Context) (bool, error) {
	values := in[c.key]
	if c.operator.compare == nil { // Null
		missing := strconv.FormatBool(len(values) == 0)
		return slices.ContainsFunc(c.values, func(v string) bool { return strings.EqualFold(v, missing) }), nil
	}
	wanted, ok := c.expanded(in)
	if !ok {
		return false, nil
	}
	fits := func(value string) bool { return c.fits(wanted, value) }
	switch {
	case c.set == forAll:
		return !slices.ContainsFunc(values, func(v string) bool { return !fits(v) }), nil
	case len(values) == 0:
		return c.ifExists || c.operator.negated && c.set == "", nil
	case c.set == forAny:
		return slices.ContainsFunc(values, fits), nil
	case len(values) > 1:
		return false, fmt.Errorf("condition key %s has %d values, and its operator is for one", c.key, len(values))
	}
	return fits(values[0]), nil
}

// expanded are the policy's values with those of variables; false if a variable has none.
func (c condition) expanded(in Context) ([]string, bool) {
	if c.operator.fixed {
		return c.values, true
	}
	out := make([]string, len(c.values))
	for i, v := range c.values {
		var ok bool
		if out[i], ok = expand(v, in, c.operator.pattern); !ok {
			return nil, false
		}
	}
	return out, true
}

// fits reports whether a value of the request's fulfils the operator: one of the policy's values compares, or of a negated operator none.
func (c condition) fits(wanted []string, value string) bool {
	found := slices.ContainsFunc(wanted, func(w string) bool { return c.operator.compare(w, value) })
	return found != c.operator.negated
}
