package bastions

import (
	"fmt"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/internal/fargate"
)

// overrides returns RunTask's overrides for the size; nil for the task definition's size.
func overrides(s fargate.Size) *types.TaskOverride {
	if s == (fargate.Size{}) {
		return nil
	}
	return &types.TaskOverride{Cpu: aws.String(strconv.Itoa(s.CPU)), Memory: aws.String(strconv.Itoa(s.Memory))}
}

// otherSize says that the task has another size than want, and how to change it; "" if it has that size, or if ECS has not
// said.
func (b Bastion) otherSize(want fargate.Size) string {
	if want == (fargate.Size{}) || b.Size.CPU == 0 || b.Size.Memory == 0 || b.Size == want {
		return ""
	}
	return fmt.Sprintf("task %s has %v, not %v as set; bastion down, then bastion up starts one of that size", b.TaskID, b.Size, want)
}

// setSize sets the fields that the task's speed and cost depend on.
func (b *Bastion) setSize(task *types.Task) {
	b.Size = fargate.Size{CPU: sizeOf(task.Cpu), Memory: sizeOf(task.Memory)}
	b.BilledFrom, b.PulledAt, b.StoppedAt = aws.ToTime(task.PullStartedAt), aws.ToTime(task.PullStoppedAt), aws.ToTime(task.StoppedAt)
	for _, a := range task.Attributes {
		if aws.ToString(a.Name) == "ecs.cpu-architecture" {
			b.Architecture = aws.ToString(a.Value)
		}
	}
}

// Cost estimates the task's cost until now. It reports false until ECS has told the task's size.
func (b Bastion) Cost(price fargate.Price, now time.Time) (fargate.Cost, bool) {
	if !b.StoppedAt.IsZero() {
		now = b.StoppedAt
	}
	return price.Of(b.Architecture).Cost(b.Size, b.BilledFrom, now)
}

// sizeOf reads a number that ECS sends as text; 0 if it is not a number.
func sizeOf(text *string) int {
	n, err := strconv.Atoi(aws.ToString(text))
	if err != nil {
		return 0
	}
	return n
}
