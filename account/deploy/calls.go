package deploy

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/kms"
)

// call is a method of a service's client, bound to it. The linker keeps all methods of a client that becomes an interface; see access.
type call[In, Options, Out any] func(context.Context, *In, ...func(*Options)) (*Out, error)

// cfn is a call of CloudFormation.
type cfn[In, Out any] = call[In, cloudformation.Options, Out]

// Clients are the AWS calls that a Deployer makes, in one region and account.
type Clients struct {
	Region string

	DescribeStacks         cfn[cloudformation.DescribeStacksInput, cloudformation.DescribeStacksOutput]
	DescribeStackEvents    cfn[cloudformation.DescribeStackEventsInput, cloudformation.DescribeStackEventsOutput]
	GetTemplate            cfn[cloudformation.GetTemplateInput, cloudformation.GetTemplateOutput]
	ListStacks             cfn[cloudformation.ListStacksInput, cloudformation.ListStacksOutput]
	ListStackResources     cfn[cloudformation.ListStackResourcesInput, cloudformation.ListStackResourcesOutput]
	CreateChangeSet        cfn[cloudformation.CreateChangeSetInput, cloudformation.CreateChangeSetOutput]
	DescribeChangeSet      cfn[cloudformation.DescribeChangeSetInput, cloudformation.DescribeChangeSetOutput]
	ExecuteChangeSet       cfn[cloudformation.ExecuteChangeSetInput, cloudformation.ExecuteChangeSetOutput]
	DeleteChangeSet        cfn[cloudformation.DeleteChangeSetInput, cloudformation.DeleteChangeSetOutput]
	ContinueUpdateRollback cfn[cloudformation.ContinueUpdateRollbackInput, cloudformation.ContinueUpdateRollbackOutput]
	DeleteStack            cfn[cloudformation.DeleteStackInput, cloudformation.DeleteStackOutput]

	DetectStackDrift                  cfn[cloudformation.DetectStackDriftInput, cloudformation.DetectStackDriftOutput]
	DescribeStackDriftDetectionStatus cfn[cloudformation.DescribeStackDriftDetectionStatusInput, cloudformation.DescribeStackDriftDetectionStatusOutput]
	DescribeStackResourceDrifts       cfn[cloudformation.DescribeStackResourceDriftsInput, cloudformation.DescribeStackResourceDriftsOutput]

	ListTasks     call[ecs.ListTasksInput, ecs.Options, ecs.ListTasksOutput]
	DescribeTasks call[ecs.DescribeTasksInput, ecs.Options, ecs.DescribeTasksOutput]
	StopTask      call[ecs.StopTaskInput, ecs.Options, ecs.StopTaskOutput]

	DescribeLogGroups call[cloudwatchlogs.DescribeLogGroupsInput, cloudwatchlogs.Options, cloudwatchlogs.DescribeLogGroupsOutput]
	DeleteLogGroup    call[cloudwatchlogs.DeleteLogGroupInput, cloudwatchlogs.Options, cloudwatchlogs.DeleteLogGroupOutput]

	DescribeKey         call[kms.DescribeKeyInput, kms.Options, kms.DescribeKeyOutput]
	ScheduleKeyDeletion call[kms.ScheduleKeyDeletionInput, kms.Options, kms.ScheduleKeyDeletionOutput]
}

// Bind returns the calls as cfg makes them.
func Bind(cfg aws.Config) Clients {
	stacks, tasks := cloudformation.NewFromConfig(cfg), ecs.NewFromConfig(cfg)
	logs, keys := cloudwatchlogs.NewFromConfig(cfg), kms.NewFromConfig(cfg)
	return Clients{
		Region:         cfg.Region,
		DescribeStacks: stacks.DescribeStacks, DescribeStackEvents: stacks.DescribeStackEvents, GetTemplate: stacks.GetTemplate,
		ListStacks: stacks.ListStacks, ListStackResources: stacks.ListStackResources,
		CreateChangeSet: stacks.CreateChangeSet, DescribeChangeSet: stacks.DescribeChangeSet,
		ExecuteChangeSet: stacks.ExecuteChangeSet, DeleteChangeSet: stacks.DeleteChangeSet,
		ContinueUpdateRollback: stacks.ContinueUpdateRollback, DeleteStack: stacks.DeleteStack,
		DetectStackDrift: stacks.DetectStackDrift, DescribeStackDriftDetectionStatus: stacks.DescribeStackDriftDetectionStatus,
		DescribeStackResourceDrifts: stacks.DescribeStackResourceDrifts,
		ListTasks:                   tasks.ListTasks, DescribeTasks: tasks.DescribeTasks, StopTask: tasks.StopTask,
		DescribeLogGroups: logs.DescribeLogGroups, DeleteLogGroup: logs.DeleteLogGroup,
		DescribeKey: keys.DescribeKey, ScheduleKeyDeletion: keys.ScheduleKeyDeletion,
	}
}
