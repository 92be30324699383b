//go:build unix

package main

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/doctor"
	"github.com/bastion-ssm/bastion/lab"
)

const spoken = "BASTION_QUIET=false"

// addDatabase adds a database that only its description has.
func addDatabase(t *testing.T, l *lab.Lab, id, inVPC string) {
	t.Helper()
	if err := l.AddDBInstance(lab.DBInstance{ID: id, VPC: inVPC, IAM: true}); err != nil {
		t.Fatal(err)
	}
	l.Allow("*:5432")
}

// Without an environment that counts, the one is worked out whose bastion is in the target's VPC.
func TestWorkedOutEnvironment(t *testing.T) {
	t.Parallel()
	o := startOrganization(t, lab.IdentityConfig{Deny: []string{"redshift*:*"}})
	dev, staging, prod := o.labs["dev"], o.labs["staging"], o.labs["prod"]
	addDatabase(t, staging, "ledger", "")         // in staging's own VPC, and
	addDatabase(t, dev, "ledger", "vpc-0peered")  // in one that may be peered with dev's
	addDatabase(t, dev, "archive", "vpc-0peered") // in no environment's VPC
	addDatabase(t, prod, "prices", "")            // in prod's alone
	addDatabase(t, staging, "twice", "")          // each in its own
	addDatabase(t, prod, "twice", "")
	if err := prod.AddWarehouse(lab.Warehouse{ID: "dwh", Addr: netip.MustParseAddrPort("127.9.8.7:5439")}); err != nil { // which AWS denies
		t.Fatal(err)
	}
	for _, tt := range []struct{ target, environment, note string }{
		{"rds:ledger", "staging", "rds:ledger is in the environment staging, whose bastion is in its VPC: " + staging.VPC() + " in us-east-1"},
		{"rds:archive", "dev", "the target is in vpc-0peered in eu-central-1, and the bastion in " + dev.VPC() + " (private) in eu-central-1"},
		{"rds:prices", "prod", "in the environment prod"},
		{"prod/rds:twice", "prod", ""},
	} {
		p, forwards := o.forwards([]string{spoken}, tt.target, ":")
		if got := forwards[0].Environment; got != tt.environment {
			t.Errorf("%s is of the environment %q, not %s", tt.target, got, tt.environment)
		}
		if !strings.Contains(p.Output(), tt.note) {
			t.Errorf("%s: %q is not in\n%s", tt.target, tt.note, p.Output())
		}
		o.stop(p, syscall.SIGTERM, 143)
	}
	if r := o.run([]string{spoken}, "token", "rds:prices", "--user", "app"); r.code != 0 || !strings.Contains(r.stderr, "in the environment prod") {
		t.Errorf("token: code %d\n%s", r.code, r.stderr)
	}
	if r := o.run([]string{spoken}, "rdp", "desk", "--file", filepath.Join(t.TempDir(), "desk.rdp")); r.code != 3 ||
		!strings.Contains(r.stderr, "no environment finds it") {
		t.Errorf("rdp: code %d\n%s", r.code, r.stderr)
	}
	for _, tt := range []struct {
		target string
		code   int
		want   []string
	}{
		{"rds:twice", 3, []string{"several environments have it: prod (" + prod.VPC(), "staging (" + staging.VPC(), "name one: prod/rds:twice or staging/rds:twice"}},
		{"rds:none", 3, []string{"no environment finds it: dev: ", "prod: ", "staging: "}},
		{"redshift:dwh", 5, []string{"no environment finds it", "redshift:DescribeClusters"}},
	} {
		r := o.run([]string{spoken}, "exec", tt.target, "--", "true")
		for _, want := range tt.want {
			if r.code != tt.code || !strings.Contains(r.stderr, want) {
				t.Errorf("exec %s: code %d, %q is not in\n%s", tt.target, r.code, want, r.stderr)
			}
		}
	}
}

// A worked out environment with confirm: true is asked for as a named one.
func TestWorkedOutConfirm(t *testing.T) {
	t.Parallel()
	o := startOrganization(t, lab.IdentityConfig{})
	addDatabase(t, o.labs["prod"], "prices", "")
	path := filepath.Join(o.dir, "bastion.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("    profile: prod\n"), []byte("    profile: prod\n    confirm: true\n"), 1)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	r := o.run([]string{spoken}, "exec", "rds:prices", "--", "true")
	if r.code != 2 || !strings.Contains(r.stderr, "the environment prod asks before it is used") || len(o.labs["prod"].Tasks()) != 0 {
		t.Errorf("code %d, %d tasks\n%s", r.code, len(o.labs["prod"].Tasks()), r.stderr)
	}
}

// The error of a connection that finds no way names both VPCs, and the environment whose bastion is in the target's.
func TestTargetInAnotherVPC(t *testing.T) {
	t.Parallel()
	o := startOrganization(t, lab.IdentityConfig{})
	staging, prod := o.labs["staging"], o.labs["prod"]
	staging.AddVPC(lab.VPC{ID: prod.VPC(), Name: "shared by prod"})
	addDatabase(t, staging, "far", prod.VPC()) // a name that staging's bastion cannot resolve
	addDatabase(t, staging, "near", "")
	const abroad = "orders.abc123.eu-west-1.rds.amazonaws.com:5432"
	p, forwards := o.forwards([]string{spoken}, "staging/rds:far", ":", "staging/rds:near", ":", "staging/"+abroad, ":")
	for _, f := range forwards {
		conn, err := net.Dial("tcp", f.Listen)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = conn.Read(make([]byte, 1)) // until the forward closes it
		_ = conn.Close()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, want := range []string{
		"; the target is in " + prod.VPC() + " (shared by prod) in us-east-1, and the bastion in " + staging.VPC() + " (private) in us-east-1\n",
		"hint: use an environment whose bastion is in " + prod.VPC() + ", or connect the two VPCs",
		"the bastion of the environment prod is in " + prod.VPC() + " (shared by prod) in us-east-1: name the target as prod/TARGET",
		"the target is in an unknown VPC in eu-west-1, and the bastion in " + staging.VPC(),
		"or connect the two VPCs",
	} {
		if err := p.WaitOutput(ctx, want); err != nil {
			t.Fatalf("%v\n%s", err, p.Output())
		}
	}
	report, code := o.doctorOf(nil, "staging/rds:far")
	for _, f := range report.Findings {
		if f.ID == "target.vpc" && (f.Level != doctor.Error || !strings.Contains(f.Fix, "prod/TARGET") || code != 1) {
			t.Errorf("code %d: %+v", code, f)
		}
	}
	o.stop(p, syscall.SIGTERM, 143)
	if n := strings.Count(p.Output(), "the target is in "); n != 2 {
		t.Errorf("%d errors name places, want 2:\n%s", n, p.Output())
	}
}
