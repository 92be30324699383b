// Package fargate knows the sizes of Fargate's tasks and what they cost.
package fargate

import (
	"fmt"
	"time"
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

// Price is what Fargate takes, in US dollars.
type Price struct {
	VCPUHour float64 `json:"vcpu_hour"`
	GBHour   float64 `json:"gb_hour"`
}

// Hour is what a task of a size costs in an hour.
func (p Price) Hour(s Size) float64 {
	return float64(s.CPU)/1024*p.VCPUHour + float64(s.Memory)/1024*p.GBHour
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

// Cost estimates what a task has cost that is billed from one time until another. It is not known while the size is not. Nothing
// is charged before the image is fetched: from is zero until then.
func (p Price) Cost(s Size, from, until time.Time) (c Cost, known bool) {
	if s.CPU <= 0 || s.Memory <= 0 {
		return Cost{}, false
	}
	c = Cost{Price: p, PerHour: p.Hour(s)}
	if !from.IsZero() {
		c.SoFar = max(until.Sub(from), leastBilled).Hours() * c.PerHour
	}
	return c, true
}
