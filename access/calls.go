package access

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
)

// These types bind single methods instead of the services' clients. If a client becomes an interface, the linker keeps all its
// methods, because templates (urfave/cli's help) may call any method by name. EC2's client has 700. A bound method keeps only
// itself: the program becomes less than half as large, in memory too.

// call is a method of a service's client, bound to it.
type call[In, Options, Out any] func(context.Context, *In, ...func(*Options)) (*Out, error)

// The options of single calls.
type (
	ecsOption = func(*ecs.Options)
	ssmOption = func(*ssm.Options)
	kmsOption = func(*kms.Options)
	ec2Option = func(*ec2.Options)
)

// ecsCalls implements bastions.ECSAPI and sessions.ECSAPI.
type ecsCalls struct {
	list       call[ecs.ListTasksInput, ecs.Options, ecs.ListTasksOutput]
	describe   call[ecs.DescribeTasksInput, ecs.Options, ecs.DescribeTasksOutput]
	run        call[ecs.RunTaskInput, ecs.Options, ecs.RunTaskOutput]
	stop       call[ecs.StopTaskInput, ecs.Options, ecs.StopTaskOutput]
	services   call[ecs.DescribeServicesInput, ecs.Options, ecs.DescribeServicesOutput]
	definition call[ecs.DescribeTaskDefinitionInput, ecs.Options, ecs.DescribeTaskDefinitionOutput]
	execute    call[ecs.ExecuteCommandInput, ecs.Options, ecs.ExecuteCommandOutput]
}

func bindECS(c *ecs.Client) *ecsCalls {
	return &ecsCalls{
		list: c.ListTasks, describe: c.DescribeTasks, run: c.RunTask, stop: c.StopTask,
		definition: c.DescribeTaskDefinition, execute: c.ExecuteCommand, services: c.DescribeServices,
	}
}

func (c *ecsCalls) ListTasks(ctx context.Context, in *ecs.ListTasksInput, o ...ecsOption) (*ecs.ListTasksOutput, error) {
	return c.list(ctx, in, o...)
}

func (c *ecsCalls) DescribeTasks(ctx context.Context, in *ecs.DescribeTasksInput, o ...ecsOption) (*ecs.DescribeTasksOutput, error) {
	return c.describe(ctx, in, o...)
}

func (c *ecsCalls) RunTask(ctx context.Context, in *ecs.RunTaskInput, o ...ecsOption) (*ecs.RunTaskOutput, error) {
	return c.run(ctx, in, o...)
}

func (c *ecsCalls) StopTask(ctx context.Context, in *ecs.StopTaskInput, o ...ecsOption) (*ecs.StopTaskOutput, error) {
	return c.stop(ctx, in, o...)
}

func (c *ecsCalls) DescribeServices(ctx context.Context, in *ecs.DescribeServicesInput, o ...ecsOption) (
	*ecs.DescribeServicesOutput, error,
) {
	return c.services(ctx, in, o...)
}

func (c *ecsCalls) DescribeTaskDefinition(ctx context.Context, in *ecs.DescribeTaskDefinitionInput, o ...ecsOption) (
	*ecs.DescribeTaskDefinitionOutput, error,
) {
	return c.definition(ctx, in, o...)
}

func (c *ecsCalls) ExecuteCommand(ctx context.Context, in *ecs.ExecuteCommandInput, o ...ecsOption) (*ecs.ExecuteCommandOutput, error) {
	return c.execute(ctx, in, o...)
}

// ssmCalls implements sessions.SSMAPI.
type ssmCalls struct {
	start     call[ssm.StartSessionInput, ssm.Options, ssm.StartSessionOutput]
	resume    call[ssm.ResumeSessionInput, ssm.Options, ssm.ResumeSessionOutput]
	terminate call[ssm.TerminateSessionInput, ssm.Options, ssm.TerminateSessionOutput]
}

func bindSSM(c *ssm.Client) *ssmCalls {
	return &ssmCalls{start: c.StartSession, resume: c.ResumeSession, terminate: c.TerminateSession}
}

func (c *ssmCalls) StartSession(ctx context.Context, in *ssm.StartSessionInput, o ...ssmOption) (*ssm.StartSessionOutput, error) {
	return c.start(ctx, in, o...)
}

func (c *ssmCalls) ResumeSession(ctx context.Context, in *ssm.ResumeSessionInput, o ...ssmOption) (*ssm.ResumeSessionOutput, error) {
	return c.resume(ctx, in, o...)
}

func (c *ssmCalls) TerminateSession(ctx context.Context, in *ssm.TerminateSessionInput, o ...ssmOption) (
	*ssm.TerminateSessionOutput, error,
) {
	return c.terminate(ctx, in, o...)
}

// kmsCalls implements sessions.KMSAPI.
type kmsCalls struct {
	key call[kms.GenerateDataKeyInput, kms.Options, kms.GenerateDataKeyOutput]
}

func bindKMS(c *kms.Client) *kmsCalls { return &kmsCalls{key: c.GenerateDataKey} }

func (c *kmsCalls) GenerateDataKey(ctx context.Context, in *kms.GenerateDataKeyInput, o ...kmsOption) (*kms.GenerateDataKeyOutput, error) {
	return c.key(ctx, in, o...)
}

// passwordCall is a call of EC2 that is not one of package bastions.
type passwordCall = call[ec2.GetPasswordDataInput, ec2.Options, ec2.GetPasswordDataOutput]

// ec2Calls implements bastions.EC2API.
type ec2Calls struct {
	subnets    call[ec2.DescribeSubnetsInput, ec2.Options, ec2.DescribeSubnetsOutput]
	groups     call[ec2.DescribeSecurityGroupsInput, ec2.Options, ec2.DescribeSecurityGroupsOutput]
	interfaces call[ec2.DescribeNetworkInterfacesInput, ec2.Options, ec2.DescribeNetworkInterfacesOutput]
}

func bindEC2(c *ec2.Client) *ec2Calls {
	return &ec2Calls{subnets: c.DescribeSubnets, groups: c.DescribeSecurityGroups, interfaces: c.DescribeNetworkInterfaces}
}

func (c *ec2Calls) DescribeSubnets(ctx context.Context, in *ec2.DescribeSubnetsInput, o ...ec2Option) (*ec2.DescribeSubnetsOutput, error) {
	return c.subnets(ctx, in, o...)
}

func (c *ec2Calls) DescribeSecurityGroups(ctx context.Context, in *ec2.DescribeSecurityGroupsInput, o ...ec2Option) (
	*ec2.DescribeSecurityGroupsOutput, error,
) {
	return c.groups(ctx, in, o...)
}

func (c *ec2Calls) DescribeNetworkInterfaces(ctx context.Context, in *ec2.DescribeNetworkInterfacesInput,
	o ...ec2Option) (
	*ec2.DescribeNetworkInterfacesOutput, error,
) {
	return c.interfaces(ctx, in, o...)
}
