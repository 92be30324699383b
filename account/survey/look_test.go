package survey

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	cfntypes "github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/elasticache"
	"github.com/aws/aws-sdk-go-v2/service/rds"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/e2e/rig"
)

const region = "eu-central-1"

// world builds an account on moto's server.
type world struct {
	t      *testing.T
	config aws.Config
	ec2    *ec2.Client
}

func newWorld(t *testing.T) *world {
	t.Helper()
	moto := rig.Moto(t)
	config := aws.Config{
		Region: region, BaseEndpoint: &moto, Retryer: rig.MotoRetryer, HTTPClient: rig.MotoClient(t),
		Credentials: credentials.NewStaticCredentialsProvider("madeup", "madeup", ""),
	}
	return &world{t: t, config: config, ec2: ec2.NewFromConfig(config)}
}

// must returns what a call has made for a test.
func must[T any](out T, err error) T {
	if err != nil {
		panic(err)
	}
	return out
}

func named(kind ec2types.ResourceType, name string) []ec2types.TagSpecification {
	return []ec2types.TagSpecification{{ResourceType: kind, Tags: []ec2types.Tag{{Key: aws.String("Name"), Value: &name}}}}
}

func (w *world) vpc(name, cidr string) string {
	w.t.Helper()
	id := must(w.ec2.CreateVpc(w.t.Context(), &ec2.CreateVpcInput{CidrBlock: &cidr, TagSpecifications: named(ec2types.ResourceTypeVpc, name)})).Vpc.VpcId
	must(w.ec2.ModifyVpcAttribute(w.t.Context(), &ec2.ModifyVpcAttributeInput{
		VpcId: id, EnableDnsHostnames: &ec2types.AttributeBooleanValue{Value: aws.Bool(true)},
	}))
	return *id
}

func (w *world) subnet(vpc, name, cidr, zone string) string {
	w.t.Helper()
	return *must(w.ec2.CreateSubnet(w.t.Context(), &ec2.CreateSubnetInput{
		VpcId: &vpc, CidrBlock: &cidr, AvailabilityZone: aws.String(region + zone), TagSpecifications: named(ec2types.ResourceTypeSubnet, name),
	})).Subnet.SubnetId
}

// table gives subnets a route table, with a default route if there is a target for one.
func (w *world) table(vpc string, route *ec2.CreateRouteInput, subnets ...string) string {
	w.t.Helper()
	id := must(w.ec2.CreateRouteTable(w.t.Context(), &ec2.CreateRouteTableInput{VpcId: &vpc})).RouteTable.RouteTableId
	if route != nil {
		route.RouteTableId, route.DestinationCidrBlock = id, aws.String("0.0.0.0/0")
		must(w.ec2.CreateRoute(w.t.Context(), route))
	}
	for _, s := range subnets {
		must(w.ec2.AssociateRouteTable(w.t.Context(), &ec2.AssociateRouteTableInput{RouteTableId: id, SubnetId: &s}))
	}
	return *id
}

func (w *world) group(vpc, name string, rules ...ec2types.IpPermission) string {
	w.t.Helper()
	id := must(w.ec2.CreateSecurityGroup(w.t.Context(), &ec2.CreateSecurityGroupInput{VpcId: &vpc, GroupName: &name, Description: &name})).GroupId
	if len(rules) > 0 {
		must(w.ec2.AuthorizeSecurityGroupIngress(w.t.Context(), &ec2.AuthorizeSecurityGroupIngressInput{GroupId: id, IpPermissions: rules}))
	}
	return *id
}

func tcp(port int32, cidr string) ec2types.IpPermission {
	return ec2types.IpPermission{IpProtocol: aws.String("tcp"), FromPort: &port, ToPort: &port, IpRanges: []ec2types.IpRange{{CidrIp: &cidr}}}
}

// data makes a VPC with a public subnet, two private ones by a NAT gateway, one without a way out, two endpoints and two databases.
func (w *world) data(ctx context.Context) (vpc, one, two string) {
	w.t.Helper()
	vpc = w.vpc("data\u202e", "10.0.0.0/16")
	must(w.ec2.AssociateVpcCidrBlock(ctx, &ec2.AssociateVpcCidrBlockInput{VpcId: &vpc, CidrBlock: aws.String("100.64.0.0/16")}))
	public := w.subnet(vpc, "public", "10.0.0.0/24", "a")
	one, two = w.subnet(vpc, "one", "10.0.1.0/24", "a"), w.subnet(vpc, "two", "100.64.1.0/24", "b")
	w.subnet(vpc, "lonely", "10.0.3.0/24", "c")
	gateway := must(w.ec2.CreateInternetGateway(ctx, &ec2.CreateInternetGatewayInput{})).InternetGateway.InternetGatewayId
	must(w.ec2.AttachInternetGateway(ctx, &ec2.AttachInternetGatewayInput{InternetGatewayId: gateway, VpcId: &vpc}))
	w.table(vpc, &ec2.CreateRouteInput{GatewayId: gateway}, public)
	nat := must(w.ec2.CreateNatGateway(ctx, &ec2.CreateNatGatewayInput{SubnetId: &public})).NatGateway.NatGatewayId
	table := w.table(vpc, &ec2.CreateRouteInput{NatGatewayId: nat}, one, two)

	group := w.group(vpc, "endpoints", tcp(443, "10.0.0.0/8"), tcp(443, "100.64.0.0/10"))
	for service, in := range map[string]*ec2.CreateVpcEndpointInput{
		"ssmmessages": {VpcEndpointType: ec2types.VpcEndpointTypeInterface, SubnetIds: []string{one}, SecurityGroupIds: []string{group}},
		"s3":          {VpcEndpointType: ec2types.VpcEndpointTypeGateway, RouteTableIds: []string{table}},
	} {
		in.VpcId, in.ServiceName, in.PrivateDnsEnabled = &vpc, aws.String("com.amazonaws."+region+"."+service), aws.Bool(service != "s3")
		must(w.ec2.CreateVpcEndpoint(ctx, in))
	}

	databases := rds.NewFromConfig(w.config)
	orders := w.group(vpc, "orders", tcp(5433, "10.0.1.0/24"))
	must(databases.CreateDBSubnetGroup(ctx, &rds.CreateDBSubnetGroupInput{
		DBSubnetGroupName: aws.String("data"), DBSubnetGroupDescription: aws.String("data"), SubnetIds: []string{one, two},
	}))
	must(databases.CreateDBInstance(ctx, &rds.CreateDBInstanceInput{
		DBInstanceIdentifier: aws.String("Orders"), DBInstanceClass: aws.String("db.t4g.micro"), Engine: aws.String("postgres"), Port: aws.Int32(5433),
		DBSubnetGroupName: aws.String("data"), VpcSecurityGroupIds: []string{orders}, AvailabilityZone: aws.String(region + "b"),
		MasterUsername: aws.String("u"), MasterUserPassword: aws.String("password"), AllocatedStorage: aws.Int32(20),
	}))
	must(databases.CreateDBCluster(ctx, &rds.CreateDBClusterInput{
		DBClusterIdentifier: aws.String("stock"), Engine: aws.String("aurora-mysql"), MasterUsername: aws.String("u"),
		MasterUserPassword: aws.String("password"), DBSubnetGroupName: aws.String("data"), VpcSecurityGroupIds: []string{orders},
	}))
	return vpc, one, two
}

// Look finds what was made beside the VPC that each account has. Choose takes the VPC with the databases, and its subnets with NAT.
func TestLookOnMoto(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	data, one, two := w.data(ctx)
	other := w.vpc("other", "10.1.0.0/16")
	w.subnet(other, "other", "10.1.0.0/24", "a")
	must(elasticache.NewFromConfig(w.config).CreateReplicationGroup(ctx, &elasticache.CreateReplicationGroupInput{
		ReplicationGroupId: aws.String("sessions"), ReplicationGroupDescription: aws.String("sessions"), Engine: aws.String("redis"),
	}))
	l, err := Look(ctx, Bind(w.config))
	if err != nil {
		t.Fatal(err)
	}
	if l.Region != region || l.Account != "123456789012" || l.Partition != "aws" || len(l.VPCs) != 3 || !strings.HasPrefix(l.PrefixList, "pl-") {
		t.Errorf("%+v", l)
	}
	for _, f := range l.Findings { // moto 5.2.1 knows no serverless caches
		if f.Action != "elasticache:DescribeServerlessCaches" {
			t.Errorf("%s: %v", f.Action, f.Err)
		}
	}
	for _, service := range account.EndpointServices {
		if zones := l.EndpointZones[service]; service != "s3" && !slices.Contains(zones, region+"b") {
			t.Errorf("%s in the zones %q", service, zones)
		}
	}
	vpc := l.VPCs[slices.IndexFunc(l.VPCs, func(v VPC) bool { return v.ID == data })]
	if want := []string{"10.0.0.0/16", "100.64.0.0/16"}; vpc.Name != "data?" || vpc.Default || vpc.Shared || !slices.Equal(ranges(vpc.CIDRs), want) ||
		vpc.DNS != (DNS{true, true, true}) {
		t.Errorf("%+v", vpc)
	}
	ways := map[string]Way{"public": WayInternet, "one": WayNAT, "two": WayNAT, "lonely": WayNone}
	for _, s := range vpc.Subnets {
		if s.Way != ways[s.Name] || s.Free < 200 || s.ZoneID == "" || s.RouteTable == "" || s.Shared || !s.CIDR.IsValid() {
			t.Errorf("%+v, want the way %s", s, ways[s.Name])
		}
		delete(ways, s.Name)
	}
	if len(ways) > 0 || len(vpc.Endpoints) != 2 {
		t.Errorf("not found: %v; endpoints %+v", ways, vpc.Endpoints)
	}
	for _, e := range vpc.Endpoints {
		gateway := e.Service == "s3" && e.Gateway && len(e.RouteTables) == 1
		if !gateway && (e.Service != "ssmmessages" || e.Gateway || !e.PrivateDNS || len(e.Groups) != 1) {
			t.Errorf("%+v", e)
		}
	}
	var found []string
	for _, d := range l.Databases {
		found = append(found, fmt.Sprint(d.Name, d.Ports, d.Zones, d.VPC == data, len(d.Groups), len(d.Addresses)))
	}
	if want := []string{"cache:sessions[6379] [] false 0 1", "rds:orders[5433] [eu-central-1b] true 1 1", "rds:stock[3306] [] true 1 2"}; !slices.Equal(found, want) {
		t.Errorf("databases %q, want %q", found, want)
	}
	c, err := Choose(l, Answers{})
	if err != nil {
		t.Fatal(err)
	}
	if in := c.Inputs; in.VPC != data || !slices.Equal(in.Subnets, []string{one, two}) || in.Endpoints.Make || len(c.Questions) != 1 {
		t.Errorf("%+v, questions %+v", in, c.Questions)
	}
	if _, err := account.New(c.Inputs); err != nil {
		t.Error(err)
	}
}

// A stack of chosen inputs is made as it is, without a parameter. Looked at again, the account has the same choice: what the stack has made
// counts as its own.
func TestChosenStackOnMoto(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	vpc := w.vpc("isolated", "10.2.0.0/16")
	one, two := w.subnet(vpc, "one", "10.2.1.0/24", "a"), w.subnet(vpc, "two", "10.2.2.0/24", "b")
	w.table(vpc, nil, one, two)
	must(w.ec2.CreateVpcEndpoint(ctx, &ec2.CreateVpcEndpointInput{
		VpcId: &vpc, ServiceName: aws.String("com.amazonaws." + region + ".ecr.api"), PrivateDnsEnabled: aws.Bool(true),
		VpcEndpointType: ec2types.VpcEndpointTypeInterface, SubnetIds: []string{one}, SecurityGroupIds: []string{w.group(vpc, "endpoints")},
	}))
	answers := Answers{
		VPC: "isolated", Groups: Yes,
		Inputs: account.Inputs{Key: "arn:aws:kms:" + region + ":123456789012:key/01234567-89ab-cdef-0123-456789abcdef"}, // moto refuses a new one's tags
	}
	choose := func() account.Inputs {
		c, err := Choose(must(Look(ctx, Bind(w.config))), answers)
		if err != nil {
			t.Fatal(err)
		}
		return c.Inputs
	}
	in := choose()
	if want := []string{"ssmmessages", "ecr.dkr", "logs", "kms", "s3"}; !slices.Equal(in.Endpoints.Services, want) || len(in.Ingress) != 1 {
		t.Errorf("%+v", in)
	}
	stack := must(account.New(in))
	template := string(must(stack.CloudFormation()))
	var parameters []cfntypes.Parameter // moto 5.2.1 does not divide the default of a list
	for _, p := range stack.Parameters {
		parameters = append(parameters, cfntypes.Parameter{ParameterKey: &p.Name, ParameterValue: &p.Default})
	}
	must(cloudformation.NewFromConfig(w.config).CreateStack(ctx, &cloudformation.CreateStackInput{
		StackName: aws.String("bastion"), TemplateBody: &template, Parameters: parameters, Capabilities: []cfntypes.Capability{cfntypes.CapabilityCapabilityIam},
	}))
	l := must(Look(ctx, Bind(w.config)))
	found := l.VPCs[slices.IndexFunc(l.VPCs, func(v VPC) bool { return v.ID == vpc })].Endpoints
	if own := slices.DeleteFunc(slices.Clone(found), func(e Endpoint) bool { return e.Stack != "bastion" }); len(found) != 6 || len(own) != 5 {
		t.Errorf("%d endpoints, %d of the stack: %+v", len(found), len(own), found)
	}
	if again := choose(); !reflect.DeepEqual(again, in) {
		t.Errorf("chosen again: %+v\nbefore: %+v", again, in)
	}
}
