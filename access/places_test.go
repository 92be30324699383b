package access

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/targets"
)

// TestPlace: a bastion's VPC is that of its subnets or its instance. What is not known says why.
func TestPlace(t *testing.T) {
	const instance = "i-0123456789abcdef0"
	l := startLab(t, func(c *lab.Config) { c.User.Deny = []string{"ec2:DescribeSubnets"} })
	l.AddSubnet(lab.Subnet{ID: "subnet-a", VPC: "vpc-a", CIDR: "10.98.1.0/24", Tags: map[string]string{"tier": "a"}})
	l.AddSubnet(lab.Subnet{ID: "subnet-b", VPC: "vpc-b", CIDR: "10.98.2.0/24"})
	if err := l.AddMachine(lab.Machine{ID: instance, Addr: netip.MustParseAddr("127.9.8.7")}); err != nil {
		t.Fatal(err)
	}
	admin := "profile=admin"
	server := []string{admin, "ssh_host_key=none", "target=" + instance}
	for _, tt := range []struct {
		name     string
		settings []string
		vpc, why string
	}{
		{"the account's subnets", []string{admin}, l.VPC(), ""},
		{"by tags", []string{admin, "subnet_tags=tier=a"}, "vpc-a", ""},
		{"by ids", []string{admin, "subnets=subnet-b"}, "vpc-b", ""},
		{"of two VPCs", []string{admin, "subnets=subnet-a,subnet-b"}, "", "subnets of 2 VPCs (vpc-a, vpc-b)"},
		{"of none", []string{admin, "subnet_tags=tier=none"}, "", "no subnet has the tags tier=none"},
		{"an instance", server, l.VPC(), ""},
		{"another server", []string{admin, "ssh_host_key=none", "target=mi-0123456789abcdef0"}, "", "there is no EC2 instance"},
		{"denied", nil, "", "ec2:DescribeSubnets"},
	} {
		got := l.access(Options{}, tt.settings...).Place(t.Context())
		if got.VPC != tt.vpc || got.Region != l.Region() || !strings.Contains(got.Unknown, tt.why) || (got.Unknown == "") != (tt.why == "") {
			t.Errorf("%s: %+v", tt.name, got)
		}
	}
}

// TestPlaces: names are looked up for two VPCs alone, and a host's region is that of its name.
func TestPlaces(t *testing.T) {
	l := startLab(t, nil)
	l.AddVPC(lab.VPC{ID: "vpc-a", Name: "data"})
	a := l.access(Options{})
	here := report.Place{VPC: l.VPC(), Region: l.Region()}
	near := a.Places(t.Context(), targets.Endpoint{Network: targets.Network{VPC: l.VPC()}})
	if near != (report.Places{Target: here, Bastion: here}) {
		t.Errorf("%+v", near)
	}
	l.wantCalls(map[string]int{"ec2:DescribeSubnets": 1, "ec2:DescribeVpcs": 0})
	far := a.Places(t.Context(), targets.Endpoint{Network: targets.Network{VPC: "vpc-a"}})
	here.Name = "private"
	if far != (report.Places{Target: report.Place{VPC: "vpc-a", Name: "data", Region: l.Region()}, Bastion: here}) {
		t.Errorf("%+v", far)
	}
	l.wantCalls(map[string]int{"ec2:DescribeSubnets": 1, "ec2:DescribeVpcs": 1})
	abroad := a.Places(t.Context(), targets.Endpoint{Host: "orders.abc.us-east-1.rds.amazonaws.com"})
	if !abroad.Regions() || abroad.Target.Region != "us-east-1" || abroad.Target.Unknown == "" {
		t.Errorf("%+v", abroad)
	}
}
