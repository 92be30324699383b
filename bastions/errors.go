package bastions

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/words"
)

// ecsError is fail.AWS for calls to ECS.
func ecsError(op, action string, err error) error { return fail.AWS(fail.Start, op, action, err) }

// namedError is ecsError for a call with names that the user has set. The stack's policy of users is for its own cluster and task
// definitions: to IAM a misspelt one is another one, which ECS never gets to see.
func namedError(op, action string, err error, names ...string) error {
	wrapped, answer := ecsError(op, action, err), awsanswer.Of(err)
	f, ok := errors.AsType[*fail.Error](wrapped)
	byUsers := answer.Policy == awsanswer.Identity || answer.Policy == awsanswer.NoPolicy
	if ok && answer.Class == awsanswer.Denied && byUsers && !answer.Explicit && cmp.Or(answer.Action, action) == action {
		f.Next += "; or correct the name, if it is misspelt: " + strings.Join(names, ", ")
	}
	return wrapped
}

// stoppedError returns the error for a task that stopped while it started, with ECS's reason and a hint for the usual reasons.
func stoppedError(op string, b Bastion) error {
	details := []string{cmp.Or(b.StoppedReason, "ECS gives no reason")}
	for _, exit := range b.Exits {
		detail := "container " + exit.Container
		if exit.Code != nil {
			detail += fmt.Sprintf(" exited with code %d", *exit.Code)
		}
		if exit.Reason != "" {
			detail += ": " + exit.Reason
		}
		details = append(details, detail)
	}
	return fail.New(fail.Start, op, fmt.Errorf("task %s stopped while it started: %s", b.TaskID, strings.Join(details, "; ")),
		stoppedNext(b))
}

func stoppedNext(b Bastion) string {
	var reasons []string
	for _, exit := range b.Exits {
		reasons = append(reasons, exit.Reason)
	}
	answer := awsanswer.Stopped(append(reasons, b.StoppedReason, b.StopCode)...)
	switch {
	case answer.Next != "":
		return answer.Next
	case b.StopCode == string(types.TaskStopCodeUserInitiated):
		return "somebody stopped it: bastion up starts another"
	}
	return "see: aws ecs describe-tasks --cluster " + b.Cluster + " --tasks " + b.TaskID
}

// reasons joins the reasons of RunTask's failures.
func reasons(failures []types.Failure) string {
	var all []string
	for _, f := range failures {
		reason := cmp.Or(aws.ToString(f.Reason), "no reason given") + words.Parenthesis(aws.ToString(f.Detail))
		if arn := aws.ToString(f.Arn); arn != "" {
			reason += " for " + arn
		}
		all = append(all, reason)
	}
	return strings.Join(all, "; ")
}

// failuresError returns the error for a RunTask that placed no task.
func failuresError(op string, failures []types.Failure) error {
	text := cmp.Or(reasons(failures), "ECS started no task and gave no reason")
	answer := awsanswer.Judge(awsanswer.Answer{Operation: "RunTask", Message: text})
	next := cmp.Or(answer.Next, "try again in a minute; if it stays, look at the cluster's events and quotas")
	return fail.New(fail.Start, op, errors.New(text), next)
}
