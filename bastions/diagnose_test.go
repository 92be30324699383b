package bastions

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/smithy-go"
)

func TestDiagnose(t *testing.T) {
	const role = "arn:aws:iam::000000000000:role/bastion-task"
	definition := func(change func(*types.TaskDefinition, *types.ContainerDefinition)) *types.TaskDefinition {
		d := &types.TaskDefinition{
			TaskRoleArn:          aws.String(role),
			ContainerDefinitions: []types.ContainerDefinition{{Name: aws.String("log")}, {Name: aws.String("bastion")}},
		}
		if change != nil {
			change(d, &d.ContainerDefinitions[1])
		}
		return d
	}
	mounts := func(paths ...string) []types.MountPoint {
		var all []types.MountPoint
		for _, p := range paths {
			path, readonly := strings.CutSuffix(p, ":ro")
			all = append(all, types.MountPoint{ContainerPath: aws.String(path), ReadOnly: aws.Bool(readonly)})
		}
		return all
	}
	network := []string{
		"may not reach ssmmessages.eu-central-1.amazonaws.com:443 from subnet-a",
		"task role bastion-task may lack",
	}
	for _, tt := range []struct {
		name       string
		task       func(*fakeTask)
		definition *types.TaskDefinition
		denied     string
		want       []string // a part of each problem
	}{
		{name: "nothing to see", definition: definition(nil), want: network},
		{
			name: "stopped",
			task: func(t *fakeTask) { stops("", "went away")(&t.Task) }, definition: definition(nil),
			want: []string{"the task has stopped (went away)"},
		},
		{
			name: "exec disabled",
			task: func(t *fakeTask) { t.EnableExecuteCommand = false }, definition: definition(nil),
			want: []string{"without ECS Exec"},
		},
		{
			name: "old platform",
			task: func(t *fakeTask) { t.PlatformVersion = aws.String("1.3.0") }, definition: definition(nil),
			want: []string{"platform version 1.3.0 is older than 1.4.0"},
		},
		{
			name:       "no role",
			definition: definition(func(d *types.TaskDefinition, _ *types.ContainerDefinition) { d.TaskRoleArn = nil }),
			want:       []string{"no task role"},
		},
		{
			name: "role by override",
			task: func(t *fakeTask) {
				t.Overrides = &types.TaskOverride{TaskRoleArn: aws.String("arn:aws:iam::0:role/path/other")}
			},
			definition: definition(func(d *types.TaskDefinition, _ *types.ContainerDefinition) { d.TaskRoleArn = nil }),
			want:       []string{"may not reach", "task role other may lack"},
		},
		{
			name: "read-only",
			definition: definition(func(_ *types.TaskDefinition, c *types.ContainerDefinition) {
				c.ReadonlyRootFilesystem = aws.Bool(true)
				c.MountPoints = mounts("/var/log/amazon", "/managed-agents:ro", "/man", "/var/lib/amazon/ssmx")
			}),
			want: []string{"cannot write to /managed-agents, /var/lib/amazon/ssm"},
		},
		{
			name: "read-only with mounts",
			definition: definition(func(_ *types.TaskDefinition, c *types.ContainerDefinition) {
				c.ReadonlyRootFilesystem = aws.Bool(true)
				c.MountPoints = mounts("/var/", "/managed-agents")
			}),
			want: network,
		},
		{
			name: "capabilities",
			definition: definition(func(_ *types.TaskDefinition, c *types.ContainerDefinition) {
				c.LinuxParameters = &types.LinuxParameters{Capabilities: &types.KernelCapabilities{Drop: []string{"ALL"}}}
			}),
			want: append(slices.Clone(network), "a capability that the container drops (ALL)"),
		},
		{
			name: "read-only elsewhere",
			definition: definition(func(d *types.TaskDefinition, _ *types.ContainerDefinition) {
				d.ContainerDefinitions[0].ReadonlyRootFilesystem = aws.Bool(true)
			}),
			want: network,
		},
		{
			name: "several",
			task: func(t *fakeTask) { t.PlatformVersion = aws.String("1.3.0") },
			definition: definition(func(d *types.TaskDefinition, c *types.ContainerDefinition) {
				d.TaskRoleArn = nil
				c.Environment = []types.KeyValuePair{
					{Name: aws.String("AWS_ACCESS_KEY_ID")},
					{Name: aws.String("AWS_SECRET_ACCESS_KEY")},
				}
			}),
			want: []string{"platform version", "no task role", "AWS_ACCESS_KEY_ID hides the task role"},
		},
		{
			name:       "definition denied",
			definition: definition(nil), denied: "DescribeTaskDefinition",
			want: []string{"may not reach", "the task role may lack"},
		},
		{
			name:       "task denied",
			definition: definition(nil), denied: "DescribeTasks",
			want: []string{"may not reach ssmmessages.eu-central-1.amazonaws.com:443", "task role bastion-task may lack"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeECS{definition: tt.definition}
				f.mine(time.Hour, nil)
				b, err := New(Config{ECS: f}).Find(t.Context(), testSpec())
				if err != nil {
					t.Fatal(err)
				}
				if tt.task != nil {
					tt.task(f.tasks[0])
				}
				f.before = func(_ context.Context, call string) error {
					if call == tt.denied {
						return &smithy.GenericAPIError{Code: "AccessDeniedException"}
					}
					return nil
				}
				found := New(Config{ECS: f}).Diagnose(t.Context(), testSpec(), *b)
				if len(found) != len(tt.want) {
					t.Fatalf("findings %q, want %q", found, tt.want)
				}
				for i, finding := range found {
					if !strings.Contains(finding.Problem, tt.want[i]) || finding.Fix == "" {
						t.Errorf("finding %q, want %q", finding, tt.want[i])
					}
				}
			})
		})
	}
}

// The names are those of the task's partition.
func TestUnreachablePartition(t *testing.T) {
	for region, want := range map[string][2]string{
		"cn-north-1":     {"ssmmessages.cn-north-1.amazonaws.com.cn:443", "com.amazonaws.cn-north-1.ssmmessages"},
		"us-gov-west-1":  {"ssmmessages.us-gov-west-1.amazonaws.com:443", "com.amazonaws.us-gov-west-1.ssmmessages"},
		"eusc-de-east-1": {"ssmmessages.eusc-de-east-1.amazonaws.eu:443", "com.amazonaws.eusc-de-east-1.ssmmessages"},
		"us-iso-east-1":  {"ssmmessages.us-iso-east-1.c2s.ic.gov:443", "com.amazonaws.us-iso-east-1.ssmmessages"},
	} {
		f := unreachable(Bastion{TaskARN: "arn:aws-x:ecs:" + region + ":000000000000:task/bastion/1"}, nil)
		if !strings.Contains(f.Problem, want[0]) || !strings.Contains(f.Fix, want[1]) {
			t.Errorf("%s: %+v", region, f)
		}
	}
}
