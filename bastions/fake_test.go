package bastions

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/smithy-go"
	"go.uber.org/goleak"

	"github.com/bastion-ssm/bastion/internal/fargate"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeECS is a cluster whose tasks change with time, for tests under synctest. It keeps ECS's rules that matter here:
// client tokens, startedBy as the only filter besides the desired status, its default, and pages.
type fakeECS struct {
	plan       func(*fakeTask)                              // sets the course of a new task; nil: ready after 12 s
	before     func(ctx context.Context, call string) error // runs before each call, unlocked; an error is the answer
	stale      bool                                         // a client token that comes again gets the task as it first was
	blind      bool                                         // ended tasks are not listed
	hideFor    time.Duration                                // a new task is not listed or described for so long
	definition *types.TaskDefinition
	conceal    []string // ARNs of tasks that IAM hides: one of them denies the whole call

	mu     sync.Mutex
	tasks  []*fakeTask
	tokens map[string]*fakeTask
	calls  map[string]int
	runs   []*ecs.RunTaskInput
	places int // RunTask places nothing until it has been called so often, for want of capacity
	stops  []*ecs.StopTaskInput
}

type fakeTask struct {
	types.Task
	steps []step
}

// step is what happens to a task some time after it was created.
type step struct {
	after time.Duration
	do    func(*types.Task)
}

func (t *fakeTask) then(after time.Duration, do func(*types.Task)) *fakeTask {
	t.steps = append(t.steps, step{after, do})
	return t
}

func status(s string) func(*types.Task) {
	return func(t *types.Task) { t.LastStatus = aws.String(s) }
}

func running(t *types.Task) {
	t.LastStatus = aws.String("RUNNING")
	t.Containers[0].RuntimeId = aws.String(lastPart(*t.TaskArn) + "-1234")
}

func exec(status, reason string) func(*types.Task) {
	return func(t *types.Task) {
		agent := &t.Containers[0].ManagedAgents[0]
		agent.LastStatus = aws.String(status)
		if reason != "" {
			agent.Reason = aws.String(reason)
		}
	}
}

func stops(code types.TaskStopCode, reason string) func(*types.Task) {
	return func(t *types.Task) {
		t.LastStatus, t.DesiredStatus = aws.String("STOPPED"), aws.String("STOPPED")
		t.StopCode, t.StoppedReason = code, aws.String(reason)
	}
}

// becomesReady is the course of a healthy task: 3 s PROVISIONING, 5 s PENDING, 4 s until the exec agent runs.
func becomesReady(t *fakeTask) {
	t.then(3*time.Second, status("PENDING")).then(8*time.Second, running).then(12*time.Second, exec("RUNNING", ""))
}

const (
	testARN     = "arn:aws:sts::000000000000:assumed-role/Developer/jo@example.org"
	testUserID  = "AROA0TEST:jo@example.org"
	testCluster = "arn:aws:ecs:eu-central-1:000000000000:cluster/demo"
	testFamily  = "arn:aws:ecs:eu-central-1:000000000000:task-definition/bastion:7"
)

func testSpec() Spec {
	return Spec{
		Cluster:        "demo",
		TaskDefinition: "bastion",
		Subnets:        []string{"subnet-b", "subnet-a"},
		Owner:          NewOwner(testARN, testUserID),
	}
}

// add makes a task as RunTask would.
func (f *fakeECS) add(input *ecs.RunTaskInput) *fakeTask {
	id := fmt.Sprintf("%032d", len(f.tasks)+1)
	size := fargate.Size{CPU: 512, Memory: 1024} // the definition's
	if o := input.Overrides; o != nil {
		size = fargate.Size{CPU: sizeOf(o.Cpu), Memory: sizeOf(o.Memory)}
	}
	t := &fakeTask{Task: types.Task{
		Cpu:                  aws.String(strconv.Itoa(size.CPU)),
		Memory:               aws.String(strconv.Itoa(size.Memory)),
		Overrides:            input.Overrides,
		ClusterArn:           aws.String(testCluster),
		TaskArn:              aws.String("arn:aws:ecs:eu-central-1:000000000000:task/demo/" + id),
		TaskDefinitionArn:    aws.String(testFamily),
		StartedBy:            input.StartedBy,
		Tags:                 input.Tags,
		LastStatus:           aws.String("PROVISIONING"),
		DesiredStatus:        aws.String("RUNNING"),
		CreatedAt:            aws.Time(time.Now()),
		EnableExecuteCommand: input.EnableExecuteCommand,
		LaunchType:           types.LaunchTypeFargate,
		PlatformVersion:      aws.String("1.4.0"),
		Containers: []types.Container{{
			Name: aws.String("bastion"), LastStatus: aws.String("PENDING"),
			ManagedAgents: []types.ManagedAgent{{
				Name: types.ManagedAgentNameExecuteCommandAgent, LastStatus: aws.String("PENDING"),
			}},
		}},
		Attachments: []types.Attachment{
			{Details: []types.KeyValuePair{{Name: aws.String("subnetId"), Value: aws.String("subnet-a")}}},
		},
	}}
	if strategy := input.CapacityProviderStrategy; len(strategy) > 0 {
		t.CapacityProviderName = strategy[0].CapacityProvider
	}
	f.tasks = append(f.tasks, t)
	return t
}

// mine adds a task of testSpec's owner, ready since long unless change says otherwise.
func (f *fakeECS) mine(age time.Duration, change func(*fakeTask)) *fakeTask {
	m := New(Config{ECS: f, Version: "1.2.3"})
	input, err := m.runInput(testSpec(), nil)
	if err != nil {
		panic(err)
	}
	t := f.add(input)
	t.CreatedAt = aws.Time(time.Now().Add(-age))
	if change == nil {
		running(&t.Task)
		exec("RUNNING", "")(&t.Task)
	} else {
		change(t)
	}
	return t
}

// enter counts a call, asks before, and brings the tasks up to date. The caller must unlock.
func (f *fakeECS) enter(ctx context.Context, call string) error {
	f.mu.Lock()
	if f.calls == nil {
		f.calls = make(map[string]int)
	}
	f.calls[call]++
	f.mu.Unlock()
	var err error
	if f.before != nil {
		err = f.before(ctx, call)
	}
	if err == nil && ctx.Err() != nil {
		err = &aws.RequestCanceledError{Err: ctx.Err()} // as the SDK's clients do
	}
	f.mu.Lock()
	for _, t := range f.tasks {
		for len(t.steps) > 0 && time.Since(*t.CreatedAt) >= t.steps[0].after && *t.LastStatus != "STOPPED" {
			t.steps[0].do(&t.Task)
			t.steps = t.steps[1:]
		}
	}
	return err
}

func (f *fakeECS) hidden(t *fakeTask) bool { return time.Since(*t.CreatedAt) < f.hideFor }

func (f *fakeECS) ListTasks(
	ctx context.Context,
	in *ecs.ListTasksInput,
	_ ...func(*ecs.Options),
) (*ecs.ListTasksOutput, error) {
	err := f.enter(ctx, "ListTasks")
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if in.Family != nil || in.ServiceName != nil || in.LaunchType != "" {
		return nil, &types.InvalidParameterException{Message: aws.String("startedBy must be the only filter")}
	}
	out := &ecs.ListTasksOutput{}
	for _, t := range f.tasks {
		if *t.DesiredStatus == cmp.Or(string(in.DesiredStatus), "RUNNING") && (*t.DesiredStatus == "RUNNING" || !f.blind) &&
			(in.StartedBy == nil || aws.ToString(t.StartedBy) == *in.StartedBy) &&
			!f.hidden(t) {
			out.TaskArns = append(out.TaskArns, *t.TaskArn)
		}
	}
	return out, nil
}

func (f *fakeECS) DescribeTasks(ctx context.Context, in *ecs.DescribeTasksInput, _ ...func(*ecs.Options)) (
	*ecs.DescribeTasksOutput, error,
) {
	err := f.enter(ctx, "DescribeTasks")
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	out := &ecs.DescribeTasksOutput{}
	for _, arn := range in.Tasks {
		if slices.Contains(f.conceal, arn) {
			return nil, &smithy.GenericAPIError{Code: "AccessDeniedException", Message: "not authorized"}
		}
		i := slices.IndexFunc(f.tasks, func(t *fakeTask) bool { return *t.TaskArn == arn || lastPart(*t.TaskArn) == arn })
		if i < 0 || f.hidden(f.tasks[i]) {
			out.Failures = append(out.Failures, types.Failure{Arn: aws.String(arn), Reason: aws.String("MISSING")})
			continue
		}
		out.Tasks = append(out.Tasks, f.tasks[i].copy(slices.Contains(in.Include, types.TaskFieldTags)))
	}
	return out, nil
}

// copy returns what an answer may share with nobody.
func (t *fakeTask) copy(tags bool) types.Task {
	c := t.Task
	c.Containers = slices.Clone(c.Containers)
	for i := range c.Containers {
		c.Containers[i].ManagedAgents = slices.Clone(c.Containers[i].ManagedAgents)
	}
	if !tags {
		c.Tags = nil
	}
	return c
}

func (f *fakeECS) RunTask(
	ctx context.Context,
	in *ecs.RunTaskInput,
	_ ...func(*ecs.Options),
) (*ecs.RunTaskOutput, error) {
	err := f.enter(ctx, "RunTask")
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	request := *in
	f.runs = append(f.runs, &request)
	if len(f.runs) <= f.places {
		reason := aws.String("Capacity is unavailable at this time. Please try again later or in a different availability zone")
		return &ecs.RunTaskOutput{Failures: []types.Failure{{Reason: reason}}}, nil
	}
	token := aws.ToString(in.ClientToken)
	if t := f.tokens[token]; t != nil {
		task := t.copy(true)
		if f.stale {
			task.LastStatus, task.DesiredStatus, task.StopCode = aws.String("PROVISIONING"), aws.String("RUNNING"), ""
		}
		return &ecs.RunTaskOutput{Tasks: []types.Task{task}}, nil
	}
	t := f.add(in)
	if f.plan != nil {
		f.plan(t)
	} else {
		becomesReady(t)
	}
	if f.tokens == nil {
		f.tokens = make(map[string]*fakeTask)
	}
	if token != "" {
		f.tokens[token] = t
	}
	return &ecs.RunTaskOutput{Tasks: []types.Task{t.copy(true)}}, nil
}

func (f *fakeECS) StopTask(
	ctx context.Context,
	in *ecs.StopTaskInput,
	_ ...func(*ecs.Options),
) (*ecs.StopTaskOutput, error) {
	err := f.enter(ctx, "StopTask")
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	f.stops = append(f.stops, in)
	for _, t := range f.tasks {
		if *t.TaskArn == *in.Task {
			stops(types.TaskStopCodeUserInitiated, *in.Reason)(&t.Task)
			return &ecs.StopTaskOutput{}, nil
		}
	}
	return nil, &types.InvalidParameterException{Message: aws.String("The referenced task was not found.")}
}

func (f *fakeECS) DescribeTaskDefinition(
	ctx context.Context,
	_ *ecs.DescribeTaskDefinitionInput,
	_ ...func(*ecs.Options),
) (
	*ecs.DescribeTaskDefinitionOutput, error,
) {
	err := f.enter(ctx, "DescribeTaskDefinition")
	defer f.mu.Unlock()
	if err != nil {
		return nil, err
	}
	out := types.TaskDefinition{}
	if f.definition != nil {
		out = *f.definition
	}
	if out.TaskDefinitionArn == nil {
		out.TaskDefinitionArn = aws.String(testFamily)
	}
	return &ecs.DescribeTaskDefinitionOutput{TaskDefinition: &out}, nil
}

func (f *fakeECS) DescribeServices(context.Context, *ecs.DescribeServicesInput, ...func(*ecs.Options)) (*ecs.DescribeServicesOutput, error) {
	panic("a person's own bastion is no service's")
}

// live returns the ids of the tasks that ECS wants to run.
func (f *fakeECS) live() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []string
	for _, t := range f.tasks {
		if *t.DesiredStatus == "RUNNING" {
			ids = append(ids, lastPart(*t.TaskArn))
		}
	}
	return ids
}

func (f *fakeECS) count(call string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[call]
}
