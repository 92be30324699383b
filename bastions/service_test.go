package bastions

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// fakeService is a service and its tasks.
type fakeService struct {
	ECSAPI  // others are not called
	desired int32
	missing bool
	tasks   func() []types.Task
	calls   []string
}

const (
	newDeployment, oldDeployment = "ecs-svc/0000000000000000002", "ecs-svc/0000000000000000001"
	oldFamily                    = "arn:aws:ecs:eu-central-1:000000000000:task-definition/bastion:6"
)

func (f *fakeService) DescribeServices(_ context.Context, in *ecs.DescribeServicesInput, _ ...func(*ecs.Options)) (*ecs.DescribeServicesOutput, error) {
	f.calls = append(f.calls, "DescribeServices")
	if f.missing {
		return &ecs.DescribeServicesOutput{Failures: []types.Failure{{Reason: aws.String("MISSING")}}}, nil
	}
	return &ecs.DescribeServicesOutput{Services: []types.Service{{
		ServiceName: &in.Services[0], Status: aws.String("ACTIVE"), DesiredCount: f.desired,
		Deployments: []types.Deployment{
			{Id: aws.String(newDeployment), Status: aws.String("PRIMARY"), TaskDefinition: aws.String(testFamily)},
			{Id: aws.String(oldDeployment), Status: aws.String("ACTIVE"), TaskDefinition: aws.String(oldFamily)},
		},
		Events: []types.ServiceEvent{{Message: aws.String("(service team) was unable to place a task.")}},
	}}}, nil
}

func (f *fakeService) ListTasks(_ context.Context, in *ecs.ListTasksInput, _ ...func(*ecs.Options)) (*ecs.ListTasksOutput, error) {
	f.calls = append(f.calls, "ListTasks")
	if aws.ToString(in.ServiceName) != "team" || in.StartedBy != nil {
		return nil, errors.New("not the tasks of the service")
	}
	out := &ecs.ListTasksOutput{}
	for _, t := range f.tasks() {
		out.TaskArns = append(out.TaskArns, *t.TaskArn)
	}
	return out, nil
}

func (f *fakeService) DescribeTasks(_ context.Context, in *ecs.DescribeTasksInput, _ ...func(*ecs.Options)) (*ecs.DescribeTasksOutput, error) {
	out := &ecs.DescribeTasksOutput{}
	for _, t := range f.tasks() {
		if slices.Contains(in.Tasks, *t.TaskArn) {
			out.Tasks = append(out.Tasks, t)
		}
	}
	return out, nil
}

// sharedTask is a task of the service that runs.
func sharedTask(n int, change func(*types.Task)) types.Task {
	f := &fakeECS{}
	for range n {
		f.add(&ecs.RunTaskInput{EnableExecuteCommand: true})
	}
	t := f.tasks[n-1].Task
	t.Group, t.StartedBy = aws.String("service:team"), aws.String(newDeployment)
	t.Tags = []types.Tag{{Key: aws.String("bastion:shared"), Value: aws.String("team")}}
	running(&t)
	exec("RUNNING", "")(&t)
	if change != nil {
		change(&t)
	}
	return t
}

func sharedSpec() Spec {
	s := testSpec()
	s.Service = "team"
	return s
}

// A task counts as the service's only with all of its marks, those that nobody but ECS sets among them, and is used only as the settings
// describe it.
func TestSharedTasks(t *testing.T) {
	tag := func(key, value string) func(*types.Task) {
		return func(t *types.Task) { t.Tags = append(t.Tags, types.Tag{Key: &key, Value: &value}) }
	}
	overridden := &types.TaskOverride{ContainerOverrides: []types.ContainerOverride{{Name: aws.String("bastion"), Command: []string{"/bin/sh"}}}}
	for name, tt := range map[string]struct {
		change  func(*types.Task)
		ignored bool
		refused string
	}{
		"as it should be": {},
		"older deployment": {change: func(t *types.Task) {
			t.StartedBy, t.TaskDefinitionArn = aws.String(oldDeployment), aws.String(oldFamily)
		}},
		"group":           {change: func(t *types.Task) { t.Group = aws.String("family:bastion") }, ignored: true},
		"another service": {change: func(t *types.Task) { t.Group = aws.String("service:other") }, ignored: true},
		"no deployment":   {change: func(t *types.Task) { t.StartedBy = aws.String("ecs-svc/0000000000000000003") }, ignored: true},
		"a person's":      {change: func(t *types.Task) { t.StartedBy = aws.String(testSpec().Owner.StartedBy) }, ignored: true},
		"no tag":          {change: func(t *types.Task) { t.Tags = nil }, ignored: true},
		"another tag":     {change: func(t *types.Task) { t.Tags[0].Value = aws.String("other") }, ignored: true},
		"an owner":        {change: tag("bastion:owner", testUserID), ignored: true},
		"an owner's case": {change: tag("Bastion:Owner", testUserID), ignored: true},
		"two tags":        {change: tag("bastion:Shared", "other"), ignored: true},
		"definition":      {change: func(t *types.Task) { t.TaskDefinitionArn = aws.String(oldFamily) }, ignored: true},
		"family": {change: func(t *types.Task) {
			t.TaskDefinitionArn = aws.String(strings.Replace(testFamily, "bastion:7", "other:7", 1))
		}, ignored: true},
		"overrides": {change: func(t *types.Task) { t.Overrides = overridden }, refused: "has overrides in container bastion"},
		"subnet": {
			change:  func(t *types.Task) { t.Attachments[0].Details[0].Value = aws.String("subnet-z") },
			refused: "is in subnet subnet-z",
		},
		"launch type": {change: func(t *types.Task) { t.LaunchType = types.LaunchTypeEc2 }, refused: "has the launch type"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeService{desired: 1, tasks: func() []types.Task { return []types.Task{sharedTask(1, tt.change)} }}
			m := New(Config{ECS: f})
			all, err := m.List(t.Context(), sharedSpec())
			if err != nil || len(all) == 1 == tt.ignored {
				t.Fatalf("%+v, %v", all, err)
			}
			one, getErr := m.Get(t.Context(), sharedSpec(), *sharedTask(1, nil).TaskArn)
			if bad := tt.ignored || tt.refused != ""; bad != (fail.KindOf(getErr) == fail.NoTarget) {
				t.Errorf("looked at alone: %+v, %v", one, getErr)
			}
			if len(all) == 0 {
				return
			}
			if b := all[0]; b.Service != "team" || !strings.HasPrefix(b.Refused, tt.refused) || (b.Refused == "") != (tt.refused == "") {
				t.Errorf("%+v", b)
			}
			if found, err := m.Find(t.Context(), sharedSpec()); err != nil || (found == nil) != (tt.refused != "") {
				t.Errorf("found %+v, %v", found, err)
			}
		})
	}
}

// A pinned revision is compared too; without one the service's counts.
func TestOtherDefinition(t *testing.T) {
	for want, equal := range map[string]bool{
		"": true, "bastion": true, "bastion:7": true, testFamily: true, "bastion:6": false, "other": false, "bastio": false,
		"arn:aws:ecs:eu-central-1:000000000000:task-definition/other": false,
	} {
		if got := otherDefinition(Spec{TaskDefinition: want}, testFamily); (got == "") != equal {
			t.Errorf("%q: %q", want, got)
		}
	}
}

// People spread over the tasks, and each comes back to the same one. One that is about to end, is ill or is of an older deployment is the
// last choice, but is one.
func TestSharedChoice(t *testing.T) {
	tasks := []types.Task{sharedTask(1, nil), sharedTask(2, nil), sharedTask(3, nil)}
	m := New(Config{ECS: &fakeService{desired: 3, tasks: func() []types.Task { return tasks }}})
	find := func(spec Spec) string {
		t.Helper()
		b, err := m.Find(t.Context(), spec)
		if err != nil || b == nil {
			t.Fatalf("%+v, %v", b, err)
		}
		return b.TaskID
	}
	chosen := make(map[string]int)
	for i := range 60 {
		spec := sharedSpec()
		spec.Owner = NewOwner(testARN, fmt.Sprint("AROA0TEST:", i))
		id := find(spec)
		chosen[id]++
		slices.Reverse(tasks)
		if again := find(spec); again != id {
			t.Fatalf("%s, then %s", id, again)
		}
	}
	for id, n := range chosen {
		if len(chosen) != 3 || n < 8 {
			t.Errorf("%d of 60 use %s: %v", n, id, chosen)
		}
	}
	best := find(sharedSpec())
	spec := sharedSpec()
	spec.Avoid = best
	if find(spec) == best {
		t.Error("the task that is about to end is chosen")
	}
	for name, worsen := range map[string]func(*types.Task){
		"older": func(t *types.Task) {
			t.StartedBy, t.TaskDefinitionArn = aws.String(oldDeployment), aws.String(oldFamily)
		},
		"ill": func(t *types.Task) { t.HealthStatus = types.HealthStatusUnhealthy },
		"starting": func(t *types.Task) {
			exec("PENDING", "")(t)
		},
	} {
		i := slices.IndexFunc(tasks, func(t types.Task) bool { return lastPart(*t.TaskArn) == best })
		was := tasks[i]
		n := slices.Index([]string{lastPart(*sharedTask(1, nil).TaskArn), lastPart(*sharedTask(2, nil).TaskArn), lastPart(*sharedTask(3, nil).TaskArn)}, best) + 1
		tasks[i] = sharedTask(n, worsen)
		if find(sharedSpec()) == best {
			t.Errorf("the task is chosen although it is %s", name)
		}
		only := m.ecs.(*fakeService)
		only.tasks = func() []types.Task { return tasks[i : i+1] }
		if find(sharedSpec()) != best {
			t.Errorf("the task that is %s is not chosen though there is no other", name)
		}
		only.tasks, tasks[i] = func() []types.Task { return tasks }, was
	}
}

// Without a task Ensure waits for ECS to start one. It starts none, and a service that is switched off or missing is an error at once.
func TestSharedEnsure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		f := &fakeService{desired: 1, tasks: func() []types.Task {
			if time.Since(begin) < 30*time.Second {
				return nil
			}
			return []types.Task{sharedTask(1, nil)}
		}}
		states := make(map[string]bool)
		b, started, err := New(Config{ECS: f}).Ensure(t.Context(), sharedSpec(), func(e Event) { states[e.State] = true })
		if err != nil || started || b.Service != "team" || time.Since(begin) > 40*time.Second || !states["service"] {
			t.Errorf("%+v, %t, %v, after %v, %v", b, started, err, time.Since(begin), slices.Sorted(maps.Keys(states)))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		none := func() []types.Task { return nil }
		for _, tt := range []struct {
			service *fakeService
			kind    fail.Kind
			want    string
		}{
			{&fakeService{desired: 1, tasks: none}, fail.Timeout, "ECS says: (service team) was unable to place a task."},
			{&fakeService{desired: 0, tasks: none}, fail.Start, "its operators have switched it off"},
			{&fakeService{missing: true, tasks: none}, fail.Usage, "there is no such service"},
		} {
			_, _, err := New(Config{ECS: tt.service}).Ensure(t.Context(), sharedSpec(), nil)
			if fail.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v (%v), want %q", err, fail.KindOf(err), tt.want)
			}
			if b, err := New(Config{ECS: tt.service}).Await(t.Context(), sharedSpec(), nil); err == nil {
				t.Errorf("%+v without a task", b)
			}
		}
	})
	m := New(Config{ECS: &fakeService{}})
	if _, _, err := m.Stop(t.Context(), sharedSpec(), "reason", true); !errors.Is(err, errShared) {
		t.Errorf("a shared bastion is stopped: %v", err)
	}
}
