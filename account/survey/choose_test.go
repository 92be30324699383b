package survey

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/server"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// subnet is a subnet of 10.0.N.0/24 in a zone, with a route table of its own.
func subnet(n int, zone string, way Way) Subnet {
	return Subnet{
		ID: fmt.Sprintf("subnet-%d", n), Zone: "eu-central-1" + zone, ZoneID: "euc1-az" + zone, CIDR: prefix(fmt.Sprintf("10.0.%d.0/24", n)),
		Free: 200, RouteTable: fmt.Sprintf("rtb-%d", n), Way: way,
	}
}

func vpc(subnets ...Subnet) VPC {
	return VPC{ID: "vpc-1", Name: "data", CIDRs: []netip.Prefix{prefix("10.0.0.0/16")}, DNS: DNS{true, true, true}, Subnets: subnets}
}

func (v VPC) with(endpoints ...Endpoint) VPC {
	v.Endpoints = endpoints
	return v
}

func endpoint(service string, groups ...string) Endpoint {
	return Endpoint{ID: "vpce-" + service, Service: service, PrivateDNS: true, Groups: groups}
}

func gateway(tables ...string) Endpoint {
	return Endpoint{ID: "vpce-s3", Service: "s3", Gateway: true, RouteTables: tables}
}

// all are the interface endpoints that tasks need.
func all(groups ...string) (endpoints []Endpoint) {
	for _, service := range account.EndpointServices {
		if service != "s3" {
			endpoints = append(endpoints, endpoint(service, groups...))
		}
	}
	return endpoints
}

// made are endpoints that a stack has made.
func made(stack string, endpoints ...Endpoint) []Endpoint {
	for i := range endpoints {
		endpoints[i].Stack = stack
	}
	return endpoints
}

func orders() Database {
	return Database{
		Name: "rds:orders", Engine: "postgres", VPC: "vpc-1", Groups: []string{"sg-0d"}, Ports: []int{5432},
		Addresses: []Address{{"orders.abcdefghij12.eu-central-1.rds.amazonaws.com", 5432}}, Zones: []string{"eu-central-1b"},
	}
}

// land is a landscape with the database orders, whose group admits nothing, and the group of endpoints, which admits the VPC.
func land(vpcs ...VPC) Landscape {
	return Landscape{
		Region: "eu-central-1", Account: "123456789012", Partition: "aws", VPCs: vpcs, PrefixList: "pl-1", Databases: []Database{orders()},
		Groups: []Group{
			{ID: "sg-0d", Name: "orders", VPC: "vpc-1"},
			{ID: "sg-0e", Name: "endpoints", VPC: "vpc-1", Rules: []Rule{{443, 443, []netip.Prefix{prefix("10.0.0.0/16")}, nil}}},
		},
	}
}

// summary is a choice on a line.
func summary(c Choice) string {
	in := c.Inputs
	text := "subnets=" + strings.ReplaceAll(strings.Join(in.Subnets, ","), "subnet-", "")
	if e := in.Endpoints; e.Make {
		text += " make=" + strings.Join(e.Services, ",") + " tables=" + strings.Join(e.RouteTables, ",")
	}
	if e := in.Endpoints; len(e.Groups) > 0 || e.PrefixList != "" {
		text += " groups=" + strings.Join(e.Groups, ",") + " list=" + e.PrefixList
	}
	for _, e := range in.Egress {
		text += fmt.Sprintf(" to=%s%s:%d", e.Group, e.CIDR, e.Port)
	}
	text += " allow=" + strings.Join(in.Classes[0].Allow, ",")
	for _, i := range c.Ingress {
		text += fmt.Sprintf(" lacks=%s:%d", i.Group, i.Port)
	}
	for _, q := range c.Questions {
		text += " ask=" + q.Flag + ":" + q.Default
	}
	return text
}

const (
	toOrders = " to=sg-0d:5432 allow=*abcdefghij12.eu-central-1.rds.amazonaws.com:5432"
	lacks    = " lacks=sg-0d:5432 ask=change-security-groups:no"
	toVPC    = " to=10.0.0.0/16:3306 to=10.0.0.0/16:5432 to=10.0.0.0/16:6379 allow=10.0.0.0/16:3306,10.0.0.0/16:5432,10.0.0.0/16:6379"
)

// choices are landscapes and what is chosen in them.
var choices = map[string]struct {
	land Landscape
	said Answers
	want string
	note string // a part of one of the notes or reasons
}{
	"NAT": {
		land: land(vpc(subnet(1, "a", WayInternet), subnet(2, "a", WayNAT), subnet(3, "b", WayNAT), subnet(4, "c", WayNone))),
		want: "subnets=2,3" + toOrders + lacks, note: "NAT gateway: it is there, at no further cost an hour",
	},
	"NAT, and endpoints wanted": {
		land: land(vpc(subnet(2, "a", WayNAT), subnet(3, "b", WayNAT), subnet(4, "c", WayNAT))),
		said: Answers{MakeEndpoints: true},
		want: "subnets=2,3 make= tables=rtb-2,rtb-3 groups= list=pl-1" + toOrders + lacks, note: "each endpoint costs something in each zone",
	},
	"NAT, and an endpoint whose group does not admit tasks": {
		land: land(vpc(subnet(2, "a", WayNAT)).with(endpoint("ecr.api", "sg-0d"))),
		want: "subnets=2" + toOrders + " lacks=sg-0d:443 lacks=sg-0d:5432 ask=change-security-groups:no",
	},
	"all endpoints": {
		land: land(vpc(subnet(1, "a", WayNone), subnet(2, "b", WayNone)).with(append(all("sg-0e"), gateway("rtb-1", "rtb-2"))...)),
		want: "subnets=1,2 groups=sg-0e list=pl-1" + toOrders + lacks, note: "the VPC has them, and tasks need no other way out",
	},
	"all endpoints, beside NAT": {
		land: land(vpc(subnet(1, "a", WayNAT)).with(append(all("sg-0e"), gateway("rtb-1"))...)),
		want: "subnets=1 groups=sg-0e list=pl-1" + toOrders + lacks,
	},
	"all but the gateway in one table": {
		land: land(vpc(subnet(1, "a", WayNone), subnet(2, "b", WayNone)).with(append(all("sg-0e"), gateway("rtb-1"))...)),
		want: "subnets=1,2 make=s3 tables=rtb-2 groups=sg-0e list=pl-1" + toOrders + lacks,
	},
	"all, S3 by an interface": {
		land: land(vpc(subnet(1, "a", WayNone)).with(append(all("sg-0e"), endpoint("s3", "sg-0e"))...)),
		want: "subnets=1 groups=sg-0e list=" + toOrders + lacks,
	},
	"some endpoints": {
		land: land(vpc(subnet(1, "a", WayNone)).with(endpoint("ecr.api", "sg-0e"), endpoint("logs", "sg-0d", "sg-0e"), gateway("rtb-1"))),
		want: "subnets=1 make=ssmmessages,ecr.dkr,kms tables= groups=sg-0e list=pl-1" + toOrders + lacks,
		note: "the subnets have no way out; to make: ssmmessages, ecr.dkr, kms",
	},
	"endpoints without private DNS": {
		land: land(vpc(subnet(1, "a", WayNone)).with(Endpoint{ID: "vpce-1", Service: "kms", Groups: []string{"sg-0e"}})),
		want: "subnets=1 make= tables=rtb-1 groups= list=pl-1" + toOrders + lacks,
	},
	"the endpoint of ssm has the same group": {
		land: land(vpc(subnet(1, "a", WayNone)).with(append(all("sg-0e"), gateway("rtb-1"), endpoint("ssm", "sg-0e"))...)),
		want: "subnets=1 groups=sg-0e list=pl-1" + toOrders + lacks, note: "the endpoint of ssm has the security group sg-0e too",
	},
	"the endpoint of ssm shares one of two groups": {
		land: land(vpc(subnet(1, "a", WayNone)).with(append(all("sg-0s", "sg-0e"), endpoint("ssm", "sg-0s"), gateway("rtb-1"))...)),
		want: "subnets=1 groups=sg-0e list=pl-1" + toOrders + lacks,
	},
	"a zone without endpoints": {
		land: func() Landscape {
			l := land(vpc(subnet(1, "a", WayNone), subnet(2, "b", WayNone), subnet(3, "c", WayNone)))
			l.EndpointZones = make(map[string][]string)
			for _, service := range account.EndpointServices {
				l.EndpointZones[service] = []string{"eu-central-1a", "eu-central-1b", "eu-central-1c"}
			}
			l.EndpointZones["logs"] = []string{"eu-central-1b", "eu-central-1c"}
			return l
		}(),
		want: "subnets=2,3 make= tables=rtb-2,rtb-3 groups= list=pl-1" + toOrders + lacks,
		note: "subnet-1 is in eu-central-1a, where AWS offers no endpoint of logs",
	},
	"endpoints of the stack itself": {
		land: land(vpc(subnet(1, "a", WayNone)).with(made("bastion", append(all("sg-0e"), gateway("rtb-1"))...)...)),
		want: "subnets=1 make= tables=rtb-1 groups= list=pl-1" + toOrders + lacks,
	},
	"endpoints of another stack": {
		land: land(vpc(subnet(1, "a", WayNone)).with(made("network", append(all("sg-0e"), gateway("rtb-1"))...)...)),
		want: "subnets=1 groups=sg-0e list=pl-1" + toOrders + lacks, note: "endpoints that tasks need go when these stacks are deleted: network",
	},
	"DNS unknown": {
		land: func() Landscape { v := vpc(subnet(1, "a", WayNone)); v.DNS = DNS{}; return land(v) }(),
		want: "subnets=1 make= tables=rtb-1 groups= list=pl-1" + toOrders + lacks,
	},
	"an isolated subnet before one with NAT": {
		land: land(vpc(subnet(1, "a", WayNone), func() Subnet { s := subnet(2, "a", WayNAT); s.Free = 1000; return s }())),
		said: Answers{MakeEndpoints: true},
		want: "subnets=1 make= tables=rtb-1 groups= list=pl-1" + toOrders + lacks,
	},
	"the default group and one of the database": {
		land: func() Landscape {
			l := land(vpc(subnet(1, "a", WayNAT)))
			l.Groups = append(l.Groups, Group{ID: "sg-00", Name: "default", VPC: "vpc-1"})
			l.Databases[0].Groups = []string{"sg-00", "sg-0d"}
			return l
		}(),
		want: "subnets=1" + toOrders + lacks,
	},
	"the default group alone": {
		land: func() Landscape {
			l := land(vpc(subnet(1, "a", WayNAT)))
			l.Groups[0].Name = "default"
			return l
		}(),
		want: "subnets=1" + toOrders + lacks,
	},
	"a group of another VPC": {
		land: func() Landscape {
			l := land(vpc(subnet(1, "a", WayNAT)))
			l.Groups[0].VPC = "vpc-2"
			return l
		}(),
		want: "subnets=1 to=10.0.0.0/16:5432 allow=*abcdefghij12.eu-central-1.rds.amazonaws.com:5432",
	},
	"replication groups denied": {
		land: func() Landscape {
			l := land(vpc(subnet(1, "a", WayNAT)))
			l.Findings = []Finding{{"ElastiCache replication groups", actionGroups, errors.New("denied")}}
			return l
		}(),
		want: "subnets=1 to=sg-0d:5432 to=10.0.0.0/16:6379 allow=*abcdefghij12.eu-central-1.rds.amazonaws.com:5432,10.0.0.0/16:6379" + lacks,
	},
	"isolated": {
		land: land(vpc(subnet(1, "a", WayNone), subnet(2, "b", WayNone), subnet(3, "c", WayNone))),
		want: "subnets=1,2 make= tables=rtb-1,rtb-2 groups= list=pl-1" + toOrders + lacks,
	},
	"the zone of the database before others": {
		land: func() Landscape {
			l := land(vpc(subnet(1, "a", WayNone), subnet(2, "b", WayNone), subnet(3, "c", WayNone)))
			l.Databases[0].Zones = []string{"eu-central-1c"}
			return l
		}(),
		want: "subnets=1,3 make= tables=rtb-1,rtb-3 groups= list=pl-1" + toOrders + lacks,
	},
	"a transit gateway": {
		land: land(vpc(subnet(1, "a", WayTransit), subnet(2, "b", WayNone))),
		want: "subnets=1" + toOrders + lacks, note: "whether AWS can be reached beyond it cannot be seen from here",
	},
	"public only": {
		land: land(vpc(subnet(1, "a", WayInternet), subnet(2, "b", WayInternet))),
		want: "subnets=1,2 make= tables=rtb-1,rtb-2 groups= list=pl-1" + toOrders + lacks, note: "tasks get no public address unless you want it",
	},
	"public only, and a public address wanted": {
		land: land(vpc(subnet(1, "a", WayInternet), subnet(2, "b", WayInternet))),
		said: Answers{PublicAddress: true},
		want: "subnets=1,2" + toOrders + lacks, note: "you chose a public address",
	},
	"two subnets in a zone": {
		land: land(vpc(subnet(1, "a", WayNAT), func() Subnet { s := subnet(2, "a", WayNAT); s.Free = 201; return s }())),
		want: "subnets=2" + toOrders + lacks,
	},
	"few addresses, IPv6 alone, a Local Zone, an Outpost": {
		land: land(vpc(
			func() Subnet { s := subnet(1, "a", WayNAT); s.Free = 15; return s }(),
			func() Subnet { s := subnet(2, "a", WayNAT); s.CIDR = netip.Prefix{}; return s }(),
			func() Subnet { s := subnet(3, "a", WayNAT); s.Zone = "eu-central-1-ham-1a"; return s }(),
			func() Subnet { s := subnet(4, "a", WayNAT); s.Outpost = true; return s }(),
			func() Subnet { s := subnet(5, "a", WayNAT); s.ZoneID = "apne1-az3"; return s }(),
			subnet(6, "a", WayNAT),
		)),
		want: "subnets=6" + toOrders + lacks, note: "subnet-1 has 15 free addresses, fewer than 16; subnet-2 has no IPv4 addresses",
	},
	"subnets of the operator": {
		land: land(vpc(subnet(1, "a", WayNAT), subnet(2, "a", WayNAT), subnet(3, "b", WayNAT))),
		said: Answers{Inputs: account.Inputs{Subnets: []string{"subnet-1"}}},
		want: "subnets=1" + toOrders + lacks, note: "subnet-1 in eu-central-1a: you chose them",
	},
	"two subnets of the operator in one zone, with NAT": {
		land: land(vpc(subnet(1, "a", WayNAT), subnet(2, "a", WayNAT))),
		said: Answers{Inputs: account.Inputs{Subnets: []string{"subnet-1", "subnet-2"}}},
		want: "subnets=1,2" + toOrders + lacks,
	},
	"a subnet of the operator without the way out": {
		land: land(vpc(subnet(1, "a", WayNAT), subnet(2, "b", WayNone))),
		said: Answers{Inputs: account.Inputs{Subnets: []string{"subnet-1", "subnet-2"}}},
		want: "subnets=1,2" + toOrders + lacks, note: `subnet-2, which you chose, has the way out "none"`,
	},
	"a full subnet of the operator": {
		land: land(vpc(func() Subnet { s := subnet(1, "a", WayNAT); s.Free = 3; return s }())),
		said: Answers{Inputs: account.Inputs{Subnets: []string{"subnet-1"}}},
		want: "subnets=1" + toOrders + lacks, note: "subnet-1, which you chose, has 3 free addresses",
	},
	"no database": {
		land: func() Landscape { l := land(vpc(subnet(1, "a", WayNAT))); l.Databases = nil; return l }(),
		want: "subnets=1" + toVPC, note: "no database is to be seen",
	},
	"shared subnets": {
		land: func() Landscape {
			v := vpc(subnet(1, "a", WayNAT))
			v.Shared, v.Subnets[0].Shared = true, true
			return land(v)
		}(),
		want: "subnets=1" + toOrders + lacks,
	},
	"a second CIDR": {
		land: func() Landscape {
			v := vpc(func() Subnet { s := subnet(1, "a", WayNAT); s.CIDR = prefix("100.64.1.0/24"); return s }())
			v.CIDRs = append(v.CIDRs, prefix("100.64.0.0/16"))
			l := land(v.with(endpoint("ecr.api", "sg-0e")))
			l.Databases[0].Groups = nil
			return l
		}(),
		want: "subnets=1 to=10.0.0.0/16:5432 to=100.64.0.0/16:5432 allow=*abcdefghij12.eu-central-1.rds.amazonaws.com:5432" +
			" lacks=sg-0e:443 ask=change-security-groups:no",
	},
	"a group that admits the subnets": {
		land: func() Landscape {
			l := land(vpc(subnet(1, "a", WayNAT)))
			l.Groups[0].Rules = []Rule{{5000, 6000, []netip.Prefix{prefix("10.0.0.0/8")}, nil}}
			return l
		}(),
		want: "subnets=1" + toOrders, note: "security groups of others unchanged: they let the tasks' subnets in already",
	},
	"a group that admits one subnet of two": {
		land: func() Landscape {
			l := land(vpc(subnet(1, "a", WayNAT), subnet(2, "b", WayNAT)))
			l.Groups[0].Rules = []Rule{{5432, 5432, []netip.Prefix{prefix("10.0.1.0/24")}, nil}}
			return l
		}(),
		want: "subnets=1,2" + toOrders + lacks,
	},
	"a group that admits the operator's group": {
		land: func() Landscape {
			l := land(vpc(subnet(1, "a", WayNAT)))
			l.Groups[0].Rules = []Rule{{5432, 5432, nil, []string{"sg-0a"}}}
			return l
		}(),
		said: Answers{Inputs: account.Inputs{SecurityGroup: "sg-0a"}},
		want: "subnets=1 allow=*abcdefghij12.eu-central-1.rds.amazonaws.com:5432", note: "your security group sg-0a must let tasks out",
	},
	"RDS denied": {
		land: func() Landscape {
			l := land(vpc(subnet(1, "a", WayNone)))
			l.Databases = nil
			l.Findings = []Finding{{"RDS instances", actionInstances, errors.New("denied")}}
			return l
		}(),
		want: "subnets=1 make= tables=rtb-1 groups= list=pl-1" + toVPC, note: "AWS did not show RDS instances (rds:DescribeDBInstances)",
	},
	"endpoints denied": {
		land: func() Landscape {
			l := land(vpc(subnet(1, "a", WayNone)))
			l.Findings = []Finding{{"VPC endpoints", "ec2:DescribeVpcEndpoints", errors.New("denied")}}
			return l
		}(),
		want: "subnets=1 make= tables=rtb-1 groups= list=pl-1" + toOrders + lacks, note: "making one that exists already fails",
	},
	"groups denied": {
		land: func() Landscape {
			l := land(vpc(subnet(1, "a", WayNAT)))
			l.Groups, l.Findings = nil, []Finding{{"security groups", actionSecurityGroups, errors.New("denied")}}
			return l
		}(),
		want: "subnets=1 to=10.0.0.0/16:5432 allow=*abcdefghij12.eu-central-1.rds.amazonaws.com:5432",
		note: "whether security groups let tasks in cannot be seen without ec2:DescribeSecurityGroups",
	},
	"caches": {
		land: func() Landscape {
			l := land(vpc(subnet(1, "a", WayNAT)))
			l.Databases = []Database{
				{
					Name: "cache:a", Engine: "redis", VPC: "vpc-1", Groups: []string{"sg-0d"}, Ports: []int{6379}, ByAddress: true,
					Addresses: []Address{{"clustercfg.a.xyz123.euc1.cache.amazonaws.com", 6379}},
				},
				{
					Name: "cache:b", Engine: "valkey", VPC: "vpc-1", Groups: []string{"sg-0d"}, Ports: []int{6379, 6380},
					Addresses: []Address{{"b-xyz123.serverless.euc1.cache.amazonaws.com", 6379}, {"b-xyz123.serverless.euc1.cache.amazonaws.com", 6380}},
				},
			}
			return l
		}(),
		want: "subnets=1 to=sg-0d:6379 to=sg-0d:6380 allow=*.euc1.cache.amazonaws.com:6379,*.euc1.cache.amazonaws.com:6380,10.0.0.0/16:6379" +
			" lacks=sg-0d:6379 lacks=sg-0d:6380 ask=change-security-groups:no",
	},
	"a database without an address yet": {
		land: func() Landscape {
			l := land(vpc(subnet(1, "a", WayNAT)))
			l.Databases[0].Addresses = nil
			return l
		}(),
		want: "subnets=1 to=sg-0d:5432 allow=10.0.0.0/16:5432" + lacks,
	},
	"a new region": {
		land: func() Landscape {
			s := subnet(1, "a", WayNone)
			s.Zone = "mx-central-1a"
			l := land(vpc(s))
			l.Region = "mx-central-1"
			return l
		}(),
		want: "subnets=1 make=ssmmessages,ecr.api,ecr.dkr,logs,kms,ecs,ecs-agent,ecs-telemetry,s3 tables=rtb-1 groups= list=pl-1" + toOrders + lacks,
	},
	"secrets": {
		land: land(vpc(subnet(1, "a", WayNone))),
		said: Answers{Inputs: account.Inputs{Secrets: []account.Secret{{
			Variable: "TOKEN", ARN: "arn:aws:secretsmanager:eu-central-1:123456789012:secret:token-abcdef",
		}}}},
		want: "subnets=1 make=ssmmessages,ecr.api,ecr.dkr,logs,kms,secretsmanager,s3 tables=rtb-1 groups= list=pl-1" + toOrders + lacks,
	},
	"secrets, and all other endpoints": {
		land: land(vpc(subnet(1, "a", WayNone)).with(append(all("sg-0e"), gateway("rtb-1"))...)),
		said: Answers{Inputs: account.Inputs{Secrets: []account.Secret{{
			Variable: "TOKEN", ARN: "arn:aws:secretsmanager:eu-central-1:123456789012:secret:token-abcdef",
		}}}},
		want: "subnets=1 make=secretsmanager tables= groups=sg-0e list=pl-1" + toOrders + lacks,
	},
	"route tables denied": {
		land: land(vpc(func() Subnet { s := subnet(1, "a", WayUnknown); s.RouteTable = ""; return s }())),
		want: "subnets=1" + toOrders + lacks, note: "a place that AWS does not show",
	},
}

// Each landscape has its choice, and what is chosen makes a stack.
func TestChoose(t *testing.T) {
	for name, tt := range choices {
		t.Run(name, func(t *testing.T) {
			c, err := Choose(tt.land, tt.said)
			if err != nil {
				t.Fatal(err)
			}
			if got := summary(c); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
			said := c.Notes
			for _, r := range c.Reasons {
				said = append(said, r.What+" "+r.Value+": "+r.Why)
			}
			if !strings.Contains(strings.Join(said, "\n"), tt.note) {
				t.Errorf("nothing says %q: %q", tt.note, said)
			}
			for _, note := range c.Notes {
				if strings.HasSuffix(note, ": ") {
					t.Errorf("%q names nothing", note)
				}
			}
			if got, want := append([]string{c.Inputs.VPCCIDR}, c.Inputs.MoreCIDRs...), ranges(c.VPC.CIDRs); !slices.Equal(got, want) {
				t.Errorf("the VPC has %q, want %q", got, want)
			}
			if c.PublicAddress != tt.said.PublicAddress || len(c.Inputs.Ingress) > 0 {
				t.Errorf("%+v", c)
			}
			if _, err := account.New(c.Inputs); err != nil {
				t.Error(err)
			}
			if allow, err := server.ParseAllow(strings.Join(c.Inputs.Classes[0].Allow, ",")); err != nil || allow.Empty() {
				t.Errorf("bastiond takes %v, %v", allow, err)
			}
		})
	}
}

// Where no bastion can run, the error says why and what to do.
func TestChooseFails(t *testing.T) {
	denied := fail.New(fail.Denied, "look for VPCs", errors.New("AccessDenied"), "ask for the IAM permission ec2:DescribeVpcs")
	for name, tt := range map[string]struct {
		land Landscape
		said Answers
		want string
		kind fail.Kind
		next string
	}{
		"no VPC":      {land: land(), want: "choose a VPC in eu-central-1: the account 123456789012 has none", kind: fail.Usage, next: "--region"},
		"VPCs denied": {land: Landscape{Region: "eu-central-1", Findings: []Finding{{"VPCs", "ec2:DescribeVpcs", denied}}}, want: "AccessDenied", kind: fail.Denied, next: "ec2:DescribeVpcs"},
		"another VPC": {land: land(vpc()), said: Answers{VPC: "prod"}, want: "0 VPCs of eu-central-1 have this id or name: there are data (vpc-1)", kind: fail.Usage, next: "--vpc vpc-1"},
		"no subnet":   {land: land(vpc()), want: "choose subnets of data (vpc-1): it has none", kind: fail.Usage, next: "--vpc"},
		"no fit":      {land: land(vpc(Subnet{ID: "subnet-1", Zone: "eu-central-1a"})), want: "none fits: subnet-1 has no IPv4 addresses", kind: fail.Usage},
		"foreign subnet": {
			land: land(vpc(subnet(1, "a", WayNAT))), said: Answers{Inputs: account.Inputs{Subnets: []string{"subnet-9"}}},
			want: "not all of subnet-9 are in this VPC", kind: fail.Usage,
		},
		"no public subnet": {
			land: land(vpc(subnet(1, "a", WayNAT))), said: Answers{PublicAddress: true}, want: "none has a route to an internet gateway", kind: fail.Usage,
		},
		"a public address and endpoints": {
			land: land(vpc(subnet(1, "a", WayNAT))), said: Answers{PublicAddress: true, MakeEndpoints: true},
			want: "--public-address and --make-endpoints", kind: fail.Usage, next: "leave one of them away",
		},
		"no zone with endpoints": {
			land: func() Landscape {
				l := land(vpc(subnet(1, "a", WayNone)))
				l.EndpointZones = map[string][]string{"kms": {"eu-central-1a"}}
				return l
			}(),
			want: "subnet-1 is in eu-central-1a, where AWS offers no endpoint of ssmmessages", kind: fail.Usage, next: "other zones",
		},
		"no zone with endpoints but a public subnet's": {
			land: func() Landscape {
				l := land(vpc(subnet(1, "a", WayNone), subnet(2, "b", WayInternet)))
				l.EndpointZones = make(map[string][]string)
				for _, service := range account.EndpointServices {
					l.EndpointZones[service] = []string{"eu-central-1b"}
				}
				return l
			}(),
			want: "subnet-1 is in eu-central-1a, where AWS offers no endpoint of ssmmessages", kind: fail.Usage, next: "other zones",
		},
		"a subnet of the operator in a zone without endpoints": {
			land: func() Landscape {
				l := land(vpc(subnet(1, "a", WayNone), subnet(2, "b", WayNone)))
				l.EndpointZones = make(map[string][]string)
				for _, service := range account.EndpointServices {
					l.EndpointZones[service] = []string{"eu-central-1b"}
				}
				return l
			}(),
			said: Answers{Inputs: account.Inputs{Subnets: []string{"subnet-1", "subnet-2"}}},
			want: "subnet-1 is in eu-central-1a, where AWS offers no endpoint of ssmmessages", kind: fail.Usage,
		},
		"shared and isolated": {
			land: func() Landscape { v := vpc(subnet(1, "a", WayNone)); v.Shared = true; return land(v) }(),
			want: "only the owner makes endpoints: missing are ssmmessages", kind: fail.Usage, next: "ask the owner of the VPC",
		},
		"DNS is off": {
			land: func() Landscape { v := vpc(subnet(1, "a", WayNone)); v.DNS.Hostnames = false; return land(v) }(),
			want: "private DNS needs DNS support", kind: fail.Usage, next: "aws ec2 modify-vpc-attribute --vpc-id vpc-1",
		},
		"prefix list unknown": {
			land: func() Landscape { l := land(vpc(subnet(1, "a", WayNone))); l.PrefixList = ""; return l }(),
			want: "S3's prefix list is unknown", kind: fail.Denied, next: "ec2:DescribeManagedPrefixLists",
		},
		"two subnets of the operator in a zone": {
			land: land(vpc(subnet(1, "a", WayNone), subnet(2, "a", WayNone))),
			said: Answers{Inputs: account.Inputs{Subnets: []string{"subnet-1", "subnet-2"}}},
			want: "subnet-1 and subnet-2 are both in eu-central-1a", kind: fail.Usage, next: "one subnet of each zone",
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Choose(tt.land, tt.said)
			if err == nil || !strings.Contains(err.Error(), tt.want) || fail.KindOf(err) != tt.kind || !strings.Contains(fail.NextOf(err), tt.next) {
				t.Errorf("%v (%v), next %q; want %q, next %q", err, fail.KindOf(err), fail.NextOf(err), tt.want, tt.next)
			}
		})
	}
}

// Several VPCs are a question, whose default is the one with most databases; one VPC with databases is none.
func TestChooseVPC(t *testing.T) {
	private := subnet(1, "a", WayNAT)
	one, two, usual := vpc(private), vpc(private), vpc(subnet(2, "a", WayInternet))
	two.ID, two.Name, usual.ID, usual.Name, usual.Default = "vpc-2", "prod", "vpc-0", "", true
	in := func(id string, n int) (out []Database) {
		for i := range n {
			d := orders()
			d.Name, d.VPC = fmt.Sprintf("rds:%s-%d", id, i), id
			out = append(out, d)
		}
		return out
	}
	for name, tt := range map[string]struct {
		databases []Database
		private   bool // the default VPC has private subnets
		public    bool // vpc-1 has public ones alone
		said      string
		want      string
		asked     []string
		notes     string
	}{
		"one with databases": {databases: in("vpc-2", 1), want: "vpc-2"},
		"two with databases": {databases: slices.Concat(in("vpc-1", 1), in("vpc-2", 2)), want: "vpc-2", asked: []string{"vpc-1", "vpc-2"}, notes: "which these bastions do not reach: 1"},
		"as many in each":    {databases: slices.Concat(in("vpc-0", 1), in("vpc-1", 1)), want: "vpc-1", asked: []string{"vpc-0", "vpc-1"}},
		"no database":        {want: "vpc-1", asked: []string{"vpc-0", "vpc-1", "vpc-2"}},
		"said, by its id":    {databases: slices.Concat(in("vpc-1", 1), in("vpc-2", 2)), said: "vpc-1", want: "vpc-1", notes: "which these bastions do not reach: 2"},
		"said, by its name":  {said: "prod", want: "vpc-2"},
		"of those with private subnets, one that is not the default": {private: true, want: "vpc-1", asked: []string{"vpc-0", "vpc-1", "vpc-2"}},
		"of two that are not the default, one with private subnets":  {public: true, want: "vpc-2", asked: []string{"vpc-0", "vpc-1", "vpc-2"}},
		"a database anywhere": {databases: in("", 1), want: "vpc-1", asked: []string{"vpc-0", "vpc-1", "vpc-2"}, notes: "which these bastions do not reach: 1"},
	} {
		t.Run(name, func(t *testing.T) {
			l := land(usual, one, two)
			if tt.public {
				l.VPCs[1].Subnets = usual.Subnets
			}
			if tt.private {
				l.VPCs[0].Subnets = []Subnet{private}
			}
			l.Databases, l.Groups = tt.databases, nil
			c, err := Choose(l, Answers{VPC: tt.said})
			if err != nil {
				t.Fatal(err)
			}
			var asked []string
			for _, q := range c.Questions {
				if q.Flag != FlagVPC || q.Default != tt.want {
					t.Errorf("asked %+v", q)
				}
				for _, candidate := range q.Candidates {
					asked = append(asked, candidate.Value)
					if candidate.Word == "" {
						t.Errorf("no word on %s", candidate.Value)
					}
				}
			}
			if c.Inputs.VPC != tt.want || c.VPC.ID != tt.want || !slices.Equal(asked, tt.asked) {
				t.Errorf("%s, asked %q; want %s, asked %q", c.Inputs.VPC, asked, tt.want, tt.asked)
			}
			if !strings.Contains(strings.Join(c.Notes, "\n"), tt.notes) {
				t.Errorf("notes %q, want %q", c.Notes, tt.notes)
			}
		})
	}
}

// Groups of others change if the operator says so, and then nothing is left to ask.
func TestChooseGroups(t *testing.T) {
	l := land(vpc(subnet(1, "a", WayNAT)))
	for _, tt := range []struct {
		answer       string
		rules, notes int
		questions    int
	}{{"", 0, 1, 1}, {Yes, 1, 0, 0}, {No, 0, 1, 0}} {
		var a Answers
		if tt.answer != "" {
			if err := a.Answer(FlagGroups, tt.answer); err != nil {
				t.Fatal(err)
			}
		}
		c, err := Choose(l, a)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Inputs.Ingress) != tt.rules || len(c.Notes) != tt.notes || len(c.Questions) != tt.questions || len(c.Ingress) != 1 {
			t.Errorf("%q: %+v, notes %q, questions %+v", tt.answer, c.Inputs.Ingress, c.Notes, c.Questions)
		}
		if want := (account.Ingress{Group: "sg-0d", Port: 5432, For: "rds:orders"}); c.Ingress[0] != want {
			t.Errorf("%+v, want %+v", c.Ingress[0], want)
		}
	}
}

// With more databases than a security group or an allow-list can name, both name the VPC's addresses.
func TestChooseManyDatabases(t *testing.T) {
	l := land(vpc(subnet(1, "a", WayNAT)))
	l.Databases, l.Groups = nil, nil
	for i := range 250 {
		id := fmt.Sprintf("sg-%d", i)
		l.Groups = append(l.Groups, Group{ID: id, VPC: "vpc-1"})
		l.Databases = append(l.Databases, Database{
			Name: fmt.Sprintf("rds:db-%d", i), VPC: "vpc-1", Groups: []string{id}, Ports: []int{5432}, Addresses: []Address{{fmt.Sprintf("db-%d.example.com", i), 5432}},
		})
	}
	c, err := Choose(l, Answers{Groups: Yes})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Inputs.Egress; len(got) != 1 || got[0].CIDR != "10.0.0.0/16" || !slices.Equal(c.Inputs.Classes[0].Allow, []string{"10.0.0.0/16:5432"}) {
		t.Errorf("%+v, %+v", got, c.Inputs.Classes)
	}
	if len(c.Inputs.Ingress) != 250 {
		t.Errorf("%d rules", len(c.Inputs.Ingress))
	}
	if c, err := Choose(l, Answers{}); err != nil || len(c.Questions) != 1 || len(c.Questions[0].Candidates[0].Word) > 1000 ||
		!strings.Contains(c.Questions[0].Candidates[0].Word, "and 240 more") {
		t.Errorf("%+v, %v", c.Questions, err)
	}
	if _, err := account.New(c.Inputs); err != nil {
		t.Error(err)
	}
}

// A database of which AWS tells no VPC is in the only one.
func TestChooseOnlyVPC(t *testing.T) {
	l := land(vpc(subnet(1, "a", WayNAT)))
	l.Databases[0].VPC = ""
	if c, err := Choose(l, Answers{}); err != nil || summary(c) != "subnets=1"+toOrders+lacks {
		t.Errorf("%s, %v", summary(c), err)
	}
}

// A rule for many databases does not name them all.
func TestPurpose(t *testing.T) {
	long := Database{Name: "rds:" + strings.Repeat("x", 60)}
	for want, databases := range map[string][]Database{"rds:orders": {orders()}, "3 databases": {long, long, long}} {
		if got := purpose(databases); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

// What the operator chose by other flags stays.
func TestChooseKeeps(t *testing.T) {
	in := account.Inputs{
		Name: "tunnel", Architecture: "X86_64", Egress: []account.Egress{{Port: 1521, CIDR: "10.0.0.0/8", Description: "Oracle"}},
		Classes: []account.Class{{Name: "a", Allow: []string{"10.0.0.0/8:1521"}}, {Name: "b"}},
	}
	c, err := Choose(land(vpc(subnet(1, "a", WayNAT))), Answers{Inputs: in})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Inputs; got.Name != "tunnel" || got.Architecture != "X86_64" || len(got.Egress) != 1 || got.Egress[0].Port != 1521 ||
		!slices.Equal(got.Classes[0].Allow, in.Classes[0].Allow) || len(got.Classes[1].Allow) != 1 {
		t.Errorf("%+v", got)
	}
	if len(in.Classes[1].Allow) > 0 {
		t.Error("the operator's own value has changed")
	}
}

// The architecture is ARM64, but not where Fargate has none.
func TestArchitecture(t *testing.T) {
	for zone, want := range map[string]string{"use1-az1": "ARM64", withoutARM: "X86_64"} {
		s := subnet(1, "a", WayNAT)
		s.ZoneID = zone
		if c, err := Choose(land(vpc(s)), Answers{}); err != nil || c.Inputs.Architecture != want {
			t.Errorf("%s: %s, %v", zone, c.Inputs.Architecture, err)
		}
	}
}

// Zones with Fargate are listed where not each of a region's has it.
func TestHasFargate(t *testing.T) {
	for id, want := range map[string]bool{"euc1-az1": true, "apne1-az3": false, "apne1-az4": true, "cnn1-az4": false, "usw1-az2": false, "": true} {
		if got := hasFargate(id); got != want {
			t.Errorf("%q: %v", id, got)
		}
	}
}

// An answer is a flag's; yes and no are the only ones to most.
func TestAnswer(t *testing.T) {
	var a Answers
	for flag, value := range map[string]string{FlagVPC: "data", FlagGroups: Yes, FlagEndpoints: Yes, FlagPublic: No} {
		if err := a.Answer(flag, value); err != nil {
			t.Error(err)
		}
	}
	if a.VPC != "data" || a.Groups != Yes || !a.MakeEndpoints || a.PublicAddress {
		t.Errorf("%+v", a)
	}
	for flag, value := range map[string]string{FlagGroups: "perhaps", "colour": Yes} {
		if err := a.Answer(flag, value); fail.KindOf(err) != fail.Usage {
			t.Errorf("--%s %s: %v", flag, value, err)
		}
	}
}

// Names of databases become patterns that hold for the account's others, in each partition.
func TestWildcard(t *testing.T) {
	for host, want := range map[string]string{
		"orders.abcdefghij12.eu-central-1.rds.amazonaws.com":             "*abcdefghij12.eu-central-1.rds.amazonaws.com",
		"orders.cluster-ro-abcdefghij12.us-gov-west-1.rds.amazonaws.com": "*abcdefghij12.us-gov-west-1.rds.amazonaws.com",
		"orders.abcdefghij12.rds.cn-north-1.amazonaws.com.cn":            "*abcdefghij12.rds.cn-north-1.amazonaws.com.cn",
		"orders.global-abcdefghij12.global.rds.amazonaws.com":            "orders.global-abcdefghij12.global.rds.amazonaws.com",
		"orders.short.eu-central-1.rds.amazonaws.com":                    "orders.short.eu-central-1.rds.amazonaws.com",
		"orders.cluster-abcdefghij12.eu-central-1.docdb.amazonaws.com":   "orders.cluster-abcdefghij12.eu-central-1.docdb.amazonaws.com",
		"master.a.xyz123.euc1.cache.amazonaws.com":                       "*.euc1.cache.amazonaws.com",
		"a.xyz123.ng.0001.cnn1.cache.amazonaws.com.cn":                   "*.cnn1.cache.amazonaws.com.cn",
		"cache.example.com":        "cache.example.com",
		"my.own.cache.example.com": "my.own.cache.example.com",
	} {
		region := "eu-central-1"
		if strings.HasSuffix(host, ".cn") {
			region = "cn-north-1"
		}
		if got := wildcard(host, region); got != want {
			t.Errorf("%s: %s, want %s", host, got, want)
		}
	}
}
