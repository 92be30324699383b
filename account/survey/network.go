package survey

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/partition"
	"github.com/bastion-ssm/bastion/internal/printable"
)

// Actions of calls whose answers a choice can do without.
const (
	actionSecurityGroups = "ec2:DescribeSecurityGroups"
	actionEndpoints      = "ec2:DescribeVpcEndpoints"
	actionServices       = "ec2:DescribeVpcEndpointServices"
)

// found are AWS's answers. Each field has one writer.
type found struct {
	vpcs       []types.Vpc
	dns        map[string]DNS
	subnets    []types.Subnet
	tables     []types.RouteTable
	tablesSeen bool
	private    []string // ids of private NAT gateways, which lead to other networks
	endpoints  []types.VpcEndpoint
	instances  []Database
	members    map[string][]Database // instances of a cluster, by the cluster's name
	clusters   []Database
	proxies    []Database
	caches     []Database
}

func (s *surveyor) vpcs(ctx context.Context) {
	vpcs, err := pages(func(token *string) ([]types.Vpc, *string, error) {
		out, err := s.clients.VPCs(ctx, &ec2.DescribeVpcsInput{NextToken: token})
		if err != nil {
			return nil, nil, err
		}
		return out.Vpcs, out.NextToken, nil
	})
	if !s.note("VPCs", "ec2:DescribeVpcs", err) {
		return
	}
	s.found.vpcs, s.found.dns = vpcs, make(map[string]DNS)
	for _, v := range vpcs {
		id := aws.ToString(v.VpcId)
		dns, err := s.dns(ctx, id)
		if !s.note("the DNS settings of VPCs", "ec2:DescribeVpcAttribute", err) {
			return // one finding is enough
		}
		s.found.dns[id] = dns
	}
}

func (s *surveyor) dns(ctx context.Context, vpc string) (DNS, error) {
	support, err := s.clients.VPCAttribute(ctx, &ec2.DescribeVpcAttributeInput{VpcId: &vpc, Attribute: types.VpcAttributeNameEnableDnsSupport})
	if err != nil {
		return DNS{}, err
	}
	names, err := s.clients.VPCAttribute(ctx, &ec2.DescribeVpcAttributeInput{VpcId: &vpc, Attribute: types.VpcAttributeNameEnableDnsHostnames})
	if err != nil {
		return DNS{}, err
	}
	is := func(v *types.AttributeBooleanValue) bool { return v != nil && aws.ToBool(v.Value) }
	return DNS{Known: true, Support: is(support.EnableDnsSupport), Hostnames: is(names.EnableDnsHostnames)}, nil
}

func (s *surveyor) subnets(ctx context.Context) {
	subnets, err := pages(func(token *string) ([]types.Subnet, *string, error) {
		out, err := s.clients.Subnets(ctx, &ec2.DescribeSubnetsInput{NextToken: token})
		if err != nil {
			return nil, nil, err
		}
		return out.Subnets, out.NextToken, nil
	})
	s.note("subnets", "ec2:DescribeSubnets", err)
	s.found.subnets = subnets
}

func (s *surveyor) routes(ctx context.Context) {
	tables, err := pages(func(token *string) ([]types.RouteTable, *string, error) {
		out, err := s.clients.RouteTables(ctx, &ec2.DescribeRouteTablesInput{NextToken: token})
		if err != nil {
			return nil, nil, err
		}
		return out.RouteTables, out.NextToken, nil
	})
	s.found.tables, s.found.tablesSeen = tables, s.note("route tables", "ec2:DescribeRouteTables", err)
}

// gateways finds the private NAT gateways. Without an answer each counts as one that leads to the internet, as most do.
func (s *surveyor) gateways(ctx context.Context) {
	private, err := pages(func(token *string) ([]types.NatGateway, *string, error) {
		out, err := s.clients.NATGateways(ctx, &ec2.DescribeNatGatewaysInput{NextToken: token})
		if err != nil {
			return nil, nil, err
		}
		return out.NatGateways, out.NextToken, nil
	})
	s.note("NAT gateways", "ec2:DescribeNatGateways", err)
	for _, g := range private {
		if g.ConnectivityType == types.ConnectivityTypePrivate {
			s.found.private = append(s.found.private, aws.ToString(g.NatGatewayId))
		}
	}
}

func (s *surveyor) endpoints(ctx context.Context) {
	endpoints, err := pages(func(token *string) ([]types.VpcEndpoint, *string, error) {
		out, err := s.clients.Endpoints(ctx, &ec2.DescribeVpcEndpointsInput{NextToken: token})
		if err != nil {
			return nil, nil, err
		}
		return out.VpcEndpoints, out.NextToken, nil
	})
	s.note("VPC endpoints", actionEndpoints, err)
	s.found.endpoints = endpoints
}

// services finds the zones in which AWS offers the interface endpoints that tasks need.
func (s *surveyor) services(ctx context.Context) {
	services, err := pages(func(token *string) ([]types.ServiceDetail, *string, error) {
		out, err := s.clients.Services(ctx, &ec2.DescribeVpcEndpointServicesInput{
			NextToken: token, Filters: []types.Filter{{Name: aws.String("service-type"), Values: []string{string(types.ServiceTypeInterface)}}},
		})
		if err != nil {
			return nil, nil, err
		}
		return out.ServiceDetails, out.NextToken, nil
	})
	if !s.note("the services of VPC endpoints", actionServices, err) {
		return
	}
	s.landscape.EndpointZones = make(map[string][]string)
	for _, d := range services {
		service := s.service(aws.ToString(d.ServiceName))
		s.landscape.EndpointZones[service] = append(s.landscape.EndpointZones[service], d.AvailabilityZones...)
	}
}

// prefixList finds S3's, to which gateway endpoints lead. Its name is that of the endpoint service.
func (s *surveyor) prefixList(ctx context.Context) {
	name := partition.Of(s.clients.Region).EndpointService("s3", s.clients.Region)
	lists, err := pages(func(token *string) ([]types.ManagedPrefixList, *string, error) {
		out, err := s.clients.PrefixLists(ctx, &ec2.DescribeManagedPrefixListsInput{
			NextToken: token, Filters: []types.Filter{{Name: aws.String("prefix-list-name"), Values: []string{name}}},
		})
		if err != nil {
			return nil, nil, err
		}
		return out.PrefixLists, out.NextToken, nil
	})
	s.note("the prefix list of S3", "ec2:DescribeManagedPrefixLists", err)
	for _, list := range lists {
		if aws.ToString(list.PrefixListName) == name {
			s.landscape.PrefixList = aws.ToString(list.PrefixListId)
		}
	}
}

// groups finds the security groups of databases and endpoints, and those that the caller names: a region may have thousands of others.
func (s *surveyor) groups(ctx context.Context) {
	const mostValues = 200 // of a filter
	ids := slices.Clone(s.given)
	for _, databases := range [][]Database{s.found.instances, s.found.clusters, s.found.proxies, s.found.caches} {
		for _, d := range databases {
			ids = append(ids, d.Groups...)
		}
	}
	for _, e := range s.found.endpoints {
		ids = append(ids, groupIDs(e.Groups)...)
	}
	slices.Sort(ids)
	for some := range slices.Chunk(slices.Compact(ids), mostValues) {
		groups, err := pages(func(token *string) ([]types.SecurityGroup, *string, error) {
			// A filter passes over a group that is gone, where a list of ids is refused.
			out, err := s.clients.Groups(ctx, &ec2.DescribeSecurityGroupsInput{
				NextToken: token, Filters: []types.Filter{{Name: aws.String("group-id"), Values: some}},
			})
			if err != nil {
				return nil, nil, err
			}
			return out.SecurityGroups, out.NextToken, nil
		})
		if !s.note("security groups", actionSecurityGroups, err) {
			return
		}
		for _, g := range groups {
			s.landscape.Groups = append(s.landscape.Groups, toGroup(g))
		}
	}
}

func toGroup(g types.SecurityGroup) Group {
	out := Group{ID: aws.ToString(g.GroupId), Name: printable.Line(aws.ToString(g.GroupName)), VPC: aws.ToString(g.VpcId)}
	for _, p := range g.IpPermissions {
		protocol := aws.ToString(p.IpProtocol)
		rule := Rule{From: int(aws.ToInt32(p.FromPort)), To: int(aws.ToInt32(p.ToPort))}
		switch {
		case protocol == "-1": // everything
			rule.From, rule.To = 0, 1<<16-1
		case protocol != "tcp" && protocol != "6":
			continue
		}
		for _, r := range p.IpRanges {
			if prefix, err := netip.ParsePrefix(aws.ToString(r.CidrIp)); err == nil {
				rule.CIDRs = append(rule.CIDRs, prefix)
			}
		}
		for _, pair := range p.UserIdGroupPairs {
			rule.Groups = append(rule.Groups, aws.ToString(pair.GroupId))
		}
		out.Rules = append(out.Rules, rule)
	}
	return out
}

func groupIDs(groups []types.SecurityGroupIdentifier) (ids []string) {
	for _, g := range groups {
		ids = append(ids, aws.ToString(g.GroupId))
	}
	return ids
}

// assemble makes the landscape of the answers.
func (s *surveyor) assemble() {
	for _, v := range s.found.vpcs {
		vpc := VPC{
			ID: aws.ToString(v.VpcId), Name: nameOf(v.Tags), Default: aws.ToBool(v.IsDefault), Shared: s.isShared(v.OwnerId),
			DNS: s.found.dns[aws.ToString(v.VpcId)], CIDRs: vpcRanges(v),
		}
		for _, subnet := range s.found.subnets {
			if aws.ToString(subnet.VpcId) == vpc.ID {
				vpc.Subnets = append(vpc.Subnets, s.subnet(subnet))
			}
		}
		slices.SortFunc(vpc.Subnets, func(a, b Subnet) int { return strings.Compare(a.ID, b.ID) })
		for _, e := range s.found.endpoints {
			if aws.ToString(e.VpcId) == vpc.ID && strings.EqualFold(string(e.State), string(types.StateAvailable)) {
				vpc.Endpoints = append(vpc.Endpoints, s.endpoint(e))
			}
		}
		s.landscape.VPCs = append(s.landscape.VPCs, vpc)
	}
	slices.SortFunc(s.landscape.VPCs, func(a, b VPC) int { return strings.Compare(a.ID, b.ID) })
	s.landscape.Databases = s.databases()
}

func (s *surveyor) isShared(owner *string) bool { return owner != nil && *owner != s.landscape.Account }

func vpcRanges(v types.Vpc) (ranges []netip.Prefix) {
	add := func(text *string) {
		if prefix, err := netip.ParsePrefix(aws.ToString(text)); err == nil && !slices.Contains(ranges, prefix) {
			ranges = append(ranges, prefix)
		}
	}
	add(v.CidrBlock)
	for _, a := range v.CidrBlockAssociationSet {
		if a.CidrBlockState == nil || a.CidrBlockState.State == types.VpcCidrBlockStateCodeAssociated {
			add(a.CidrBlock)
		}
	}
	return ranges
}

func (s *surveyor) subnet(n types.Subnet) Subnet {
	cidr, _ := netip.ParsePrefix(aws.ToString(n.CidrBlock))
	out := Subnet{
		ID: aws.ToString(n.SubnetId), Name: nameOf(n.Tags), Zone: aws.ToString(n.AvailabilityZone), ZoneID: aws.ToString(n.AvailabilityZoneId),
		CIDR: cidr, Free: int(aws.ToInt32(n.AvailableIpAddressCount)), Shared: s.isShared(n.OwnerId), Outpost: n.OutpostArn != nil,
		Way: WayUnknown,
	}
	if table, ok := TableOf(s.found.tables, n); ok && s.found.tablesSeen {
		out.RouteTable, out.Way = aws.ToString(table.RouteTableId), WayOf(table, s.found.private)
	}
	return out
}

// TableOf is a subnet's own route table, or the VPC's main one.
func TableOf(tables []types.RouteTable, n types.Subnet) (own types.RouteTable, ok bool) {
	for _, t := range tables {
		if aws.ToString(t.VpcId) != aws.ToString(n.VpcId) {
			continue
		}
		for _, a := range t.Associations {
			if aws.ToString(a.SubnetId) == aws.ToString(n.SubnetId) {
				return t, true
			}
			if aws.ToBool(a.Main) {
				own, ok = t, true
			}
		}
	}
	return own, ok
}

// WayOf is where a table's default route for IPv4 leads. A route to a gateway that is gone leads nowhere, and one to a private NAT
// gateway to another network.
func WayOf(t types.RouteTable, private []string) Way {
	for _, r := range t.Routes {
		if aws.ToString(r.DestinationCidrBlock) != "0.0.0.0/0" || r.State == types.RouteStateBlackhole {
			continue
		}
		gateway := aws.ToString(r.GatewayId)
		switch {
		case slices.Contains(private, aws.ToString(r.NatGatewayId)):
			return WayTransit
		case r.NatGatewayId != nil:
			return WayNAT
		case strings.HasPrefix(gateway, "igw-"):
			return WayInternet
		case r.TransitGatewayId != nil, r.CoreNetworkArn != nil, r.VpcPeeringConnectionId != nil, r.LocalGatewayId != nil,
			strings.HasPrefix(gateway, "vgw-"):
			return WayTransit
		case r.InstanceId != nil, r.NetworkInterfaceId != nil, strings.HasPrefix(gateway, "vpce-"):
			return WayAppliance
		}
	}
	return WayNone
}

func (s *surveyor) endpoint(e types.VpcEndpoint) Endpoint {
	return Endpoint{
		ID: aws.ToString(e.VpcEndpointId), Service: s.service(aws.ToString(e.ServiceName)), PrivateDNS: aws.ToBool(e.PrivateDnsEnabled),
		Stack:   tagOf(e.Tags, "aws:cloudformation:stack-name"),
		Gateway: e.VpcEndpointType == types.VpcEndpointTypeGateway, Groups: groupIDs(e.Groups), RouteTables: e.RouteTableIds,
	}
}

// service is the short name of an endpoint service that tasks need, or the whole name of another.
func (s *surveyor) service(name string) string {
	own := partition.Of(s.clients.Region)
	for _, service := range slices.Concat(account.EndpointServices, account.NewRegionServices,
		[]string{account.SecretsService, registrationService}) {
		if name == own.EndpointService(service, s.clients.Region) {
			return service
		}
	}
	return printable.Line(name)
}

func nameOf(tags []types.Tag) string { return tagOf(tags, "Name") }

func tagOf(tags []types.Tag, key string) string {
	for _, t := range tags {
		if aws.ToString(t.Key) == key {
			return printable.Line(aws.ToString(t.Value))
		}
	}
	return ""
}
