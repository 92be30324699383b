package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// neighbours is a fake with a stack of a similar name and a cluster of others, each with a task, and nothing of the stack "bastion".
func neighbours(t *testing.T) *fake {
	t.Helper()
	f := newFake(t)
	if _, err := install(t.Context(), f.deployer("bastion-two"), newStack(t, account.Inputs{Name: "bastion-two"}), nil); err != nil {
		t.Fatal(err)
	}
	f.things["shop"] = "AWS::ECS::Cluster"
	f.things["/bastion-like"] = typeLogs
	f.run("task/bastion-two/1", "bastion-two", "bastion-two")
	f.run("task/shop/1", "shop", "bastion")
	f.calls = nil
	return f
}

// destroy is what a command does, from whatever is there.
func destroy(ctx context.Context, d *Deployer, o DestroyOptions, on func(Event)) (Destroyed, error) {
	p, err := d.PlanDestroy(ctx, on)
	if err != nil {
		return Destroyed{}, err
	}
	return d.Destroy(ctx, p, o, on)
}

func (f *fake) lasts() map[string]string {
	last := make(map[string]string)
	for _, t := range f.tasks {
		last[t.arn] = t.last
	}
	return last
}

func TestDestroy(t *testing.T) {
	f := neighbours(t)
	before, tasksBefore := maps.Clone(f.things), f.lasts()
	d := f.deployer("bastion")
	s := newStack(t, account.Inputs{})
	if _, err := install(t.Context(), d, s, nil); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		f.run(fmt.Sprintf("task/bastion/%d", i), "bastion", "bastion")
	}
	f.stacks = append(f.stacks, &fakeStack{id: "arn:gone", name: "bastion-gone", status: types.StackStatusDeleteComplete, template: template(t, s)})
	gone := f.stacks[len(f.stacks)-1]
	gone.resources = []types.StackResourceSummary{{LogicalResourceId: aws.String("AuditLog"), PhysicalResourceId: aws.String("/bastion-like")}}
	gone.event(f, typeLogs, "AuditLog", "DELETE_SKIPPED", "", "") // a neighbour's
	p, err := d.PlanDestroy(t.Context(), nil)
	if err != nil || p.Nothing() || len(p.Tasks) != 3 || len(p.Others) != 0 || len(p.Keep) != 2 || len(p.Remove)+2 != len(s.Resources) {
		t.Fatalf("%+v, %v", p, err)
	}
	if calls := strings.Join(f.calls, " "); strings.Contains(calls, "StopTask") || strings.Contains(calls, "DeleteStack") {
		t.Fatal("the plan is carried out already")
	}
	var told []string
	done, err := d.Destroy(t.Context(), p, DestroyOptions{}, func(e Event) { told = append(told, e.Type+" "+e.Status) })
	if err != nil || len(done.Tasks) != 3 || len(done.Removed) != len(p.Remove) || len(done.Kept) != 2 || len(done.Scheduled) != 0 {
		t.Fatalf("%+v, %v", done, err)
	}
	if told[0] != "AWS::ECS::Task STOPPING" || told[len(told)-1] != stackType+" DELETE_COMPLETE" {
		t.Errorf("%q", told)
	}
	kept := maps.Clone(before)
	kept["/bastion"], kept["bastion-Key"] = typeLogs, typeKey
	if !maps.Equal(f.things, kept) {
		t.Errorf("there are %v, want %v", f.things, kept)
	}

	// The audit alone, later. Then nothing.
	p, err = d.PlanDestroy(t.Context(), nil)
	if err != nil || !p.Nothing() || len(p.Keep) != 2 {
		t.Fatalf("%+v, %v", p, err)
	}
	done, err = d.Destroy(t.Context(), p, DestroyOptions{Audit: true}, nil)
	if err != nil || len(done.Removed) != 1 || len(done.Scheduled) != 1 || done.KeyDays != 30 {
		t.Fatalf("%+v, %v", done, err)
	}
	before["bastion-Key"] = "deleting"
	if !maps.Equal(f.things, before) {
		t.Errorf("there are %v, want %v", f.things, before)
	}
	if done, err = destroy(t.Context(), d, DestroyOptions{Audit: true}, nil); err != nil || len(done.Removed)+len(done.Kept)+len(done.Scheduled) != 0 {
		t.Errorf("%+v, %v", done, err)
	}
	for arn, last := range tasksBefore {
		if f.lasts()[arn] != last {
			t.Errorf("the task %s is %s", arn, f.lasts()[arn])
		}
	}
}

// A deletion that is interrupted anywhere goes on when the command runs again.
func TestDestroyInterruptedAnywhere(t *testing.T) {
	prepare := func() *fake {
		f := neighbours(t)
		if _, err := install(t.Context(), f.deployer("bastion"), newStack(t, account.Inputs{}), nil); err != nil {
			t.Fatal(err)
		}
		f.run("task/bastion/1", "bastion", "bastion")
		f.run("task/bastion/2", "bastion", "bastion")
		f.calls = nil
		return f
	}
	whole := prepare()
	if _, err := destroy(t.Context(), whole.deployer("bastion"), DestroyOptions{Audit: true}, nil); err != nil {
		t.Fatal(err)
	}
	for i := range whole.calls {
		for _, after := range []bool{false, true} {
			step := i + 1
			t.Run(fmt.Sprintf("%d %s %v", step, whole.calls[i], after), func(t *testing.T) {
				f := prepare()
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				f.interrupt = func(n int, isAfter bool) error {
					if n == step && isAfter == after {
						cancel(errKilled)
						return context.Canceled
					}
					return nil
				}
				if _, err := destroy(ctx, f.deployer("bastion"), DestroyOptions{Audit: true}, nil); err == nil {
					t.Fatal("it is not interrupted")
				}
				f.interrupt = nil
				if _, err := destroy(t.Context(), f.deployer("bastion"), DestroyOptions{Audit: true}, nil); err != nil {
					t.Fatal(err)
				}
				if !maps.Equal(f.things, whole.things) || !maps.Equal(f.lasts(), whole.lasts()) {
					t.Errorf("there are %v and %v", f.things, f.lasts())
				}
			})
		}
	}
}

// A stack is deleted from any state, and what has gone already is no failure.
func TestDestroyFromEveryStatus(t *testing.T) {
	for _, status := range types.StackStatus("").Values() {
		f := newFake(t)
		stack := f.add("bastion", template(t, newStack(t, account.Inputs{})), status)
		if phaseOf(status) == Busy {
			stack.work = append(stack.work, func() { stack.set(f, types.StackStatusUpdateComplete, "", "before") })
		}
		if done, err := destroy(t.Context(), f.deployer("bastion"), DestroyOptions{Audit: true}, nil); err != nil {
			t.Errorf("%s: %+v, %v", status, done, err)
		}
		if stack.status != types.StackStatusDeleteComplete {
			t.Errorf("%s: the stack is %s", status, stack.status)
		}
	}
}

// A resource that refuses to go is named with its reason, and the command can run again.
func TestDestroyRefused(t *testing.T) {
	f := newFake(t)
	if _, err := install(t.Context(), f.deployer("bastion"), newStack(t, account.Inputs{}), nil); err != nil {
		t.Fatal(err)
	}
	f.refuse["SecurityGroup"] = "resource sg-1 has a dependent object"
	f.refuse["TaskRole"] = "Cannot delete entity, must detach all policies first."
	_, err := destroy(t.Context(), f.deployer("bastion"), DestroyOptions{}, nil)
	failure, ok := errors.AsType[*Failure](err)
	if !ok || failure.Status != "DELETE_FAILED" || failure.Resource != "SecurityGroup" || len(failure.Others) != 1 || failure.Others[0].Resource != "TaskRole" {
		t.Fatalf("%v", err)
	}
	for _, part := range []string{"dependent object", "detach all policies"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q lacks %q", err, part)
		}
	}
	p, err := f.deployer("bastion").PlanDestroy(t.Context(), nil)
	if err != nil || len(p.Remove) != 2 {
		t.Errorf("%+v, %v", p.Remove, err)
	}
	clear(f.refuse)
	if _, err := destroy(t.Context(), f.deployer("bastion"), DestroyOptions{}, nil); err != nil {
		t.Error(err)
	}
}

// Tasks of a service of the stack are CloudFormation's to end: the service would start others in the place of those that are stopped.
func TestDestroyService(t *testing.T) {
	f := newFake(t)
	d := f.deployer("bastion")
	if _, err := install(t.Context(), d, newStack(t, account.Inputs{}), nil); err != nil {
		t.Fatal(err)
	}
	f.stacks[0].resources = append(f.stacks[0].resources, types.StackResourceSummary{
		LogicalResourceId: aws.String("Service"), PhysicalResourceId: aws.String("service/bastion/shared"), ResourceType: aws.String("AWS::ECS::Service"),
	})
	f.run("task/bastion/1", "bastion", "bastion")
	f.run("task/bastion/2", "bastion", "bastion")
	f.tasks[1].service = "service/bastion/shared"
	done, err := destroy(t.Context(), d, DestroyOptions{}, nil)
	if err != nil || !slices.Equal(done.Tasks, []string{"task/bastion/1"}) {
		t.Errorf("%+v, %v", done, err)
	}
}

// Nothing is touched where the stack is not bastion's, is protected, or others' tasks run in its cluster.
func TestDestroyTouchesNothing(t *testing.T) {
	for name, prepare := range map[string]func(*fake){
		"not bastion's": func(f *fake) { f.stacks[0].template = `{"Resources":{}}` },
		"protected":     func(f *fake) { f.stacks[0].protected = true },
		"others' tasks": func(f *fake) { f.run("task/bastion/9", "bastion", "batch") },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			if _, err := install(t.Context(), f.deployer("bastion"), newStack(t, account.Inputs{}), nil); err != nil {
				t.Fatal(err)
			}
			f.run("task/bastion/1", "bastion", "bastion")
			prepare(f)
			before := maps.Clone(f.things)
			_, err := destroy(t.Context(), f.deployer("bastion"), DestroyOptions{Audit: true}, nil)
			if fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" {
				t.Errorf("%v, %q", err, fail.NextOf(err))
			}
			if slices.Contains(f.calls, "StopTask") || slices.Contains(f.calls, "DeleteStack") || !maps.Equal(f.things, before) {
				t.Errorf("after %q", f.calls)
			}
		})
	}
}

// What a deleted stack of the name left is bastion's only if that was bastion's.
func TestKeptByOthers(t *testing.T) {
	f := newFake(t)
	s := f.add("bastion", `{"Resources":{"AuditLog":{"Type":"AWS::Logs::LogGroup","DeletionPolicy":"Retain"}}}`, types.StackStatusDeleteComplete)
	f.things["/bastion"] = typeLogs
	s.resources = []types.StackResourceSummary{{
		LogicalResourceId: aws.String("AuditLog"), PhysicalResourceId: aws.String("/bastion"), ResourceType: aws.String(typeLogs),
		ResourceStatus: types.ResourceStatusDeleteSkipped,
	}}
	s.event(f, typeLogs, "AuditLog", "DELETE_SKIPPED", "", "before")
	if kept, err := f.deployer("bastion").Kept(t.Context()); err != nil || len(kept) > 0 {
		t.Errorf("%+v, %v", kept, err)
	}
}

// A key that the stack adopted belongs to what it keeps, also when the stack that made it is forgotten.
func TestDestroyAdopted(t *testing.T) {
	f := neighbours(t)
	if _, err := destroy(t.Context(), f.deployer("bastion-two"), DestroyOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	f.stacks = nil // the neighbour's stack is forgotten, what it left is not
	d := f.deployer("bastion")
	twice := func() {
		for range 2 {
			if _, err := install(t.Context(), d, newStack(t, account.Inputs{}), nil); err != nil {
				t.Fatal(err)
			}
			p, err := d.PlanDestroy(t.Context(), nil)
			if err != nil || len(p.Keep) != 2 {
				t.Fatalf("%+v, %v", p.Keep, err)
			}
			if _, err := d.Destroy(t.Context(), p, DestroyOptions{}, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	twice()
	if kept, err := d.Kept(t.Context()); err != nil || len(kept) != 2 {
		t.Errorf("%+v, %v", kept, err)
	}
	f.stacks = f.stacks[1:]
	if _, err := install(t.Context(), d, newStack(t, account.Inputs{}), nil); err != nil {
		t.Fatal(err)
	}
	f.stacks = f.stacks[1:]
	done, err := destroy(t.Context(), d, DestroyOptions{Audit: true}, nil)
	if err != nil || len(done.Scheduled) != 1 || f.things["bastion-Key"] != "deleting" || f.things["/bastion"] != "" {
		t.Errorf("%+v, %v, %v", done, err, f.things)
	}
	if f.things["/bastion-two"] == "" || f.things["bastion-two-Key"] != typeKey {
		t.Errorf("the neighbour has %v", f.things)
	}
}

// What was kept may have gone, or be going, since the plan.
func TestDestroyKeptAlreadyGone(t *testing.T) {
	for _, key := range []string{"", "deleting"} {
		f := newFake(t)
		d := f.deployer("bastion")
		if _, err := install(t.Context(), d, newStack(t, account.Inputs{}), nil); err != nil {
			t.Fatal(err)
		}
		p, err := d.PlanDestroy(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		delete(f.things, "/bastion")
		if f.things["bastion-Key"] = key; key == "" {
			delete(f.things, "bastion-Key")
		}
		if _, err := d.Destroy(t.Context(), p, DestroyOptions{Audit: true}, nil); err != nil {
			t.Error(err)
		}
	}
}

func TestDestroyDenied(t *testing.T) {
	for _, call := range []string{"ListTasks", "StopTask", "DescribeTasks", "DeleteLogGroup", "ScheduleKeyDeletion", "ListStackResources"} {
		f := newFake(t)
		if _, err := install(t.Context(), f.deployer("bastion"), newStack(t, account.Inputs{}), nil); err != nil {
			t.Fatal(err)
		}
		f.run("task/bastion/1", "bastion", "bastion")
		f.errors[call] = &smithy.GenericAPIError{Code: "AccessDeniedException", Message: "no"}
		_, err := destroy(t.Context(), f.deployer("bastion"), DestroyOptions{Audit: true}, nil)
		if fail.KindOf(err) != fail.Denied || !strings.Contains(fail.NextOf(err), `:`+call+`"`) {
			t.Errorf("%s: %v, %q", call, err, fail.NextOf(err))
		}
	}
}

func TestDrift(t *testing.T) {
	f := newFake(t)
	d := f.deployer("bastion")
	if _, err := install(t.Context(), d, newStack(t, account.Inputs{}), nil); err != nil {
		t.Fatal(err)
	}
	f.stacks[0].resources[0].DriftInformation = &types.StackResourceDriftInformationSummary{StackResourceDriftStatus: types.StackResourceDriftStatusNotChecked}
	f.stacks[0].resources[1].DriftInformation = &types.StackResourceDriftInformationSummary{StackResourceDriftStatus: types.StackResourceDriftStatusInSync}
	f.drifts = []types.StackResourceDrift{
		{
			LogicalResourceId: aws.String("AuditLog"), ResourceType: aws.String(typeLogs), StackResourceDriftStatus: types.StackResourceDriftStatusModified,
			PropertyDifferences: []types.PropertyDifference{{
				PropertyPath: aws.String("/RetentionInDays"), DifferenceType: types.DifferenceTypeNotEqual, ExpectedValue: aws.String("365"), ActualValue: aws.String("7"),
			}},
		},
		{LogicalResourceId: aws.String("KeyAlias"), StackResourceDriftStatus: types.StackResourceDriftStatusDeleted},
		{LogicalResourceId: aws.String("Cluster"), StackResourceDriftStatus: types.StackResourceDriftStatusInSync},
	}
	drift, err := d.Drift(t.Context())
	if err != nil || len(drift.Resources) != 2 || len(drift.Unchecked) != 1 || drift.Incomplete != "" {
		t.Fatalf("%+v, %v", drift, err)
	}
	if r := drift.Resources[0]; r.ID != "AuditLog" || r.Differences[0] != (Difference{"/RetentionInDays", "NOT_EQUAL", "365", "7"}) {
		t.Errorf("%+v", r)
	}
	f.refuse["drift"] = "Failed to detect drift on resource [Key]"
	if drift, err = d.Drift(t.Context()); err != nil || !strings.Contains(drift.Incomplete, "[Key]") || len(drift.Resources) != 2 {
		t.Errorf("%+v, %v", drift, err)
	}
}

// CloudFormation takes an empty name for every stack: a deployer without one calls nothing, and changes no stack.
func TestNamelessDeployer(t *testing.T) {
	f := newFake(t)
	if _, err := install(t.Context(), f.deployer("bastion"), newStack(t, account.Inputs{}), nil); err != nil {
		t.Fatal(err)
	}
	f.calls = nil
	d, ctx := f.deployer(""), t.Context()
	for name, do := range map[string]func() error{
		"look":    func() error { _, err := d.Look(ctx); return err },
		"follow":  func() error { _, err := d.Follow(ctx, nil); return err },
		"settle":  func() error { _, err := d.Settle(ctx, nil); return err },
		"preview": func() error { _, err := d.Preview(ctx, newStack(t, account.Inputs{}), nil); return err },
		"drift":   func() error { _, err := d.Drift(ctx); return err },
		"destroy": func() error { _, err := destroy(ctx, d, DestroyOptions{Audit: true}, nil); return err },
	} {
		if err := do(); !errors.Is(err, errNameless) || fail.KindOf(err) != fail.Usage || len(f.calls) > 0 {
			t.Errorf("%s: %v, calls %q", name, err, f.calls)
		}
	}
}

// A key that an earlier stack left and that is disabled is kept, and a new stack says what to do about it. One that was finally deleted
// may be answered with a denial: it has gone.
func TestKeptKeys(t *testing.T) {
	f := newFake(t)
	d := f.deployer("bastion")
	if _, err := install(t.Context(), d, newStack(t, account.Inputs{}), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := destroy(t.Context(), d, DestroyOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	f.things["bastion-Key"] = "disabled"
	if kept, err := d.Kept(t.Context()); err != nil || len(kept) != 2 {
		t.Errorf("%+v, %v", kept, err)
	}
	if _, err := d.Preview(t.Context(), newStack(t, account.Inputs{}), given); fail.KindOf(err) != fail.Usage || !strings.Contains(fail.NextOf(err), "aws kms enable-key") {
		t.Errorf("%v, next %q", err, fail.NextOf(err))
	}
	f.errors["DescribeKey"] = &smithy.GenericAPIError{Code: "AccessDeniedException", Message: "no resource-based policy allows the kms:DescribeKey action"}
	if kept, err := d.Kept(t.Context()); err != nil || len(kept) != 1 || kept[0].Type != typeLogs {
		t.Errorf("%+v, %v", kept, err)
	}
	if _, err := d.Preview(t.Context(), newStack(t, account.Inputs{}), given); err != nil {
		t.Errorf("a new stack without that key: %v", err)
	}
}
