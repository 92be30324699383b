package bastions

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

// A call may have done its work although its answer is unreadable: the connection ended, the answer was damaged, or the
// endpoint does not use AWS's form. A task that such a RunTask started is in ECS's list, with the owner's startedBy and tag.

const (
	unreadLooks = 3               // looks at the list after a RunTask with an unreadable answer...
	unreadPause = 2 * time.Second // ...and the pause before each further look: the list lags behind
)

// mayHaveRun reports whether a failed call may have done its work.
func mayHaveRun(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) {
		return false
	}
	answer := awsanswer.Of(err)
	if answer.Class != awsanswer.None {
		return answer.Unread()
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && (op.Op == "dial" || op.Op == "proxyconnect") {
		return false // the request was never sent
	}
	return retriedBySDK(err) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded)
}

// startedUnseen returns the task that a RunTask with an unreadable answer started. There was no usable task before, so any task
// is this one or another process's, which serves as well.
func (m *Manager) startedUnseen(ctx context.Context, spec Spec, w *waiter) (b Bastion, found bool, err error) {
	w.set("starting", "looking for the task: the answer to RunTask cannot be read")
	for look := range unreadLooks {
		if look > 0 && sleep.For(ctx, unreadPause) != nil {
			return b, false, ctx.Err()
		}
		usable, _, err := m.candidates(ctx, spec)
		if err != nil {
			return b, false, err
		}
		if len(usable) > 0 {
			return usable[0], true, nil
		}
	}
	return b, false, nil
}

// unseenError returns the error of a start that may have left a task behind.
func unseenError(op string, err error) error {
	err = ecsError("", "ecs:RunTask", err)
	return fail.New(fail.KindOf(err), op, fmt.Errorf("a task may have started: %w", err),
		"bastion down stops it; then check AWS_ENDPOINT_URL, HTTPS_PROXY and the network")
}

// stopUnread stops the owner's tasks if ECS's descriptions of them are unreadable: those of the Spec's family with the owner's
// startedBy. It leaves the check of their tags to IAM.
func (m *Manager) stopUnread(ctx context.Context, spec Spec, reason string) (stopped []Bastion, err error) {
	op := "find your bastion in cluster " + spec.cluster()
	mine, err := m.listARNs(ctx, op, &ecs.ListTasksInput{
		Cluster: aws.String(spec.cluster()), StartedBy: aws.String(spec.Owner.StartedBy),
	})
	if err != nil {
		return nil, err
	}
	if of := family(spec.TaskDefinition); of != "" { // ECS accepts startedBy only as its only filter
		ofFamily, err := m.listARNs(ctx, op, &ecs.ListTasksInput{Cluster: aws.String(spec.cluster()), Family: aws.String(of)})
		if err != nil {
			return nil, err
		}
		mine = slices.DeleteFunc(mine, func(arn string) bool { return !slices.Contains(ofFamily, arn) })
	}
	for _, arn := range mine {
		b := Bastion{Cluster: lastPart(spec.cluster()), TaskARN: arn, TaskID: lastPart(arn)}
		if err := m.stop(ctx, b, reason); err != nil {
			return stopped, err
		}
		stopped = append(stopped, b)
	}
	return stopped, nil
}

// listARNs returns all pages of a list of tasks.
func (m *Manager) listARNs(ctx context.Context, op string, input *ecs.ListTasksInput) (arns []string, err error) {
	for pages := ecs.NewListTasksPaginator(m.ecs, input); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, namedError(op, "ecs:ListTasks", err, "--cluster "+aws.ToString(input.Cluster))
		}
		arns = append(arns, page.TaskArns...)
	}
	return arns, nil
}
