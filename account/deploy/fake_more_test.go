package deploy

import (
	"maps"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	logtypes "github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// The parts of the fake that are not CloudFormation's stacks: drift, tasks, logs and keys.

// run starts a task.
func (f *fake) run(arn, cluster, family string) {
	f.tasks = append(f.tasks, &fakeTask{arn: arn, cluster: cluster, family: family, desired: "RUNNING", last: "RUNNING"})
}

// runs reports whether a task keeps a cluster from being deleted.
func (f *fake) runs(cluster string) bool {
	return slices.ContainsFunc(f.tasks, func(t *fakeTask) bool { return t.cluster == cluster && t.last != "STOPPED" && t.service == "" })
}

func (f *fake) listTasks(in *ecs.ListTasksInput) (*ecs.ListTasksOutput, error) {
	if _, ok := f.things[*in.Cluster]; !ok {
		return nil, &ecstypes.ClusterNotFoundException{Message: aws.String("Cluster not found.")}
	}
	desired := string(in.DesiredStatus)
	if desired == "" {
		desired = "RUNNING"
	}
	out := &ecs.ListTasksOutput{}
	for _, t := range f.tasks {
		if t.cluster == *in.Cluster && t.desired == desired && (in.Family == nil || *in.Family == t.family) && (in.ServiceName == nil || *in.ServiceName == t.service) {
			out.TaskArns = append(out.TaskArns, t.arn)
		}
	}
	if half := len(out.TaskArns) / 2; in.NextToken == nil && half > 0 {
		out.TaskArns, out.NextToken = out.TaskArns[:half], aws.String("rest")
	} else if in.NextToken != nil {
		out.TaskArns = out.TaskArns[half:]
	}
	return out, nil
}

func (f *fake) describeTasks(in *ecs.DescribeTasksInput) (*ecs.DescribeTasksOutput, error) {
	out := &ecs.DescribeTasksOutput{}
	for _, t := range f.tasks {
		if slices.Contains(in.Tasks, t.arn) {
			out.Tasks = append(out.Tasks, ecstypes.Task{TaskArn: &t.arn, LastStatus: &t.last})
		}
	}
	return out, nil
}

func (f *fake) stopTask(in *ecs.StopTaskInput) (*ecs.StopTaskOutput, error) {
	for _, t := range f.tasks {
		if t.arn == *in.Task && t.cluster == *in.Cluster {
			if t.service != "" {
				f.t.Errorf("%s is stopped, which its service starts anew", t.arn)
			}
			t.desired, t.last = "STOPPED", "STOPPING"
			return &ecs.StopTaskOutput{}, nil
		}
	}
	return nil, &ecstypes.InvalidParameterException{Message: aws.String("The referenced task was not found.")}
}

func (f *fake) describeLogs(in *cloudwatchlogs.DescribeLogGroupsInput) (*cloudwatchlogs.DescribeLogGroupsOutput, error) {
	out := &cloudwatchlogs.DescribeLogGroupsOutput{}
	for _, name := range slices.Sorted(maps.Keys(f.things)) {
		if f.things[name] == typeLogs && strings.HasPrefix(name, *in.LogGroupNamePrefix) {
			out.LogGroups = append(out.LogGroups, logtypes.LogGroup{LogGroupName: &name})
		}
	}
	return out, nil
}

func (f *fake) describeKey(in *kms.DescribeKeyInput) (*kms.DescribeKeyOutput, error) {
	id := keyID(*in.KeyId)
	state, ok := f.things[id]
	if !ok {
		return nil, &kmstypes.NotFoundException{Message: aws.String("Key does not exist")}
	}
	m := &kmstypes.KeyMetadata{KeyId: &id, Arn: aws.String(keyARN + id), KeyState: kmstypes.KeyStateEnabled}
	switch state {
	case "deleting":
		m.KeyState = kmstypes.KeyStatePendingDeletion
	case "disabled":
		m.KeyState = kmstypes.KeyStateDisabled
	}
	return &kms.DescribeKeyOutput{KeyMetadata: m}, nil
}

func (f *fake) deleteLogs(in *cloudwatchlogs.DeleteLogGroupInput) (*cloudwatchlogs.DeleteLogGroupOutput, error) {
	if f.things[*in.LogGroupName] != typeLogs {
		return nil, &logtypes.ResourceNotFoundException{Message: aws.String("The specified log group does not exist.")}
	}
	delete(f.things, *in.LogGroupName)
	return &cloudwatchlogs.DeleteLogGroupOutput{}, nil
}

const keyARN = "arn:aws:kms:eu-central-1:000000000000:key/"

// keyID is the id of a key that is named by it or by its ARN.
func keyID(name string) string { return strings.TrimPrefix(name, keyARN) }

func (f *fake) deleteKey(in *kms.ScheduleKeyDeletionInput) (*kms.ScheduleKeyDeletionOutput, error) {
	switch id := keyID(*in.KeyId); f.things[id] {
	case "":
		return nil, &kmstypes.NotFoundException{Message: aws.String("Key does not exist")}
	case "deleting":
		return nil, &kmstypes.KMSInvalidStateException{Message: aws.String("It is pending deletion.")}
	default:
		f.things[id] = "deleting"
	}
	return &kms.ScheduleKeyDeletionOutput{}, nil
}

func (f *fake) detectDrift(in *cloudformation.DetectStackDriftInput) (*cloudformation.DetectStackDriftOutput, error) {
	if _, err := f.stack(*in.StackName); err != nil {
		return nil, err
	}
	f.detecting = 2
	return &cloudformation.DetectStackDriftOutput{StackDriftDetectionId: aws.String("drift-1")}, nil
}

func (f *fake) detectionStatus(*cloudformation.DescribeStackDriftDetectionStatusInput) (
	*cloudformation.DescribeStackDriftDetectionStatusOutput, error,
) {
	out := &cloudformation.DescribeStackDriftDetectionStatusOutput{DetectionStatus: types.StackDriftDetectionStatusDetectionInProgress}
	if f.detecting--; f.detecting < 0 {
		out.DetectionStatus = types.StackDriftDetectionStatusDetectionComplete
		if reason := f.refuse["drift"]; reason != "" {
			out.DetectionStatus, out.DetectionStatusReason = types.StackDriftDetectionStatusDetectionFailed, &reason
		}
	}
	return out, nil
}

func (f *fake) resourceDrifts(in *cloudformation.DescribeStackResourceDriftsInput) (*cloudformation.DescribeStackResourceDriftsOutput, error) {
	out := &cloudformation.DescribeStackResourceDriftsOutput{}
	for i, d := range f.drifts {
		if !slices.Contains(in.StackResourceDriftStatusFilters, d.StackResourceDriftStatus) {
			continue
		}
		if in.NextToken == nil && i > 0 { // a page for each
			out.NextToken = aws.String("rest")
			break
		}
		if in.NextToken == nil || i > 0 {
			out.StackResourceDrifts = append(out.StackResourceDrifts, d)
		}
	}
	return out, nil
}
