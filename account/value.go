package account

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// A property of a resource is a tree of Object, List, string, int, bool and the references below. Its members keep their order, so that
// what is written reads like what is written here.

// Object has members in an order.
type Object []Member

// Member is a named value of an Object.
type Member struct {
	Name  string
	Value any
}

// List has elements of any kind.
type List []any

// Ref is the value of a parameter, or the main identifier of a resource, as of CloudFormation's Ref.
type Ref string

// Attr is an attribute of a resource, as of CloudFormation's Fn::GetAtt.
type Attr struct{ ID, Name string }

// Pseudo is a fact of the deployment.
type Pseudo string

// Facts of a deployment, by their names in CloudFormation.
const (
	Partition Pseudo = "AWS::Partition"
	Region    Pseudo = "AWS::Region"
	Account   Pseudo = "AWS::AccountId"
	URLSuffix Pseudo = "AWS::URLSuffix"
)

// Text joins strings and references to one string.
type Text []any

// MarshalJSON writes the members in their order.
func (o Object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := marshal(m.Name)
		if err != nil {
			return nil, err
		}
		value, err := marshal(m.Value)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// get returns a member's value, nil if there is none.
func (o Object) get(name string) any {
	for _, m := range o {
		if m.Name == name {
			return m.Value
		}
	}
	return nil
}

// with is the object with more elements of a list.
func (o Object) with(name string, more List) Object {
	for i, m := range o {
		if m.Name == name {
			o[i].Value = append(slices.Clip(m.Value.(List)), more...)
			return o
		}
	}
	return append(o, Member{name, more})
}

// marshal is json.Marshal that leaves <, > and & as they are.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// indented is marshal with a line for each value, and one at the end.
func indented(v any) ([]byte, error) {
	text, err := marshal(v)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", "  "); err != nil {
		return nil, err
	}
	b.WriteByte('\n')
	return b.Bytes(), nil
}

// resolve returns v with each reference replaced by what reference says of it.
func resolve(v any, reference func(any) any) any {
	switch v := v.(type) {
	case Object:
		out := make(Object, len(v))
		for i, m := range v {
			out[i] = Member{m.Name, resolve(m.Value, reference)}
		}
		return out
	case List:
		out := make(List, len(v))
		for i, e := range v {
			out[i] = resolve(e, reference)
		}
		return out
	case Ref, Attr, Pseudo, Text:
		return reference(v)
	}
	return v
}

// arn is the ARN of something in the deployment's region and account.
func arn(service string, resource ...any) Text {
	return append(Text{"arn:", Partition, ":" + service + ":", Region, ":", Account, ":"}, resource...)
}

// iamARN is the ARN of something in IAM, which knows no region.
func iamARN(resource ...any) Text {
	return append(Text{"arn:", Partition, ":iam::", Account, ":"}, resource...)
}

// flat is t with the texts in it opened, and neighbouring strings joined.
func (t Text) flat() (parts Text) {
	for _, part := range t {
		inner := Text{part}
		if nested, ok := part.(Text); ok {
			inner = nested.flat()
		}
		for _, p := range inner {
			last := len(parts) - 1
			text, isText := p.(string)
			if last >= 0 && isText {
				if before, ok := parts[last].(string); ok {
					parts[last] = before + text
					continue
				}
			}
			parts = append(parts, p)
		}
	}
	return parts
}

// join is t as one string, with what reference says of the references in it.
func (t Text) join(reference func(any) string) string {
	var b strings.Builder
	for _, part := range t.flat() {
		if text, ok := part.(string); ok {
			b.WriteString(text)
		} else {
			b.WriteString(reference(part))
		}
	}
	return b.String()
}

// tagList is tags as most of CloudFormation's resources take them.
func tagList(tags []Tag) List {
	var out List
	for _, t := range tags {
		out = append(out, Object{{"Key", t.Key}, {"Value", t.Value}})
	}
	return out
}

// words is a list of strings.
func words(s ...string) List {
	out := make(List, len(s))
	for i, w := range s {
		out[i] = w
	}
	return out
}

// joined is a parameter's list.
func joined(values []string) string { return strings.Join(values, ",") }

func decimal(n int) string { return strconv.Itoa(n) }

// title makes a part of a logical id of a name: "read-only" becomes "ReadOnly".
func title(name string) string {
	var b strings.Builder
	for part := range strings.FieldsFuncSeq(name, func(r rune) bool { return r == '-' || r == '_' }) {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}
