package config

import (
	"cmp"
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
	// Environments are the file's named environments.
	Environments map[string]*Environment
	// Path is the file's path; "" without a file.
	Path string

	values  map[string]value
	id      string // of a shared configuration, its ARN
	unread  error  // why the shared configuration could not be read
	found   *Found // an untrusted project file or shared configuration, else nil
	changed bool   // the user trusted the file with other content
}

type value struct {
	text  string
	where string // the flag, the variable, file:line:column; "" if the value is not given
	from  Origin
}

// Error is an error at a place in a configuration file.
type Error struct {
	File         string
	Line, Column int // from 1
	Msg          string
}

func (e *Error) Error() string { return e.Where() + ": " + e.Msg }

// Where returns the place.
func (e *Error) Where() string { return fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Column) }

const maxName = 63 // bytes

var nameForm = pattern.Lazy(`^[A-Za-z0-9_][A-Za-z0-9_-]*$`)

// checkName checks the name of a target, as targets.CheckName does, or that of an environment. A name never contains ':', '/' or
// '.', which mark other kinds of targets. It is never all digits, which would be a port.
func checkName(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("%.20q... cannot be a name: it has %d bytes, more than %d", name, len(name), maxName)
	}
	if !nameForm().MatchString(name) || strings.Trim(name, "0123456789") == "" {
		return fmt.Errorf("%q cannot be a name: use letters, digits, '-' and '_', not digits alone", name)
	}
	return nil
}

// Parse reads a configuration file. name is its name in errors. They are of type *Error and name the first wrong place. Parse
// checks values as Load does. It refuses anchors, aliases, tags and further documents.
func Parse(name string, data []byte) (*File, error) {
	f, errs := parseAll(name, data)
	if len(errs) > 0 {
		return nil, errs[0]
	}
	return f, nil
}

// parseAll is Parse with the errors of all wrong places, in their order.
func parseAll(name string, data []byte) (*File, []*Error) {
	p := &fileParser{name: name}
	f := p.file(data)
	slices.SortStableFunc(p.errs, func(x, y *Error) int { return cmp.Or(cmp.Compare(x.Line, y.Line), cmp.Compare(x.Column, y.Column)) })
	return f, p.errs
}

// file reads a file's text.
func (p *fileParser) file(data []byte) *File {
	f := &File{values: make(map[string]value)}
	data, err := files.Text(data)
	if err != nil {
		p.at(nil, "%s", err)
		return f
	}
	if err := checkNesting(p.name, data); err != nil {
		p.errs = append(p.errs, err)
		return f
	}
	tree, err := parser.ParseBytes(data, 0)
	if err != nil {
		if syntax, ok := errors.AsType[*yaml.SyntaxError](err); ok && syntax.Token != nil {
			p.at(syntax.Token, "%s", syntax.Message)
		} else {
			p.at(nil, "%s", strings.TrimSpace(yaml.FormatError(err, false, false)))
		}
		return f
	}
	var body ast.Node
	for _, doc := range tree.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.NullType || doc.Body.Type() == ast.CommentType {
			continue
		}
		if body != nil {
			p.at(doc.Body.GetToken(), "a second document; one file holds one configuration")
			return f
		}
		body = doc.Body
	}
	if body == nil {
		return f
	}
	f.values = p.settings(p.mapping(body, "the configuration"), func(e entry) bool {
		switch e.key {
		case "targets":
			f.Targets = p.targets(e.value)
		case "environments":
			f.Environments = p.environments(e.value)
		default:
			return false
		}
		return true
	}, "targets", "environments")
	return f
}

// settings returns the values of the settings among entries. more reads the entries that are none of them; its keys are in known.
func (p *fileParser) settings(entries []entry, more func(entry) bool, known ...string) map[string]value {
	out := make(map[string]value)
	for _, e := range entries {
		if more(e) {
			continue
		}
		s := Lookup(e.key)
		if s == nil {
			for _, s := range table {
				known = append(known, s.Key)
			}
			p.unknown(e, known)
			continue
		}
		text, ok := p.text(s, e.value)
		if !ok || text == "" {
			continue
		}
		if err := s.kind.set(new(Settings), text); err != nil {
			p.at(valueToken(e.value), "%s: %s", s.Key, err)
			continue
		}
		out[s.Key] = value{text: text, where: p.place(valueToken(e.value)), from: FromFile}
	}
	return out
}

// fileParser reads one file, and collects the errors of its wrong places.
type fileParser struct {
	name string
	errs []*Error
}

// at notes an error at a place; nil: the file's beginning.
func (p *fileParser) at(t *token.Token, format string, args ...any) {
	e := &Error{File: p.name, Line: 1, Column: 1, Msg: fmt.Sprintf(format, args...)}
	if t != nil && t.Position != nil {
		e.Line, e.Column = max(1, t.Position.Line), max(1, t.Position.Column)
	}
	p.errs = append(p.errs, e)
}

func (p *fileParser) place(t *token.Token) string {
	if t == nil || t.Position == nil {
		return p.name
	}
	return fmt.Sprintf("%s:%d:%d", p.name, t.Position.Line, t.Position.Column)
}

// unknown notes the error of an unknown key, with the nearest known key.
func (p *fileParser) unknown(e entry, known []string) {
	msg := fmt.Sprintf("unknown key %q", e.key)
	if near := Nearest(strings.ReplaceAll(e.key, "-", "_"), known); near != "" {
		msg += fmt.Sprintf("; did you mean %q?", near)
	}
	p.at(e.token, "%s", msg)
}

type entry struct {
	key   string
	token *token.Token
	value ast.Node
}

// isEmpty reports whether the entry has no value.
func (e entry) isEmpty() bool { return e.value == nil || e.value.Type() == ast.NullType }

// mapping returns the entries of n. what describes n in errors.
func (p *fileParser) mapping(n ast.Node, what string) []entry {
	var nodes []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		nodes = n.Values
	case *ast.MappingValueNode:
		nodes = []*ast.MappingValueNode{n}
	default:
		p.at(n.GetToken(), "%s must be a mapping of keys to values (key: value)", what)
	}
	var out []entry
	seen := make(map[string]bool)
	for _, mv := range nodes {
		key, ok := mv.Key.(*ast.StringNode)
		if !ok {
			if n, isInt := mv.Key.(*ast.IntegerNode); isInt {
				p.at(n.GetToken(), "the key %s is a number; a name is needed", n.GetToken().Value)
			} else {
				p.at(mv.Key.GetToken(), "a key must be a plain name")
			}
			continue
		}
		if seen[key.Value] {
			p.at(key.GetToken(), "%q is there twice", key.Value)
			continue
		}
		seen[key.Value] = true
		out = append(out, entry{key: key.Value, token: key.GetToken(), value: mv.Value})
	}
	return out
}

// text returns n's value in the text form of flags and variables, or "" for an empty value. ok is false after an error.
func (p *fileParser) text(s *Setting, n ast.Node) (_ string, ok bool) {
	wrong := func(t *token.Token, format string, args ...any) (string, bool) {
		p.at(t, s.Key+": "+format, args...)
		return "", false
	}
	switch {
	case n == nil || n.Type() == ast.NullType:
		return "", true
	case s.kind.shape() == many && n.Type() == ast.SequenceType:
		var items []string
		for _, item := range n.(*ast.SequenceNode).Values {
			text, ok := scalar(item)
			if !ok || text == "" || strings.Contains(text, ",") {
				return wrong(valueToken(item), "an item of the list must be one word without a comma")
			}
			items = append(items, text)
		}
		return strings.Join(items, ","), true
	case s.kind.shape() == named && (n.Type() == ast.MappingType || n.Type() == ast.MappingValueType):
		before := len(p.errs)
		entries := p.mapping(n, s.Key)
		m := make(map[string]string, len(entries))
		for _, e := range entries {
			text, ok := scalar(e.value)
			if !ok || strings.Contains(text, ",") || strings.ContainsAny(e.key, ",=") || strings.TrimSpace(e.key) == "" {
				return wrong(e.token, "%q must be a name with one value, both without a comma", e.key)
			}
			m[e.key] = text
		}
		return joinMap(m), len(p.errs) == before
	}
	text, ok := scalar(n)
	if !ok {
		return wrong(n.GetToken(), "expected %s", s.kind.shape())
	}
	if strings.ContainsAny(text, "\n\r\x00") {
		return wrong(valueToken(n), "the value must be one line")
	}
	return text, true
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
