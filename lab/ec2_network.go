package lab

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/lab/awsapi"
)

// databaseGroup is the security group of databases. It admits the bastion's.
const databaseGroup = "sg-000000000000database"

// RouteTable is a route table of the lab's VPC. It routes nothing.
type RouteTable struct {
	ID      string
	Main    bool
	Subnets []string // ids
	Routes  []Route  // besides the local one
}

// Route is a route to a NAT gateway (nat-...), an internet gateway (igw-...), a transit gateway (tgw-...) or a network interface (eni-...).
type Route struct{ To, Gateway string }

// VPCEndpoint is a VPC endpoint of the lab's VPC. Nothing goes through it.
type VPCEndpoint struct {
	ID          string
	Service     string // AWS's whole name, as partition.EndpointService has it
	Gateway     bool   // otherwise an interface endpoint
	State       string // default: available
	NoDNS       bool   // without private DNS
	Groups      []string
	RouteTables []string
	Policy      string // default: everything
}

// SetRouteTables replaces the route tables.
func (l *Lab) SetRouteTables(tables ...RouteTable) {
	l.ec2.mu.Lock()
	defer l.ec2.mu.Unlock()
	l.ec2.tables = slices.Clone(tables)
}

// SetVPCEndpoints replaces the VPC endpoints.
func (l *Lab) SetVPCEndpoints(endpoints ...VPCEndpoint) {
	l.ec2.mu.Lock()
	defer l.ec2.mu.Unlock()
	l.ec2.endpoints = slices.Clone(endpoints)
}

// SetSecurityGroup replaces the security group of the id, or adds it.
func (l *Lab) SetSecurityGroup(g SecurityGroup) {
	l.ec2.mu.Lock()
	defer l.ec2.mu.Unlock()
	l.ec2.groups = append(slices.DeleteFunc(slices.Clone(l.ec2.groups), func(o SecurityGroup) bool { return o.ID == g.ID }), g)
}

// xmlPermission is a rule in EC2's form.
type xmlPermission struct {
	Protocol string     `xml:"ipProtocol"`
	From     *int       `xml:"fromPort,omitempty"`
	To       *int       `xml:"toPort,omitempty"`
	Groups   []xmlPair  `xml:"groups>item"`
	Ranges   []xmlRange `xml:"ipRanges>item"`
}

type xmlPair struct {
	UserID string `xml:"userId"`
	ID     string `xml:"groupId"`
}

type xmlRange struct {
	CIDR string `xml:"cidrIp"`
}

func permissionsOf(account string, rules []SecurityRule) (out []xmlPermission) {
	for _, r := range rules {
		p := xmlPermission{Protocol: "tcp", From: &r.From, To: &r.To}
		if r.Group != "" {
			p.Groups = []xmlPair{{account, r.Group}}
		} else {
			p.Ranges = []xmlRange{{r.CIDR}}
		}
		out = append(out, p)
	}
	return out
}

// egress are the group's outbound rules. A new group has one for everything.
func (g SecurityGroup) egress(account string) []xmlPermission {
	if g.Egress == nil {
		return []xmlPermission{{Protocol: "-1", Ranges: []xmlRange{{"0.0.0.0/0"}}}}
	}
	return permissionsOf(account, g.Egress)
}

func (e *ec2) describeRouteTables(_ context.Context, c *awsapi.Call) (any, error) {
	type route struct {
		To          string `xml:"destinationCidrBlock"`
		Gateway     string `xml:"gatewayId,omitempty"`
		NAT         string `xml:"natGatewayId,omitempty"`
		Transit     string `xml:"transitGatewayId,omitempty"`
		Interface   string `xml:"networkInterfaceId,omitempty"`
		State       string `xml:"state"`
		RouteOrigin string `xml:"origin"`
	}
	type association struct {
		ID     string `xml:"routeTableAssociationId"`
		Table  string `xml:"routeTableId"`
		Subnet string `xml:"subnetId,omitempty"`
		Main   bool   `xml:"main"`
	}
	type item struct {
		ID           string        `xml:"routeTableId"`
		VpcID        string        `xml:"vpcId"`
		OwnerID      string        `xml:"ownerId"`
		Routes       []route       `xml:"routeSet>item"`
		Associations []association `xml:"associationSet>item"`
	}
	e.mu.Lock()
	tables := slices.Clone(e.tables)
	e.mu.Unlock()
	tables, next, err := ec2Select(c, tables, func(t RouteTable) (tags, attributes map[string]string) {
		return nil, map[string]string{"vpc-id": e.vpc(), "route-table-id": t.ID}
	})
	var items []item
	for _, t := range tables {
		i := item{ID: t.ID, VpcID: e.vpc(), OwnerID: e.account, Routes: []route{{
			To: "10.99.0.0/16", Gateway: "local", State: "active",
			RouteOrigin: "CreateRouteTable",
		}}}
		if t.Main {
			i.Associations = append(i.Associations, association{ID: "rtbassoc-main", Table: t.ID, Main: true})
		}
		for _, s := range t.Subnets {
			i.Associations = append(i.Associations, association{ID: "rtbassoc-" + s, Table: t.ID, Subnet: s})
		}
		for _, r := range t.Routes {
			one := route{To: r.To, State: "active", RouteOrigin: "CreateRoute"}
			switch kind, _, _ := strings.Cut(r.Gateway, "-"); kind {
			case "nat":
				one.NAT = r.Gateway
			case "tgw":
				one.Transit = r.Gateway
			case "eni":
				one.Interface = r.Gateway
			default:
				one.Gateway = r.Gateway
			}
			i.Routes = append(i.Routes, one)
		}
		items = append(items, i)
	}
	return struct {
		Items []item `xml:"routeTableSet>item"`
		Next  string `xml:"nextToken,omitempty"`
	}{items, next}, err
}

func (e *ec2) describeVPCEndpoints(_ context.Context, c *awsapi.Call) (any, error) {
	type group struct {
		ID string `xml:"groupId"`
	}
	type item struct {
		ID          string   `xml:"vpcEndpointId"`
		Type        string   `xml:"vpcEndpointType"`
		VpcID       string   `xml:"vpcId"`
		Service     string   `xml:"serviceName"`
		State       string   `xml:"state"`
		Policy      string   `xml:"policyDocument"`
		RouteTables []string `xml:"routeTableIdSet>item"`
		Groups      []group  `xml:"groupSet>item"`
		PrivateDNS  bool     `xml:"privateDnsEnabled"`
		OwnerID     string   `xml:"ownerId"`
	}
	e.mu.Lock()
	endpoints := slices.Clone(e.endpoints)
	e.mu.Unlock()
	endpoints, next, err := ec2Select(c, endpoints, func(v VPCEndpoint) (tags, attributes map[string]string) {
		return nil, map[string]string{"vpc-id": e.vpc(), "service-name": v.Service, "vpc-endpoint-id": v.ID}
	})
	const everything = `{"Statement":[{"Action":"*","Effect":"Allow","Principal":"*","Resource":"*"}]}`
	var items []item
	for _, v := range endpoints {
		i := item{
			ID: v.ID, Type: "Interface", VpcID: e.vpc(), Service: v.Service, State: cmp.Or(v.State, "available"), Policy: cmp.Or(v.Policy, everything),
			RouteTables: v.RouteTables, PrivateDNS: !v.NoDNS && !v.Gateway, OwnerID: e.account,
		}
		if v.Gateway {
			i.Type = "Gateway"
		}
		for _, id := range v.Groups {
			i.Groups = append(i.Groups, group{id})
		}
		items = append(items, i)
	}
	return struct {
		Items []item `xml:"vpcEndpointSet>item"`
		Next  string `xml:"nextToken,omitempty"`
	}{items, next}, err
}
