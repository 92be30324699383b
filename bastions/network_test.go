package bastions

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// vpcs answers EC2's calls from a list of things, two on each page.
type vpcs struct {
	subnets, groups []ec2Thing
}

type ec2Thing struct{ id, vpc, tags string } // tags: "tier=private app=web"

func (v vpcs) wire(t *testing.T) *wire {
	return &wire{answer: func(action, body string, _ int) (int, string) {
		form, err := url.ParseQuery(body)
		if err != nil {
			t.Error(err)
		}
		all, set, idTag := v.subnets, "subnetSet", "subnetId"
		if action == "DescribeSecurityGroups" {
			all, set, idTag = v.groups, "securityGroupInfo", "groupId"
		}
		var found []ec2Thing
		for _, thing := range all {
			if matches(form, thing) {
				found = append(found, thing)
			}
		}
		start := pageStart(t, form.Get("NextToken"))
		var x strings.Builder
		fmt.Fprintf(&x, "<%sResponse><%s>", action, set)
		for _, thing := range found[start:min(start+2, len(found))] {
			fmt.Fprintf(&x, "<item><%s>%s</%s><vpcId>%s</vpcId></item>", idTag, thing.id, idTag, thing.vpc)
		}
		fmt.Fprintf(&x, "</%s>", set)
		if start+2 < len(found) {
			fmt.Fprintf(&x, "<nextToken>from %d</nextToken>", start+2)
		}
		fmt.Fprintf(&x, "</%sResponse>", action)
		return 200, x.String()
	}}
}

func matches(form url.Values, thing ec2Thing) bool {
	for i := 1; form.Get(fmt.Sprintf("Filter.%d.Name", i)) != ""; i++ {
		name, value := form.Get(fmt.Sprintf("Filter.%d.Name", i)), form.Get(fmt.Sprintf("Filter.%d.Value.1", i))
		tags := strings.Fields(thing.tags)
		ok := false
		switch key, isTag := strings.CutPrefix(name, "tag:"); {
		case isTag:
			ok = slices.Contains(tags, key+"="+value)
		case name == "tag-key":
			ok = slices.ContainsFunc(tags, func(s string) bool { return strings.HasPrefix(s, value+"=") })
		case name == "vpc-id":
			ok = thing.vpc == value
		}
		if !ok {
			return false
		}
	}
	for i := 1; ; i++ {
		switch form.Get(fmt.Sprintf("SubnetId.%d", i)) {
		case "":
			return i == 1
		case thing.id:
			return true
		}
	}
}

func TestNetwork(t *testing.T) {
	v := vpcs{
		subnets: []ec2Thing{
			{"subnet-3", "vpc-1", "tier=private app=x"},
			{"subnet-1", "vpc-1", "tier=private"},
			{"subnet-2", "vpc-1", "tier=private"},
			{"subnet-9", "vpc-1", "tier=public"},
			{"subnet-8", "vpc-2", "tier=public env=dev"},
		},
		groups: []ec2Thing{
			{"sg-2", "vpc-1", "app=bastion"},
			{"sg-1", "vpc-1", "app=bastion x=1"},
			{"sg-3", "vpc-2", "app=bastion"},
			{"sg-4", "vpc-2", "only=2"},
		},
	}
	for i := range 20 {
		v.subnets = append(v.subnets, ec2Thing{fmt.Sprintf("subnet-many-%02d", i), "vpc-3", "many=1"})
	}
	for i := range 6 {
		v.groups = append(v.groups, ec2Thing{fmt.Sprintf("sg-many-%d", i), "vpc-1", "many=1"})
	}
	type tags = map[string]string
	for _, tt := range []struct {
		name    string
		spec    Spec
		subnets string
		groups  string
		err     []string
		calls   int // of EC2; -1: any
	}{
		{
			name: "ids", spec: Spec{Subnets: []string{"b", "a", "b"}, SecurityGroups: []string{"y", "x"}}, subnets: "a b",
			groups: "x y",
		},
		{name: "no groups", spec: Spec{Subnets: []string{"a"}}, subnets: "a"},
		{name: "ids go before tags", spec: Spec{
			Subnets: []string{"a"}, SubnetTags: tags{"tier": "private"},
			SecurityGroups: []string{"x"}, SecurityGroupTags: tags{"app": "bastion"},
		}, subnets: "a", groups: "x"},
		{name: "tags, pages, the groups of the VPC", spec: Spec{
			SubnetTags: tags{"tier": "private"}, SecurityGroupTags: tags{"app": "bastion"},
		}, subnets: "subnet-1 subnet-2 subnet-3", groups: "sg-1 sg-2", calls: 3},
		{name: "all tags", spec: Spec{SubnetTags: tags{"tier": "private", "app": "x"}}, subnets: "subnet-3", calls: 1},
		{name: "any value", spec: Spec{SubnetTags: tags{"env": ""}}, subnets: "subnet-8", calls: 1},
		{name: "groups of several VPCs", spec: Spec{
			Subnets: []string{"subnet-8"}, SecurityGroupTags: tags{"app": "bastion"},
		}, subnets: "subnet-8", groups: "sg-3", calls: -1},
		{name: "groups of one VPC need no look at the subnets", spec: Spec{
			Subnets: []string{"subnet-8"}, SecurityGroupTags: tags{"only": "2"},
		}, subnets: "subnet-8", groups: "sg-4", calls: 1},
		{
			name: "no subnet", spec: Spec{SubnetTags: tags{"tier": "priv", "app": ""}}, calls: -1,
			err: []string{"no subnet has the tags app, tier=priv"},
		},
		{
			name: "two VPCs", spec: Spec{SubnetTags: tags{"tier": "public"}}, calls: -1,
			err: []string{"the tags tier=public match subnets of 2 VPCs (vpc-1, vpc-2)"},
		},
		{
			name: "no group", spec: Spec{Subnets: []string{"a"}, SecurityGroupTags: tags{"app": "b"}}, calls: -1,
			err: []string{"no security group has the tags app=b"},
		},
		{
			name: "no group there", spec: Spec{SubnetTags: tags{"tier": "private"}, SecurityGroupTags: tags{"only": "2"}},
			calls: -1,
			err:   []string{"no security group has the tags only=2 in the subnets' VPC vpc-1"},
		},
		{
			name: "ids of two VPCs", spec: Spec{
				Subnets: []string{"subnet-1", "subnet-8"}, SecurityGroupTags: tags{"app": "bastion"},
			}, calls: -1,
			err: []string{"the ids name subnets of 2 VPCs"},
		},
		{
			name: "too many groups", spec: Spec{Subnets: []string{"a"}, SecurityGroupTags: tags{"many": "1"}}, calls: -1,
			err: []string{"6 match, and ECS takes at most 5"},
		},
		{
			name: "many subnets", spec: Spec{SubnetTags: tags{"many": "1"}}, calls: -1,
			subnets: "subnet-many-00 subnet-many-01 subnet-many-02 subnet-many-03 subnet-many-04 subnet-many-05 subnet-many-06 " +
				"subnet-many-07 subnet-many-08 subnet-many-09 subnet-many-10 subnet-many-11 subnet-many-12 subnet-many-13 " +
				"subnet-many-14 subnet-many-15",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := v.wire(t)
			got, err := w.manager(t).network(t.Context(), tt.spec)
			if tt.err != nil {
				checkError(t, err, fail.Usage, tt.err, "")
				if fail.NextOf(err) == "" {
					t.Errorf("%v: no next step", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			vpc := got.AwsvpcConfiguration
			if s, g := strings.Join(vpc.Subnets, " "), strings.Join(vpc.SecurityGroups, " "); s != tt.subnets || g != tt.groups {
				t.Errorf("subnets %q, groups %q; want %q, %q", s, g, tt.subnets, tt.groups)
			}
			if calls := w.calls["DescribeSubnets"] + w.calls["DescribeSecurityGroups"]; tt.calls >= 0 && calls != tt.calls {
				t.Errorf("%d calls, want %d", calls, tt.calls)
			}
		})
	}
}

func TestNetworkPublicIP(t *testing.T) {
	for public, want := range map[bool]types.AssignPublicIp{
		false: types.AssignPublicIpDisabled, true: types.AssignPublicIpEnabled,
	} {
		got, err := New(Config{}).network(t.Context(), Spec{Subnets: []string{"a"}, AssignPublicIP: public})
		if err != nil || got.AwsvpcConfiguration.AssignPublicIp != want {
			t.Errorf("AssignPublicIP %v: %+v, %v", public, got, err)
		}
	}
}

func TestNetworkNoEC2(t *testing.T) {
	for _, spec := range []Spec{
		{SubnetTags: map[string]string{"a": "b"}},
		{Subnets: []string{"a"}, SecurityGroupTags: map[string]string{"a": "b"}},
	} {
		_, err := New(Config{}).network(t.Context(), spec)
		checkError(t, err, fail.Usage, []string{"needs EC2"}, "by id")
	}
}
