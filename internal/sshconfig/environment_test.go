package sshconfig

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// The hosts of an environment have a stanza of their own, before the others: ssh takes the first that matches.
func TestBlockOfEnvironments(t *testing.T) {
	o := Options{
		Program: "/b", Dir: "/run", Environments: []string{"dev", "prod"}, Yes: true,
		Patterns: []string{"*.internal", "prod/*.prod.internal", "!prod/x.prod.internal", "dev/10.*"},
	}
	b, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	text := b.body()
	at := -1
	for _, want := range []string{
		"Host 10.*\n    ProxyCommand /b --environment=dev proxy --yes %h %p\n",
		"Host *.prod.internal !x.prod.internal\n    ProxyCommand /b --environment=prod proxy --yes %h %p\n",
		"Host *.internal\n    ProxyCommand /b proxy --yes %h %p\n",
	} {
		i := strings.Index(text, want)
		if i <= at {
			t.Errorf("%q is not there, or not after the one before:\n%s", want, text)
		}
		at = i
	}
	if strings.Contains(b.known, "--yes") || !strings.Contains(b.command, "--yes") {
		t.Errorf("known hosts by %q, written by %q", b.known, b.command)
	}
	o.Patterns = []string{"prod/*.prod.internal"}
	if b, err = New(t.Context(), o); err != nil || strings.Contains(b.body(), "Host \n") {
		t.Errorf("%v in\n%s", err, b.body())
	}
	for _, bad := range []string{"stage/*.x", "prod/*", "!prod/*.x", "prod/10.0.0.0/8", "dev/"} {
		o.Patterns = []string{bad}
		if _, err := New(t.Context(), o); fail.KindOf(err) != fail.Usage {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A block with environments that do not ask is recognised as the one that this version writes.
func TestLookAtABlockOfEnvironments(t *testing.T) {
	o := Options{
		Program: "/b", Dir: "/run", Environments: []string{"dev", "prod", "unused"}, Yes: true,
		Patterns: []string{"prod/*.prod.internal", "!prod/x.prod.internal", "*.internal", "dev/10.*"},
	}
	b, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := Look(t.Context(), path, o.Program, o.Dir)
	if err != nil || !p.Found || p.Renewed != "" {
		t.Errorf("%+v, %v", p, err)
	}
}

// An unknown environment is not a matter of the pattern's form; a network is.
func TestUnknownEnvironment(t *testing.T) {
	for pattern, want := range map[string]string{
		"nope/*.internal":  `unknown environment "nope": there are dev, prod`,
		"!nope/*.internal": `unknown environment "nope": there are dev, prod`,
		"10.0.0.0/8":       "ssh_config has no networks",
	} {
		_, err := New(t.Context(), Options{Program: "/b", Dir: "/run", Environments: []string{"dev", "prod"}, Patterns: []string{pattern}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", pattern, err, want)
		}
	}
}
