package survey

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/elasticache"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// call is a method of a service's client. Single methods, and not clients, because the linker keeps all methods of a client that becomes an
// interface; see access/calls.go.
type call[In, Options, Out any] func(context.Context, *In, ...func(*Options)) (*Out, error)

// Clients are the calls that Look makes. All of them only read.
type Clients struct {
	Region string

	Identity call[sts.GetCallerIdentityInput, sts.Options, sts.GetCallerIdentityOutput]

	VPCs         call[ec2.DescribeVpcsInput, ec2.Options, ec2.DescribeVpcsOutput]
	VPCAttribute call[ec2.DescribeVpcAttributeInput, ec2.Options, ec2.DescribeVpcAttributeOutput]
	Subnets      call[ec2.DescribeSubnetsInput, ec2.Options, ec2.DescribeSubnetsOutput]
	RouteTables  call[ec2.DescribeRouteTablesInput, ec2.Options, ec2.DescribeRouteTablesOutput]
	NATGateways  call[ec2.DescribeNatGatewaysInput, ec2.Options, ec2.DescribeNatGatewaysOutput]
	Endpoints    call[ec2.DescribeVpcEndpointsInput, ec2.Options, ec2.DescribeVpcEndpointsOutput]
	Services     call[ec2.DescribeVpcEndpointServicesInput, ec2.Options, ec2.DescribeVpcEndpointServicesOutput]
	PrefixLists  call[ec2.DescribeManagedPrefixListsInput, ec2.Options, ec2.DescribeManagedPrefixListsOutput]
	Groups       call[ec2.DescribeSecurityGroupsInput, ec2.Options, ec2.DescribeSecurityGroupsOutput]

	Instances call[rds.DescribeDBInstancesInput, rds.Options, rds.DescribeDBInstancesOutput]
	Clusters  call[rds.DescribeDBClustersInput, rds.Options, rds.DescribeDBClustersOutput]
	Proxies   call[rds.DescribeDBProxiesInput, rds.Options, rds.DescribeDBProxiesOutput]

	ReplicationGroups call[elasticache.DescribeReplicationGroupsInput, elasticache.Options, elasticache.DescribeReplicationGroupsOutput]
	CacheClusters     call[elasticache.DescribeCacheClustersInput, elasticache.Options, elasticache.DescribeCacheClustersOutput]
	ServerlessCaches  call[elasticache.DescribeServerlessCachesInput, elasticache.Options, elasticache.DescribeServerlessCachesOutput]
}

// Bind returns the calls by an AWS configuration.
func Bind(cfg aws.Config) Clients {
	network, databases, caches := ec2.NewFromConfig(cfg), rds.NewFromConfig(cfg), elasticache.NewFromConfig(cfg)
	return Clients{
		Region:   cfg.Region,
		Identity: sts.NewFromConfig(cfg).GetCallerIdentity,

		VPCs: network.DescribeVpcs, VPCAttribute: network.DescribeVpcAttribute, Subnets: network.DescribeSubnets,
		RouteTables: network.DescribeRouteTables, NATGateways: network.DescribeNatGateways, Endpoints: network.DescribeVpcEndpoints,
		PrefixLists: network.DescribeManagedPrefixLists,
		Services:    network.DescribeVpcEndpointServices, Groups: network.DescribeSecurityGroups,

		Instances: databases.DescribeDBInstances, Clusters: databases.DescribeDBClusters, Proxies: databases.DescribeDBProxies,

		ReplicationGroups: caches.DescribeReplicationGroups, CacheClusters: caches.DescribeCacheClusters,
		ServerlessCaches: caches.DescribeServerlessCaches,
	}
}
