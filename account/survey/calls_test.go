package survey

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/elasticache"
	cachetypes "github.com/aws/aws-sdk-go-v2/service/elasticache/types"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	rdstypes "github.com/aws/aws-sdk-go-v2/service/rds/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/bastion-ssm/bastion/e2e/iamref"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// fakes are calls for what moto lacks: pages, denials, and some kinds of things. Each list is answered in pages of two.
type fakes struct {
	vpcs      []ec2types.Vpc
	subnets   []ec2types.Subnet
	tables    []ec2types.RouteTable
	gateways  []ec2types.NatGateway
	endpoints []ec2types.VpcEndpoint
	services  []ec2types.ServiceDetail
	lists     []ec2types.ManagedPrefixList
	groups    []ec2types.SecurityGroup

	instances  []rdstypes.DBInstance
	clusters   []rdstypes.DBCluster
	proxies    []rdstypes.DBProxy
	caches     []cachetypes.ReplicationGroup
	members    []cachetypes.CacheCluster
	serverless []cachetypes.ServerlessCache

	fails map[string]error // by the IAM action

	mu    sync.Mutex
	calls map[string]int
}

// answer counts a call of an action and returns a page of all, with the token of the next.
func answer[T any](f *fakes, action string, all []T, token *string) ([]T, *string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.calls == nil {
		f.calls = make(map[string]int)
	}
	f.calls[action]++
	if err := f.fails[action]; err != nil {
		return nil, nil, err
	}
	from, _ := strconv.Atoi(aws.ToString(token))
	to := min(from+2, len(all))
	if to == len(all) {
		return all[from:], aws.String(""), nil // as some services end a list
	}
	return all[from:to], aws.String(strconv.Itoa(to)), nil
}

func (f *fakes) clients() Clients {
	c := Clients{
		Region: region,
		Identity: func(context.Context, *sts.GetCallerIdentityInput, ...func(*sts.Options)) (*sts.GetCallerIdentityOutput, error) {
			_, _, err := answer[int](f, "sts:GetCallerIdentity", nil, nil)
			return &sts.GetCallerIdentityOutput{Account: aws.String("123456789012"), Arn: aws.String("arn:aws-eusc:iam::123456789012:user/me")}, err
		},
		Instances: func(_ context.Context, in *rds.DescribeDBInstancesInput, _ ...func(*rds.Options)) (*rds.DescribeDBInstancesOutput, error) {
			page, next, err := answer(f, actionInstances, f.instances, in.Marker)
			return &rds.DescribeDBInstancesOutput{DBInstances: page, Marker: next}, err
		},
		Clusters: func(_ context.Context, in *rds.DescribeDBClustersInput, _ ...func(*rds.Options)) (*rds.DescribeDBClustersOutput, error) {
			page, next, err := answer(f, actionClusters, f.clusters, in.Marker)
			return &rds.DescribeDBClustersOutput{DBClusters: page, Marker: next}, err
		},
		Proxies: func(_ context.Context, in *rds.DescribeDBProxiesInput, _ ...func(*rds.Options)) (*rds.DescribeDBProxiesOutput, error) {
			page, next, err := answer(f, actionProxies, f.proxies, in.Marker)
			return &rds.DescribeDBProxiesOutput{DBProxies: page, Marker: next}, err
		},
	}
	f.addNetwork(&c)
	f.addCaches(&c)
	return c
}

func (f *fakes) addNetwork(c *Clients) {
	c.VPCs = func(_ context.Context, in *ec2.DescribeVpcsInput, _ ...func(*ec2.Options)) (*ec2.DescribeVpcsOutput, error) {
		page, next, err := answer(f, "ec2:DescribeVpcs", f.vpcs, in.NextToken)
		return &ec2.DescribeVpcsOutput{Vpcs: page, NextToken: next}, err
	}
	c.VPCAttribute = func(_ context.Context, in *ec2.DescribeVpcAttributeInput, _ ...func(*ec2.Options)) (*ec2.DescribeVpcAttributeOutput, error) {
		_, _, err := answer[int](f, "ec2:DescribeVpcAttribute", nil, nil)
		on := &ec2types.AttributeBooleanValue{Value: aws.Bool(true)}
		if in.Attribute == ec2types.VpcAttributeNameEnableDnsSupport {
			return &ec2.DescribeVpcAttributeOutput{EnableDnsSupport: on}, err
		}
		return &ec2.DescribeVpcAttributeOutput{}, err // DNS hostnames are off
	}
	c.Subnets = func(_ context.Context, in *ec2.DescribeSubnetsInput, _ ...func(*ec2.Options)) (*ec2.DescribeSubnetsOutput, error) {
		page, next, err := answer(f, "ec2:DescribeSubnets", f.subnets, in.NextToken)
		return &ec2.DescribeSubnetsOutput{Subnets: page, NextToken: next}, err
	}
	c.RouteTables = func(_ context.Context, in *ec2.DescribeRouteTablesInput, _ ...func(*ec2.Options)) (*ec2.DescribeRouteTablesOutput, error) {
		page, next, err := answer(f, "ec2:DescribeRouteTables", f.tables, in.NextToken)
		return &ec2.DescribeRouteTablesOutput{RouteTables: page, NextToken: next}, err
	}
	c.NATGateways = func(_ context.Context, in *ec2.DescribeNatGatewaysInput, _ ...func(*ec2.Options)) (*ec2.DescribeNatGatewaysOutput, error) {
		page, next, err := answer(f, "ec2:DescribeNatGateways", f.gateways, in.NextToken)
		return &ec2.DescribeNatGatewaysOutput{NatGateways: page, NextToken: next}, err
	}
	c.Endpoints = func(_ context.Context, in *ec2.DescribeVpcEndpointsInput, _ ...func(*ec2.Options)) (*ec2.DescribeVpcEndpointsOutput, error) {
		page, next, err := answer(f, actionEndpoints, f.endpoints, in.NextToken)
		return &ec2.DescribeVpcEndpointsOutput{VpcEndpoints: page, NextToken: next}, err
	}
	c.Services = func(_ context.Context, in *ec2.DescribeVpcEndpointServicesInput, _ ...func(*ec2.Options)) (
		*ec2.DescribeVpcEndpointServicesOutput, error,
	) {
		page, next, err := answer(f, actionServices, f.services, in.NextToken)
		return &ec2.DescribeVpcEndpointServicesOutput{ServiceDetails: page, NextToken: next}, err
	}
	c.PrefixLists = func(_ context.Context, in *ec2.DescribeManagedPrefixListsInput, _ ...func(*ec2.Options)) (
		*ec2.DescribeManagedPrefixListsOutput, error,
	) {
		page, next, err := answer(f, "ec2:DescribeManagedPrefixLists", f.lists, in.NextToken)
		return &ec2.DescribeManagedPrefixListsOutput{PrefixLists: page, NextToken: next}, err
	}
	c.Groups = func(_ context.Context, in *ec2.DescribeSecurityGroupsInput, _ ...func(*ec2.Options)) (*ec2.DescribeSecurityGroupsOutput, error) {
		wanted := in.Filters[0].Values
		if len(wanted) > 200 {
			return nil, errors.New("a filter takes 200 values")
		}
		var matching []ec2types.SecurityGroup
		for _, g := range f.groups {
			if slices.Contains(wanted, *g.GroupId) {
				matching = append(matching, g)
			}
		}
		page, next, err := answer(f, actionSecurityGroups, matching, in.NextToken)
		return &ec2.DescribeSecurityGroupsOutput{SecurityGroups: page, NextToken: next}, err
	}
}

func (f *fakes) addCaches(c *Clients) {
	c.ReplicationGroups = func(_ context.Context, in *elasticache.DescribeReplicationGroupsInput, _ ...func(*elasticache.Options)) (
		*elasticache.DescribeReplicationGroupsOutput, error,
	) {
		page, next, err := answer(f, actionGroups, f.caches, in.Marker)
		return &elasticache.DescribeReplicationGroupsOutput{ReplicationGroups: page, Marker: next}, err
	}
	c.CacheClusters = func(_ context.Context, in *elasticache.DescribeCacheClustersInput, _ ...func(*elasticache.Options)) (
		*elasticache.DescribeCacheClustersOutput, error,
	) {
		page, next, err := answer(f, actionCaches, f.members, in.Marker)
		return &elasticache.DescribeCacheClustersOutput{CacheClusters: page, Marker: next}, err
	}
	c.ServerlessCaches = func(_ context.Context, in *elasticache.DescribeServerlessCachesInput, _ ...func(*elasticache.Options)) (
		*elasticache.DescribeServerlessCachesOutput, error,
	) {
		page, next, err := answer(f, actionServerless, f.serverless, in.NextToken)
		return &elasticache.DescribeServerlessCachesOutput{ServerlessCaches: page, NextToken: next}, err
	}
}

// many is an account with 250 databases, each with a group of its own, and three of everything else.
func many() *fakes {
	f := new(fakes)
	for i := range 250 {
		group := fmt.Sprintf("sg-%03d", i)
		f.groups = append(f.groups, ec2types.SecurityGroup{GroupId: &group, GroupName: aws.String("db"), VpcId: aws.String("vpc-0")})
		f.instances = append(f.instances, rdstypes.DBInstance{
			DBInstanceIdentifier: aws.String(fmt.Sprintf("db-%03d", i)), Engine: aws.String("postgres"), DBSubnetGroup: &rdstypes.DBSubnetGroup{VpcId: aws.String("vpc-0")},
			VpcSecurityGroups: []rdstypes.VpcSecurityGroupMembership{{VpcSecurityGroupId: &group}},
		})
	}
	for i := range 3 {
		n := strconv.Itoa(i)
		f.vpcs = append(f.vpcs, ec2types.Vpc{VpcId: aws.String("vpc-" + n), CidrBlock: aws.String("10." + n + ".0.0/16"), OwnerId: aws.String("210987654321")})
		f.subnets = append(f.subnets, ec2types.Subnet{
			SubnetId: aws.String("subnet-" + n), VpcId: aws.String("vpc-0"), AvailabilityZone: aws.String(region + "a"), CidrBlock: aws.String("10.0." + n + ".0/24"),
			AvailableIpAddressCount: aws.Int32(100), OwnerId: aws.String("210987654321"),
		})
		f.tables = append(f.tables, ec2types.RouteTable{
			RouteTableId: aws.String("rtb-" + n), VpcId: aws.String("vpc-0"),
			Associations: []ec2types.RouteTableAssociation{{SubnetId: aws.String("subnet-" + n)}},
			Routes:       []ec2types.Route{{DestinationCidrBlock: aws.String("0.0.0.0/0"), NatGatewayId: aws.String("nat-" + n)}},
		})
		f.endpoints = append(f.endpoints, ec2types.VpcEndpoint{
			VpcEndpointId: aws.String("vpce-" + n), VpcId: aws.String("vpc-0"), ServiceName: aws.String("com.amazonaws." + region + ".kms"), State: "available",
			Tags: []ec2types.Tag{{Key: aws.String("aws:cloudformation:stack-name"), Value: aws.String("network")}},
		})
		f.services = append(f.services, ec2types.ServiceDetail{ServiceName: aws.String("com.amazonaws." + region + ".kms"), AvailabilityZones: []string{"z" + n}})
		f.lists = append(f.lists, ec2types.ManagedPrefixList{PrefixListId: aws.String("pl-" + n), PrefixListName: aws.String("com.amazonaws." + region + ".s" + strconv.Itoa(3-i))})
		f.clusters = append(f.clusters, rdstypes.DBCluster{DBClusterIdentifier: aws.String("cluster-" + n), Engine: aws.String("aurora-mysql")})
		f.proxies = append(f.proxies, rdstypes.DBProxy{
			DBProxyName: aws.String("Proxy-" + n), EngineFamily: aws.String("POSTGRESQL"), VpcId: aws.String("vpc-0"), VpcSecurityGroupIds: []string{"sg-00" + n},
			Endpoint: aws.String("proxy-" + n + ".proxy-abcdefghij12.eu-central-1.rds.amazonaws.com"),
		})
		f.caches = append(f.caches, cachetypes.ReplicationGroup{ReplicationGroupId: aws.String("cache-" + n)})
		f.members = append(f.members, cachetypes.CacheCluster{
			CacheClusterId: aws.String("cache-" + n + "-001"), ReplicationGroupId: aws.String("cache-" + n), Engine: aws.String("redis"),
			SecurityGroups: []cachetypes.SecurityGroupMembership{{SecurityGroupId: aws.String("sg-00" + n)}}, PreferredAvailabilityZone: aws.String(region + "c"),
		})
		f.serverless = append(f.serverless, cachetypes.ServerlessCache{
			ServerlessCacheName: aws.String("less-" + n), Engine: aws.String("valkey"), SecurityGroupIds: []string{"sg-00" + n},
			Endpoint:       &cachetypes.Endpoint{Address: aws.String("less-" + n), Port: aws.Int32(6379)},
			ReaderEndpoint: &cachetypes.Endpoint{Address: aws.String("less-" + n), Port: aws.Int32(6380)},
		})
	}
	f.endpoints = append(f.endpoints, ec2types.VpcEndpoint{VpcEndpointId: aws.String("vpce-9"), VpcId: aws.String("vpc-0"), State: ec2types.StateDeleting})
	f.vpcs[0].CidrBlockAssociationSet = []ec2types.VpcCidrBlockAssociation{
		{CidrBlock: aws.String("10.0.0.0/16")},
		{CidrBlock: aws.String("100.64.0.0/16"), CidrBlockState: &ec2types.VpcCidrBlockState{State: ec2types.VpcCidrBlockStateCodeAssociated}},
		{CidrBlock: aws.String("100.65.0.0/16"), CidrBlockState: &ec2types.VpcCidrBlockState{State: ec2types.VpcCidrBlockStateCodeDisassociated}},
	}
	return f
}

// A security group that the caller names is looked at. One that is gone, or of another VPC, is refused with the way on; where AWS shows no
// groups, none is.
func TestGivenGroup(t *testing.T) {
	f := many()
	f.groups = append(f.groups, ec2types.SecurityGroup{GroupId: aws.String("sg-own"), GroupName: aws.String("own"), VpcId: aws.String("vpc-1")})
	l, err := Look(t.Context(), f.clients(), "sg-own", "sg-gone")
	if err != nil || len(l.Groups) != 251 {
		t.Fatalf("%v, %d groups", err, len(l.Groups))
	}
	for _, tt := range []struct{ id, vpc, want string }{
		{"sg-own", "vpc-1", ""},
		{"sg-own", "vpc-0", "own (sg-own): it is of vpc-1, and the tasks are in vpc-0"},
		{"sg-gone", "vpc-1", "sg-gone: there is none in " + l.Region},
	} {
		err := l.CheckGroup(tt.id, tt.vpc)
		if tt.want == "" && err == nil {
			continue
		}
		if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), tt.want) || !strings.Contains(fail.NextOf(err), "--security-groups") {
			t.Errorf("%s in %s: %v", tt.id, tt.vpc, err)
		}
	}
	l.Findings = []Finding{{Action: actionSecurityGroups}}
	if err := l.CheckGroup("sg-gone", "vpc-1"); err != nil {
		t.Errorf("unseen: %v", err)
	}
}

// Everything is found, on whichever page it is.
func TestLookPages(t *testing.T) {
	f := many()
	l, err := Look(t.Context(), f.clients())
	if err != nil || len(l.Findings) > 0 {
		t.Fatalf("%v, %+v", err, l.Findings)
	}
	if len(l.VPCs) != 3 || len(l.VPCs[0].Subnets) != 3 || len(l.VPCs[0].Endpoints) != 3 || len(l.Groups) != 250 || l.PrefixList != "pl-0" {
		t.Errorf("%d VPCs, %+v, %d groups, %s", len(l.VPCs), l.VPCs[0], len(l.Groups), l.PrefixList)
	}
	if e := l.VPCs[0].Endpoints[0]; e.Service != "kms" || e.Stack != "network" || !slices.Equal(l.EndpointZones["kms"], []string{"z0", "z1", "z2"}) {
		t.Errorf("%+v, %v", e, l.EndpointZones)
	}
	if l.Partition != "aws-eusc" || l.Account != "123456789012" || l.Caller != "arn:aws-eusc:iam::123456789012:user/me" {
		t.Errorf("%s, %s, %s", l.Partition, l.Account, l.Caller)
	}
	if v := l.VPCs[0]; !v.Shared || !v.Subnets[0].Shared || !slices.Equal(ranges(v.CIDRs), []string{"10.0.0.0/16", "100.64.0.0/16"}) || v.DNS != (DNS{Known: true, Support: true}) {
		t.Errorf("%+v", v)
	}
	for _, s := range l.VPCs[0].Subnets {
		if s.Way != WayNAT {
			t.Errorf("%+v", s)
		}
	}
	kinds := make(map[string]int)
	for _, d := range l.Databases {
		kind := strings.TrimRight(d.Name, "0123456789")
		kinds[kind]++
		if kind != "rds:cluster-" && d.VPC != "vpc-0" {
			t.Errorf("%+v", d)
		}
		if ports := fmt.Sprint(d.Ports); ports != map[string]string{
			"rds:db-": "[5432]", "rds:cluster-": "[3306]", "rdsproxy:proxy-": "[5432]", "cache:cache-": "[]", "cache:less-": "[6379 6380]",
		}[kind] {
			t.Errorf("%s: ports %s", d.Name, ports)
		}
	}
	if want := map[string]int{"rds:db-": 250, "rds:cluster-": 3, "rdsproxy:proxy-": 3, "cache:cache-": 3, "cache:less-": 3}; !maps.Equal(kinds, want) {
		t.Errorf("%v, want %v", kinds, want)
	}
	if got := slices.Sorted(maps.Keys(f.calls)); !slices.Equal(got, allActions()) {
		t.Errorf("Look calls %q, the actions are %q", got, allActions())
	}
}

// AWS's Service Authorization Reference knows each action.
func TestActionsExist(t *testing.T) {
	reference := iamref.New(t)
	for _, action := range allActions() {
		if !reference.Known(action) {
			t.Error(action)
		}
	}
	if err := reference.Err(); err != nil {
		t.Error(err)
	}
}

// denied is AWS's answer to a caller without a permission.
func denied(action string) error {
	return &smithy.GenericAPIError{Code: "AccessDenied", Message: "User: arn:aws:iam::123456789012:user/me is not authorized to perform: " + action +
		" because no identity-based policy allows the " + action + " action"}
}

// Without one permission, what it shows is a finding that names the action. Everything else is found.
func TestLookDenied(t *testing.T) {
	for _, action := range allActions() {
		if action == "sts:GetCallerIdentity" {
			continue
		}
		t.Run(action, func(t *testing.T) {
			f := many()
			f.fails = map[string]error{action: denied(action)}
			l, err := Look(t.Context(), f.clients())
			if err != nil || len(l.Findings) != 1 {
				t.Fatalf("%v, findings %+v", err, l.Findings)
			}
			found := l.Findings[0]
			if found.Action != action || found.What == "" || fail.KindOf(found.Err) != fail.Denied || !strings.Contains(fail.NextOf(found.Err), `"Action":"`+action+`"`) {
				t.Errorf("%+v, next %q", found, fail.NextOf(found.Err))
			}
			if len(l.Databases) < 9 {
				t.Errorf("only %d databases", len(l.Databases))
			}
		})
	}
}

// Without credentials, or after its context's end, there is no survey. A list whose pages lead nowhere ends.
func TestLookFails(t *testing.T) {
	expired := &smithy.GenericAPIError{Code: "ExpiredToken", Message: "The security token included in the request is expired"}
	for _, action := range []string{"sts:GetCallerIdentity", "ec2:DescribeSubnets"} {
		f := many()
		f.fails = map[string]error{action: expired}
		if _, err := Look(t.Context(), f.clients()); fail.KindOf(err) != fail.Credentials {
			t.Errorf("%s: %v", action, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Look(ctx, many().clients()); !errors.Is(err, context.Canceled) {
		t.Errorf("after its end: %v", err)
	}
	clients := many().clients()
	clients.Subnets = func(context.Context, *ec2.DescribeSubnetsInput, ...func(*ec2.Options)) (*ec2.DescribeSubnetsOutput, error) {
		return &ec2.DescribeSubnetsOutput{NextToken: aws.String("again")}, nil
	}
	if l, err := Look(t.Context(), clients); err != nil || len(l.Findings) != 1 || !strings.Contains(l.Findings[0].Err.Error(), "to itself") {
		t.Errorf("%v, %+v", err, l.Findings)
	}
}

// The members of a cluster tell its VPC and zones. They stand for it if the clusters are not to be seen.
func TestLookClusters(t *testing.T) {
	member := func(zone string) rdstypes.DBInstance {
		return rdstypes.DBInstance{
			DBInstanceIdentifier: aws.String("member-" + zone), DBClusterIdentifier: aws.String("Stock"), Engine: aws.String("aurora-postgresql"),
			DBSubnetGroup: &rdstypes.DBSubnetGroup{VpcId: aws.String("vpc-0")}, AvailabilityZone: aws.String(zone),
		}
	}
	f := many()
	f.instances = []rdstypes.DBInstance{member("b"), member("a"), member("b")}
	f.clusters = []rdstypes.DBCluster{{
		DBClusterIdentifier: aws.String("stock"), Engine: aws.String("aurora-postgresql"), Port: aws.Int32(5433), Endpoint: aws.String("W.example.com"),
		ReaderEndpoint: aws.String("r.example.com"), CustomEndpoints: []string{"c.example.com"},
	}}
	f.caches, f.members, f.serverless, f.proxies = nil, nil, nil, nil
	l, err := Look(t.Context(), f.clients())
	if err != nil || len(l.Databases) != 1 {
		t.Fatalf("%+v, %v", l.Databases, err)
	}
	want := "{rds:stock aurora-postgresql vpc-0 [] [{w.example.com 5433} {r.example.com 5433} {c.example.com 5433}] [5433] false [a b]}"
	if got := fmt.Sprint(l.Databases[0]); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	f.fails = map[string]error{actionClusters: denied(actionClusters)}
	l, err = Look(t.Context(), f.clients())
	if err != nil || len(l.Databases) != 3 || l.Databases[0].Name != "rds:member-a" {
		t.Errorf("%+v, %v", l.Databases, err)
	}
}

// Each kind of cache tells how it is reached.
func TestLookCaches(t *testing.T) {
	at := func(host string) *cachetypes.Endpoint {
		return &cachetypes.Endpoint{Address: &host, Port: aws.Int32(6379)}
	}
	f := many()
	f.instances, f.clusters, f.serverless, f.proxies = nil, nil, nil, nil
	f.caches = []cachetypes.ReplicationGroup{
		{ReplicationGroupId: aws.String("plain"), NodeGroups: []cachetypes.NodeGroup{{PrimaryEndpoint: at("primary"), ReaderEndpoint: at("reader")}}},
		{ReplicationGroupId: aws.String("mode"), ClusterEnabled: aws.Bool(true), ConfigurationEndpoint: at("config")},
		{ReplicationGroupId: aws.String("tls"), ClusterEnabled: aws.Bool(true), TransitEncryptionEnabled: aws.Bool(true), ConfigurationEndpoint: at("config")},
	}
	f.members = []cachetypes.CacheCluster{
		{CacheClusterId: aws.String("plain-001"), ReplicationGroupId: aws.String("plain"), CacheNodes: []cachetypes.CacheNode{{Endpoint: at("node")}}},
		{CacheClusterId: aws.String("memory"), Engine: aws.String("memcached"), ConfigurationEndpoint: &cachetypes.Endpoint{Address: aws.String("m"), Port: aws.Int32(11211)}},
	}
	l, err := Look(t.Context(), f.clients())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range l.Databases {
		got = append(got, fmt.Sprint(d.Name, d.Addresses, d.ByAddress))
	}
	want := []string{
		"cache:memory[{m 11211}] false", "cache:mode[{config 6379}] true", "cache:plain[{primary 6379} {reader 6379} {node 6379}] false",
		"cache:tls[{config 6379}] false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A default route's target tells the way out. One to a gateway that is gone, and those of parts or of IPv6, are none.
func TestWayOf(t *testing.T) {
	all := aws.String("0.0.0.0/0")
	id := aws.String("some-1")
	for want, routes := range map[Way][]ec2types.Route{
		WayNone: {
			{DestinationCidrBlock: aws.String("10.0.0.0/8"), NatGatewayId: id},
			{DestinationIpv6CidrBlock: aws.String("::/0"), GatewayId: aws.String("igw-1")},
			{DestinationCidrBlock: all, NatGatewayId: id, State: ec2types.RouteStateBlackhole},
			{DestinationCidrBlock: all, GatewayId: aws.String("local")},
		},
		WayNAT:       {{DestinationCidrBlock: all, NatGatewayId: id}},
		WayInternet:  {{DestinationCidrBlock: all, GatewayId: aws.String("igw-1")}},
		WayTransit:   {{DestinationCidrBlock: all, NatGatewayId: aws.String("nat-private")}, {DestinationCidrBlock: all, TransitGatewayId: id}, {DestinationCidrBlock: all, CoreNetworkArn: id}, {DestinationCidrBlock: all, GatewayId: aws.String("vgw-1")}},
		WayAppliance: {{DestinationCidrBlock: all, InstanceId: id}, {DestinationCidrBlock: all, NetworkInterfaceId: id}, {DestinationCidrBlock: all, GatewayId: aws.String("vpce-1")}},
	} {
		for _, route := range routes {
			if got := WayOf(ec2types.RouteTable{Routes: []ec2types.Route{route}}, []string{"nat-private"}); got != want {
				t.Errorf("%+v: %s, want %s", route, got, want)
			}
		}
	}
}

// A subnet without a route table of its own has the VPC's main one, and no other VPC's.
func TestTableOf(t *testing.T) {
	subnet := ec2types.Subnet{SubnetId: aws.String("subnet-1"), VpcId: aws.String("vpc-1")}
	table := func(id, vpc, subnet string) ec2types.RouteTable {
		a := ec2types.RouteTableAssociation{SubnetId: &subnet}
		if subnet == "" {
			a = ec2types.RouteTableAssociation{Main: aws.Bool(true)}
		}
		return ec2types.RouteTable{RouteTableId: &id, VpcId: &vpc, Associations: []ec2types.RouteTableAssociation{a}}
	}
	main, other, own := table("main", "vpc-1", ""), table("other", "vpc-2", ""), table("own", "vpc-1", "subnet-1")
	for want, tables := range map[string][]ec2types.RouteTable{"main": {other, main, table("two", "vpc-1", "subnet-2")}, "own": {main, own, other}, "": {other}} {
		if got, ok := TableOf(tables, subnet); aws.ToString(got.RouteTableId) != want || ok != (want != "") {
			t.Errorf("%s, want %s", aws.ToString(got.RouteTableId), want)
		}
	}
}

// Of a group's rules those count that let TCP in.
func TestGroupAdmits(t *testing.T) {
	permission := func(protocol string, from, to int32) ec2types.IpPermission {
		p := ec2types.IpPermission{IpProtocol: &protocol, FromPort: &from, ToPort: &to, IpRanges: []ec2types.IpRange{{CidrIp: aws.String("10.0.0.0/16")}}}
		if protocol == "-1" {
			p.FromPort, p.ToPort = nil, nil
		}
		return p
	}
	nameless := ec2types.IpPermission{
		IpProtocol: aws.String("tcp"), FromPort: aws.Int32(5432), ToPort: aws.Int32(5432), UserIdGroupPairs: []ec2types.UserIdGroupPair{{GroupName: aws.String("old")}},
	}
	for _, tt := range []struct {
		permission ec2types.IpPermission
		from       string
		want       bool
	}{
		{permission("tcp", 5432, 5432), "10.0.1.0/24", true},
		{permission("tcp", 5000, 6000), "10.0.0.0/16", true},
		{permission("6", 5432, 5432), "10.0.1.0/24", true},
		{permission("-1", 0, 0), "10.0.1.0/24", true},
		{permission("udp", 5432, 5432), "10.0.1.0/24", false},
		{permission("tcp", 5433, 6000), "10.0.1.0/24", false},
		{permission("tcp", 5432, 5432), "10.0.0.0/8", false},
		{permission("tcp", 5432, 5432), "10.1.0.0/24", false},
		{nameless, "10.0.0.0/16", false},
	} {
		g := toGroup(ec2types.SecurityGroup{IpPermissions: []ec2types.IpPermission{tt.permission}})
		if got := g.admits(5432, prefix(tt.from), ""); got != tt.want {
			t.Errorf("%+v from %s: %v", g.Rules, tt.from, got)
		}
	}
}

// allActions are the IAM actions of all calls, sorted.
func allActions() []string {
	return []string{
		"ec2:DescribeManagedPrefixLists", "ec2:DescribeNatGateways", "ec2:DescribeRouteTables", actionSecurityGroups, "ec2:DescribeSubnets", "ec2:DescribeVpcAttribute",
		actionServices, actionEndpoints, "ec2:DescribeVpcs",
		actionCaches, actionGroups, actionServerless,
		actionClusters, actionInstances, actionProxies,
		"sts:GetCallerIdentity",
	}
}
