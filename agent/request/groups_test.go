package request

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
)

const groupsFile = `region: eu-central-1
targets:
  orders: rds:orders
  reports: {target: rds:reports, region: us-east-1, local_port: 7000}
  prodonly: {target: rds:x, environment: prod}
  audit: {target: rds:audit, environment: prod}
environments:
  dev: {profile: dev}
  prod:
    profile: prod
    targets:
      orders: {target: rds:primary, local_port: 6000}
      audit: rds:other
      archive: rds:archive
`

// Targets are put into groups by the settings that they come with, in the order of the command line, and a name means in each what it
// means there.
func TestGroups(t *testing.T) {
	file := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(file, []byte(groupsFile), 0o600); err != nil {
		t.Fatal(err)
	}
	load := func(environment string, target config.Target) (config.Settings, error) {
		src := config.Source{File: file, Target: target, LookupEnv: func(string) (string, bool) { return "", false }}
		if environment != "" {
			src.Flags = map[string]string{"environment": environment}
		}
		return config.Load(src)
	}
	own, err := load("", config.Target{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args, local string
		want        []string // environment/profile/region: target@place listen
	}{
		{"orders", "", []string{"//eu-central-1: rds:orders@0 "}},
		{"orders dev/orders prod/orders", "", []string{"//eu-central-1: rds:orders@0 ", "dev/dev/eu-central-1: rds:orders@1 ", "prod/prod/eu-central-1: rds:primary@2 6000"}},
		{"dev/a.b:1 prod/a.b:1 7001 dev/c.d:2 7002", "", []string{"dev/dev/eu-central-1: a.b:1@0 , c.d:2@2 7002", "prod/prod/eu-central-1: a.b:1@1 7001"}},
		{"reports prodonly", "", []string{"//us-east-1: rds:reports@0 7000", "prod/prod/eu-central-1: rds:x@1 "}},
		{"audit prod/audit", "", []string{"prod/prod/eu-central-1: rds:audit@0 , rds:other@1 "}}, // as where the name was found
		{"dev/reports", "", []string{"dev/dev/us-east-1: rds:reports@0 7000"}},
		{"dev/prodonly", "", []string{"dev/dev/eu-central-1: rds:x@0 "}}, // what stands before the slash counts first
		{"prod/rds:shop/reader:5433 :", "", []string{"prod/prod/eu-central-1: rds:shop/reader:5433@0 :"}},
		{"", "8080:prod/db.internal:80", []string{"prod/prod/eu-central-1: db.internal:80@0 8080"}},
		{"", "8080:dev/rds:shop/reader", []string{"dev/dev/eu-central-1: rds:shop/reader@0 8080"}},
	} {
		var local []string
		if c.local != "" {
			local = []string{c.local}
		}
		groups, _, err := Parse(strings.Fields(c.args), local, own, load)
		if err != nil {
			t.Errorf("%s%s: %v", c.args, c.local, err)
			continue
		}
		var got []string
		for _, g := range groups {
			var requests []string
			for i, r := range g.Requests {
				requests = append(requests, fmt.Sprintf("%s@%d %s", r.Target, g.At[i], r.Listen))
			}
			s := g.Settings
			got = append(got, fmt.Sprintf("%s/%s/%s: %s", s.Environment, s.AWS.Profile, s.AWS.Region, strings.Join(requests, ", ")))
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s%s: %s", c.args, c.local, diff)
		}
		for i, item := range Items(groups) {
			if item.Request == nil || item.Pair.Target == (targets.Spec{}) {
				t.Errorf("%s: item %d is empty", c.args, i)
			}
		}
	}
	for args, next := range map[string]string{
		"prdo/orders": "did you mean prod/orders?", "xyz/orders": "bastion use lists the environments",
		"dev/orders 5 prod/orders 5": "give each target its own local port",
	} {
		if _, _, err := Parse(strings.Fields(args), nil, own, load); fail.KindOf(err) != fail.Usage || !strings.Contains(fail.NextOf(err), next) {
			t.Errorf("%s: %v (next: %s)", args, err, fail.NextOf(err))
		}
	}
	for args, want := range map[string]string{
		"archive": "no environment is in force", "dev/archive": "the environment dev does not have it",
	} {
		_, _, err := Parse([]string{args}, nil, own, load)
		if fail.KindOf(err) != fail.NoTarget || !strings.Contains(err.Error(), want) || !strings.HasPrefix(fail.NextOf(err), "write prod/archive, or") {
			t.Errorf("%s: %v (next: %s)", args, err, fail.NextOf(err))
		}
	}
	if _, _, err := Parse([]string{"dev/orders"}, nil, config.Settings{}, load); !strings.Contains(fmt.Sprint(err), "the configuration has none") {
		t.Errorf("without environments: %v", err)
	}
}
