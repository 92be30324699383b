package bastions

import (
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
)

// Price is what Fargate takes, in US dollars.
type Price struct {
	VCPUHour float64 `json:"vcpu_hour"`
	GBHour   float64 `json:"gb_hour"`
}

// Cost is an estimate, in US dollars, of what a task costs: its size and its age at a price. It knows of no discount,
// and of nothing that the task uses besides vCPU and memory; bastions have no public address and no storage to pay for.
type Cost struct {
	PerHour float64 `json:"per_hour"`
	SoFar   float64 `json:"so_far"`
	Price   Price   `json:"price"` // that it was computed with
}

// leastBilled is the time that Fargate charges at least.
const leastBilled = time.Minute

// Cost estimates what the task has cost until now. It is not known while ECS has not said what size the task has.
func (b Bastion) Cost(price Price, now time.Time) (Cost, bool) {
	if b.CPU <= 0 || b.Memory <= 0 {
		return Cost{}, false
	}
	c := Cost{Price: price, PerHour: float64(b.CPU)/1024*price.VCPUHour + float64(b.Memory)/1024*price.GBHour}
	if b.BilledFrom.IsZero() {
		return c, true // nothing is charged before the image is fetched
	}
	until := now
	if !b.StoppedAt.IsZero() {
		until = b.StoppedAt
	}
	c.SoFar = max(until.Sub(b.BilledFrom), leastBilled).Hours() * c.PerHour
	return c, true
}

// setSize takes over what the task's cost depends on.
func (b *Bastion) setSize(task *types.Task) {
	b.CPU, b.Memory = sizeOf(task.Cpu), sizeOf(task.Memory)
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
