package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"

	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/pattern"
)

// File is a parsed configuration file: values by key, each with its place.
type File struct {
	Targets map[string]Target
	// Path is the file's path; "" without a file.
	Path string

	values  map[string]value
	found   *Found // an untrusted project file, else nil
	changed bool   // the user trusted the file with other content
}

type value struct {
	text  string
	where string // file:line:column; "" if the value is not given
}

// Error is an error at a place in a configuration file.
type Error struct {
	File         string
	Line, Column int // from 1
	Msg          string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Msg)
}

// targetName matches the name of a target, as targets.CheckName does. A name never contains ':', '/' or '.', which mark other
// kinds of targets. It is never all digits, which would be a port.
var targetName = pattern.Lazy(`^[A-Za-z0-9_][A-Za-z0-9_-]{0,62}$`)

// Parse reads a configuration file. name is its name in errors. They are of type *Error and name the first wrong place. Parse
// checks values as Load does. It refuses anchors, aliases, tags and further documents.
func Parse(name string, data []byte) (*File, error) {
	data, err := files.Text(data)
	if err != nil {
		return nil, &Error{File: name, Line: 1, Column: 1, Msg: err.Error()}
	}
	if err := checkNesting(name, data); err != nil {
		return nil, err
	}
	p := &fileParser{name: name}
	tree, err := parser.ParseBytes(data, 0)
	if err != nil {
		if syntax, ok := errors.AsType[*yaml.SyntaxError](err); ok && syntax.Token != nil {
			return nil, p.at(syntax.Token, "%s", syntax.Message)
		}
		return nil, &Error{File: name, Line: 1, Column: 1, Msg: strings.TrimSpace(yaml.FormatError(err, false, false))}
	}
	f := &File{values: make(map[string]value)}
	var body ast.Node
	for _, doc := range tree.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.NullType || doc.Body.Type() == ast.CommentType {
			continue
		}
		if body != nil {
			return nil, p.at(doc.Body.GetToken(), "a second document; one file holds one configuration")
		}
		body = doc.Body
	}
	if body == nil {
		return f, nil
	}
	entries, err := p.mapping(body, "the configuration")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.key == "targets" {
			if f.Targets, err = p.targets(e.value); err != nil {
				return nil, err
			}
			continue
		}
		s := Lookup(e.key)
		if s == nil {
			return nil, p.unknown(e, keys())
		}
		text, err := p.text(s, e.value)
		if err != nil {
			return nil, err
		}
		if text == "" {
			continue
		}
		if err := s.kind.set(new(Settings), text); err != nil {
			return nil, p.at(valueToken(e.value), "%s: %s", s.Key, err)
		}
		f.values[s.Key] = value{text: text, where: p.place(valueToken(e.value))}
	}
	return f, nil
}

type fileParser struct{ name string }

func (p *fileParser) at(t *token.Token, format string, args ...any) error {
	e := &Error{File: p.name, Line: 1, Column: 1, Msg: fmt.Sprintf(format, args...)}
	if t != nil && t.Position != nil {
		e.Line, e.Column = max(1, t.Position.Line), max(1, t.Position.Column)
	}
	return e
}

func (p *fileParser) place(t *token.Token) string {
	if t == nil || t.Position == nil {
		return p.name
	}
	return fmt.Sprintf("%s:%d:%d", p.name, t.Position.Line, t.Position.Column)
}

// unknown returns the error for an unknown key, with the nearest known key.
func (p *fileParser) unknown(e entry, known []string) error {
	msg := fmt.Sprintf("unknown key %q", e.key)
	if near := Nearest(strings.ReplaceAll(e.key, "-", "_"), known); near != "" {
		msg += fmt.Sprintf("; did you mean %q?", near)
	}
	return p.at(e.token, "%s", msg)
}

func keys() []string {
	out := []string{"targets"}
	for _, s := range table {
		out = append(out, s.Key)
	}
	return out
}

type entry struct {
	key   string
	token *token.Token
	value ast.Node
}

// mapping returns the entries of n. what describes n in errors.
func (p *fileParser) mapping(n ast.Node, what string) ([]entry, error) {
	var nodes []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		nodes = n.Values
	case *ast.MappingValueNode:
		nodes = []*ast.MappingValueNode{n}
	default:
		return nil, p.at(n.GetToken(), "%s must be a mapping of keys to values (key: value)", what)
	}
	var out []entry
	seen := make(map[string]bool)
	for _, mv := range nodes {
		key, ok := mv.Key.(*ast.StringNode)
		if !ok {
			if n, isInt := mv.Key.(*ast.IntegerNode); isInt {
				return nil, p.at(n.GetToken(), "the key %s is a number; a name is needed", n.GetToken().Value)
			}
			return nil, p.at(mv.Key.GetToken(), "a key must be a plain name")
		}
		if seen[key.Value] {
			return nil, p.at(key.GetToken(), "%q is there twice", key.Value)
		}
		seen[key.Value] = true
		out = append(out, entry{key: key.Value, token: key.GetToken(), value: mv.Value})
	}
	return out, nil
}

// text returns n's value in the text form of flags and variables, or "" for an empty value.
func (p *fileParser) text(s *Setting, n ast.Node) (string, error) {
	switch {
	case n == nil || n.Type() == ast.NullType:
		return "", nil
	case s.kind.shape() == many && n.Type() == ast.SequenceType:
		var items []string
		for _, item := range n.(*ast.SequenceNode).Values {
			text, ok := scalar(item)
			if !ok || text == "" || strings.Contains(text, ",") {
				return "", p.at(valueToken(item), "%s: an item of the list must be one word without a comma", s.Key)
			}
			items = append(items, text)
		}
		return strings.Join(items, ","), nil
	case s.kind.shape() == named && (n.Type() == ast.MappingType || n.Type() == ast.MappingValueType):
		entries, err := p.mapping(n, s.Key)
		if err != nil {
			return "", err
		}
		m := make(map[string]string, len(entries))
		for _, e := range entries {
			text, ok := scalar(e.value)
			if !ok || strings.Contains(text, ",") || strings.ContainsAny(e.key, ",=") || strings.TrimSpace(e.key) == "" {
				return "", p.at(e.token, "%s: %q must be a name with one value, both without a comma", s.Key, e.key)
			}
			m[e.key] = text
		}
		return joinMap(m), nil
	}
	text, ok := scalar(n)
	if !ok {
		return "", p.at(n.GetToken(), "%s: expected %s", s.Key, s.kind.shape())
	}
	if strings.ContainsAny(text, "\n\r\x00") {
		return "", p.at(valueToken(n), "%s: the value must be one line", s.Key)
	}
	return text, nil
}

// scalar returns a plain value's text. ok is false for any other node, also for an alias or an anchor.
func scalar(n ast.Node) (text string, ok bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, true
	case *ast.LiteralNode:
		return strings.TrimRight(n.Value.Value, "\n"), true
	}
	return "", false
}

// valueToken returns n's token for the place of an error.
func valueToken(n ast.Node) *token.Token {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 {
		return m.Values[0].Key.GetToken()
	}
	if s, ok := n.(*ast.SequenceNode); ok && len(s.Values) > 0 {
		return s.Values[0].GetToken()
	}
	return n.GetToken()
}

func (p *fileParser) targets(n ast.Node) (map[string]Target, error) {
	if n == nil || n.Type() == ast.NullType {
		return nil, nil
	}
	entries, err := p.mapping(n, "targets")
	if err != nil {
		return nil, err
	}
	out := make(map[string]Target, len(entries))
	for _, e := range entries {
		if !targetName().MatchString(e.key) || isDigits(e.key) {
			return nil, p.at(e.token, "targets: %q cannot be a name: use letters, digits, '-' and '_', not digits alone", e.key)
		}
		if strings.EqualFold(e.key, "rds") || strings.EqualFold(e.key, "cache") {
			return nil, p.at(e.token, "targets: %q cannot be a name: it is a kind of target", e.key)
		}
		t, err := p.target(e)
		if err != nil {
			return nil, err
		}
		out[e.key] = t
	}
	return out, nil
}

var targetKeys = []string{"target", "local_port"}

func (p *fileParser) target(e entry) (Target, error) {
	if e.value == nil || e.value.Type() == ast.NullType {
		return Target{}, p.at(e.token, "targets: %s has no value; say rds:ID, cache:ID or host:port", e.key)
	}
	t := Target{Where: p.place(valueToken(e.value))}
	if text, ok := scalar(e.value); ok {
		t.Spec = text
		return t, p.checkSpec(e, t.Spec, e.value)
	}
	fields, err := p.mapping(e.value, "targets: "+e.key)
	if err != nil {
		return t, err
	}
	for _, f := range fields {
		if !slices.Contains(targetKeys, f.key) {
			return t, p.unknown(f, targetKeys)
		}
		text, ok := scalar(f.value)
		if !ok {
			return t, p.at(f.token, "targets: %s: %s: expected one value", e.key, f.key)
		}
		switch f.key {
		case "target":
			t.Spec = text
			if err := p.checkSpec(e, text, f.value); err != nil {
				return t, err
			}
		case "local_port":
			if t.LocalPort, err = intBetween(1, 65535)(text); err != nil {
				return t, p.at(valueToken(f.value), "targets: %s: local_port: %s", e.key, err)
			}
		}
	}
	if t.Spec == "" {
		return t, p.at(e.token, "targets: %s has no target; say rds:ID, cache:ID or host:port", e.key)
	}
	return t, nil
}

// checkSpec refuses a text that cannot be a spec; package targets parses the rest.
func (p *fileParser) checkSpec(e entry, spec string, n ast.Node) error {
	if spec == "" || strings.ContainsAny(spec, " \t\r\n\x00") {
		return p.at(valueToken(n), "targets: %s: %q is not a target; say rds:ID, cache:ID or host:port", e.key, spec)
	}
	return nil
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
