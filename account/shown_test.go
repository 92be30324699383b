package account

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

// For programs the names of inputs are in snake case, each of them.
func TestShown(t *testing.T) {
	in := variants["classes"].Defaults()
	in.VPCCIDR, in.MoreCIDRs, in.Secrets = "10.0.0.0/16", []string{"100.64.0.0/16"}, variants["secrets"].Secrets
	shown := in.Shown()
	for _, name := range []string{"name", "vpc", "vpc_cidr", "more_cidrs", "image_tag", "retention_days", "cpu", "kms_key", "exec_logs", "alarm_email"} {
		if _, ok := shown[name]; ok == (name == "kms_key") {
			t.Errorf("%s: %t in %v", name, ok, shown)
		}
	}
	text, err := json.Marshal(shown)
	if err != nil {
		t.Fatal(err)
	}
	if odd := regexp.MustCompile(`"[A-Za-z_]*[A-Z][A-Za-z_]*":|"[a-z]+(_[a-z])+(_|":)`).FindAll(text, -1); len(odd) > 0 {
		t.Errorf("%q", odd)
	}
	if !strings.Contains(string(text), `"classes":[{"allow":["*.rds.amazonaws.com:5432"],"name":"read-only"`) || !strings.Contains(string(text), `"arn":"arn:`) {
		t.Errorf("%s", text)
	}
}
