package iam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Policy is an identity-based policy, or the part of one that concerns roles and people: it has no principals.
type Policy struct {
	// Name is what tells the policy from others of a caller, such as "user"; a Grant has it.
	Name       string
	Document   []byte // as it was read
	Statements []Statement
}

// Statement is a statement of a policy.
type Statement struct {
	Sid  string
	Deny bool
	// Actions are those that the statement is about, or all others if NotAction is set; in the same way Resources.
	Actions, Resources     []string
	NotAction, NotResource bool
	conditions             []condition
}

// document is a policy as AWS takes it.
type document struct {
	Version   string
	ID        string `json:"Id"`
	Statement statements
}

type statement struct {
	Sid, Effect           string
	Action, NotAction     texts
	Resource, NotResource texts
	Condition             map[string]map[string]texts // by operator and key
}

// statements is a statement or a list of them.
type statements []statement

// UnmarshalJSON reads either form, and refuses elements that the package does not know.
func (l *statements) UnmarshalJSON(text []byte) error {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("{")) {
		*l = make(statements, 1)
		return strictly(text, &(*l)[0])
	}
	return strictly(text, (*[]statement)(l))
}

// texts is a value or a list of them. Booleans and numbers are read as their text.
type texts []string

// UnmarshalJSON reads either form.
func (l *texts) UnmarshalJSON(text []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return err
	}
	values, isList := v.([]any)
	if !isList {
		values = []any{v}
	}
	for _, v := range values {
		switch v := v.(type) {
		case string, bool, json.Number:
			*l = append(*l, fmt.Sprint(v))
		default:
			return fmt.Errorf("%v is no text", v)
		}
	}
	return nil
}

func strictly(text []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return err
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is text behind the end")
	}
	return nil
}

// Parse reads a policy document. known are the condition keys that requests may have: one that ends with / or : stands for all that begin
// so. Whatever the package or known lacks is an error.
func Parse(name string, text []byte, known []string) (*Policy, error) {
	var d document
	if err := strictly(text, &d); err != nil {
		return nil, fmt.Errorf("read policy %s: %w", name, err)
	}
	if d.Version != "2012-10-17" {
		return nil, fmt.Errorf("read policy %s: version %q is not known", name, d.Version)
	}
	p := &Policy{Name: name, Document: text}
	for i, s := range d.Statement {
		parsed, err := s.parse(known)
		if err != nil {
			return nil, fmt.Errorf("read policy %s: statement %d %s: %w", name, i+1, s.Sid, err)
		}
		p.Statements = append(p.Statements, parsed)
	}
	return p, nil
}

func (s statement) parse(known []string) (Statement, error) {
	out := Statement{Sid: s.Sid, Deny: s.Effect == "Deny"}
	if s.Effect != "Allow" && s.Effect != "Deny" {
		return out, fmt.Errorf("effect %q is not known", s.Effect)
	}
	var err error
	if out.Actions, out.NotAction, err = either("Action", s.Action, s.NotAction); err != nil {
		return out, err
	}
	for _, a := range out.Actions {
		if service, _, ok := strings.Cut(a, ":"); a != "*" && (!ok || service == "" || strings.ContainsAny(service, "*?$")) {
			return out, fmt.Errorf("action %q: want SERVICE:ACTION", a)
		}
	}
	if out.Resources, out.NotResource, err = either("Resource", s.Resource, s.NotResource); err != nil {
		return out, err
	}
	for _, r := range out.Resources {
		if parts := strings.SplitN(r, ":", arnParts); r != "*" && (len(parts) < arnParts || strings.ContainsAny(parts[2], "*?")) {
			return out, fmt.Errorf("resource %q: want * or an ARN", r)
		}
	}
	for operator, keys := range s.Condition {
		for key, values := range keys {
			c, err := newCondition(operator, key, values, known)
			if err != nil {
				return out, err
			}
			out.conditions = append(out.conditions, c)
		}
	}
	return out, nil
}

// either returns an element of a statement or its opposite; it has just one of them.
func either(name string, values, not texts) (chosen []string, negated bool, err error) {
	if (len(values) == 0) == (len(not) == 0) {
		return nil, false, fmt.Errorf("want %s or Not%s", name, name)
	}
	return slices.Concat(values, not), len(not) > 0, nil
}
