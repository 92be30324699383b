package deploy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// given are the parameters that a stack of no inputs needs.
var given = map[string]string{"VpcId": "vpc-1", "VpcCidr": "10.0.0.0/16", "Allow": "10.0.0.0/16:5432"}

func newStack(t *testing.T, in account.Inputs) *account.Stack {
	t.Helper()
	s, err := account.New(in)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// template is the deployed template of a stack.
func template(t *testing.T, s *account.Stack) string {
	t.Helper()
	text, err := s.Deployable("1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// install is what a command does, from whatever is there.
func install(ctx context.Context, d *Deployer, s *account.Stack, on func(Event)) (Outputs, error) {
	if _, err := d.Settle(ctx, on); err != nil {
		return nil, err
	}
	p, err := d.Preview(ctx, s, given)
	if err != nil {
		return nil, err
	}
	return d.Apply(ctx, p, on)
}

func TestCreateAndChange(t *testing.T) {
	f := newFake(t)
	s := newStack(t, account.Inputs{})
	var events []Event
	on := func(e Event) { events = append(events, e) }

	d := f.deployer("bastion")
	if state, err := d.Look(t.Context()); err != nil || state.Phase != None {
		t.Fatalf("%+v, %v", state, err)
	}
	p, err := d.Preview(t.Context(), s, given)
	if err != nil || !p.New || p.Empty || len(p.Changes) != len(s.Resources) || p.Changes[0].Action != "Add" {
		t.Fatalf("%+v, %v", p, err)
	}
	outputs, err := d.Apply(t.Context(), p, on)
	if err != nil || outputs["Cluster"] != "bastion" {
		t.Fatalf("%v, %v", outputs, err)
	}
	if first, last := events[0], events[len(events)-1]; first.Status != "CREATE_IN_PROGRESS" || first.Type != stackType ||
		last.Status != "CREATE_COMPLETE" || len(events) != 2+2*len(s.Resources) {
		t.Errorf("%d events, from %+v to %+v", len(events), first, last)
	}
	state, err := d.Look(t.Context())
	if err != nil || state.Phase != Ready || !state.Own || state.Version != "1.2.3" || !reflect.DeepEqual(state.Inputs, s.Inputs) ||
		state.Parameters["Allow"] != given["Allow"] {
		t.Errorf("%+v, %v", state, err)
	}

	// The same again changes nothing and leaves nothing.
	p, err = f.deployer("bastion").Preview(t.Context(), s, given)
	if err != nil || !p.Empty || len(p.Changes) != 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	if outputs, err := d.Apply(t.Context(), p, on); err != nil || outputs["Cluster"] != "bastion" {
		t.Errorf("%v, %v", outputs, err)
	}
	if err := d.Discard(t.Context(), p); err != nil {
		t.Error(err)
	}

	// Another is a change, whose events are its own.
	events = nil
	in := s.Inputs
	in.CPU, in.Memory = 2048, 4096
	d = f.deployer("bastion")
	p, err = d.Preview(t.Context(), newStack(t, in), nil)
	if err != nil || p.New || p.Changes[0].Action != "Modify" || !slices.Equal(p.Changes[0].Properties, []string{"Tags"}) {
		t.Fatalf("%+v, %v", p, err)
	}
	if _, err := d.Apply(t.Context(), p, on); err != nil || events[0].Status != "UPDATE_IN_PROGRESS" {
		t.Errorf("%v, from %+v", err, events[0])
	}
	if state, err := d.Look(t.Context()); err != nil || state.Parameters["Allow"] != given["Allow"] || state.Parameters["VpcId"] != "vpc-1" {
		t.Errorf("the deployed values do not stay: %v, %v", state.Parameters, err)
	}
}

func TestParameterWithoutValue(t *testing.T) {
	_, err := newFake(t).deployer("bastion").Preview(t.Context(), newStack(t, account.Inputs{}), map[string]string{"VpcId": "vpc-1"})
	if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "VpcCidr") {
		t.Error(err)
	}
}

// A preview that is not applied leaves nothing: neither the change set nor the stack that it made.
func TestDiscard(t *testing.T) {
	f := newFake(t)
	s := newStack(t, account.Inputs{})
	d := f.deployer("bastion")
	p, err := d.Preview(t.Context(), s, given)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Discard(t.Context(), p); err != nil || len(f.changeSets) > 0 {
		t.Errorf("%v, %d change sets", err, len(f.changeSets))
	}
	if state, err := d.Look(t.Context()); err != nil || state.Phase != None {
		t.Errorf("%+v, %v", state, err)
	}
	// Of a stack that is there, only the change set goes.
	if _, err := install(t.Context(), d, s, nil); err != nil {
		t.Fatal(err)
	}
	p, err = d.Preview(t.Context(), newStack(t, account.Inputs{CPU: 2048}), given)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Discard(t.Context(), p); err != nil {
		t.Error(err)
	}
	if state, err := d.Look(t.Context()); err != nil || state.Phase != Ready {
		t.Errorf("%+v, %v", state, err)
	}
}

// A preview that was interrupted is found again, and discarded with the stack that it made. A stack in review that another preview made
// stays.
func TestPreviewAgain(t *testing.T) {
	f := newFake(t)
	s := newStack(t, account.Inputs{})
	if _, err := f.deployer("bastion").Preview(t.Context(), s, given); err != nil {
		t.Fatal(err)
	}
	d := f.deployer("bastion")
	p, err := d.Preview(t.Context(), s, given)
	if err != nil || !p.New || len(p.Changes) != len(s.Resources) {
		t.Fatalf("%+v, %v", p, err)
	}
	if n := strings.Count(strings.Join(f.calls, " "), "CreateChangeSet"); n != 1 || slices.Contains(f.calls, "DeleteChangeSet") {
		t.Errorf("%d change sets were made: %q", n, f.calls)
	}
	if err := d.Discard(t.Context(), p); err != nil || !slices.Contains(f.calls, "DeleteStack") {
		t.Errorf("%v, after %q", err, f.calls)
	}
	if state, err := d.Look(t.Context()); err != nil || state.Phase != None {
		t.Errorf("%+v, %v", state, err)
	}
	if _, err := f.deployer("bastion").Preview(t.Context(), s, given); err != nil {
		t.Fatal(err)
	}
	f.calls = nil
	if p, err = d.Preview(t.Context(), newStack(t, account.Inputs{CPU: 2048}), given); err != nil {
		t.Fatal(err)
	}
	if err := d.Discard(t.Context(), p); err != nil || slices.Contains(f.calls, "DeleteStack") {
		t.Errorf("%v, after %q", err, f.calls)
	}
}

// What failed is not removed while it is protected.
func TestSettleProtected(t *testing.T) {
	f := newFake(t)
	f.add("bastion", template(t, newStack(t, account.Inputs{})), types.StackStatusRollbackComplete).protected = true
	_, err := f.deployer("bastion").Settle(t.Context(), nil)
	if fail.KindOf(err) != fail.Usage || slices.Contains(f.calls, "DeleteStack") || !strings.Contains(fail.NextOf(err), "termination-protection") {
		t.Errorf("%v, after %q", err, f.calls)
	}
}

// A rollback that fails again names its resource, and is not tried without end.
func TestRollbackFailsAgain(t *testing.T) {
	f := newFake(t)
	f.add("bastion", template(t, newStack(t, account.Inputs{})), types.StackStatusUpdateRollbackFailed)
	f.refuse["rollback"] = "The cluster is gone"
	_, err := f.deployer("bastion").Settle(t.Context(), nil)
	if failure, ok := errors.AsType[*Failure](err); !ok || failure.Resource != "Cluster" || failure.Reason != "The cluster is gone" {
		t.Errorf("%v", err)
	}
}

// A change set that is being executed already, for the answer to the call was lost, is followed.
func TestExecutedAlready(t *testing.T) {
	f := newFake(t)
	d := f.deployer("bastion")
	p, err := d.Preview(t.Context(), newStack(t, account.Inputs{}), given)
	if err != nil {
		t.Fatal(err)
	}
	execute := d.aws.ExecuteChangeSet
	d.aws.ExecuteChangeSet = func(ctx context.Context, in *cloudformation.ExecuteChangeSetInput, o ...func(*cloudformation.Options)) (
		*cloudformation.ExecuteChangeSetOutput, error,
	) {
		if _, err := execute(ctx, in, o...); err != nil {
			return nil, err
		}
		return execute(ctx, in, o...)
	}
	if outputs, err := d.Apply(t.Context(), p, nil); err != nil || outputs["Cluster"] != "bastion" {
		t.Errorf("%v, %v", outputs, err)
	}
	if _, err := d.Apply(t.Context(), p, nil); err == nil {
		t.Error("a change set was executed twice")
	}
	if err := d.Discard(t.Context(), p); err != nil { // too late
		t.Error(err)
	}
	if state, err := d.Look(t.Context()); err != nil || state.Phase != Ready {
		t.Errorf("%+v, %v", state, err)
	}
}

// Every status of CloudFormation's leads to a stack that is deployed, or to a message that says what to do.
func TestEveryStatus(t *testing.T) {
	s := newStack(t, account.Inputs{})
	for _, status := range types.StackStatus("").Values() {
		t.Run(string(status), func(t *testing.T) {
			f := newFake(t)
			stack := f.add("bastion", template(t, newStack(t, account.Inputs{CPU: 256})), status)
			if phaseOf(status) == Busy { // what is under way ends as CloudFormation ends it
				end := types.StackStatus(strings.TrimSuffix(strings.TrimSuffix(string(status), "_IN_PROGRESS"), "_COMPLETE_CLEANUP") + "_COMPLETE")
				stack.work = append(stack.work, func() {}, func() { stack.set(f, end, "", "before") })
			}
			p := phaseOf(status)
			if _, err := f.deployer("bastion").Preview(t.Context(), s, given); (err == nil) != (p == None || p == Review || p == Ready) ||
				err != nil && (!strings.Contains(err.Error(), string(status)) || fail.NextOf(err) == "") {
				t.Errorf("%v, %q", err, fail.NextOf(err))
			}
			state, err := f.deployer("bastion").Settle(t.Context(), nil)
			if phases[status] == Unknown {
				if err == nil || !strings.Contains(err.Error(), string(status)) || fail.NextOf(err) == "" {
					t.Errorf("%v, next %q", err, fail.NextOf(err))
				}
				return
			}
			if err != nil || state.Phase != None && state.Phase != Review && state.Phase != Ready {
				t.Fatalf("%+v, %v", state, err)
			}
			if _, err := install(t.Context(), f.deployer("bastion"), s, nil); err != nil {
				t.Fatal(err)
			}
			state, err = f.deployer("bastion").Look(t.Context())
			if err != nil || state.Phase != Ready || state.Inputs.CPU != 1024 {
				t.Errorf("%+v, %v", state, err)
			}
		})
	}
	if phaseOf("QUITE_NEW") != Unknown {
		t.Error("a status that CloudFormation may have one day is taken for a known one")
	}
	if len(phases) != len(types.StackStatus("").Values()) {
		t.Error("there are statuses that the SDK does not know")
	}
}

// A creation that is interrupted anywhere, before or after a call has had its effect, goes on when the command runs again. In the end there
// is one stack, with each of its resources once, and no change set that could still be executed.
func TestInterruptedAnywhere(t *testing.T) {
	s := newStack(t, account.Inputs{})
	whole := newFake(t)
	if _, err := install(t.Context(), whole.deployer("bastion"), s, nil); err != nil {
		t.Fatal(err)
	}
	for i := range whole.calls {
		for _, after := range []bool{false, true} {
			step := i + 1
			t.Run(fmt.Sprintf("%d %s %v", step, whole.calls[i], after), func(t *testing.T) {
				f := newFake(t)
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				f.interrupt = func(n int, isAfter bool) error {
					if n == step && isAfter == after {
						cancel(errKilled)
						return context.Canceled
					}
					return nil
				}
				_, err := install(ctx, f.deployer("bastion"), s, nil)
				if err == nil {
					t.Fatal("it is not interrupted")
				}
				f.interrupt = nil
				outputs, err := install(t.Context(), f.deployer("bastion"), s, nil)
				if err != nil || outputs["Cluster"] != "bastion" {
					t.Fatalf("%v, %v", outputs, err)
				}
				if !maps.Equal(f.things, whole.things) || len(f.stacks) != 1 {
					t.Errorf("%d stacks with %v", len(f.stacks), f.things)
				}
				for _, c := range f.changeSets {
					if c.out.ExecutionStatus == types.ExecutionStatusAvailable {
						t.Error("a change set is left")
					}
				}
			})
		}
	}
}

const notAuthorized = `Resource handler returned message: "User: arn:aws:iam::000000000000:user/u is not authorized to perform: ` +
	`ecs:CreateCluster on resource: arn:aws:ecs:eu-central-1:000000000000:cluster/bastion because no identity-based policy allows the ` +
	`ecs:CreateCluster action (Service: Ecs, Status Code: 400)" (HandlerErrorCode: AccessDenied)`

// The reason of a failure is that of the resource that failed, not of those that were cancelled, nor of an earlier attempt.
func TestFailure(t *testing.T) {
	s := newStack(t, account.Inputs{})
	f := newFake(t)
	f.refuse["Cluster"] = notAuthorized
	_, err := install(t.Context(), f.deployer("bastion"), s, nil)
	failure, ok := errors.AsType[*Failure](err)
	if !ok || failure.Resource != "Cluster" || failure.Type != "AWS::ECS::Cluster" || failure.Status != "ROLLBACK_COMPLETE" || len(failure.Others) > 0 {
		t.Fatalf("%v", err)
	}
	next := fail.NextOf(err)
	if statement := `{"Effect":"Allow","Action":"ecs:CreateCluster","Resource":"arn:aws:ecs:eu-central-1:000000000000:cluster/bastion"}`; fail.KindOf(err) != fail.Denied ||
		!strings.Contains(next, statement) {
		t.Errorf("%v: %q", fail.KindOf(err), next)
	}

	// Again, with another cause: the failed stack goes first.
	delete(f.refuse, "Cluster")
	f.refuse["Repository"] = "The repository with name 'bastion' already exists in the registry"
	_, err = install(t.Context(), f.deployer("bastion"), s, nil)
	if failure, ok := errors.AsType[*Failure](err); !ok || failure.Resource != "Repository" || !strings.Contains(fail.NextOf(err), "--name") {
		t.Errorf("%v: %q", err, fail.NextOf(err))
	}
	clear(f.refuse)
	if _, err = install(t.Context(), f.deployer("bastion"), s, nil); err != nil {
		t.Fatal(err)
	}

	// A change that fails leaves the stack as it was, and says so.
	f.refuse["AuditLog"] = "Internal failure"
	_, err = install(t.Context(), f.deployer("bastion"), newStack(t, account.Inputs{CPU: 2048}), nil)
	if failure, ok := errors.AsType[*Failure](err); !ok || failure.Status != "UPDATE_ROLLBACK_COMPLETE" || !strings.Contains(fail.NextOf(err), "as it was") {
		t.Errorf("%v: %q", err, fail.NextOf(err))
	}
	if state, err := f.deployer("bastion").Look(t.Context()); err != nil || state.Inputs.CPU != 1024 {
		t.Errorf("%+v, %v", state.Inputs, err)
	}
}

// Each call that a policy denies is named with its resource, and with the statement to add.
func TestDenied(t *testing.T) {
	s := newStack(t, account.Inputs{})
	for action, from := range map[string]types.StackStatus{
		"DescribeStacks": "", "ListStacks": "", "CreateChangeSet": "", "DescribeChangeSet": "", "DescribeStackEvents": "", "ExecuteChangeSet": "",
		"GetTemplate": types.StackStatusCreateComplete, "DeleteStack": types.StackStatusRollbackComplete,
		"ContinueUpdateRollback": types.StackStatusUpdateRollbackFailed,
	} {
		t.Run(action, func(t *testing.T) {
			f := newFake(t)
			if from != "" {
				f.add("bastion", template(t, newStack(t, account.Inputs{CPU: 256})), from)
			}
			f.errors[action] = &smithy.GenericAPIError{Code: "AccessDenied", Message: "User: u is not authorized to perform: cloudformation:" + action}
			_, err := install(t.Context(), f.deployer("bastion"), s, nil)
			want := `{"Effect":"Allow","Action":"cloudformation:` + action + `","Resource":"arn:aws:cloudformation:eu-central-1:*:stack/bastion/*"}`
			if fail.KindOf(err) != fail.Denied || !strings.Contains(fail.NextOf(err), want) {
				t.Errorf("%v: %q", err, fail.NextOf(err))
			}
		})
	}
}

// A stack that something else made is not touched, whatever its state.
func TestStacksOfOthers(t *testing.T) {
	s := newStack(t, account.Inputs{})
	newer := `{"Metadata":{"Bastion":{"Version":"99.0.0","Inputs":{"Unheard":1}}},"Resources":{}}`
	for _, status := range types.StackStatus("").Values() {
		if phases[status] == None || phases[status] == Review {
			continue
		}
		for theirs, next := range map[string]string{`{"Resources":{}}`: "--name", newer: "99.0.0"} {
			f := newFake(t)
			f.add("bastion", theirs, status)
			d := f.deployer("bastion")
			_, settleErr := d.Settle(t.Context(), nil)
			_, previewErr := d.Preview(t.Context(), s, given)
			for _, err := range []error{settleErr, previewErr} {
				if fail.KindOf(err) != fail.Usage || !strings.Contains(fail.NextOf(err), next) {
					t.Errorf("%s: %v, %q", status, err, fail.NextOf(err))
				}
			}
			for _, name := range f.calls {
				if !strings.HasPrefix(name, "Describe") && name != "GetTemplate" {
					t.Errorf("%s: %s was called", status, name)
				}
			}
		}
	}
}

// What an earlier stack of the name left is taken over: its log group by its name, its key by its ARN.
func TestAdoption(t *testing.T) {
	s := newStack(t, account.Inputs{})
	f := newFake(t)
	d := f.deployer("bastion")
	if _, err := install(t.Context(), d, s, nil); err != nil {
		t.Fatal(err)
	}
	state, err := d.Look(t.Context())
	if err == nil {
		err = d.delete(t.Context(), state, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]string{"/bastion": typeLogs, "bastion-Key": typeKey}; !maps.Equal(f.things, want) {
		t.Fatalf("left are %v", f.things)
	}
	p, err := d.Preview(t.Context(), s, given)
	if err != nil || len(p.Adopted) != 2 {
		t.Fatalf("%+v, %v", p.Adopted, err)
	}
	const arn = "arn:aws:kms:eu-central-1:000000000000:key/bastion-Key"
	in := f.changeSets[p.changeSet].in
	if p.Stack.Inputs.Key != arn || in.ImportExistingResources == nil || !*in.ImportExistingResources {
		t.Errorf("key %q, %+v", p.Stack.Inputs.Key, in)
	}
	if _, err := d.Apply(t.Context(), p, nil); err != nil {
		t.Fatal(err)
	}
	want := []string{"/bastion", arn}
	if state, err := d.Look(t.Context()); err != nil || !slices.Equal(state.Adopted, want) {
		t.Errorf("%+v, %v", state, err)
	}
	// The key stays adopted with the next change.
	p, err = d.Preview(t.Context(), newStack(t, account.Inputs{CPU: 2048, Key: arn}), given)
	if err != nil || !strings.Contains(*f.changeSets[p.changeSet].in.TemplateBody, `"`+arn+`"]`) {
		t.Errorf("%+v, %v", p, err)
	}
}

// A key that is being deleted, and a log group that has gone, are not taken over.
func TestNoAdoption(t *testing.T) {
	s := newStack(t, account.Inputs{})
	f := newFake(t)
	d := f.deployer("bastion")
	if _, err := install(t.Context(), d, s, nil); err != nil {
		t.Fatal(err)
	}
	state, _ := d.Look(t.Context())
	if err := d.delete(t.Context(), state, nil); err != nil {
		t.Fatal(err)
	}
	f.things = map[string]string{"/bastion-more": typeLogs, "bastion-Key": "deleting"}
	p, err := d.Preview(t.Context(), s, given)
	if err != nil || len(p.Adopted) > 0 || p.Stack.Inputs.Key != "" || f.changeSets[p.changeSet].in.ImportExistingResources != nil {
		t.Errorf("%+v, %v", p.Adopted, err)
	}
}

func TestTemplateTooLarge(t *testing.T) {
	in := account.Inputs{}
	for i := range 12 {
		in.Classes = append(in.Classes, account.Class{Name: fmt.Sprintf("class-%d", i), Allow: []string{"10.0.0.0/16:5432"}})
	}
	_, err := newFake(t).deployer("bastion").Preview(t.Context(), newStack(t, in), given)
	if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "12 classes") || !strings.Contains(fail.NextOf(err), "divide the classes") {
		t.Errorf("%v, next %q", err, fail.NextOf(err))
	}
	in = account.Inputs{}
	for i := range 150 {
		in.Ingress = append(in.Ingress, account.Ingress{Group: fmt.Sprintf("sg-%08x", i), Port: 5432, For: "rds:orders"})
	}
	_, err = newFake(t).deployer("bastion").Preview(t.Context(), newStack(t, in), given)
	if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "150 rules") || !strings.Contains(fail.NextOf(err), "--change-security-groups no") {
		t.Errorf("%v, next %q", err, fail.NextOf(err))
	}
}
