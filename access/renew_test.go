package access

import (
	"context"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// oneTask is an ECS that describes one task.
type oneTask struct {
	bastions.ECSAPI // others are not called

	task ecstypes.Task
}

func (f *oneTask) DescribeTasks(context.Context, *ecs.DescribeTasksInput, ...func(*ecs.Options)) (
	*ecs.DescribeTasksOutput, error,
) {
	return &ecs.DescribeTasksOutput{Tasks: []ecstypes.Task{f.task}}, nil
}

const taskAccount = "arn:aws:ecs:eu-central-1:000000000000:"

// accessToTask is the way to a bastion's task, which runs and can be entered until change has changed it.
func accessToTask(t *testing.T, change func(*ecstypes.Task)) *admission {
	a := testAccess(t, Settings{})
	owner := bastions.NewOwner("arn:aws:sts::000000000000:assumed-role/Dev/jo", "AROAX:jo")
	task := ecstypes.Task{
		TaskArn: aws.String(taskAccount + "task/bastion/1"), ClusterArn: aws.String(taskAccount + "cluster/bastion"),
		TaskDefinitionArn: aws.String(taskAccount + "task-definition/bastion:1"), StartedBy: aws.String(owner.StartedBy),
		LaunchType: ecstypes.LaunchTypeFargate, LastStatus: aws.String("RUNNING"), EnableExecuteCommand: true,
		Tags: []ecstypes.Tag{{Key: aws.String("bastion:owner"), Value: aws.String(owner.UserID)}},
		Containers: []ecstypes.Container{{
			Name: aws.String("bastion"), RuntimeId: aws.String("1-1"), LastStatus: aws.String("RUNNING"),
			ManagedAgents: []ecstypes.ManagedAgent{{Name: ecstypes.ManagedAgentNameExecuteCommandAgent, LastStatus: aws.String("RUNNING")}},
		}},
	}
	change(&task)
	a.manager = bastions.New(bastions.Config{ECS: &oneTask{task: task}})
	return &admission{
		access: a, bastion: bastions.Bastion{TaskARN: *task.TaskArn, TaskID: "1", RuntimeID: "1-1"},
		spec: bastions.Spec{Cluster: "bastion", TaskDefinition: "bastion:1", Subnets: []string{"subnet-a"}, Owner: owner},
	}
}

// A task that will not be entered again is as good as one that has stopped: nobody waits for it.
func TestCheckGone(t *testing.T) {
	for want, change := range map[string]func(*ecstypes.Task){
		"":                              func(*ecstypes.Task) {},
		"the task has stopped: idle":    func(t *ecstypes.Task) { t.LastStatus, t.StoppedReason = aws.String("STOPPED"), aws.String("idle") },
		"the task has stopped: DEPROVI": func(t *ecstypes.Task) { t.LastStatus = aws.String("DEPROVISIONING") },
		"its container was restarted":   func(t *ecstypes.Task) { t.Containers[0].RuntimeId = aws.String("1-2") },
		"without ECS Exec":              func(t *ecstypes.Task) { t.EnableExecuteCommand = false },
		"its exec agent has stopped: no": func(t *ecstypes.Task) {
			t.Containers[0].ManagedAgents[0].LastStatus, t.Containers[0].ManagedAgents[0].Reason = aws.String("STOPPED"), aws.String("no")
		},
		"belongs to AROAX:mallory": func(t *ecstypes.Task) { t.Tags[0].Value = aws.String("AROAX:mallory") },
	} {
		err := accessToTask(t, change).checkGone(t.Context())
		if isGone(err) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	starting := func(t *ecstypes.Task) { t.Containers[0].ManagedAgents[0].LastStatus = aws.String("PENDING") }
	if err := accessToTask(t, starting).checkGone(t.Context()); err != nil {
		t.Errorf("while it starts: %v", err)
	}
}

// TestRenewLooksAgain: no grant is renewed at a task that is not the user's any more, or that never was.
func TestRenewLooksAgain(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*ecstypes.Task)
		want   string
	}{
		"tag of another": {
			func(t *ecstypes.Task) { t.Tags[0].Value = aws.String("AROAX:mallory") }, "belongs to AROAX:mallory",
		},
		"no tag":         {func(t *ecstypes.Task) { t.Tags = nil }, "has no tag bastion:owner"},
		"another family": {func(t *ecstypes.Task) { t.TaskDefinitionArn = aws.String(taskAccount + "task-definition/x:1") }, "of task definition x"},
		"overrides": {func(t *ecstypes.Task) {
			t.Overrides = &ecstypes.TaskOverride{ContainerOverrides: []ecstypes.ContainerOverride{{
				Name: aws.String("bastion"), Command: []string{"x"},
			}}}
		}, "has overrides in container bastion"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := accessToTask(t, tt.change).renew()
			if err == nil || fail.KindOf(err) != fail.NoTarget || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}
