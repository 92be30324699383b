package deploy

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// beginPolls is how often CloudFormation may be looked at before it says that an operation has begun.
const beginPolls = 20

// Apply does what the preview shows, tells its events, and returns the stack's outputs. If it is interrupted, CloudFormation goes on:
// Settle follows it. An error of CloudFormation's work is a *Failure, whose resource is the one that failed first.
func (d *Deployer) Apply(ctx context.Context, p Preview, on func(Event)) (Outputs, error) {
	if p.Empty {
		s, err := d.Look(ctx)
		return s.Outputs, err
	}
	last, err := d.newest(ctx, p.stackID)
	if err != nil {
		return nil, err
	}
	op := &operation{
		stack: p.stackID, last: aws.ToString(last.EventId),
		// A call that is repeated for want of an answer is the same operation. Another change set is another.
		token: fmt.Sprintf("bastion-%x", sha256.Sum256([]byte(p.changeSet)))[:40],
	}
	_, err = d.aws.ExecuteChangeSet(ctx, &cloudformation.ExecuteChangeSetInput{
		ChangeSetName: &p.changeSet, ClientRequestToken: &op.token, DisableRollback: aws.Bool(false),
	})
	if answer := awsanswer.Of(err); err != nil && answer.Code != "InvalidChangeSetStatus" {
		return nil, d.fault("change", "cloudformation:ExecuteChangeSet", err)
	} else if err != nil { // perhaps because it is being executed already
		if s, lookErr := d.describe(ctx, p.stackID); lookErr != nil || s.Phase != Busy {
			return nil, d.fault("change", "cloudformation:ExecuteChangeSet", err)
		}
	}
	s, err := d.follow(ctx, op, on)
	if err != nil {
		return nil, err
	}
	if s.Phase == Ready && s.Status != string(types.StackStatusUpdateRollbackComplete) {
		return s.Outputs, nil
	}
	do, next := "change", "mend the cause and run the command again; the stack is as it was before"
	switch {
	case s.Phase == Unmade:
		do, next = "create", "mend the cause and run the command again: it removes what is left of the stack first"
	case s.Phase != Ready:
		next = again
	}
	return nil, d.failed(do, op.failure(s), next)
}

// follow tells the events of an operation until CloudFormation has ended it, and returns how the stack is then.
func (d *Deployer) follow(ctx context.Context, op *operation, on func(Event)) (State, error) {
	for polls := 0; ; polls++ {
		begun := op.begun                   // before the state: that of a moment ago may be the one from before the operation
		s, err := d.describe(ctx, op.stack) // before the events: the last of them is from before the stack's last state
		if err == nil {
			err = op.next(ctx, d, on)
		}
		if err != nil {
			if ctx.Err() != nil {
				return s, d.interrupted(ctx)
			}
			return s, err
		}
		if s.Phase != Busy && begun || s.Phase == None { // of the deletion of an empty stack there may be no event
			return s, nil
		}
		if !op.begun && polls >= beginPolls {
			return s, fail.New(fail.Timeout, "wait for "+d.stack(), errors.New("CloudFormation does not begin"), again)
		}
		if err := d.Pause(ctx, pollStack); err != nil {
			return s, d.interrupted(ctx)
		}
	}
}

// Follow waits, with events, while CloudFormation is at work on the stack, and returns its state then.
func (d *Deployer) Follow(ctx context.Context, on func(Event)) (State, error) {
	for {
		s, err := d.Look(ctx)
		if err != nil || s.Phase != Busy {
			return s, err
		}
		if err := d.followLast(ctx, s, on); err != nil {
			return s, err
		}
	}
}

// Settle brings the stack to a state in which Preview works: it follows what CloudFormation is doing, continues a rollback that failed,
// and deletes a stack whose creation or deletion failed. It tells the events of all that. It returns the state: None, Review or Ready.
func (d *Deployer) Settle(ctx context.Context, on func(Event)) (State, error) {
	for {
		s, err := d.Look(ctx)
		if err == nil {
			err = d.usable(s)
		}
		if err != nil {
			return s, err
		}
		switch s.Phase {
		case None, Review, Ready:
			return s, nil
		case Unknown:
			return s, fail.New(fail.Other, "use "+d.stack(), fmt.Errorf("it is in the state %s: %s", s.Status, s.Reason), byHand)
		}
		if err := d.advance(ctx, s, on); err != nil {
			return s, err
		}
	}
}

// advance does the one thing that a phase needs.
func (d *Deployer) advance(ctx context.Context, s State, on func(Event)) error {
	switch s.Phase {
	case Unmade, Undeleted:
		return d.delete(ctx, s, on)
	case Stuck:
		return d.rollBack(ctx, s, on)
	}
	return d.followLast(ctx, s, on)
}

// followLast follows the operation that the stack's newest event belongs to.
func (d *Deployer) followLast(ctx context.Context, s State, on func(Event)) error {
	last, err := d.newest(ctx, s.ID)
	if err != nil {
		return err
	}
	op := &operation{stack: s.ID, token: aws.ToString(last.ClientRequestToken), begun: true}
	_, err = d.follow(ctx, op, on)
	return err
}

// begin returns the operation that the next call begins. purpose tells it from others on the same stack.
func (d *Deployer) begin(ctx context.Context, s State, purpose string) (*operation, error) {
	last, err := d.newest(ctx, s.ID)
	if err != nil {
		return nil, err
	}
	id := aws.ToString(last.EventId)
	digest := sha256.Sum256([]byte(purpose + s.ID + id))
	return &operation{stack: s.ID, last: id, token: fmt.Sprintf("bastion-%s-%x", purpose, digest[:12])}, nil
}

// rollBack continues a rollback that failed.
func (d *Deployer) rollBack(ctx context.Context, s State, on func(Event)) error {
	op, err := d.begin(ctx, s, "rollback")
	if err != nil {
		return err
	}
	_, err = d.aws.ContinueUpdateRollback(ctx, &cloudformation.ContinueUpdateRollbackInput{StackName: &s.ID, ClientRequestToken: &op.token})
	if err != nil {
		return d.fault("continue the rollback of", "cloudformation:ContinueUpdateRollback", err)
	}
	if s, err = d.follow(ctx, op, on); err != nil || s.Phase == Ready {
		return err
	}
	return d.failed("continue the rollback of", op.failure(s),
		"mend the cause and run the command again; aws cloudformation continue-update-rollback can skip resources")
}

// delete deletes the stack, by its id, so that a newer one of the name is safe.
func (d *Deployer) delete(ctx context.Context, s State, on func(Event)) error {
	if s.Protected {
		return d.protected()
	}
	op, err := d.begin(ctx, s, "delete")
	if err != nil {
		return err
	}
	_, err = d.aws.DeleteStack(ctx, &cloudformation.DeleteStackInput{StackName: &s.ID, ClientRequestToken: &op.token})
	if err != nil {
		return d.fault("delete", "cloudformation:DeleteStack", err)
	}
	end, err := d.follow(ctx, op, on)
	if err != nil || end.Phase == None {
		return err
	}
	return d.failed("delete", op.failure(end), "remove what still uses these, and run the command again")
}
