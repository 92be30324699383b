package config

import (
	"strings"
	"testing"
)

func TestDomain(t *testing.T) {
	for text, want := range map[string]string{
		"corp.internal":         "corp.internal",
		"Corp.Internal.":        "corp.internal",
		"*.RDS.amazonaws.com":   "*.rds.amazonaws.com",
		"wiki":                  "wiki",
		"bücher.example":        "xn--bcher-kva.example",
		"*.Bücher.example.":     "*.xn--bcher-kva.example",
		"xn--bcher-kva.EXAMPLE": "xn--bcher-kva.example",
	} {
		if got, err := Domain(text); got != want || err != nil {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", ".", "*", "*.", "*.*.x", "a.*.b", "*corp.internal", ".corp.internal", "corp..internal", "10.0.0.1", "fd00::1", "[::1]",
		`corp.internal"`, `a";alert(1);//`, "a'b", `a\b`, "a b", "a\nb", "a/b", "a:80", "http://a.internal", "a\u2028b", "</script>",
		strings.Repeat("a", 64) + ".internal", "\xff\xfe", "a;b", "a)b",
	} {
		if got, err := Domain(text); err == nil || got != "" {
			t.Errorf("%q: %q, %v; want an error", text, got, err)
		} else if !strings.Contains(err.Error(), "corp.internal") {
			t.Errorf("%q: %v; want an example", text, err)
		}
	}
}

func TestCIDR(t *testing.T) {
	for text, want := range map[string]string{
		"10.20.0.0/16": "10.20.0.0/16", "10.0.0.5": "10.0.0.5/32", "fd00:1::/48": "fd00:1::/48", "FD00::5": "fd00::5/128",
		"0.0.0.0/0": "0.0.0.0/0",
	} {
		if got, err := CIDR(text); err != nil || got.String() != want {
			t.Errorf("%q: %s, %v; want %s", text, got, err, want)
		}
	}
	for text, hint := range map[string]string{
		"10.20.1.0/16": "say 10.20.0.0/16", "10.0.0.0/33": "10.20.0.0/16", "corp": "10.20.0.0/16", "": "10.20.0.0/16",
		"fe80::1%lo": "10.20.0.0/16", "::ffff:10.0.0.0/104": "IPv4", "10.0.0.0/8,": "10.20.0.0/16", `10.0.0.0/8"`: "10.20.0.0/16",
	} {
		if _, err := CIDR(text); err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%q: %v; want a hint at %s", text, err, hint)
		}
	}
}

// The error names the wrong entry of a list, from a flag or a file.
func TestProxySettings(t *testing.T) {
	none := func(string) (string, bool) { return "", false }
	load := func(flags map[string]string) (Settings, error) {
		return Load(Source{Flags: flags, LookupEnv: none, Dir: t.TempDir()})
	}
	s, err := load(map[string]string{"proxy_domains": "corp.internal, *.rds.amazonaws.com", "proxy_cidrs": "10.0.0.0/8"})
	if err != nil || len(s.Proxy.Domains) != 2 || len(s.Proxy.CIDRs) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := load(nil); err != nil || strings.Join(s.Proxy.Domains, " ") != "internal" {
		t.Errorf("%+v, %v", s.Proxy.Domains, err)
	}
	if _, err := load(map[string]string{"proxy_domains": `corp.internal,a";evil()//`}); err == nil ||
		!strings.Contains(err.Error(), "--proxy-domains") || !strings.Contains(err.Error(), "evil") {
		t.Error(err)
	}
	if _, err := Parse("bastion.yaml", []byte("proxy_domains:\n  - corp.internal\n  - a'b\n")); err == nil ||
		!strings.Contains(err.Error(), "bastion.yaml:2") {
		t.Error(err)
	}
}
