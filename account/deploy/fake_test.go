package deploy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/smithy-go"
)

// fake is a CloudFormation that works while its client pauses: each pause is a step of a stack's operation.
type fake struct {
	t          *testing.T
	stacks     []*fakeStack
	changeSets map[string]*fakeChangeSet // by ARN
	things     map[string]string         // physical id to type: what exists, and outlives stacks
	tasks      []*fakeTask

	drifts    []types.StackResourceDrift
	detecting int // looks at the detection that are still to find it at work

	refuse map[string]string // logical ids of resources that cannot be made or deleted, with CloudFormation's reason
	errors map[string]error  // of calls, by name
	calls  []string          // in their order, "pause" among them
	// interrupt is called before and after each call and pause has its effect; its error ends the call.
	interrupt func(step int, after bool) error
	serial    int
}

type fakeTask struct{ arn, cluster, family, service, desired, last string }

type fakeStack struct {
	id, name, template string
	status             types.StackStatus
	reason             string
	protected          bool
	parameters         []types.Parameter
	resources          []types.StackResourceSummary
	events             []types.StackEvent // the newest last
	work               []func()           // steps to go
	late               func()             // comes after the next look at the stack
}

type fakeChangeSet struct {
	in    *cloudformation.CreateChangeSetInput
	out   cloudformation.DescribeChangeSetOutput
	stack *fakeStack
}

func newFake(t *testing.T) *fake {
	return &fake{
		t: t, changeSets: make(map[string]*fakeChangeSet), things: make(map[string]string), refuse: make(map[string]string),
		errors: make(map[string]error),
	}
}

// deployer returns a new deployer, as of a new process.
func (f *fake) deployer(name string) *Deployer {
	d := New(f.clients(), name)
	d.Version = "1.2.3"
	d.Pause = func(ctx context.Context, _ time.Duration) error {
		return f.step(ctx, "pause", func() error {
			for _, s := range f.stacks {
				if len(s.work) > 0 {
					work := s.work[0]
					s.work = s.work[1:]
					work()
				}
			}
			for _, task := range f.tasks {
				switch task.last {
				case "STOPPING":
					task.last = "DEPROVISIONING"
				default:
					task.last = task.desired
				}
			}
			return nil
		})
	}
	return d
}

// step counts a call or pause, and has its effect unless it is interrupted.
func (f *fake) step(ctx context.Context, name string, effect func() error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	f.calls = append(f.calls, name)
	n := len(f.calls)
	if n > 5000 {
		f.t.Fatal("it never ends")
	}
	if f.interrupt != nil {
		if err := f.interrupt(n, false); err != nil {
			return err
		}
	}
	if err := f.errors[name]; err != nil {
		return err
	}
	err := effect()
	if f.interrupt != nil {
		if killed := f.interrupt(n, true); killed != nil {
			return killed
		}
	}
	return err
}

// fakeCall makes a call of an effect.
func fakeCall[In, Options, Out any](f *fake, name string, effect func(*In) (*Out, error)) call[In, Options, Out] {
	return func(ctx context.Context, in *In, _ ...func(*Options)) (out *Out, err error) {
		err = f.step(ctx, name, func() (err error) {
			out, err = effect(in)
			return err
		})
		if err != nil {
			return nil, err
		}
		return out, nil
	}
}

func invalid(format string, args ...any) error {
	return &smithy.GenericAPIError{Code: "ValidationError", Message: fmt.Sprintf(format, args...)}
}

func (f *fake) id(kind string) string {
	f.serial++
	return fmt.Sprintf("arn:aws:cloudformation:eu-central-1:000000000000:%s/%d", kind, f.serial)
}

// stack is the stack with an id, or the one with a name that has not been deleted.
func (f *fake) stack(name string) (*fakeStack, error) {
	for _, s := range f.stacks {
		if s.id == name || s.name == name && s.status != types.StackStatusDeleteComplete {
			return s, nil
		}
	}
	return nil, invalid("Stack with id %s does not exist", name)
}

// add makes a stack of a name in a state, with a template.
func (f *fake) add(name, template string, status types.StackStatus) *fakeStack {
	s := &fakeStack{id: f.id("stack/" + name), name: name, template: template, status: status}
	f.stacks = append(f.stacks, s)
	s.event(f, stackType, name, string(status), "User Initiated", "before")
	return s
}

func (s *fakeStack) event(f *fake, kind, id, status, reason, token string) {
	physical := ""
	for _, r := range s.resources {
		if *r.LogicalResourceId == id {
			physical = *r.PhysicalResourceId
		}
	}
	s.events = append(s.events, types.StackEvent{
		EventId: aws.String(f.id("event")), LogicalResourceId: &id, ResourceType: &kind, ResourceStatus: types.ResourceStatus(status),
		ResourceStatusReason: &reason, ClientRequestToken: aws.String(token), StackId: &s.id, PhysicalResourceId: &physical,
	})
}

// set moves the stack itself to a status.
func (s *fakeStack) set(f *fake, status types.StackStatus, reason, token string) {
	s.status, s.reason = status, reason
	s.event(f, stackType, s.name, string(status), reason, token)
}

// declared are the resources of a template in an order that does not change.
func declared(template string) (ids []string, of map[string]map[string]any) {
	var t struct{ Resources map[string]map[string]any }
	if err := json.Unmarshal([]byte(template), &t); err != nil {
		return nil, nil
	}
	return slices.Sorted(maps.Keys(t.Resources)), t.Resources
}

func (f *fake) has(s *fakeStack, id string) bool {
	return slices.ContainsFunc(s.resources, func(r types.StackResourceSummary) bool { return *r.LogicalResourceId == id })
}

// make makes a resource of a stack.
func (f *fake) make(s *fakeStack, id string, resource map[string]any) {
	kind := resource["Type"].(string)
	physical := s.name + "-" + id
	switch properties, _ := resource["Properties"].(map[string]any); kind {
	case typeLogs:
		physical = properties["LogGroupName"].(string)
	case "AWS::ECS::Cluster":
		physical = properties["ClusterName"].(string)
	case "AWS::ECS::TaskDefinition":
		physical = "arn:aws:ecs:eu-central-1:000000000000:task-definition/" + properties["Family"].(string) + ":1"
	}
	f.things[physical] = kind
	s.resources = append(s.resources, types.StackResourceSummary{
		LogicalResourceId: &id, PhysicalResourceId: &physical, ResourceType: &kind, ResourceStatus: types.ResourceStatusCreateComplete,
	})
}

// execute plans the steps of a change set.
func (f *fake) execute(c *fakeChangeSet, token string) {
	s, template := c.stack, *c.in.TemplateBody
	before := slices.Clone(s.resources)
	verb, last := "UPDATE", types.StackStatusUpdateRollbackComplete
	if c.in.ChangeSetType == types.ChangeSetTypeCreate {
		verb, last = "CREATE", types.StackStatusRollbackComplete
	}
	if verb == "CREATE" {
		s.template = template
		s.set(f, types.StackStatusCreateInProgress, "User Initiated", token)
	} else {
		s.late = func() { s.set(f, types.StackStatusUpdateInProgress, "User Initiated", token) }
	}
	s.event(f, "AWS::SNS::Topic", "Neighbour", "CREATE_FAILED", "not of this operation", "another")
	ids, resources := declared(template)
	for _, id := range ids {
		kind, _ := resources[id]["Type"].(string)
		s.work = append(s.work, func() { s.event(f, kind, id, "CREATE_IN_PROGRESS", "", token) })
		if reason, refused := f.refuse[id]; refused {
			s.work = append(s.work, func() {
				s.event(f, "AWS::SNS::Topic", "Neighbour", "CREATE_FAILED", "Resource creation cancelled", token)
				s.event(f, kind, id, "CREATE_FAILED", reason, token)
				s.set(f, types.StackStatus(strings.TrimPrefix(verb+"_ROLLBACK_IN_PROGRESS", "CREATE_")),
					"The following resource(s) failed to create: ["+id+"].", token)
			}, func() {
				for _, r := range s.resources[len(before):] {
					delete(f.things, *r.PhysicalResourceId)
				}
				s.resources = before
				s.set(f, last, "", token)
			})
			return
		}
		s.work = append(s.work, func() {
			if !f.has(s, id) {
				f.make(s, id, resources[id])
			}
			s.event(f, kind, id, "CREATE_COMPLETE", "", token)
		})
	}
	s.work = append(s.work, func() {
		for i, p := range c.in.Parameters {
			for _, old := range s.parameters {
				if aws.ToBool(p.UsePreviousValue) && *old.ParameterKey == *p.ParameterKey {
					c.in.Parameters[i] = old
				}
			}
		}
		s.template, s.parameters = template, c.in.Parameters
		s.set(f, types.StackStatus(verb+"_COMPLETE"), "", token)
	})
}

// delete plans the steps of a stack's deletion.
func (f *fake) delete(s *fakeStack, token string) {
	if s.status == types.StackStatusReviewInProgress { // without an event
		s.status = types.StackStatusDeleteComplete
		return
	}
	for _, r := range s.resources {
		if f.runs(*r.PhysicalResourceId) {
			f.t.Errorf("the stack is deleted while tasks are in the cluster %s", *r.PhysicalResourceId)
		}
	}
	s.set(f, types.StackStatusDeleteInProgress, "User Initiated", token)
	_, resources := declared(s.template)
	var failed []string
	for i := range s.resources {
		r := &s.resources[i]
		id := *r.LogicalResourceId
		s.work = append(s.work, func() {
			switch {
			case r.ResourceStatus == types.ResourceStatusDeleteComplete:
			case f.refuse[id] != "":
				failed = append(failed, id)
				for range 2 { // CloudFormation tries more than once
					s.event(f, *r.ResourceType, id, "DELETE_FAILED", f.refuse[id], token)
				}
			case resources[id]["DeletionPolicy"] != nil:
				r.ResourceStatus = types.ResourceStatusDeleteSkipped
				s.event(f, *r.ResourceType, id, "DELETE_SKIPPED", "", token)
			default:
				r.ResourceStatus = types.ResourceStatusDeleteComplete
				delete(f.things, *r.PhysicalResourceId)
				s.event(f, *r.ResourceType, id, "DELETE_COMPLETE", "", token)
			}
		})
	}
	s.work = append(s.work, func() {
		if len(failed) > 0 {
			s.set(f, types.StackStatusDeleteFailed, fmt.Sprintf("The following resource(s) failed to delete: %v.", failed), token)
			return
		}
		s.set(f, types.StackStatusDeleteComplete, "", token)
	})
}

func (f *fake) clients() Clients {
	return Clients{
		Region:                            "eu-central-1",
		DescribeStacks:                    fakeCall[cloudformation.DescribeStacksInput, cloudformation.Options](f, "DescribeStacks", f.describeStacks),
		DescribeStackEvents:               fakeCall[cloudformation.DescribeStackEventsInput, cloudformation.Options](f, "DescribeStackEvents", f.describeEvents),
		GetTemplate:                       fakeCall[cloudformation.GetTemplateInput, cloudformation.Options](f, "GetTemplate", f.getTemplate),
		ListStacks:                        fakeCall[cloudformation.ListStacksInput, cloudformation.Options](f, "ListStacks", f.listStacks),
		ListStackResources:                fakeCall[cloudformation.ListStackResourcesInput, cloudformation.Options](f, "ListStackResources", f.listResources),
		CreateChangeSet:                   fakeCall[cloudformation.CreateChangeSetInput, cloudformation.Options](f, "CreateChangeSet", f.createChangeSet),
		DescribeChangeSet:                 fakeCall[cloudformation.DescribeChangeSetInput, cloudformation.Options](f, "DescribeChangeSet", f.describeChangeSet),
		ExecuteChangeSet:                  fakeCall[cloudformation.ExecuteChangeSetInput, cloudformation.Options](f, "ExecuteChangeSet", f.executeChangeSet),
		DeleteChangeSet:                   fakeCall[cloudformation.DeleteChangeSetInput, cloudformation.Options](f, "DeleteChangeSet", f.deleteChangeSet),
		ContinueUpdateRollback:            fakeCall[cloudformation.ContinueUpdateRollbackInput, cloudformation.Options](f, "ContinueUpdateRollback", f.continueRollback),
		DeleteStack:                       fakeCall[cloudformation.DeleteStackInput, cloudformation.Options](f, "DeleteStack", f.deleteStack),
		DetectStackDrift:                  fakeCall[cloudformation.DetectStackDriftInput, cloudformation.Options](f, "DetectStackDrift", f.detectDrift),
		DescribeStackDriftDetectionStatus: fakeCall[cloudformation.DescribeStackDriftDetectionStatusInput, cloudformation.Options](f, "DetectionStatus", f.detectionStatus),
		DescribeStackResourceDrifts:       fakeCall[cloudformation.DescribeStackResourceDriftsInput, cloudformation.Options](f, "ResourceDrifts", f.resourceDrifts),
		ListTasks:                         fakeCall[ecs.ListTasksInput, ecs.Options](f, "ListTasks", f.listTasks),
		DescribeTasks:                     fakeCall[ecs.DescribeTasksInput, ecs.Options](f, "DescribeTasks", f.describeTasks),
		StopTask:                          fakeCall[ecs.StopTaskInput, ecs.Options](f, "StopTask", f.stopTask),
		DeleteLogGroup:                    fakeCall[cloudwatchlogs.DeleteLogGroupInput, cloudwatchlogs.Options](f, "DeleteLogGroup", f.deleteLogs),
		ScheduleKeyDeletion:               fakeCall[kms.ScheduleKeyDeletionInput, kms.Options](f, "ScheduleKeyDeletion", f.deleteKey),
		DescribeLogGroups:                 fakeCall[cloudwatchlogs.DescribeLogGroupsInput, cloudwatchlogs.Options](f, "DescribeLogGroups", f.describeLogs),
		DescribeKey:                       fakeCall[kms.DescribeKeyInput, kms.Options](f, "DescribeKey", f.describeKey),
	}
}

func (f *fake) describeStacks(in *cloudformation.DescribeStacksInput) (*cloudformation.DescribeStacksOutput, error) {
	s, err := f.stack(*in.StackName)
	if err != nil {
		return nil, err
	}
	out := &cloudformation.DescribeStacksOutput{Stacks: []types.Stack{{
		StackId: &s.id, StackName: &s.name, StackStatus: s.status, StackStatusReason: aws.String(s.reason), Parameters: s.parameters,
		EnableTerminationProtection: &s.protected, Outputs: []types.Output{{OutputKey: aws.String("Cluster"), OutputValue: &s.name}},
	}}}
	if s.late != nil {
		s.late()
		s.late = nil
	}
	return out, nil
}

// eventsOnAPage is few, so that there are pages.
const eventsOnAPage = 5

func (f *fake) describeEvents(in *cloudformation.DescribeStackEventsInput) (*cloudformation.DescribeStackEventsOutput, error) {
	s, err := f.stack(*in.StackName)
	if err != nil {
		return nil, err
	}
	events := slices.Clone(s.events)
	slices.Reverse(events)
	if in.NextToken != nil {
		events = events[slices.IndexFunc(events, func(e types.StackEvent) bool { return *e.EventId == *in.NextToken }):]
	}
	if len(events) > eventsOnAPage {
		return &cloudformation.DescribeStackEventsOutput{StackEvents: events[:eventsOnAPage], NextToken: events[eventsOnAPage].EventId}, nil
	}
	return &cloudformation.DescribeStackEventsOutput{StackEvents: events}, nil
}

func (f *fake) getTemplate(in *cloudformation.GetTemplateInput) (*cloudformation.GetTemplateOutput, error) {
	s, err := f.stack(*in.StackName)
	if err != nil {
		return nil, err
	}
	return &cloudformation.GetTemplateOutput{TemplateBody: &s.template}, nil
}

func (f *fake) listStacks(*cloudformation.ListStacksInput) (*cloudformation.ListStacksOutput, error) {
	out := &cloudformation.ListStacksOutput{}
	for _, s := range f.stacks {
		if s.status == types.StackStatusDeleteComplete {
			out.StackSummaries = append(out.StackSummaries, types.StackSummary{StackName: &s.name, StackId: &s.id, StackStatus: s.status})
		}
	}
	return out, nil
}

func (f *fake) listResources(in *cloudformation.ListStackResourcesInput) (*cloudformation.ListStackResourcesOutput, error) {
	s, err := f.stack(*in.StackName)
	if err != nil {
		return nil, err
	}
	return &cloudformation.ListStackResourcesOutput{StackResourceSummaries: s.resources}, nil
}

func (f *fake) createChangeSet(in *cloudformation.CreateChangeSetInput) (*cloudformation.CreateChangeSetOutput, error) {
	s, err := f.stack(*in.StackName)
	switch {
	case in.ChangeSetType == types.ChangeSetTypeUpdate && err != nil:
		return nil, err
	case in.ChangeSetType == types.ChangeSetTypeCreate && err == nil && s.status != types.StackStatusReviewInProgress:
		return nil, &types.AlreadyExistsException{Message: aws.String("Stack already exists")}
	case in.ChangeSetType == types.ChangeSetTypeCreate && err != nil:
		s = f.add(*in.StackName, "", types.StackStatusReviewInProgress)
	}
	for _, c := range f.changeSets {
		if c.stack == s && *c.in.ChangeSetName == *in.ChangeSetName {
			return nil, &types.AlreadyExistsException{Message: aws.String("ChangeSet already exists")}
		}
	}
	arn := f.id("changeSet/" + *in.ChangeSetName)
	c := &fakeChangeSet{in: in, stack: s, out: cloudformation.DescribeChangeSetOutput{
		ChangeSetId: &arn, StackId: &s.id, Status: types.ChangeSetStatusCreateInProgress, ExecutionStatus: types.ExecutionStatusUnavailable,
	}}
	f.changeSets[arn] = c
	ids, resources := declared(*in.TemplateBody)
	s.work = append(s.work, func() {
		if s.template == *in.TemplateBody {
			c.out.Status = types.ChangeSetStatusFailed
			c.out.StatusReason = aws.String("The submitted information didn't contain changes. Submit different information to create a change set.")
			return
		}
		c.out.Status, c.out.ExecutionStatus = types.ChangeSetStatusCreateComplete, types.ExecutionStatusAvailable
		for _, id := range ids {
			change := &types.ResourceChange{Action: types.ChangeActionAdd, LogicalResourceId: &id, ResourceType: aws.String(resources[id]["Type"].(string))}
			if f.has(s, id) {
				change.Action, change.Replacement = types.ChangeActionModify, types.ReplacementFalse
				change.Details = []types.ResourceChangeDetail{{Target: &types.ResourceTargetDefinition{Attribute: types.ResourceAttributeTags}}}
			}
			c.out.Changes = append(c.out.Changes, types.Change{ResourceChange: change})
		}
	})
	return &cloudformation.CreateChangeSetOutput{Id: &arn, StackId: &s.id}, nil
}

// found is a change set by its ARN, or by its name and its stack's.
func (f *fake) found(name, stack *string) (*fakeChangeSet, error) {
	if c, ok := f.changeSets[*name]; ok {
		return c, nil
	}
	for _, c := range f.changeSets {
		if *c.in.ChangeSetName == *name && stack != nil && (c.stack.name == *stack && c.stack.status != types.StackStatusDeleteComplete) {
			return c, nil
		}
	}
	return nil, &types.ChangeSetNotFoundException{Message: aws.String("ChangeSet [" + *name + "] does not exist")}
}

func (f *fake) describeChangeSet(in *cloudformation.DescribeChangeSetInput) (*cloudformation.DescribeChangeSetOutput, error) {
	c, err := f.found(in.ChangeSetName, in.StackName)
	if err != nil {
		return nil, err
	}
	out := c.out
	if half := len(out.Changes) / 2; in.NextToken == nil && half > 0 { // two pages
		out.Changes, out.NextToken = out.Changes[:half], aws.String("rest")
	} else if in.NextToken != nil {
		out.Changes = out.Changes[half:]
	}
	return &out, nil
}

func (f *fake) executeChangeSet(in *cloudformation.ExecuteChangeSetInput) (*cloudformation.ExecuteChangeSetOutput, error) {
	c, err := f.found(in.ChangeSetName, in.StackName)
	if err != nil {
		return nil, err
	}
	if c.out.ExecutionStatus != types.ExecutionStatusAvailable {
		return nil, &types.InvalidChangeSetStatusException{Message: aws.String("ChangeSet cannot be executed in its current status")}
	}
	if in.DisableRollback == nil || *in.DisableRollback {
		f.t.Error("a failure will not be rolled back")
	}
	c.out.ExecutionStatus = types.ExecutionStatusExecuteInProgress
	f.execute(c, *in.ClientRequestToken)
	return &cloudformation.ExecuteChangeSetOutput{}, nil
}

func (f *fake) deleteChangeSet(in *cloudformation.DeleteChangeSetInput) (*cloudformation.DeleteChangeSetOutput, error) {
	delete(f.changeSets, *in.ChangeSetName)
	return &cloudformation.DeleteChangeSetOutput{}, nil
}

func (f *fake) continueRollback(in *cloudformation.ContinueUpdateRollbackInput) (*cloudformation.ContinueUpdateRollbackOutput, error) {
	s, err := f.stack(*in.StackName)
	if err != nil {
		return nil, err
	}
	token := *in.ClientRequestToken
	s.set(f, types.StackStatusUpdateRollbackInProgress, "User Initiated", token)
	s.work = append(s.work, func() {
		if reason := f.refuse["rollback"]; reason != "" {
			s.event(f, "AWS::ECS::Cluster", "Cluster", "UPDATE_FAILED", reason, token)
			s.set(f, types.StackStatusUpdateRollbackFailed, "The following resource(s) failed to update: [Cluster].", token)
			return
		}
		s.set(f, types.StackStatusUpdateRollbackComplete, "", token)
	})
	return &cloudformation.ContinueUpdateRollbackOutput{}, nil
}

func (f *fake) deleteStack(in *cloudformation.DeleteStackInput) (*cloudformation.DeleteStackOutput, error) {
	s, err := f.stack(*in.StackName)
	if err == nil && s.status != types.StackStatusDeleteComplete {
		f.delete(s, aws.ToString(in.ClientRequestToken))
	}
	return &cloudformation.DeleteStackOutput{}, nil
}

var errKilled = errors.New("killed")
