package bastions

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/pattern"
	"github.com/bastion-ssm/bastion/internal/words"
)

// Owned is a bastion of any owner.
type Owned struct {
	Bastion
	Owner string // the tag bastion:owner: "AROA...:SESSION-NAME" of a role, "AIDA..." of a user
	Tags  map[string]string
}

// startedByForm is the form of Owner.StartedBy.
var startedByForm = pattern.Lazy(`^bastion-[0-9a-f]{24}$`)

// All returns the running bastions of every owner in the Spec's cluster, the oldest first: tasks with this program's marks, of the Spec's
// task definition or of a class of it. Nothing else about them is compared. The Spec needs no Owner.
func (m *Manager) All(ctx context.Context, spec Spec) ([]Owned, error) {
	op := "find the bastions in cluster " + spec.cluster()
	arns, err := m.listARNs(ctx, op, &ecs.ListTasksInput{Cluster: aws.String(spec.cluster())})
	if err != nil {
		return nil, err
	}
	var all []Owned
	for some := range slices.Chunk(arns, maxDescribed) {
		tasks, err := m.describe(ctx, op, spec, some)
		if err != nil {
			return nil, err
		}
		for i := range tasks {
			if !startedByProgram(spec, &tasks[i]) {
				continue
			}
			b := Owned{Bastion: fromTask(spec, &tasks[i]), Owner: tagValue(tasks[i].Tags, tagOwner), Tags: make(map[string]string)}
			for _, t := range tasks[i].Tags {
				b.Tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
			}
			if !b.Stopping() {
				all = append(all, b)
			}
		}
	}
	slices.SortFunc(all, func(a, b Owned) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return all, nil
}

// startedByProgram reports whether a task has all marks of those that this program starts. A service's task, or one that a person started
// with only some of them, is somebody else's.
func startedByProgram(spec Spec, task *types.Task) bool {
	have, want := family(aws.ToString(task.TaskDefinitionArn)), family(spec.TaskDefinition)
	isClass := strings.HasPrefix(have, want+"-")
	return tagValue(task.Tags, tagOwner) != "" && startedByForm().MatchString(aws.ToString(task.StartedBy)) && (have == want || isClass) &&
		!strings.HasPrefix(aws.ToString(task.Group), "service:")
}

// Swept is what Sweep decided about a bastion.
type Swept struct {
	Owned
	Age  time.Duration // since ECS made the task
	Life time.Duration // that the task may have
	Err  error         // why it could not be stopped; of one that is kept, why its life is not known
}

const (
	defaultLife = 12 * time.Hour // of bastiond without BASTIOND_MAX_LIFE
	envMaxLife  = "BASTIOND_MAX_LIFE"
	// lifeGrace is how much longer than its life a task may run: bastiond's life begins after the image's pull, and ends with a drain.
	lifeGrace = 30 * time.Minute
)

// Sweep stops the bastions of every owner that are older than their life, and returns them; the others it returns as kept. A positive
// olderThan is the life of each. Without it a life is what the task definition gives bastiond, which stops by itself at its end; overrides
// of a task do not count. A dry run stops nothing. Sweep goes on after a task that it cannot stop or whose life it cannot read, and
// returns such errors.
func (m *Manager) Sweep(ctx context.Context, spec Spec, olderThan time.Duration, dry bool) (swept, kept []Swept, err error) {
	all, err := m.All(ctx, spec)
	if err != nil {
		return nil, nil, err
	}
	lives := make(map[string]time.Duration)
	now := time.Now()
	for _, b := range all {
		s := Swept{Owned: b, Age: now.Sub(b.CreatedAt), Life: olderThan}
		if olderThan <= 0 {
			if s.Life, s.Err = m.life(ctx, b.TaskDefinition, lives); s.Err != nil && ctx.Err() == nil {
				kept = append(kept, s)
				continue
			} else if s.Err != nil {
				return swept, kept, s.Err
			}
		}
		if b.CreatedAt.IsZero() || s.Age <= s.Life {
			kept = append(kept, s)
			continue
		}
		if !dry {
			s.Err = m.stop(ctx, b.Bastion, "bastion gc: older than "+s.Life.String())
		}
		swept = append(swept, s)
		if ctx.Err() != nil {
			break
		}
	}
	return swept, kept, cmp.Or(failures(swept, "stop"), failures(kept, "read the life of"))
}

// failures returns the errors of bastions as one, nil if there are none. Those of one task definition are the same.
func failures(all []Swept, what string) error {
	var failed []error
	n := 0
	for _, s := range all {
		if s.Err == nil {
			continue
		}
		n++
		if !slices.ContainsFunc(failed, func(err error) bool { return err.Error() == s.Err.Error() }) {
			failed = append(failed, s.Err)
		}
	}
	if n == 0 {
		return nil
	}
	return fail.New(fail.KindOf(failed[0]), fmt.Sprintf("%s %s of %d", what, words.Count(n, "bastion"), len(all)),
		errors.Join(failed...), fail.NextOf(failed[0]))
}

// life returns how long a task of the definition may run. It remembers lives by the definition's ARN.
func (m *Manager) life(ctx context.Context, definition string, known map[string]time.Duration) (time.Duration, error) {
	if life, ok := known[definition]; ok {
		return life, nil
	}
	op := "read the life of bastions of task definition " + lastPart(definition)
	out, err := m.ecs.DescribeTaskDefinition(ctx, &ecs.DescribeTaskDefinitionInput{TaskDefinition: aws.String(definition)})
	if err != nil {
		return 0, ecsError(op, "ecs:DescribeTaskDefinition", err)
	}
	life := defaultLife
	for _, c := range out.TaskDefinition.ContainerDefinitions {
		for _, e := range c.Environment {
			if aws.ToString(e.Name) != envMaxLife {
				continue
			}
			if life, err = time.ParseDuration(aws.ToString(e.Value)); err != nil {
				return 0, fail.New(fail.Usage, op, fmt.Errorf("%s is %q, which is not a duration", envMaxLife, aws.ToString(e.Value)),
					"say the life with --older-than")
			}
		}
	}
	life += lifeGrace
	known[definition] = life
	return life, nil
}
