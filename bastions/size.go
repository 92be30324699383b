package bastions

import (
	"fmt"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// Size is how big a task is.
type Size struct {
	CPU    int // units: 1024 is a vCPU
	Memory int // MiB
}

// String is the size in the units of Fargate's price list.
func (s Size) String() string {
	return fmt.Sprintf("%g vCPU, %g GB", float64(s.CPU)/1024, float64(s.Memory)/1024)
}

// overrides ask RunTask for the size. The task definition's size needs none.
func (s Size) overrides() *types.TaskOverride {
	if s == (Size{}) {
		return nil
	}
	return &types.TaskOverride{Cpu: aws.String(strconv.Itoa(s.CPU)), Memory: aws.String(strconv.Itoa(s.Memory))}
}

// otherSize says that the task has not the size that is wanted, and how to change it; "" if it has, or ECS has not said.
func (b Bastion) otherSize(want Size) string {
	if want == (Size{}) || b.Size.CPU == 0 || b.Size.Memory == 0 || b.Size == want {
		return ""
	}
	return fmt.Sprintf("task %s has %v, not %v as set; bastion down, then bastion up starts one of that size", b.TaskID, b.Size, want)
}

// setSize takes over what the task's speed and cost depend on.
func (b *Bastion) setSize(task *types.Task) {
	b.Size = Size{CPU: sizeOf(task.Cpu), Memory: sizeOf(task.Memory)}
	b.BilledFrom, b.StoppedAt = aws.ToTime(task.PullStartedAt), aws.ToTime(task.StoppedAt)
	for _, a := range task.Attributes {
		if aws.ToString(a.Name) == "ecs.cpu-architecture" {
			b.Architecture = aws.ToString(a.Value)
		}
	}
}

// sizeOf reads a number that ECS sends as text; 0 if it is none.
func sizeOf(text *string) int {
	n, err := strconv.Atoi(aws.ToString(text))
	if err != nil {
		return 0
	}
	return n
}
