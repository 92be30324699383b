package lab_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/elasticache"
	ecachetypes "github.com/aws/aws-sdk-go-v2/service/elasticache/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/opensearch"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	rdstypes "github.com/aws/aws-sdk-go-v2/service/rds/types"
	"github.com/aws/aws-sdk-go-v2/service/redshiftserverless"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/bastion-ssm/bastion/lab"
)

// runInput is a RunTask that the lab accepts.
func runInput() *ecs.RunTaskInput {
	return &ecs.RunTaskInput{
		Cluster: aws.String("bastion"), TaskDefinition: aws.String("bastion"), LaunchType: ecstypes.LaunchTypeFargate,
		EnableExecuteCommand: true, StartedBy: aws.String("bastion-me"),
		Tags: []ecstypes.Tag{{Key: aws.String("owner"), Value: aws.String("me")}},
		NetworkConfiguration: &ecstypes.NetworkConfiguration{AwsvpcConfiguration: &ecstypes.AwsVpcConfiguration{
			Subnets: []string{"subnet-0000000000000laba"}, SecurityGroups: []string{"sg-0000000000000000lab"},
			AssignPublicIp: ecstypes.AssignPublicIpDisabled,
		}},
	}
}

// run starts a task and waits until its exec agent answers.
func run(t *testing.T, l *lab.Lab) (*ecs.Client, ecstypes.Task) {
	t.Helper()
	c := ecs.NewFromConfig(sdk(t, l.Env()))
	out, err := c.RunTask(t.Context(), runInput())
	if err != nil {
		t.Fatal(err)
	}
	id := aws.ToString(out.Tasks[0].TaskArn)
	eventually(t, "the task is connected", func() bool {
		return slices.ContainsFunc(l.Tasks(), func(task lab.Task) bool { return task.ARN == id && task.Connected })
	})
	return c, describe(t, c, id)
}

func describe(t *testing.T, c *ecs.Client, id string) ecstypes.Task {
	t.Helper()
	out, err := c.DescribeTasks(t.Context(), &ecs.DescribeTasksInput{
		Cluster: aws.String("bastion"), Tasks: []string{id}, Include: []ecstypes.TaskField{ecstypes.TaskFieldTags},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Tasks) != 1 {
		t.Fatalf("described %d tasks", len(out.Tasks))
	}
	return out.Tasks[0]
}

// wantCode fails unless err is an API error with the code, and a message that has the text.
func wantCode(t *testing.T, err error, code, text string) {
	t.Helper()
	var api smithy.APIError
	if !errors.As(err, &api) {
		t.Fatalf("got %v, want API error %s", err, code)
	}
	if api.ErrorCode() != code || !strings.Contains(api.ErrorMessage(), text) {
		t.Errorf("got %s: %q, want %s with %q", api.ErrorCode(), api.ErrorMessage(), code, text)
	}
}

func TestSTS(t *testing.T) {
	l := start(t, quick(t))
	c := sts.NewFromConfig(sdk(t, l.Env()))
	me, err := c.GetCallerIdentity(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := aws.ToString(me.Arn), "arn:aws:iam::000000000000:user/lab"; got != want {
		t.Errorf("ARN %q, want %q", got, want)
	}
	if aws.ToString(me.Account) != lab.Account || aws.ToString(me.UserId) == "" {
		t.Errorf("account %q, user id %q", aws.ToString(me.Account), aws.ToString(me.UserId))
	}

	role, err := c.AssumeRole(t.Context(), &sts.AssumeRoleInput{
		RoleArn: aws.String("arn:aws:iam::000000000000:role/dev"), RoleSessionName: aws.String("ada"),
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg := sdk(t, l.Env())
	cfg.Credentials = aws.CredentialsProviderFunc(func(_ context.Context) (aws.Credentials, error) {
		return aws.Credentials{
			AccessKeyID: *role.Credentials.AccessKeyId, SecretAccessKey: *role.Credentials.SecretAccessKey,
			SessionToken: *role.Credentials.SessionToken,
		}, nil
	})
	me, err = sts.NewFromConfig(cfg).GetCallerIdentity(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := aws.ToString(me.Arn), "arn:aws:sts::000000000000:assumed-role/dev/ada"; got != want {
		t.Errorf("ARN %q, want %q", got, want)
	}
}

func TestTaskLifecycle(t *testing.T) {
	l := start(t, quick(t))
	c, task := run(t, l)
	ctx := t.Context()

	if aws.ToString(task.LastStatus) != "RUNNING" || task.LaunchType != ecstypes.LaunchTypeFargate ||
		!task.EnableExecuteCommand {
		t.Errorf("task is %s, %s, exec %v", aws.ToString(task.LastStatus), task.LaunchType, task.EnableExecuteCommand)
	}
	if len(task.Tags) != 1 || aws.ToString(task.Tags[0].Key) != "owner" {
		t.Errorf("tags %v", task.Tags)
	}
	if task.StartedAt == nil || time.Since(*task.StartedAt) > time.Minute {
		t.Errorf("started at %v", task.StartedAt)
	}
	container := task.Containers[0]
	agent := container.ManagedAgents[0]
	if agent.Name != ecstypes.ManagedAgentNameExecuteCommandAgent || aws.ToString(agent.LastStatus) != "RUNNING" {
		t.Errorf("managed agent %v is %s", agent.Name, aws.ToString(agent.LastStatus))
	}
	if !strings.HasPrefix(aws.ToString(container.RuntimeId), l.Tasks()[0].ID+"-") {
		t.Errorf("runtime id %q", aws.ToString(container.RuntimeId))
	}

	list, err := c.ListTasks(ctx, &ecs.ListTasksInput{Cluster: aws.String("bastion"), StartedBy: aws.String("bastion-me")})
	if err != nil || len(list.TaskArns) != 1 || list.NextToken != nil && *list.NextToken != "" {
		t.Errorf("list: %v, %v", list, err)
	}
	none, err := c.ListTasks(ctx, &ecs.ListTasksInput{Cluster: aws.String("bastion"), StartedBy: aws.String("someone")})
	if err != nil || len(none.TaskArns) != 0 {
		t.Errorf("list of someone else's: %v, %v", none, err)
	}

	id := aws.ToString(task.TaskArn)
	eventually(t, "the program listens", func() bool { out, _, _ := l.TaskOutput(id); return len(out) > 0 })
	if _, err := c.StopTask(ctx, &ecs.StopTaskInput{
		Cluster: aws.String("bastion"), Task: task.TaskArn,
		Reason: aws.String("enough"),
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the task is STOPPED", func() bool { return aws.ToString(describe(t, c, id).LastStatus) == "STOPPED" })
	task = describe(t, c, id)
	if task.StopCode != ecstypes.TaskStopCodeUserInitiated || aws.ToString(task.StoppedReason) != "enough" {
		t.Errorf("stopped with %s, %q", task.StopCode, aws.ToString(task.StoppedReason))
	}
	if code := task.Containers[0].ExitCode; code == nil || *code != 0 {
		t.Errorf("exit code %v, want 0: SIGTERM ends the program well", code)
	}
	stdout, stderr, err := l.TaskOutput(id)
	if err != nil || !strings.HasPrefix(string(stdout), "127.0.0.1:") || !strings.HasSuffix(string(stdout), "bye\n") {
		t.Errorf("stdout %q, %v", stdout, err)
	}
	if !strings.HasPrefix(string(stderr), "socket ") {
		t.Errorf("stderr %q", stderr)
	}
	stopped, err := c.ListTasks(ctx, &ecs.ListTasksInput{
		Cluster:       aws.String("bastion"),
		DesiredStatus: ecstypes.DesiredStatusStopped,
	})
	if err != nil || len(stopped.TaskArns) != 1 {
		t.Errorf("list of stopped tasks: %v, %v", stopped, err)
	}
}

func TestTaskEnds(t *testing.T) {
	for _, tt := range []struct {
		name, program string
		kill          bool
		code          int32
	}{
		{"by itself", "exit 3", false, 3},
		{"well", "exit 0", false, 0},
		{"by a signal", "serve", true, 137},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := quick(t)
			cfg.TaskEnv = map[string]string{"LAB_TEST_PROGRAM": tt.program}
			l := start(t, cfg)
			c := ecs.NewFromConfig(sdk(t, l.Env()))
			out, err := c.RunTask(t.Context(), runInput())
			if err != nil {
				t.Fatal(err)
			}
			id := aws.ToString(out.Tasks[0].TaskArn)
			if tt.kill {
				eventually(t, "the task is killed", func() bool { return l.KillTask(id) == nil })
			}
			eventually(t, "the task is STOPPED", func() bool { return aws.ToString(describe(t, c, id).LastStatus) == "STOPPED" })
			task := describe(t, c, id)
			if task.StopCode != ecstypes.TaskStopCodeEssentialContainerExited ||
				aws.ToString(task.StoppedReason) != "Essential container in task exited" {
				t.Errorf("stopped with %s, %q", task.StopCode, aws.ToString(task.StoppedReason))
			}
			if code := task.Containers[0].ExitCode; code == nil || *code != tt.code {
				t.Errorf("exit code %v, want %d", aws.ToInt32(code), tt.code)
			}
		})
	}
}

func TestTaskStopTimeout(t *testing.T) {
	cfg := quick(t)
	cfg.StopTimeout = 50 * time.Millisecond
	cfg.TaskEnv = map[string]string{"LAB_TEST_PROGRAM": "stubborn"}
	l := start(t, cfg)
	c, task := run(t, l)
	eventually(t, "the program listens", func() bool { out, _, _ := l.TaskOutput(*task.TaskArn); return len(out) > 0 })
	if err := l.StopTask(t.Context(), *task.TaskArn, "maintenance"); err != nil {
		t.Fatal(err)
	}
	task = describe(t, c, *task.TaskArn)
	if code := task.Containers[0].ExitCode; code == nil || *code != 137 {
		t.Errorf("exit code %d, want 137 for SIGKILL", aws.ToInt32(code))
	}
	if aws.ToString(task.StoppedReason) != "maintenance" {
		t.Errorf("reason %q", aws.ToString(task.StoppedReason))
	}
}

func TestTaskFailsToStart(t *testing.T) {
	t.Run("by a fault", func(t *testing.T) {
		l := start(t, quick(t))
		noRoute := lab.APIFaults{TaskFailures: 1, TaskReason: "ResourceInitializationError: no route"}
		if err := l.SetAPIFaults(noRoute); err != nil {
			t.Fatal(err)
		}
		c := ecs.NewFromConfig(sdk(t, l.Env()))
		out, err := c.RunTask(t.Context(), runInput())
		if err != nil {
			t.Fatal(err)
		}
		id := aws.ToString(out.Tasks[0].TaskArn)
		eventually(t, "the task is STOPPED", func() bool { return aws.ToString(describe(t, c, id).LastStatus) == "STOPPED" })
		task := describe(t, c, id)
		if task.StopCode != ecstypes.TaskStopCodeTaskFailedToStart ||
			aws.ToString(task.StoppedReason) != "ResourceInitializationError: no route" || task.StartedAt != nil {
			t.Errorf("stopped with %s, %q, started at %v", task.StopCode, aws.ToString(task.StoppedReason), task.StartedAt)
		}
		if _, task := run(t, l); aws.ToString(task.LastStatus) != "RUNNING" {
			t.Error("the fault was for one task, but the next one is", aws.ToString(task.LastStatus))
		}
	})
	t.Run("without a program", func(t *testing.T) {
		cfg := quick(t)
		cfg.Runner = &lab.HostRunner{}
		l := start(t, cfg)
		c := ecs.NewFromConfig(sdk(t, l.Env()))
		out, err := c.RunTask(t.Context(), runInput())
		if err != nil {
			t.Fatal(err)
		}
		id := aws.ToString(out.Tasks[0].TaskArn)
		eventually(t, "the task is STOPPED", func() bool { return aws.ToString(describe(t, c, id).LastStatus) == "STOPPED" })
		if r := aws.ToString(describe(t, c, id).StoppedReason); !strings.HasPrefix(r, "CannotStartContainerError: ") {
			t.Errorf("reason %q", r)
		}
	})
}

func TestRunTaskIsChecked(t *testing.T) {
	l := start(t, quick(t))
	c := ecs.NewFromConfig(sdk(t, l.Env()))
	for _, tt := range []struct {
		name, code, text string
		change           func(*ecs.RunTaskInput)
	}{
		{
			"cluster", "ClusterNotFoundException", "Cluster not found.",
			func(in *ecs.RunTaskInput) { in.Cluster = aws.String("nope") },
		},
		{
			"definition", "ClientException", "TaskDefinition not found.",
			func(in *ecs.RunTaskInput) { in.TaskDefinition = aws.String("nope") },
		},
		{
			"revision", "ClientException", "TaskDefinition not found.",
			func(in *ecs.RunTaskInput) { in.TaskDefinition = aws.String("bastion:9") },
		},
		{
			"network", "InvalidParameterException", "Network Configuration must be provided",
			func(in *ecs.RunTaskInput) { in.NetworkConfiguration = nil },
		},
		{
			"launch type", "InvalidParameterException", "No Container Instances",
			func(in *ecs.RunTaskInput) { in.LaunchType = "" },
		},
		{
			"capacity provider", "InvalidParameterException", "capacity provider 'own-machines' was not found",
			func(in *ecs.RunTaskInput) {
				in.LaunchType = ""
				in.CapacityProviderStrategy = []ecstypes.CapacityProviderStrategyItem{{CapacityProvider: aws.String("own-machines")}}
			},
		},
		{"count", "InvalidParameterException", "Count", func(in *ecs.RunTaskInput) { in.Count = aws.Int32(11) }},
		{"subnet", "InvalidParameterException", "subnet ID 'subnet-1' does not exist", func(in *ecs.RunTaskInput) {
			in.NetworkConfiguration.AwsvpcConfiguration.Subnets = []string{"subnet-1"}
		}},
		{"group", "InvalidParameterException", "security group 'sg-1' does not exist", func(in *ecs.RunTaskInput) {
			in.NetworkConfiguration.AwsvpcConfiguration.SecurityGroups = []string{"sg-1"}
		}},
		{
			"startedBy", "InvalidParameterException", "startedBy",
			func(in *ecs.RunTaskInput) { in.StartedBy = aws.String(strings.Repeat("x", 129)) },
		},
		{"tag", "InvalidParameterException", "aws:", func(in *ecs.RunTaskInput) { in.Tags[0].Key = aws.String("aws:x") }},
		{"override", "InvalidParameterException", "Override for container named x", func(in *ecs.RunTaskInput) {
			in.Overrides = &ecstypes.TaskOverride{ContainerOverrides: []ecstypes.ContainerOverride{{Name: aws.String("x")}}}
		}},
		{"size", "ClientException", "No Fargate configuration exists for given values: 256 CPU, 4096 memory", func(in *ecs.RunTaskInput) {
			in.Overrides = &ecstypes.TaskOverride{Cpu: aws.String("256"), Memory: aws.String("4096")}
		}},
		{"memory alone", "ClientException", "1024 CPU, 512 memory", func(in *ecs.RunTaskInput) {
			in.Overrides = &ecstypes.TaskOverride{Memory: aws.String("512")} // the definition's cpu is 1024
		}},
		{"no number", "ClientException", "Invalid 'cpu' setting", func(in *ecs.RunTaskInput) {
			in.Overrides = &ecstypes.TaskOverride{Cpu: aws.String(".5 vCPU")}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := runInput()
			tt.change(in)
			_, err := c.RunTask(t.Context(), in)
			wantCode(t, err, tt.code, tt.text)
		})
	}
	if n := len(l.Tasks()); n != 0 {
		t.Errorf("%d tasks were started", n)
	}
}

// said returns what a task's program prints on its stderr after a word.
func said(t testing.TB, l *lab.Lab, id, word string) (text string) {
	t.Helper()
	eventually(t, "the program says its "+word, func() bool {
		_, stderr, _ := l.TaskOutput(id)
		_, rest, _ := strings.Cut("\n"+string(stderr), "\n"+word+" ")
		var whole bool
		text, _, whole = strings.Cut(rest, "\n")
		return whole
	})
	return text
}

// getJSON decodes the answer to a request without credentials.
func getJSON(t testing.TB, url string, into any) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	err = json.NewDecoder(resp.Body).Decode(into)
	if err = errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
}

// metadataOf returns a task's size, as the task's program can ask for it.
func metadataOf(t *testing.T, l *lab.Lab, id string) string {
	t.Helper()
	address := said(t, l, id, "metadata")
	var task struct {
		TaskARN string
		Limits  struct{ CPU, Memory float64 }
	}
	var container struct{ Name, Type string }
	getJSON(t, address+"/task", &task)
	getJSON(t, address, &container)
	if task.TaskARN != id || container.Name != "bastion" || container.Type != "NORMAL" {
		t.Errorf("%+v, %+v", task, container)
	}
	return fmt.Sprintf("%v/%v", task.Limits.CPU*1024, task.Limits.Memory)
}

// A task has the size of its definition, unless overrides say another.
func TestTaskSize(t *testing.T) {
	l := start(t, quick(t))
	c := ecs.NewFromConfig(sdk(t, l.Env()))
	for _, tt := range []struct {
		overrides *ecstypes.TaskOverride
		want      string
	}{
		{nil, "1024/2048"},
		{&ecstypes.TaskOverride{Cpu: aws.String("512"), Memory: aws.String("2048")}, "512/2048"},
		{&ecstypes.TaskOverride{Memory: aws.String("4096")}, "1024/4096"},
	} {
		in := runInput()
		in.Overrides = tt.overrides
		out, err := c.RunTask(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		task := out.Tasks[0]
		if got := aws.ToString(task.Cpu) + "/" + aws.ToString(task.Memory); got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.overrides, got, tt.want)
		}
		if got := metadataOf(t, l, *task.TaskArn); got != tt.want {
			t.Errorf("%+v: to its program the task has %s, want %s", tt.overrides, got, tt.want)
		}
	}
}

func TestRunTaskClientToken(t *testing.T) {
	l := start(t, quick(t))
	c := ecs.NewFromConfig(sdk(t, l.Env()))
	in := runInput()
	in.ClientToken = aws.String("once")
	first, err := c.RunTask(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	second, err := c.RunTask(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if *first.Tasks[0].TaskArn != *second.Tasks[0].TaskArn || len(l.Tasks()) != 1 {
		t.Error("the same token started a second task")
	}
	in.StartedBy = aws.String("other")
	_, err = c.RunTask(t.Context(), in)
	wantCode(t, err, "ConflictException", "token")
}

func TestECSDescribe(t *testing.T) {
	l := start(t, quick(t))
	c := ecs.NewFromConfig(sdk(t, l.Env()))
	ctx := t.Context()
	clusters, err := c.DescribeClusters(ctx, &ecs.DescribeClustersInput{Clusters: []string{"bastion", "nope"}})
	if err != nil {
		t.Fatal(err)
	}
	if len(clusters.Clusters) != 1 || aws.ToString(clusters.Clusters[0].Status) != "ACTIVE" ||
		len(clusters.Failures) != 1 || aws.ToString(clusters.Failures[0].Reason) != "MISSING" {
		t.Errorf("clusters %v, failures %v", clusters.Clusters, clusters.Failures)
	}
	def, err := c.DescribeTaskDefinition(ctx, &ecs.DescribeTaskDefinitionInput{TaskDefinition: aws.String("bastion")})
	if err != nil {
		t.Fatal(err)
	}
	if d := def.TaskDefinition; d.NetworkMode != ecstypes.NetworkModeAwsvpc ||
		aws.ToString(d.ContainerDefinitions[0].Name) != "bastion" {
		t.Errorf("definition %v", d)
	}
	_, err = c.DescribeTaskDefinition(ctx, &ecs.DescribeTaskDefinitionInput{TaskDefinition: aws.String("nope")})
	wantCode(t, err, "ClientException", "Unable to describe task definition.")
	missing, err := c.DescribeTasks(ctx, &ecs.DescribeTasksInput{Cluster: aws.String("bastion"), Tasks: []string{"0123"}})
	if err != nil || len(missing.Failures) != 1 || aws.ToString(missing.Failures[0].Reason) != "MISSING" {
		t.Errorf("missing task: %v, %v", missing, err)
	}

	_, task := run(t, l)
	if _, err := c.TagResource(ctx, &ecs.TagResourceInput{
		ResourceArn: task.TaskArn, Tags: []ecstypes.Tag{
			{Key: aws.String("owner"), Value: aws.String("you")},
			{Key: aws.String("x")},
		},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.UntagResource(ctx, &ecs.UntagResourceInput{
		ResourceArn: task.TaskArn,
		TagKeys:     []string{"x"},
	}); err != nil {
		t.Fatal(err)
	}
	tags, err := c.ListTagsForResource(ctx, &ecs.ListTagsForResourceInput{ResourceArn: task.TaskArn})
	if err != nil || len(tags.Tags) != 1 || aws.ToString(tags.Tags[0].Value) != "you" {
		t.Errorf("tags %v, %v", tags, err)
	}
}

func TestListTasksPages(t *testing.T) {
	l := start(t, quick(t))
	c := ecs.NewFromConfig(sdk(t, l.Env()))
	in := runInput()
	in.Count = aws.Int32(5)
	if _, err := c.RunTask(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	pages := ecs.NewListTasksPaginator(c, &ecs.ListTasksInput{Cluster: aws.String("bastion"), MaxResults: aws.Int32(2)})
	seen, n := map[string]bool{}, 0
	for pages.HasMorePages() {
		page, err := pages.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n++
		for _, a := range page.TaskArns {
			seen[a] = true
		}
	}
	if n != 3 || len(seen) != 5 {
		t.Errorf("%d pages with %d tasks, want 3 with 5", n, len(seen))
	}
	_, err := c.ListTasks(t.Context(), &ecs.ListTasksInput{Cluster: aws.String("bastion"), NextToken: aws.String("junk")})
	wantCode(t, err, "InvalidParameterException", "token")
}

func TestExecuteCommandIsChecked(t *testing.T) {
	l := start(t, quick(t))
	c, task := run(t, l)
	ctx := t.Context()
	in := func() *ecs.ExecuteCommandInput {
		return &ecs.ExecuteCommandInput{
			Cluster: aws.String("bastion"), Task: task.TaskArn, Command: aws.String("/bastiond say hello"), Interactive: true,
		}
	}
	out, err := c.ExecuteCommand(ctx, in())
	if err != nil {
		t.Fatal(err)
	}
	if s := out.Session; !strings.HasPrefix(*s.SessionId, "ecs-execute-command-") || *s.TokenValue == "" ||
		!strings.HasPrefix(*s.StreamUrl, "ws://127.0.0.1:") {
		t.Errorf("session %v", s)
	}
	for _, tt := range []struct {
		name, code, text string
		change           func(*ecs.ExecuteCommandInput)
	}{
		{
			"not interactive", "InvalidParameterException", "Interactive",
			func(in *ecs.ExecuteCommandInput) { in.Interactive = false },
		},
		{
			"container", "InvalidParameterException", "container",
			func(in *ecs.ExecuteCommandInput) { in.Container = aws.String("x") },
		},
		{"task", "InvalidParameterException", "not found", func(in *ecs.ExecuteCommandInput) { in.Task = aws.String("x") }},
		{"cluster", "ClusterNotFoundException", "", func(in *ecs.ExecuteCommandInput) { in.Cluster = nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := in()
			tt.change(in)
			_, err := c.ExecuteCommand(ctx, in)
			wantCode(t, err, tt.code, tt.text)
		})
	}
	if err := l.SetAPIFaults(lab.APIFaults{NotConnected: 1}); err != nil {
		t.Fatal(err)
	}
	_, err = c.ExecuteCommand(ctx, in())
	wantCode(t, err, "TargetNotConnectedException", "Try again later.")
	if _, err = c.ExecuteCommand(ctx, in()); err != nil {
		t.Error("the fault was for one call:", err)
	}

	run := runInput()
	run.EnableExecuteCommand = false
	other, err := c.RunTask(ctx, run)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the task runs", func() bool {
		return aws.ToString(describe(t, c, *other.Tasks[0].TaskArn).LastStatus) == "RUNNING"
	})
	noExec := in()
	noExec.Task = other.Tasks[0].TaskArn
	_, err = c.ExecuteCommand(ctx, noExec)
	wantCode(t, err, "InvalidParameterException", "execute command was not enabled")
}

func TestStartSessionIsChecked(t *testing.T) {
	cfg := quick(t)
	cfg.Instances = map[string]lab.Instance{"i-0123456789abcdef0": {}, "i-0fffffffffffffff0": {Offline: true}}
	l := start(t, cfg)
	c := ssm.NewFromConfig(sdk(t, l.Env()))
	ctx := t.Context()
	for _, tt := range []struct {
		name, target, document string
		params                 map[string][]string
		code, text             string // empty: accepted
	}{
		{"ssh", "i-0123456789abcdef0", "AWS-StartSSHSession", nil, "", ""},
		{"ssh port", "i-0123456789abcdef0", "AWS-StartSSHSession", map[string][]string{"portNumber": {"65535"}}, "", ""},
		{"port", "i-0123456789abcdef0", "AWS-StartPortForwardingSession", map[string][]string{
			"portNumber":      {"80"},
			"localPortNumber": {"0"},
		}, "", ""},
		{
			"remote", "i-0123456789abcdef0", "AWS-StartPortForwardingSessionToRemoteHost",
			map[string][]string{"host": {"db.corp.internal"}, "portNumber": {"80"}},
			"", "",
		},
		{"document", "i-0123456789abcdef0", "AWS-Nope", nil, "InvalidDocument", "AWS-Nope"},
		{
			"big port", "i-0123456789abcdef0", "AWS-StartSSHSession",
			map[string][]string{"portNumber": {"65536"}},
			"InvalidParameters", "65536",
		},
		{
			"port 0", "i-0123456789abcdef0", "AWS-StartSSHSession",
			map[string][]string{"portNumber": {"0"}},
			"InvalidParameters", "portNumber",
		},
		{
			"two ports", "i-0123456789abcdef0", "AWS-StartSSHSession",
			map[string][]string{"portNumber": {"1", "2"}},
			"InvalidParameters", "one value",
		},
		{
			"unknown parameter", "i-0123456789abcdef0", "AWS-StartSSHSession",
			map[string][]string{"host": {"x.y"}},
			"InvalidParameters", "host",
		},
		{"no host", "i-0123456789abcdef0", "AWS-StartPortForwardingSessionToRemoteHost", nil, "InvalidParameters", "host"},
		{
			"bad host", "i-0123456789abcdef0", "AWS-StartPortForwardingSessionToRemoteHost",
			map[string][]string{"host": {"a;b"}},
			"InvalidParameters", "host",
		},
		{
			"offline", "i-0fffffffffffffff0", "AWS-StartSSHSession", nil, "TargetNotConnected",
			"i-0fffffffffffffff0 is not connected.",
		},
		{"unknown instance", "i-0eeeeeeeeeeeeeee0", "AWS-StartSSHSession", nil, "TargetNotConnected", "is not connected."},
		{"unknown task", "ecs:bastion_0_0-1", "AWS-StartSSHSession", nil, "TargetNotConnected", "is not connected."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := c.StartSession(ctx, &ssm.StartSessionInput{
				Target: aws.String(tt.target), DocumentName: aws.String(tt.document), Parameters: tt.params,
			})
			if tt.code != "" {
				wantCode(t, err, tt.code, tt.text)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(*out.SessionId, "lab-") {
				t.Errorf("session id %q", *out.SessionId)
			}
			if _, err := c.TerminateSession(ctx, &ssm.TerminateSessionInput{SessionId: out.SessionId}); err != nil {
				t.Error(err)
			}
		})
	}
	if live := l.Gateway().Counters().Live; live != 0 {
		t.Errorf("%d sessions live", live)
	}
}

func TestSessionCalls(t *testing.T) {
	l := start(t, quick(t))
	_, task := run(t, l)
	c := ssm.NewFromConfig(sdk(t, l.Env()))
	ctx := t.Context()
	target := l.Tasks()[0].Target
	if want := "ecs:bastion_" + l.Tasks()[0].ID + "_" + *task.Containers[0].RuntimeId; target != want {
		t.Fatalf("target %q, want %q", target, want)
	}
	s, err := c.StartSession(ctx, &ssm.StartSessionInput{
		Target: &target, DocumentName: aws.String("AWS-StartSSHSession"), Reason: aws.String("test"),
		Parameters: map[string][]string{"portNumber": {"2222"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	active, err := c.DescribeSessions(ctx, &ssm.DescribeSessionsInput{State: ssmtypes.SessionStateActive})
	if err != nil || len(active.Sessions) != 1 || *active.Sessions[0].SessionId != *s.SessionId ||
		*active.Sessions[0].Target != target {
		t.Errorf("active sessions %v, %v", active, err)
	}
	again, err := c.ResumeSession(ctx, &ssm.ResumeSessionInput{SessionId: s.SessionId})
	if err != nil || *again.TokenValue == *s.TokenValue || *again.StreamUrl != *s.StreamUrl {
		t.Errorf("resumed: %v, %v", again, err)
	}
	if err := l.SetAPIFaults(lab.APIFaults{ResumeDenied: -1}); err != nil {
		t.Fatal(err)
	}
	_, err = c.ResumeSession(ctx, &ssm.ResumeSessionInput{SessionId: s.SessionId})
	wantCode(t, err, "AccessDeniedException", "")
	var response interface{ HTTPStatusCode() int }
	if !errors.As(err, &response) || response.HTTPStatusCode() != 403 {
		t.Errorf("ResumeSession: %v, want status 403", err)
	}
	_, err = c.TerminateSession(ctx, &ssm.TerminateSessionInput{SessionId: aws.String("lab-nope")})
	wantCode(t, err, "DoesNotExistException", "lab-nope")

	// The task takes its sessions with it.
	if err := l.StopTask(ctx, *task.TaskArn, "over"); err != nil {
		t.Fatal(err)
	}
	if live := l.Gateway().Counters().Live; live != 0 {
		t.Errorf("%d sessions live after their task", live)
	}
	ended, err := c.DescribeSessions(ctx, &ssm.DescribeSessionsInput{State: ssmtypes.SessionStateHistory})
	if err != nil || len(ended.Sessions) != 1 || ended.Sessions[0].Status != ssmtypes.SessionStatusTerminated {
		t.Errorf("ended sessions %v, %v", ended, err)
	}
	_, err = c.StartSession(ctx, &ssm.StartSessionInput{Target: &target, DocumentName: aws.String("AWS-StartSSHSession")})
	wantCode(t, err, "TargetNotConnected", target)
}

func TestEC2(t *testing.T) {
	l := start(t, quick(t))
	l.AddSubnet(lab.Subnet{
		ID: "subnet-other", CIDR: "10.99.3.0/24", Zone: "eu-central-1c",
		Tags: map[string]string{"bastion": "false"},
	})
	c := ec2.NewFromConfig(sdk(t, l.Env()))
	ctx := t.Context()
	tagged := []ec2types.Filter{{Name: aws.String("tag:bastion"), Values: []string{"true"}}}
	subnets, err := c.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{Filters: tagged})
	if err != nil || len(subnets.Subnets) != 2 || aws.ToString(subnets.Subnets[0].SubnetId) != "subnet-0000000000000laba" {
		t.Errorf("subnets %v, %v", subnets, err)
	}
	one, err := c.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: []string{"subnet-other"}})
	if err != nil || len(one.Subnets) != 1 || aws.ToString(one.Subnets[0].Tags[0].Value) != "false" {
		t.Errorf("subnet %v, %v", one, err)
	}
	none, err := c.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{
		Filters: []ec2types.Filter{{Name: aws.String("tag:Name"), Values: []string{"public*"}}},
	})
	if err != nil || len(none.Subnets) != 0 {
		t.Errorf("subnets %v, %v", none, err)
	}
	_, err = c.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{SubnetIds: []string{"subnet-1"}})
	wantCode(t, err, "InvalidSubnetID.NotFound", "subnet-1")
	_, err = c.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{Filters: []ec2types.Filter{{
		Name:   aws.String("x"),
		Values: []string{"y"},
	}}})
	wantCode(t, err, "InvalidParameterValue", "'x'")
	groups, err := c.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{Filters: tagged})
	if err != nil || len(groups.SecurityGroups) != 1 || aws.ToString(groups.SecurityGroups[0].GroupName) != "bastion" ||
		len(groups.SecurityGroups[0].IpPermissions) != 0 {
		t.Errorf("groups %v, %v", groups, err)
	}
	_, err = c.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{GroupIds: []string{"sg-1"}})
	wantCode(t, err, "InvalidGroup.NotFound", "sg-1")
}

func TestRDS(t *testing.T) {
	l := start(t, quick(t))
	addr := netip.MustParseAddrPort("127.0.0.1:5433")
	for _, add := range []error{
		l.AddDBInstance(lab.DBInstance{ID: "orders", Database: "orders", Addr: addr, Tags: map[string]string{"team": "a"}}),
		l.AddDBInstance(lab.DBInstance{ID: "crm-1", Engine: "aurora-mysql", Cluster: "crm", Addr: addr}),
		l.AddDBCluster(lab.DBCluster{ID: "crm", Engine: "aurora-mysql", Addr: addr}),
	} {
		if add != nil {
			t.Fatal(add)
		}
	}
	c := rds.NewFromConfig(sdk(t, l.Env()))
	ctx := t.Context()
	all, err := c.DescribeDBInstances(ctx, nil)
	if err != nil || len(all.DBInstances) != 2 {
		t.Fatalf("instances %v, %v", all, err)
	}
	db := all.DBInstances[0]
	if aws.ToString(db.Endpoint.Address) != "orders.abc123.eu-central-1.rds.amazonaws.com" ||
		aws.ToInt32(db.Endpoint.Port) != 5433 ||
		aws.ToString(db.Engine) != "postgres" || aws.ToString(db.DBInstanceStatus) != "available" ||
		aws.ToString(db.MasterUsername) != "app" ||
		len(db.TagList) != 1 || db.InstanceCreateTime == nil {
		t.Errorf("instance %+v", db)
	}
	mysql, err := c.DescribeDBInstances(ctx, &rds.DescribeDBInstancesInput{
		Filters: []rdstypes.Filter{{Name: aws.String("engine"), Values: []string{"aurora-mysql"}}},
	})
	if err != nil || len(mysql.DBInstances) != 1 || aws.ToString(mysql.DBInstances[0].DBClusterIdentifier) != "crm" {
		t.Errorf("filtered %v, %v", mysql, err)
	}
	_, err = c.DescribeDBInstances(ctx, &rds.DescribeDBInstancesInput{DBInstanceIdentifier: aws.String("nope")})
	if _, ok := errors.AsType[*rdstypes.DBInstanceNotFoundFault](err); !ok {
		t.Errorf("unknown instance: %v", err)
	}
	clusters, err := c.DescribeDBClusters(ctx, nil)
	if err != nil || len(clusters.DBClusters) != 1 {
		t.Fatalf("clusters %v, %v", clusters, err)
	}
	cl := clusters.DBClusters[0]
	if aws.ToString(cl.Endpoint) != "crm.cluster-abc123.eu-central-1.rds.amazonaws.com" || aws.ToInt32(cl.Port) != 5433 ||
		len(cl.DBClusterMembers) != 1 || !aws.ToBool(cl.DBClusterMembers[0].IsClusterWriter) {
		t.Errorf("cluster %+v", cl)
	}
	_, err = c.DescribeDBClusters(ctx, &rds.DescribeDBClustersInput{DBClusterIdentifier: aws.String("nope")})
	if _, ok := errors.AsType[*rdstypes.DBClusterNotFoundFault](err); !ok {
		t.Errorf("unknown cluster: %v", err)
	}
	for i := range 30 {
		if err := l.AddDBInstance(lab.DBInstance{ID: "many-" + strings.Repeat("x", i+1)}); err != nil {
			t.Fatal(err)
		}
	}
	pages := rds.NewDescribeDBInstancesPaginator(c, &rds.DescribeDBInstancesInput{MaxRecords: aws.Int32(20)})
	n, total := 0, 0
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			t.Fatal(err)
		}
		n, total = n+1, total+len(page.DBInstances)
	}
	if n != 2 || total != 32 {
		t.Errorf("%d pages with %d instances", n, total)
	}
}

func TestElastiCache(t *testing.T) {
	l := start(t, quick(t))
	addr := netip.MustParseAddrPort("127.0.0.1:6380")
	for _, cache := range []lab.Cache{
		{ID: "sessions", Addr: addr},
		{ID: "shards", Sharded: true, Addr: addr},
		{ID: "pages", Kind: lab.CacheCluster, Engine: "memcached", Addr: addr},
		{ID: "elastic", Kind: lab.ServerlessCache, Engine: "valkey", Addr: addr},
	} {
		if err := l.AddCache(cache); err != nil {
			t.Fatal(err)
		}
	}
	c := elasticache.NewFromConfig(sdk(t, l.Env()))
	ctx := t.Context()
	groups, err := c.DescribeReplicationGroups(ctx, nil)
	if err != nil || len(groups.ReplicationGroups) != 2 {
		t.Fatalf("groups %v, %v", groups, err)
	}
	primary := groups.ReplicationGroups[0].NodeGroups[0].PrimaryEndpoint
	if aws.ToString(primary.Address) != "master.sessions.abc123.euc1.cache.amazonaws.com" ||
		aws.ToInt32(primary.Port) != 6380 {
		t.Errorf("primary endpoint %+v", primary)
	}
	if e := groups.ReplicationGroups[1].ConfigurationEndpoint; e == nil ||
		aws.ToString(e.Address) != "clustercfg.shards.abc123.euc1.cache.amazonaws.com" {
		t.Errorf("configuration endpoint %+v", e)
	}
	_, err = c.DescribeReplicationGroups(ctx,
		&elasticache.DescribeReplicationGroupsInput{ReplicationGroupId: aws.String("nope")})
	if _, ok := errors.AsType[*ecachetypes.ReplicationGroupNotFoundFault](err); !ok {
		t.Errorf("unknown group: %v", err)
	}
	clusters, err := c.DescribeCacheClusters(ctx,
		&elasticache.DescribeCacheClustersInput{ShowCacheNodeInfo: aws.Bool(true)})
	if err != nil || len(clusters.CacheClusters) != 3 {
		t.Fatalf("clusters %v, %v", clusters, err)
	}
	if node := clusters.CacheClusters[0]; aws.ToString(node.CacheClusterId) != "sessions-001" ||
		aws.ToString(node.ReplicationGroupId) != "sessions" || len(node.CacheNodes) != 1 {
		t.Errorf("node %+v", node)
	}
	alone, err := c.DescribeCacheClusters(ctx,
		&elasticache.DescribeCacheClustersInput{ShowCacheClustersNotInReplicationGroups: aws.Bool(true)})
	if err != nil || len(alone.CacheClusters) != 1 || alone.CacheClusters[0].ConfigurationEndpoint == nil ||
		alone.CacheClusters[0].CacheNodes != nil {
		t.Errorf("clusters of their own %v, %v", alone, err)
	}
	_, err = c.DescribeCacheClusters(ctx, &elasticache.DescribeCacheClustersInput{CacheClusterId: aws.String("nope")})
	if _, ok := errors.AsType[*ecachetypes.CacheClusterNotFoundFault](err); !ok {
		t.Errorf("unknown cluster: %v", err)
	}
	serverless, err := c.DescribeServerlessCaches(ctx, nil)
	if err != nil || len(serverless.ServerlessCaches) != 1 ||
		aws.ToInt32(serverless.ServerlessCaches[0].Endpoint.Port) != 6380 {
		t.Errorf("serverless %v, %v", serverless, err)
	}
	_, err = c.DescribeServerlessCaches(ctx,
		&elasticache.DescribeServerlessCachesInput{ServerlessCacheName: aws.String("nope")})
	if _, ok := errors.AsType[*ecachetypes.ServerlessCacheNotFoundFault](err); !ok {
		t.Errorf("unknown serverless cache: %v", err)
	}
}

// A replication group in cluster mode has a node group for each shard, and a cache cluster for each node.
func TestElastiCacheNodes(t *testing.T) {
	l := start(t, quick(t))
	node := func(shard int, addr string) lab.CacheNode {
		return lab.CacheNode{Shard: shard, Addr: netip.MustParseAddrPort(addr)}
	}
	if err := l.AddCache(lab.Cache{ID: "shards", Sharded: true, TLS: true, Nodes: []lab.CacheNode{
		node(1, "127.0.0.1:6380"), node(1, "127.0.0.2:6380"), node(2, "127.0.0.3:6380"),
	}}); err != nil {
		t.Fatal(err)
	}
	c := elasticache.NewFromConfig(sdk(t, l.Env()))
	ctx := t.Context()
	groups, err := c.DescribeReplicationGroups(ctx, nil)
	if err != nil || len(groups.ReplicationGroups) != 1 {
		t.Fatalf("groups %v, %v", groups, err)
	}
	g := groups.ReplicationGroups[0]
	if len(g.NodeGroups) != 2 || len(g.NodeGroups[0].NodeGroupMembers) != 2 || aws.ToString(g.NodeGroups[1].Slots) != "8192-16383" ||
		!aws.ToBool(g.ClusterEnabled) || !aws.ToBool(g.TransitEncryptionEnabled) || len(g.MemberClusters) != 3 ||
		aws.ToInt32(g.ConfigurationEndpoint.Port) != 6380 {
		t.Errorf("group %+v", g)
	}
	clusters, err := c.DescribeCacheClusters(ctx, &elasticache.DescribeCacheClustersInput{
		CacheClusterId: aws.String("shards-0001-002"), ShowCacheNodeInfo: aws.Bool(true),
	})
	if err != nil || len(clusters.CacheClusters) != 1 || aws.ToString(clusters.CacheClusters[0].ReplicationGroupId) != "shards" {
		t.Fatalf("clusters %v, %v", clusters, err)
	}
	const name = "shards-0001-002.shards.abc123.euc1.cache.amazonaws.com"
	if e := clusters.CacheClusters[0].CacheNodes[0].Endpoint; aws.ToString(e.Address) != name {
		t.Errorf("endpoint %+v", e)
	}
	if clusters, err = c.DescribeCacheClusters(ctx, nil); err != nil || len(clusters.CacheClusters) != 3 {
		t.Errorf("clusters %v, %v", clusters, err)
	}
}

func TestKMS(t *testing.T) {
	l := start(t, quick(t))
	c := kms.NewFromConfig(sdk(t, l.Env()))
	ctx := t.Context()
	in := map[string]string{"aws:ssm:SessionId": "s", "aws:ssm:TargetId": "t"}
	key, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId: aws.String("alias/lab"), NumberOfBytes: aws.Int32(64), EncryptionContext: in,
	})
	if err != nil || len(key.Plaintext) != 64 ||
		!strings.HasPrefix(aws.ToString(key.KeyId), "arn:aws:kms:eu-central-1:000000000000:key/") {
		t.Fatalf("data key %v, %v", key, err)
	}
	plain, err := c.Decrypt(ctx, &kms.DecryptInput{
		CiphertextBlob: key.CiphertextBlob, EncryptionContext: in,
		KeyId: key.KeyId,
	})
	if err != nil || !bytes.Equal(plain.Plaintext, key.Plaintext) {
		t.Errorf("decrypted %v, %v", plain, err)
	}
	_, err = c.Decrypt(ctx, &kms.DecryptInput{
		CiphertextBlob:    key.CiphertextBlob,
		EncryptionContext: map[string]string{"aws:ssm:SessionId": "s"},
	})
	var invalid *kmstypes.InvalidCiphertextException
	if !errors.As(err, &invalid) {
		t.Errorf("another context: %v", err)
	}
	key.CiphertextBlob[20] ^= 1
	if _, err = c.Decrypt(ctx, &kms.DecryptInput{
		CiphertextBlob:    key.CiphertextBlob,
		EncryptionContext: in,
	}); !errors.As(err, &invalid) {
		t.Errorf("tampered: %v", err)
	}
	_, err = c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{
		KeyId:   aws.String("nope"),
		KeySpec: kmstypes.DataKeySpecAes256,
	})
	if _, ok := errors.AsType[*kmstypes.NotFoundException](err); !ok {
		t.Errorf("unknown key: %v", err)
	}
	_, err = c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: aws.String("alias/lab")})
	wantCode(t, err, "ValidationException", "")
}

// A lab of another account says so in every answer that names an account.
func TestOtherAccount(t *testing.T) {
	t.Parallel()
	const account = "123456789012"
	cfg := quick(t)
	cfg.Account = account
	l := start(t, cfg)
	addr := netip.MustParseAddrPort("127.9.8.7:7777")
	for _, err := range []error{
		l.AddMachine(lab.Machine{ID: "i-0123456789abcdef0", Addr: addr.Addr()}),
		l.AddSearch(lab.Search{Name: "logs", Addr: addr}),
		l.AddWarehouse(lab.Warehouse{ID: "adhoc", Serverless: true, Addr: addr}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c := sdk(t, l.Env())
	machines, err := ec2.NewFromConfig(c).DescribeInstances(t.Context(), nil)
	if err != nil || *machines.Reservations[0].OwnerId != account {
		t.Errorf("%+v, %v", machines, err)
	}
	domains, err := opensearch.NewFromConfig(c).DescribeDomains(t.Context(), &opensearch.DescribeDomainsInput{DomainNames: []string{"logs"}})
	if err != nil || *domains.DomainStatusList[0].DomainId != account+"/logs" {
		t.Errorf("%+v, %v", domains, err)
	}
	workgroup, err := redshiftserverless.NewFromConfig(c).GetWorkgroup(t.Context(), &redshiftserverless.GetWorkgroupInput{WorkgroupName: aws.String("adhoc")})
	if err != nil || !strings.HasPrefix(*workgroup.Workgroup.Endpoint.Address, "adhoc."+account+".") {
		t.Errorf("%+v, %v", workgroup, err)
	}
}
