package request

import (
	"net"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/targets"
)

// An address of this machine after a target may be meant as the place to listen.
func TestNotesOfTargets(t *testing.T) {
	addresses := []net.Addr{
		&net.IPNet{IP: net.ParseIP("192.0.2.7"), Mask: net.CIDRMask(24, 32)}, &net.IPNet{IP: net.ParseIP("2001:db8::7"), Mask: net.CIDRMask(64, 128)},
	}
	for args, want := range map[string]string{
		"rds:orders 192.0.2.7:5432":         "-L 192.0.2.7:5432:rds:orders",
		"rds:orders [2001:db8::7]:5432":     "-L [2001:db8::7]:5432:rds:orders",
		"db.internal:1 192.0.2.7:5432":      "-L 192.0.2.7:5432:db.internal:1",
		"rds:orders 192.0.2.8:5432":         "",
		"rds:orders 15432 192.0.2.7:5432":   "",
		"192.0.2.7:5432":                    "",
		"rds:orders cache:sessions":         "",
		"rds:orders 127.0.0.1:5432 cache:x": "",
	} {
		pairs, err := targets.ParsePair(strings.Fields(args))
		if err != nil {
			t.Fatal(err)
		}
		notes := notesOfTargets(pairs, addresses)
		if (len(notes) > 0) != (want != "") || len(notes) > 0 && !strings.HasSuffix(notes[0], want) {
			t.Errorf("%s: %q, want %q", args, notes, want)
			continue
		}
		if len(notes) == 0 {
			continue
		}
		_, l, _ := strings.Cut(notes[0], "-L ")
		if _, err := targets.ParseL(l); err != nil {
			t.Errorf("%s: the note's %q is not understood: %v", args, l, err)
		}
	}
}

// A name of the configuration is the forward's name, unless it means all forwards: then the target's is.
func TestForwardRequestNames(t *testing.T) {
	s := config.Settings{Targets: map[string]config.Target{
		"orders": {Spec: "rds:db"}, "_x": {Spec: "rds:db"}, "all": {Spec: "rds:db"},
	}}
	for name, want := range map[string]string{"orders": "orders", "_x": "_x", "all": "", "rds:db": ""} {
		pairs, err := targets.ParsePair([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		if r, err := one(pairs[0], s); err != nil || r.Name != want || r.Target != "rds:db" {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
}
