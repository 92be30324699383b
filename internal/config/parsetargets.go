package config

import (
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// targets reads named targets, of the file or of an environment.
func (p *fileParser) targets(n ast.Node) map[string]Target {
	if n == nil || n.Type() == ast.NullType {
		return nil
	}
	entries := p.mapping(n, "targets")
	out := make(map[string]Target, len(entries))
	for _, e := range entries {
		if err := checkName(e.key); err != nil {
			p.at(e.token, "targets: %s", err)
			continue
		}
		if strings.EqualFold(e.key, "rds") || strings.EqualFold(e.key, "cache") {
			p.at(e.token, "targets: %q cannot be a name: it is a kind of target", e.key)
			continue
		}
		if t, ok := p.target(e); ok {
			t.Name = e.key
			out[e.key] = t
		}
	}
	return out
}

var targetKeys = []string{"target", "local_port", "environment", "profile", "region"}

// target reads a named target. ok is false after an error.
func (p *fileParser) target(e entry) (t Target, ok bool) {
	if e.isEmpty() {
		p.at(e.token, "targets: %s has no value; say rds:ID, cache:ID or host:port", e.key)
		return t, false
	}
	t.Where = p.place(valueToken(e.value))
	if text, ok := scalar(e.value); ok {
		t.Spec = text
		return t, p.checkSpec(e, t.Spec, e.value)
	}
	before := len(p.errs)
	for _, f := range p.mapping(e.value, "targets: "+e.key) {
		if !slices.Contains(targetKeys, f.key) {
			p.unknown(f, targetKeys)
			continue
		}
		text, ok := scalar(f.value)
		if !ok {
			p.at(f.token, "targets: %s: %s: expected one value", e.key, f.key)
			continue
		}
		if f.key == "target" {
			t.Spec = text
			p.checkSpec(e, text, f.value)
			continue
		}
		var err error
		if f.key == "local_port" {
			t.LocalPort, err = intBetween(1, 65535)(text)
		} else {
			err = Lookup(f.key).kind.set(new(Settings), text)
			if t.own == nil {
				t.own = make(map[string]value)
			}
			t.own[f.key] = value{text: text, where: p.place(valueToken(f.value)), from: FromTarget}
		}
		if err != nil {
			p.at(valueToken(f.value), "targets: %s: %s: %s", e.key, f.key, err)
		}
	}
	if t.Spec == "" && len(p.errs) == before {
		p.at(e.token, "targets: %s has no target; say rds:ID, cache:ID or host:port", e.key)
	}
	return t, len(p.errs) == before
}

// checkSpec refuses a text that cannot be a spec; package targets parses the rest. A space may be in it: Name tags have spaces.
func (p *fileParser) checkSpec(e entry, spec string, n ast.Node) bool {
	if spec == "" || spec != strings.TrimSpace(spec) || strings.ContainsAny(spec, "\t\r\n\x00") {
		p.at(valueToken(n), "targets: %s: %q is not a target; say rds:ID, cache:ID or host:port", e.key, spec)
		return false
	}
	return true
}
