package config

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Settings survive being sent as texts, whatever they are set to.
func TestTexts(t *testing.T) {
	flags := map[string]string{
		"profile": "prod", "subnets": "subnet-1,subnet-2", "subnet_tags": "a=b,c=d", "security_group_tags": "", "permit": "*:5432,10.0.0.0/8:*",
		"assign_public_ip": "true", "linger": "90s", "sessions": "3", "agent_idle": "1h30m", "hold_max": "0", "quiet": "true",
		"price_gb_hour": "0.00356", "metrics_listen": "[::1]:9464", "metrics_token_file": "/token",
	}
	want, err := Load(Source{Flags: flags, Dir: t.TempDir(), LookupEnv: func(string) (string, bool) { return "", false }})
	if err != nil {
		t.Fatal(err)
	}
	got, err := FromTexts(want.Texts())
	if err != nil {
		t.Fatal(err)
	}
	want.File, want.Targets = "", nil
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), addresses); diff != "" {
		t.Error(diff)
	}
}

func TestFromTextsBad(t *testing.T) {
	for _, texts := range []map[string]string{
		{"seshuns": "3"},
		{"sessions": "99"},
		{"linger": "soon"},
		{"cluster": ""},
		{"price_gb_hour": "cheap"},
		{"price_gb_hour": "-1"},
		{"price_gb_hour": "NaN"},
		{"metrics_listen": "0.0.0.0:9464"},
		{"metrics_listen": "localhost:9464"},
		{"metrics_listen": "127.0.0.1:9464"},
	} {
		if _, err := FromTexts(texts); fail.KindOf(err) != fail.Usage {
			t.Errorf("%v: %v", texts, err)
		}
	}
}

// addresses lets values of package netip be compared.
var addresses = cmpopts.EquateComparable(netip.AddrPort{}, netip.Prefix{})
