package targets_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/targets"
)

func resolve(t *testing.T, r *targets.Resolver, text string) targets.Endpoint {
	t.Helper()
	spec, err := targets.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	e, err := r.Resolve(t.Context(), spec)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return e
}

// TestVPC: what AWS says about a target leads to its VPC, with the permissions of the policy for users.
func TestVPC(t *testing.T) {
	l := newLab(t, lab.Config{})
	furnish(t, l)
	const other = "vpc-00000000000other0"
	l.AddVPC(lab.VPC{ID: other, Name: "data"})
	l.AddSecurityGroup(lab.SecurityGroup{ID: "sg-other", Name: "other", VPC: other})
	for _, err := range []error{
		l.AddDBInstance(lab.DBInstance{ID: "apart", VPC: other}),
		l.AddDBCluster(lab.DBCluster{ID: "apart-cluster", Groups: []string{"sg-other"}}),
		l.AddCache(lab.Cache{ID: "quick", Kind: lab.ServerlessCache}),
		l.AddCache(lab.Cache{ID: "single", Kind: lab.CacheCluster}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r := resolverOf(t, l)
	for spec, want := range map[string]string{
		"rds:orders": l.VPC(), "rds:apart": other, "rds:apart-cluster:5432": other, "docdb:papers": l.VPC(), "rdsproxy:pool": l.VPC(),
		"rdsproxy:pool-ro": l.VPC(), "cache:sessions": l.VPC(), "cache:quick:1": l.VPC(), "cache:single:1": l.VPC(), "memorydb:scores": l.VPC(),
		"redshift:dwh": l.VPC(), "redshift:adhoc": l.VPC(), "opensearch:logs": l.VPC(), "msk:events": l.VPC(), "eks:Main_1": l.VPC(),
		"lb:Web": l.VPC(), "ec2:Build Host:22": l.VPC(), "ecs:apps/api": l.VPC(),
		"opensearch:vectors": "", "cloudmap:corp.internal/billing": "", "db.internal:5432": "",
	} {
		got, err := r.VPC(t.Context(), resolve(t, r, spec))
		if got != want || errors.Is(err, targets.ErrNoVPC) != (want == "") {
			t.Errorf("%s is in %q, %v; want %q", spec, got, err, want)
		}
	}
	if names := r.VPCNames(t.Context(), other, "vpc-unknown"); len(names) != 1 || names[other] != "data" {
		t.Errorf("the names are %q", names)
	}
}

// TestVPCDenied: what AWS denies is unknown, and the error says which permission is missing.
func TestVPCDenied(t *testing.T) {
	l := newLab(t, lab.Config{User: lab.IdentityConfig{Deny: []string{"ec2:Describe*"}}})
	furnish(t, l)
	r := resolverOf(t, l)
	for spec, action := range map[string]string{
		"memorydb:scores": "ec2:DescribeSecurityGroups", "cache:sessions": "ec2:DescribeSecurityGroups", "msk:events": "ec2:DescribeSecurityGroups", "ecs:apps/api": "ec2:DescribeSubnets",
	} {
		_, err := r.VPC(t.Context(), resolve(t, r, spec))
		if fail.KindOf(err) != fail.Denied || !strings.Contains(err.Error()+fail.NextOf(err), action) {
			t.Errorf("%s: %v (%s)", spec, err, fail.NextOf(err))
		}
	}
	if got, err := r.VPC(t.Context(), resolve(t, r, "rds:orders")); err != nil || got != l.VPC() { // its own answer has it
		t.Errorf("rds:orders is in %q, %v", got, err)
	}
	if names := r.VPCNames(t.Context(), l.VPC()); len(names) != 0 {
		t.Errorf("the names are %q", names)
	}
}

func TestRegionOf(t *testing.T) {
	for host, want := range map[string]string{
		"orders.abc123.eu-central-1.rds.amazonaws.com":    "eu-central-1",
		"Orders.abc123.EU-Central-1.rds.amazonaws.com.":   "eu-central-1",
		"orders.abc123.rds.cn-north-1.amazonaws.com.cn":   "cn-north-1",
		"web-0123.elb.us-gov-west-1.amazonaws.com":        "us-gov-west-1",
		"ABC.gr7.ap-southeast-2.eks.amazonaws.com":        "ap-southeast-2",
		"ip-10-0-0-1.eu-west-3.compute.internal":          "eu-west-3",
		"master.sessions.abc123.euc1.cache.amazonaws.com": "", // a short form
		"eu-central-1.corp.internal":                      "",
		"us-east-1.amazonaws.com":                         "", // the first label is the user's
		"10.0.0.1":                                        "",
		"":                                                "",
	} {
		if got := targets.RegionOf(host); got != want {
			t.Errorf("%s is in %q, not %q", host, got, want)
		}
	}
}
