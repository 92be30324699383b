package deploy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/partition"
)

var errNotOwn = errors.New("bastion has not made it: its template has no inputs of bastion's")

// again is the hint after something that the same command mends when it runs again.
const again = "run the command again: it goes on where this one ended"

// fault wraps the error of a call about the stack. do is the operation ("look at"), action the call's IAM action.
func (d *Deployer) fault(do, action string, err error) error {
	return d.faultOn(do+" "+d.stack(), action, d.arn(), err)
}

// arn is the stack's ARN, as a policy names it.
func (d *Deployer) arn() string {
	return fmt.Sprintf("arn:%s:cloudformation:%s:*:stack/%s/*", partition.Of(d.aws.Region).ID, d.aws.Region, d.name)
}

// faultOn wraps the error of an AWS call. resource is the call's, for answers that name none.
func (d *Deployer) faultOn(op, action, resource string, err error) error {
	wrapped := fail.AdminAWS(fail.Other, op, action, resource, err)
	answer := awsanswer.Of(err)
	f, ok := errors.AsType[*fail.Error](wrapped)
	if ok && f.Next == "" && (answer.Class == awsanswer.None || answer.Class.Passes()) {
		f.Next = again
	}
	return wrapped
}

// Failure is an operation of CloudFormation's that did not succeed.
type Failure struct {
	Status   string // the stack's, at the end
	Resource string // logical id of the resource that failed first; empty: CloudFormation names none
	Type     string // of the resource
	Reason   string
	Others   []Event // further resources that failed for reasons of their own
}

func (f *Failure) Error() string {
	reason := f.Reason
	if reason == "" {
		reason = "CloudFormation gives no reason"
	}
	if f.Resource == "" {
		return fmt.Sprintf("%s (%s)", reason, f.Status)
	}
	text := fmt.Sprintf("%s (%s): %s", f.Resource, f.Type, reason)
	for _, e := range f.Others {
		text += fmt.Sprintf("; %s (%s): %s", e.Resource, e.Type, e.Reason)
	}
	return text + " (" + f.Status + ")"
}

// failed returns the error of an operation (create, change, delete) that ended with f. next is the hint if the reason has none of its own.
func (d *Deployer) failed(do string, f *Failure, next string) error {
	op := do + " " + d.stack()
	kind := fail.Other
	answer := awsanswer.Judge(awsanswer.Answer{Message: f.Reason})
	switch {
	case answer.Class == awsanswer.Denied && answer.Action != "":
		kind, next = fail.Denied, answer.NextDenied("")
		if statement := answer.Statement("", ""); statement != "" {
			next += fail.StatementToAdd + statement
		}
	case strings.Contains(strings.ToLower(f.Reason), "already exists"):
		next = "something else has the name: choose another (--name), or remove it"
	}
	return fail.New(kind, op, f, next)
}

// interrupted is the error after the end of ctx while CloudFormation is at work.
func (d *Deployer) interrupted(ctx context.Context) error {
	return fail.New(fail.Other, "wait for "+d.stack(), context.Cause(ctx), "CloudFormation goes on by itself: "+again)
}
