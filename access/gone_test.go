package access

import (
	"context"
	"errors"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/tunnel"
)

// What ECS says of a task's end decides whether another is started, and for whom.
func TestEndOfBastion(t *testing.T) {
	exits := func(code int32) []bastions.Exit {
		return []bastions.Exit{{Container: "bastion", Code: aws.Int32(code)}}
	}
	for _, tt := range []struct {
		name        string
		code        string
		reason      string
		exits       []bastions.Exit
		how         ending
		interrupted bool // connections that were in use are worth another
	}{
		{"down", "UserInitiated", "bastion down", nil, byOwner, false},
		{"administrator", "UserInitiated", "too expensive", exits(0), cutOff, true},
		{"host maintenance", "ServiceSchedulerInitiated", "host maintenance", exits(0), cutOff, true},
		{"idle or maximum life", "EssentialContainerExited", "Essential container in task exited", exits(0), byItself, false},
		{"crash", "EssentialContainerExited", "Essential container in task exited", exits(137), cutOff, true},
		{"not known yet", "EssentialContainerExited", "", nil, cutOff, true},
	} {
		how, why := endOf(bastions.Bastion{
			Container: "bastion", LastStatus: "STOPPED", StopCode: tt.code, StoppedReason: tt.reason, Exits: tt.exits,
		})
		if how != tt.how || why == nil {
			t.Errorf("%s: %d, %v; want %d", tt.name, how, why, tt.how)
		}
		for use, want := range map[tunnel.Use]bool{tunnel.Unused: false, tunnel.Interrupted: tt.interrupted, tunnel.Wanted: true} {
			gone := newGone(bastions.Bastion{TaskID: "t"}, how, why)
			got := unlessReplaced(tunnel.WithUse(t.Context(), use), gone)
			if !isGone(got) || tunnel.IsGone(got) == want {
				t.Errorf("%s: use %d: %v, want another %t", tt.name, use, got, want)
			}
		}
	}
	// The next task of a shared bastion costs nothing more: connections that were in use get it, whatever the end of the last one.
	for use, want := range map[tunnel.Use]bool{tunnel.Unused: false, tunnel.Interrupted: true, tunnel.Wanted: true} {
		gone := newGone(bastions.Bastion{TaskID: "t", Service: "team"}, byItself, errors.New("maximum life"))
		if got := unlessReplaced(tunnel.WithUse(t.Context(), use), gone); tunnel.IsGone(got) == want {
			t.Errorf("shared: use %d: %v, want another %t", use, got, want)
		}
	}
	if err := unlessReplaced(tunnel.WithUse(t.Context(), tunnel.Unused), errors.New("no network")); tunnel.IsGone(err) {
		t.Error("a bastion that may stand is taken for gone")
	}
}

// endingTask is an ECS that knows one task, which runs when it is looked at first and has ended when tasks are listed.
type endingTask struct {
	bastions.ECSAPI // RunTask is not to be called

	task  ecstypes.Task
	ended func(*ecstypes.Task) // how it has; nil: it has not, and is only missing from the list
	lists int
}

func (f *endingTask) DescribeTasks(context.Context, *ecs.DescribeTasksInput, ...func(*ecs.Options)) (*ecs.DescribeTasksOutput, error) {
	return &ecs.DescribeTasksOutput{Tasks: []ecstypes.Task{f.task}}, nil
}

func (f *endingTask) ListTasks(context.Context, *ecs.ListTasksInput, ...func(*ecs.Options)) (*ecs.ListTasksOutput, error) {
	if f.lists++; f.lists == 1 && f.ended != nil {
		f.task.LastStatus = aws.String("STOPPED")
		f.ended(&f.task)
	}
	return &ecs.ListTasksOutput{}, nil
}

// A bastion may end between the question whether it still runs and the list of tasks. Why it did decides whether a cut connection
// is worth another one, as if it had ended before.
func TestBastionEndsMeanwhile(t *testing.T) {
	for name, tt := range map[string]struct {
		ended    func(*ecstypes.Task)
		gone     bool // the link gives up
		replaced bool // another bastion may be started
	}{
		"maximum life": {func(task *ecstypes.Task) {
			task.StopCode = ecstypes.TaskStopCodeEssentialContainerExited
			task.Containers[0].ExitCode = aws.Int32(0)
		}, true, false},
		"bastion down": {func(task *ecstypes.Task) {
			task.StopCode, task.StoppedReason = ecstypes.TaskStopCodeUserInitiated, aws.String(downReason)
		}, true, false},
		"crash": {func(task *ecstypes.Task) {
			task.StopCode = ecstypes.TaskStopCodeEssentialContainerExited
			task.Containers[0].ExitCode = aws.Int32(137)
		}, false, true},
		"not at all": {nil, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			var ending endingTask
			x := accessToTask(t, func(task *ecstypes.Task) { ending.task = *task })
			ending.ended = tt.ended
			x.access.manager = bastions.New(bastions.Config{ECS: &ending})
			b, err := x.findAgain(tunnel.WithUse(t.Context(), tunnel.Interrupted))
			if b != nil || tunnel.IsGone(err) != tt.gone || replaceable(err) != tt.replaced || isTransient(err) == (tt.gone || tt.replaced) {
				t.Errorf("%+v, %v; want gone %t, replaced %t", b, err, tt.gone, tt.replaced)
			}
		})
	}
}

// failingECS is an ECS that fails.
type failingECS struct {
	bastions.ECSAPI // others are not called

	err error
}

func (f *failingECS) DescribeTasks(context.Context, *ecs.DescribeTasksInput, ...func(*ecs.Options)) (*ecs.DescribeTasksOutput, error) {
	return nil, &smithy.OperationError{ServiceID: "ECS", OperationName: "DescribeTasks", Err: f.err}
}

// An ECS that does not answer says nothing about a task. One that denies the look may do so because the task is forgotten, and its
// tags with it: the bastion counts as gone, so that another search tells.
func TestCheckGoneWithoutAnswer(t *testing.T) {
	for code, gone := range map[string]bool{
		"ThrottlingException": false, "ServerException": false, "ExpiredTokenException": false, "AccessDeniedException": true,
	} {
		x := accessToTask(t, func(*ecstypes.Task) {})
		x.access.manager = bastions.New(bastions.Config{ECS: &failingECS{err: &smithy.GenericAPIError{Code: code, Message: "x"}}})
		err := x.checkGone(t.Context())
		if isGone(err) != gone || (err != nil) != gone || x.gone.Load() != gone {
			t.Errorf("%s: %v, noted %v; want gone %v", code, err, x.gone.Load(), gone)
		}
	}
}

// A link that nobody uses may have its bastion back, and nothing is looked for or started for it.
func TestFindForNobody(t *testing.T) {
	x := accessToTask(t, func(*ecstypes.Task) {})
	c := &taskConnector{access: x.access, admission: x}
	spec, b, err := c.find(tunnel.WithUse(t.Context(), tunnel.Unused))
	if err != nil || b == nil || b.TaskARN != x.bastion.TaskARN || spec.Owner != x.spec.Owner {
		t.Errorf("%+v, %v", b, err)
	}
	stopped := accessToTask(t, func(task *ecstypes.Task) {
		task.LastStatus, task.StoppedReason = aws.String("STOPPED"), aws.String(downReason)
	})
	c = &taskConnector{access: stopped.access, admission: stopped}
	if _, b, err := c.find(tunnel.WithUse(t.Context(), tunnel.Unused)); b != nil || !tunnel.IsGone(err) || !isGone(err) {
		t.Errorf("%+v, %v", b, err)
	}
}
