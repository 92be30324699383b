package doctor

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

// call is a method of a service's client. Single methods, and not clients, because the linker keeps all methods of a client that becomes an
// interface; see access/calls.go.
type call[In, Options, Out any] func(context.Context, *In, ...func(*Options)) (*Out, error)

// calls are the doctor's own calls to AWS. All of them only read.
type calls struct {
	identity   call[sts.GetCallerIdentityInput, sts.Options, sts.GetCallerIdentityOutput]
	clusters   call[ecs.DescribeClustersInput, ecs.Options, ecs.DescribeClustersOutput]
	definition call[ecs.DescribeTaskDefinitionInput, ecs.Options, ecs.DescribeTaskDefinitionOutput]

	subnets   call[ec2.DescribeSubnetsInput, ec2.Options, ec2.DescribeSubnetsOutput]
	groups    call[ec2.DescribeSecurityGroupsInput, ec2.Options, ec2.DescribeSecurityGroupsOutput]
	tables    call[ec2.DescribeRouteTablesInput, ec2.Options, ec2.DescribeRouteTablesOutput]
	endpoints call[ec2.DescribeVpcEndpointsInput, ec2.Options, ec2.DescribeVpcEndpointsOutput]

	simulate call[iam.SimulatePrincipalPolicyInput, iam.Options, iam.SimulatePrincipalPolicyOutput]
	dataKey  call[kms.GenerateDataKeyInput, kms.Options, kms.GenerateDataKeyOutput] // as a dry run
	document call[ssm.GetDocumentInput, ssm.Options, ssm.GetDocumentOutput]
}

func bind(cfg aws.Config) calls {
	network, containers := ec2.NewFromConfig(cfg), ecs.NewFromConfig(cfg)
	return calls{
		identity: sts.NewFromConfig(cfg).GetCallerIdentity,
		clusters: containers.DescribeClusters, definition: containers.DescribeTaskDefinition,
		subnets: network.DescribeSubnets, groups: network.DescribeSecurityGroups, tables: network.DescribeRouteTables,
		endpoints: network.DescribeVpcEndpoints,
		simulate:  iam.NewFromConfig(cfg).SimulatePrincipalPolicy, dataKey: kms.NewFromConfig(cfg).GenerateDataKey,
		document: ssm.NewFromConfig(cfg).GetDocument,
	}
}
