package bastions

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/sleep"
	"github.com/bastion-ssm/bastion/internal/words"
)

// The tasks of a shared bastion have no owner: an ECS service keeps them running. So the Manager starts and stops none, and asks ECS
// whose they are. A task's starter chooses its group, its startedBy and its tags, as with bastions of people; what it cannot choose are
// the service's deployments. docs/adr/0018-shared-bastions.md has the reasons.

// tagShared is the mark of a service's tasks, by which IAM lets people enter them. Its value is the service's name.
const tagShared = "bastion:shared"

// pollService is the pause between two looks for a task of a service.
const pollService = 2 * time.Second

// service is what ECS says of a shared bastion's service.
type service struct {
	name             string
	desired, running int
	primary          string            // id of the deployment that new tasks are of
	deployments      map[string]string // ARN of the task definition, by the id of each deployment
	event            string            // the newest
}

// service asks ECS for the Spec's service.
func (m *Manager) service(ctx context.Context, spec Spec) (*service, error) {
	op := fmt.Sprintf("find the service %s in cluster %s", lastPart(spec.Service), spec.cluster())
	out, err := m.ecs.DescribeServices(ctx, &ecs.DescribeServicesInput{Cluster: aws.String(spec.cluster()), Services: []string{spec.Service}})
	if err != nil {
		return nil, namedError(op, "ecs:DescribeServices", err, "--cluster "+spec.cluster(), "--shared-service "+spec.Service)
	}
	if len(out.Services) == 0 || aws.ToString(out.Services[0].Status) == "INACTIVE" {
		return nil, fail.New(fail.Usage, op, errors.New("there is no such service"),
			"correct the settings shared_service and cluster; without shared_service each person has a bastion of their own")
	}
	found := &out.Services[0]
	s := &service{
		name: aws.ToString(found.ServiceName), desired: int(found.DesiredCount), running: int(found.RunningCount),
		deployments: make(map[string]string),
	}
	for _, d := range found.Deployments {
		s.deployments[aws.ToString(d.Id)] = aws.ToString(d.TaskDefinition)
		if aws.ToString(d.Status) == "PRIMARY" {
			s.primary = aws.ToString(d.Id)
		}
	}
	if len(found.Events) > 0 {
		s.event = aws.ToString(found.Events[0].Message)
	}
	return s, nil
}

// notOfService returns why a task is not one of the service's, or "".
func (s *service) notOfService(spec Spec, task *types.Task) string {
	if group := aws.ToString(task.Group); group != "service:"+s.name {
		return "it is of the group " + group
	}
	for _, t := range task.Tags { // IAM does not distinguish cases of keys, and may have compared the other one
		switch key := aws.ToString(t.Key); {
		case strings.EqualFold(key, tagOwner):
			return "it belongs to " + aws.ToString(t.Value)
		case key != tagShared && strings.EqualFold(key, tagShared):
			return "it has the tag " + key + " beside " + tagShared
		}
	}
	if tag := tagValue(task.Tags, tagShared); tag != s.name {
		return fmt.Sprintf("its tag %s is %q", tagShared, tag)
	}
	by, have := aws.ToString(task.StartedBy), aws.ToString(task.TaskDefinitionArn)
	switch definition, known := s.deployments[by]; {
	case !known:
		return "it was started by " + by + ", which is no deployment of the service"
	case definition != have:
		return "it is of task definition " + lastPart(have) + ", and its deployment of " + lastPart(definition)
	}
	return otherDefinition(spec, have)
}

// otherDefinition returns how a task definition differs from the Spec's, or "". A Spec without a revision takes the one that the service
// has.
func otherDefinition(spec Spec, have string) string {
	want := lastPart(spec.TaskDefinition)
	if want == "" || want == lastPart(have) || !strings.Contains(want, ":") && want == family(have) {
		return ""
	}
	return "it is of task definition " + lastPart(have) + ", not of " + want
}

// listShared implements list for a service.
func (m *Manager) listShared(ctx context.Context, spec Spec, toUse bool) (found []Bastion, denied, err error) {
	if _, err := spec.Owner.tag(); err != nil {
		return nil, nil, fail.New(fail.Usage, "find the shared bastion in cluster "+spec.cluster(), err, "")
	}
	s, err := m.service(ctx, spec)
	if err != nil {
		return nil, nil, err
	}
	op := fmt.Sprintf("find the tasks of service %s in cluster %s", s.name, spec.cluster())
	arns, err := m.listARNs(ctx, op, &ecs.ListTasksInput{Cluster: aws.String(spec.cluster()), ServiceName: aws.String(s.name)})
	if err != nil {
		return nil, nil, err
	}
	y := m.yardstick(ctx, spec)
	return m.inspectAll(ctx, op, spec, arns, toUse,
		func(task *types.Task) string { return s.notOfService(spec, task) },
		func(task *types.Task) (Bastion, error) { return m.inspectShared(ctx, s, y, task) })
}

// inspectShared returns the bastion of a service's task. It is Refused if its place, overrides or network are not those of the Spec.
func (m *Manager) inspectShared(ctx context.Context, s *service, y *yardstick, task *types.Task) (Bastion, error) {
	spec := y.spec
	b := fromTask(spec, task)
	b.behind = aws.ToString(task.StartedBy) != s.primary
	if b.Refused = refusal(spec, task); b.Refused != "" || b.Stopping() || m.checked.has(spec, b.TaskARN) {
		return b, nil
	}
	why, err := m.otherNetwork(ctx, y, task)
	var unknown *unknownError
	switch {
	case errors.Is(err, errTooEarly):
	case errors.As(err, &unknown):
		b.Unchecked = unknown.Error()
	case err != nil:
		return b, err
	case why != "":
		b.Refused = why
	default:
		m.checked.add(spec, b.TaskARN)
	}
	return b, nil
}

// getShared implements Get for a task of a service.
func (m *Manager) getShared(ctx context.Context, op string, spec Spec, task *types.Task) (*Bastion, error) {
	s, err := m.service(ctx, spec)
	if err != nil {
		return nil, err
	}
	// A deployment that has ended is no longer listed, and its last tasks end with it.
	if why := s.notOfService(spec, task); why != "" {
		return nil, fail.New(fail.NoTarget, op, fmt.Errorf("the task is not of the service %s: %s", s.name, why), "")
	}
	b, err := m.inspectShared(ctx, s, m.yardstick(ctx, spec), task)
	if err != nil {
		return nil, err
	}
	if b.Refused != "" {
		return nil, fail.New(fail.NoTarget, op, fmt.Errorf("the task is not as the settings describe it: it %s", b.Refused),
			"ask the bastion's operators")
	}
	return &b, nil
}

// compareShared orders a service's usable tasks, the best first: ready ones, then those that are not about to end, healthy, and of the
// newest deployment; then by lot, so that people spread over the tasks, and each comes back to the same one.
func compareShared(a, b Bastion) int {
	worse := func(is func(Bastion) bool) int {
		switch x, y := is(a), is(b); {
		case x == y:
			return 0
		case x:
			return 1
		}
		return -1
	}
	return cmp.Or(
		worse(func(b Bastion) bool { return !b.ExecRunning }),
		worse(func(b Bastion) bool { return b.avoided }),
		worse(func(b Bastion) bool { return b.unhealthy }),
		worse(func(b Bastion) bool { return b.behind }),
		cmp.Compare(a.lot, b.lot), cmp.Compare(a.TaskARN, b.TaskARN))
}

// share fills in what only a service's task has.
func (b *Bastion) share(spec Spec, task *types.Task) {
	sum := sha256.Sum256([]byte(spec.Owner.UserID + "\n" + b.TaskARN))
	b.Service, b.lot = lastPart(spec.Service), hex.EncodeToString(sum[:8])
	b.avoided, b.unhealthy = b.TaskID == spec.Avoid, task.HealthStatus == types.HealthStatusUnhealthy
}

// awaitShared waits until the service has a usable task: ECS starts another one for each that ends.
func (m *Manager) awaitShared(ctx context.Context, spec Spec, w *waiter) (Bastion, bool, error) {
	op := fmt.Sprintf("find a task of service %s in cluster %s", lastPart(spec.Service), spec.cluster())
	for {
		s, err := m.service(ctx, spec)
		if err != nil {
			return Bastion{}, false, err
		}
		if s.desired == 0 {
			return Bastion{}, false, fail.New(fail.Start, op, errors.New("the service is to have no tasks: its operators have switched it off"),
				"ask them for it, or leave out shared_service to start a bastion of your own")
		}
		w.set("service", fmt.Sprintf("%s runs %d of %s", s.name, s.running, words.Count(s.desired, "task")))
		if sleep.For(ctx, jitter(pollService)) != nil {
			if errors.Is(ctx.Err(), context.Canceled) {
				return Bastion{}, false, fmt.Errorf("%s: %w", op, ctx.Err())
			}
			return Bastion{}, false, fail.New(fail.Timeout, op, &deadline{fmt.Errorf("none can be used; ECS says: %s", cmp.Or(s.event, "nothing"))},
				"try again, or ask the bastion's operators: they see its tasks in the ECS console")
		}
		usable, _, err := m.candidates(ctx, spec)
		if err != nil {
			return Bastion{}, false, err
		}
		if len(usable) > 0 {
			return usable[0], false, nil
		}
	}
}

// errShared is why a service's tasks are not stopped.
var errShared = errors.New("the bastion is shared: ECS would start its tasks anew, and others use them")
