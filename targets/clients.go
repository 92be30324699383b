package targets

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/eks"
	"github.com/aws/aws-sdk-go-v2/service/elasticache"
	"github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	"github.com/aws/aws-sdk-go-v2/service/kafka"
	"github.com/aws/aws-sdk-go-v2/service/memorydb"
	"github.com/aws/aws-sdk-go-v2/service/opensearch"
	"github.com/aws/aws-sdk-go-v2/service/opensearchserverless"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/redshift"
	"github.com/aws/aws-sdk-go-v2/service/redshiftserverless"
	"github.com/aws/aws-sdk-go-v2/service/servicediscovery"
	"github.com/aws/smithy-go"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// call is a method of a service's client, bound to it. Single methods, and not clients, because the linker keeps all methods of a
// client that becomes an interface; see access/calls.go.
type call[In, Options, Out any] func(context.Context, *In, ...func(*Options)) (*Out, error)

// Clients are the calls that look targets up. A service's client is made when the first target needs it.
type Clients struct {
	rds                  func() *rdsCalls
	cache                func() *cacheCalls
	memoryDB             func() *memoryDBCalls
	redshift             func() *redshiftCalls
	redshiftServerless   func() *redshiftServerlessCalls
	openSearch           func() *openSearchCalls
	openSearchServerless func() *openSearchServerlessCalls
	kafka                func() *kafkaCalls
	eks                  func() *eksCalls
	balancers            func() *balancerCalls
	cloudMap             func() *cloudMapCalls
	ec2                  func() *ec2Calls
	ecs                  func() *ecsCalls
}

type (
	rdsCalls struct {
		instances      call[rds.DescribeDBInstancesInput, rds.Options, rds.DescribeDBInstancesOutput]
		clusters       call[rds.DescribeDBClustersInput, rds.Options, rds.DescribeDBClustersOutput]
		proxies        call[rds.DescribeDBProxiesInput, rds.Options, rds.DescribeDBProxiesOutput]
		proxyEndpoints call[rds.DescribeDBProxyEndpointsInput, rds.Options, rds.DescribeDBProxyEndpointsOutput]
	}
	cacheCalls struct {
		groups     call[elasticache.DescribeReplicationGroupsInput, elasticache.Options, elasticache.DescribeReplicationGroupsOutput]
		serverless call[elasticache.DescribeServerlessCachesInput, elasticache.Options, elasticache.DescribeServerlessCachesOutput]
		clusters   call[elasticache.DescribeCacheClustersInput, elasticache.Options, elasticache.DescribeCacheClustersOutput]
	}
	memoryDBCalls struct {
		clusters call[memorydb.DescribeClustersInput, memorydb.Options, memorydb.DescribeClustersOutput]
	}
	redshiftCalls struct {
		clusters call[redshift.DescribeClustersInput, redshift.Options, redshift.DescribeClustersOutput]
	}
	redshiftServerlessCalls struct {
		workgroup  call[redshiftserverless.GetWorkgroupInput, redshiftserverless.Options, redshiftserverless.GetWorkgroupOutput]
		workgroups call[redshiftserverless.ListWorkgroupsInput, redshiftserverless.Options, redshiftserverless.ListWorkgroupsOutput]
	}
	openSearchCalls struct {
		names   call[opensearch.ListDomainNamesInput, opensearch.Options, opensearch.ListDomainNamesOutput]
		domains call[opensearch.DescribeDomainsInput, opensearch.Options, opensearch.DescribeDomainsOutput]
	}
	openSearchServerlessCalls struct {
		collections call[opensearchserverless.ListCollectionsInput, opensearchserverless.Options, opensearchserverless.ListCollectionsOutput]
		describe    call[opensearchserverless.BatchGetCollectionInput, opensearchserverless.Options, opensearchserverless.BatchGetCollectionOutput]
		endpoints   call[opensearchserverless.ListVpcEndpointsInput, opensearchserverless.Options, opensearchserverless.ListVpcEndpointsOutput]

		describeEndpoints call[opensearchserverless.BatchGetVpcEndpointInput, opensearchserverless.Options, opensearchserverless.BatchGetVpcEndpointOutput]
	}
	kafkaCalls struct {
		clusters call[kafka.ListClustersV2Input, kafka.Options, kafka.ListClustersV2Output]
		brokers  call[kafka.GetBootstrapBrokersInput, kafka.Options, kafka.GetBootstrapBrokersOutput]
	}
	eksCalls struct {
		names   call[eks.ListClustersInput, eks.Options, eks.ListClustersOutput]
		cluster call[eks.DescribeClusterInput, eks.Options, eks.DescribeClusterOutput]
	}
	balancerCalls struct {
		balancers call[elasticloadbalancingv2.DescribeLoadBalancersInput, elasticloadbalancingv2.Options, elasticloadbalancingv2.DescribeLoadBalancersOutput]
		listeners call[elasticloadbalancingv2.DescribeListenersInput, elasticloadbalancingv2.Options, elasticloadbalancingv2.DescribeListenersOutput]
	}
	cloudMapCalls struct {
		discover   call[servicediscovery.DiscoverInstancesInput, servicediscovery.Options, servicediscovery.DiscoverInstancesOutput]
		namespaces call[servicediscovery.ListNamespacesInput, servicediscovery.Options, servicediscovery.ListNamespacesOutput]
		services   call[servicediscovery.ListServicesInput, servicediscovery.Options, servicediscovery.ListServicesOutput]
	}
	ec2Calls struct {
		instances  call[ec2.DescribeInstancesInput, ec2.Options, ec2.DescribeInstancesOutput]
		subnets    call[ec2.DescribeSubnetsInput, ec2.Options, ec2.DescribeSubnetsOutput]
		groups     call[ec2.DescribeSecurityGroupsInput, ec2.Options, ec2.DescribeSecurityGroupsOutput]
		vpcs       call[ec2.DescribeVpcsInput, ec2.Options, ec2.DescribeVpcsOutput]
		interfaces call[ec2.DescribeNetworkInterfacesInput, ec2.Options, ec2.DescribeNetworkInterfacesOutput]
	}
	ecsCalls struct {
		tasks      call[ecs.ListTasksInput, ecs.Options, ecs.ListTasksOutput]
		describe   call[ecs.DescribeTasksInput, ecs.Options, ecs.DescribeTasksOutput]
		definition call[ecs.DescribeTaskDefinitionInput, ecs.Options, ecs.DescribeTaskDefinitionOutput]
		clusters   call[ecs.ListClustersInput, ecs.Options, ecs.ListClustersOutput]
		services   call[ecs.ListServicesInput, ecs.Options, ecs.ListServicesOutput]
	}
)

// Connect returns the calls by an AWS configuration. It makes no call.
func Connect(cfg aws.Config) *Clients {
	return &Clients{
		rds: sync.OnceValue(func() *rdsCalls {
			c := rds.NewFromConfig(cfg)
			return &rdsCalls{c.DescribeDBInstances, c.DescribeDBClusters, c.DescribeDBProxies, c.DescribeDBProxyEndpoints}
		}),
		cache: sync.OnceValue(func() *cacheCalls {
			c := elasticache.NewFromConfig(cfg)
			return &cacheCalls{c.DescribeReplicationGroups, c.DescribeServerlessCaches, c.DescribeCacheClusters}
		}),
		memoryDB: sync.OnceValue(func() *memoryDBCalls {
			c := memorydb.NewFromConfig(cfg)
			return &memoryDBCalls{c.DescribeClusters}
		}),
		redshift: sync.OnceValue(func() *redshiftCalls {
			c := redshift.NewFromConfig(cfg)
			return &redshiftCalls{c.DescribeClusters}
		}),
		redshiftServerless: sync.OnceValue(func() *redshiftServerlessCalls {
			c := redshiftserverless.NewFromConfig(cfg)
			return &redshiftServerlessCalls{c.GetWorkgroup, c.ListWorkgroups}
		}),
		openSearch: sync.OnceValue(func() *openSearchCalls {
			c := opensearch.NewFromConfig(cfg)
			return &openSearchCalls{c.ListDomainNames, c.DescribeDomains}
		}),
		openSearchServerless: sync.OnceValue(func() *openSearchServerlessCalls {
			c := opensearchserverless.NewFromConfig(cfg)
			return &openSearchServerlessCalls{c.ListCollections, c.BatchGetCollection, c.ListVpcEndpoints, c.BatchGetVpcEndpoint}
		}),
		kafka: sync.OnceValue(func() *kafkaCalls {
			c := kafka.NewFromConfig(cfg)
			return &kafkaCalls{c.ListClustersV2, c.GetBootstrapBrokers}
		}),
		eks: sync.OnceValue(func() *eksCalls {
			c := eks.NewFromConfig(cfg)
			return &eksCalls{c.ListClusters, c.DescribeCluster}
		}),
		balancers: sync.OnceValue(func() *balancerCalls {
			c := elasticloadbalancingv2.NewFromConfig(cfg)
			return &balancerCalls{c.DescribeLoadBalancers, c.DescribeListeners}
		}),
		cloudMap: sync.OnceValue(func() *cloudMapCalls {
			c := servicediscovery.NewFromConfig(cfg, withoutHostPrefix)
			return &cloudMapCalls{c.DiscoverInstances, c.ListNamespaces, c.ListServices}
		}),
		ec2: sync.OnceValue(func() *ec2Calls {
			c := ec2.NewFromConfig(cfg)
			return &ec2Calls{c.DescribeInstances, c.DescribeSubnets, c.DescribeSecurityGroups, c.DescribeVpcs, c.DescribeNetworkInterfaces}
		}),
		ecs: sync.OnceValue(func() *ecsCalls {
			c := ecs.NewFromConfig(cfg)
			return &ecsCalls{c.ListTasks, c.DescribeTasks, c.DescribeTaskDefinition, c.ListClusters, c.ListServices}
		}),
	}
}

// withoutHostPrefix has DiscoverInstances call an endpoint of the user's by its own name. AWS's has a name of its own for it, with
// "data-" in front.
func withoutHostPrefix(o *servicediscovery.Options) {
	if o.BaseEndpoint == nil {
		return
	}
	o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error {
		return stack.Initialize.Add(middleware.InitializeMiddlewareFunc("WithoutHostPrefix",
			func(ctx context.Context, in middleware.InitializeInput, next middleware.InitializeHandler) (
				middleware.InitializeOutput, middleware.Metadata, error,
			) {
				return next.HandleInitialize(smithyhttp.DisableEndpointHostPrefix(ctx, true), in)
			}), middleware.Before)
	})
}

var errEndless = errors.New("AWS answers with the same page token again")

// pages makes the calls of a list and hands each page to add. in is the first page's input; token returns where an input has its
// page token, next the token of the page after a page. The first error ends it.
func pages[In, Options, Out any](ctx context.Context, call call[In, Options, Out], in *In,
	token func(*In) **string, next func(*Out) *string, add func(*Out),
) error {
	for {
		page, err := call(ctx, in)
		if err != nil {
			return err
		}
		add(page)
		after, before := next(page), *token(in)
		if aws.ToString(after) == "" { // some services end a list with an empty token
			return nil
		}
		if before != nil && *before == *after {
			return errEndless
		}
		*token(in) = after
	}
}

// eachWidth is how many of a list's calls run at once.
const eachWidth = 8

// each calls f for 0 to n-1, a few at once, and returns the first error in that order.
func each(n int, f func(int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(n, eachWidth) {
		wg.Go(func() {
			for i := range next {
				errs[i] = f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// hasCode reports whether err is AWS's answer with one of the codes.
func hasCode(err error, codes ...string) bool {
	api, ok := errors.AsType[smithy.APIError](err)
	return ok && slices.Contains(codes, api.ErrorCode())
}
