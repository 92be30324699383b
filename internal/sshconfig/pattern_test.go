package sshconfig

import (
	"regexp"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// proposals are the patterns of a hint.
var proposals = regexp.MustCompile(`'([^']*)'`)

// Patterns that no host of OpenSSH's ever matches are refused, with what to write, which is accepted.
func TestSSHPatterns(t *testing.T) {
	for _, tt := range []struct{ patterns, want, next string }{
		{"10.0.0.0/8", "ssh_config has no networks", "give '10.*'"},
		{"10.1.2.3/16", "ssh_config has no networks", "give '10.1.*'"},
		{"10.1.2.0/24", "ssh_config has no networks", "give '10.1.2.*'"},
		{"10.1.16.0/20", "ssh_config has no networks", "as many as it takes"},
		{"10.1.2.3/32", "ssh_config has no networks", "give '10.1.2.3'"},
		{"0.0.0.0/0", "ssh_config has no networks", "give patterns such as"},
		{"fd00::/8", "ssh_config has no networks", "as many as it takes"},
		{"fd00:1::/32", "ssh_config has no networks", "give 'fd00:1:*'"},
		{"fd00::/32", "ssh_config has no networks", "give 'fd00:0:*'"},
		{"::/0", "ssh_config has no networks", "give patterns such as"},
		{"fd00::1/128", "ssh_config has no networks", "give 'fd00::1'"},
		{"*.internal !10.0.0.0/8", "ssh_config has no networks", "give '!10.*'"},
		{"10.0.0.0/255.0.0.0", "a name has no /", "10.20.*"},
		{"10.*/8", "a name has no /", "10.20.*"},
		{"ssh://app.internal", "a name has no /", ""},
		{"me@host", "the user is no part of it", "give 'host'"},
		{"*@*.internal", "the user is no part of it", "give '*.internal'"},
		{"[::1]", "no brackets", "give '::1'"},
		{"web[0-9].internal", "no brackets", "give 'web?.internal'; there are no ranges"},
		{"web-[a-z]", "no brackets", "give 'web-?'"},
		{"[a-z][0-9].internal", "no brackets", "give '??.internal'"},
		{"web[1", "no brackets", "give 'web1'"},
		{"[*.internal]:22", "no brackets", "give '*.internal'"},
		{"host:22", "the port is no part of it", "give 'host'"},
		{"*.internal:*", "the port is no part of it", "give '*.internal'"},
		{"10.0.0.1:22", "the port is no part of it", "give '10.0.0.1'"},
		{"*:22", "the port is no part of it", "give patterns such as"},
		{"user@*", "the user is no part of it", "give patterns such as"},
		{"user@", "the user is no part of it", "give patterns such as"},
		{"user@?*:22", "the user is no part of it", "give patterns such as"},
		{"me@host:22", "the user is no part of it", "give 'host'"},
		{"me@[::1]:22", "the user is no part of it", "give '::1'"},
		{"me@.internal", "the user is no part of it", "give patterns such as"},
		{"me@!db", "the user is no part of it", "give 'db'"},
		{"[*]:22", "no brackets", "give patterns such as"},
		{"[0-9]", "no brackets", "give patterns such as"},
		{"[0-9][0-9]*", "no brackets", "give patterns such as"},
		{"[host:22", "no brackets", "give 'host'"},
		{"a..b:22", "the port is no part of it", "give patterns such as"},
		{".:22", "the port is no part of it", "give patterns such as"},
		{".*", "does not begin with a dot", "give '*.*'"},
		{".a..b", "does not begin with a dot", "give patterns such as"},
		{".10.20", "does not begin with a dot", "give '*.10.20'"},
		{"web:ssh", "only IPv6 addresses have a colon", ""},
		{"fd00:1:2", "only IPv6 addresses have a colon", ""},
		{"fd00:::*", "only IPv6 addresses have a colon", ""},
		{"fd00::12345*", "only IPv6 addresses have a colon", ""},
		{"!*.internal", "alone matches no host", "'*.internal' '!db.internal'"},
		{"!a !b", "alone matches no host", ""},
		{"*.internal !*", "nothing is left", ""},
		{"*.internal !*.internal", "excepts all of it", "leave out one"},
		{"db.internal a.corp !*.internal", "excepts all of it", ""},
		{"10.1.* !10.*", "excepts all of it", ""},
		{"db-?.internal !db-*", "excepts all of it", ""},
		{"!!db", "letters, digits", ""},
		{"*.internal !host:22", "the port is no part of it", "give '!host'"},
		{"*.internal !me@host", "the user is no part of it", "give '!host'"},
		{"*.internal !.internal", "does not begin with a dot", "give '!*.internal'"},
		{".internal", "does not begin with a dot", "give '*.internal'"},
		{"-web", "does not begin with '-'", ""},
		{"a..internal", "two dots", ""},
		{"10.20", "it is no address", "'10.20.*'"},
		{"10.0.0.256", "it is no address", ""},
		{"10.0.0.1-10.0.0.9", "it is no address", ""},
		{"~.internal", "letters, digits", ""},
		{"{a|b}.internal", "letters, digits", ""},
		{"(db)", "letters, digits", ""},
		{"*.internal=x", "letters, digits", ""},
		{"*", "would send every ssh", ""},
		{"?*", "would send every ssh", ""},
		{"a,b", "is not a pattern", ""},
		{"a b", "", ""}, // two patterns here
		{"*.internal 10.* !db.internal", "", ""},
		{"*.internal !*.prod.internal", "", ""},
		{"db-?.internal !db-1.internal", "", ""},
		{"a_b.internal", "", ""},
		{"10.20.30.40", "", ""},
		{"10.20.3?.*", "", ""},
		{"fd00:*", "", ""},
		{"fd00::1", "", ""},
		{"::1", "", ""},
		{"2001:db8:*:1", "", ""},
		{"*.Internal", "", ""},
		{"web-1", "", ""},
		{"i-*", "", ""},
	} {
		err := checkPatterns(strings.Fields(tt.patterns))
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.patterns, err)
			}
			continue
		}
		for _, proposed := range proposals.FindAllStringSubmatch(fail.NextOf(err), -1) {
			if again := checkPattern(proposed[1]); again != nil {
				t.Errorf("%s: what the hint %q proposes is refused: %v", tt.patterns, fail.NextOf(err), again)
			}
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(fail.NextOf(err), tt.next) || fail.NextOf(err) == "" {
			t.Errorf("%s: %v, hint %q; want %q, %q", tt.patterns, err, fail.NextOf(err), tt.want, tt.next)
		}
	}
}
