package bastions

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/smithy-go"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// deniedAction finds the action in IAM's message. It may be another than the call's: RunTask also needs iam:PassRole
// and ecs:TagResource.
var deniedAction = regexp.MustCompile(`not authorized to perform: ([a-z0-9-]+:[A-Za-z]+)`)

// ecsError is fail.AWS with the next step for errors of ECS.
func ecsError(op, action string, err error) error {
	if err == nil {
		return nil
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		return fail.AWS(fail.Start, op, action, err)
	}
	if found := deniedAction.FindStringSubmatch(api.ErrorMessage()); found != nil {
		action = found[1]
	}
	wrapped := fail.AWS(fail.Start, op, action, err)
	if fail.NextOf(wrapped) != "" {
		return wrapped
	}
	var noCluster *types.ClusterNotFoundException
	message := api.ErrorMessage()
	lower := strings.ToLower(message)
	switch {
	case errors.As(err, &noCluster):
		return fail.New(fail.Usage, "", wrapped,
			"set the cluster, and the region and account that it is in (--region, --profile)")
	case strings.Contains(message, "taskRoleArn"):
		return fail.New(fail.Start, "", wrapped, "give the task definition a task role that allows "+messagesActions)
	case strings.Contains(message, "TaskDefinition"), strings.Contains(message, "task definition"):
		return fail.New(fail.Usage, "", wrapped,
			"register the task definition (bastion-image/README.md says how), or name another with --task-definition")
	case strings.Contains(lower, "subnet"), strings.Contains(lower, "security group"):
		return fail.New(fail.Usage, "", wrapped,
			"check the subnets and security groups: they must exist in one VPC of this region")
	}
	return wrapped
}

// stoppedError says why a task stopped while it started, in ECS's words, with the next step for the usual reasons.
func stoppedError(op string, b Bastion) error {
	reason := b.StoppedReason
	if reason == "" {
		reason = "ECS gives no reason"
	}
	details := []string{reason}
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
	text := strings.Join(details, "; ")
	return fail.New(fail.Start, op, fmt.Errorf("task %s stopped while it started: %s", b.TaskID, text),
		stoppedNext(text, b))
}

func stoppedNext(text string, b Bastion) string {
	for _, hint := range []struct{ part, next string }{
		{"CannotPull", "check the image's name and that the subnets reach its registry (NAT gateway, or VPC endpoints for " +
			"ecr.api, ecr.dkr and s3)"},
		{"unable to pull secrets", "check the execution role's permissions and that the subnets reach the secret's service"},
		{"ResourceInitializationError", "check that the subnets reach CloudWatch Logs, ECR and Secrets Manager (NAT " +
			"gateway or VPC endpoints), and the execution role"},
		{"OutOfMemory", "give the task definition more memory"},
		{"CannotStartContainer", "check the container's entry point and user in the task definition"},
		{"CannotCreateContainer", "check the container's settings in the task definition"},
		{"Spot", "try again, or start it on FARGATE instead of FARGATE_SPOT"},
		{"apacity", "try again later, or add subnets in other availability zones"},
		{"Essential container", "read the task's log; it says why the bastion ended"},
	} {
		if strings.Contains(text, hint.part) {
			return hint.next
		}
	}
	if b.StopCode == string(types.TaskStopCodeUserInitiated) {
		return "somebody stopped it: bastion up starts another"
	}
	return "see: aws ecs describe-tasks --cluster " + b.Cluster + " --tasks " + b.TaskID
}

// failuresError says why RunTask placed nothing.
func failuresError(op string, failures []types.Failure) error {
	var reasons []string
	for _, f := range failures {
		reason := deref(f.Reason, "no reason given")
		if f.Detail != nil && *f.Detail != "" {
			reason += " (" + *f.Detail + ")"
		}
		if f.Arn != nil && *f.Arn != "" {
			reason += " for " + *f.Arn
		}
		reasons = append(reasons, reason)
	}
	text := strings.Join(reasons, "; ")
	if text == "" {
		text = "ECS started no task and gave no reason"
	}
	next := "try again in a minute; if it stays, look at the cluster's events and quotas"
	switch {
	case strings.Contains(text, "RESOURCE:ENI"):
		next = "the subnets have no free network interfaces or addresses: choose others"
	case strings.Contains(text, "RESOURCE:"):
		next = "the cluster lacks that resource: try again later or ask its administrator"
	case strings.Contains(text, "apacity"):
		next = "Fargate has no capacity there now: try again later, or add subnets in other availability zones"
	case strings.Contains(text, "MISSING"):
		next = "check the names of the cluster and the task definition"
	case strings.Contains(strings.ToLower(text), "limit"), strings.Contains(strings.ToLower(text), "quota"):
		next = "ask for a higher Fargate quota, or stop tasks that are not needed"
	}
	return fail.New(fail.Start, op, errors.New(text), next)
}

func deref(s *string, otherwise string) string {
	if s == nil || *s == "" {
		return otherwise
	}
	return *s
}
