// Package fargate knows the sizes and the cost of Fargate tasks.
package fargate

import (
	"fmt"
	"time"
)

// Size is a task's size.
type Size struct {
	CPU    int // units: 1024 is a vCPU
	Memory int // MiB
}

// String returns the size in the units of Fargate's price list.
func (s Size) String() string {
	return fmt.Sprintf("%g vCPU, %g GB", float64(s.CPU)/1024, float64(s.Memory)/1024)
}

// Price is Fargate's price, in US dollars.
type Price struct {
	VCPUHour float64 `json:"vcpu_hour"`
	GBHour   float64 `json:"gb_hour"`
}

// Hour returns the cost of an hour of a task, in US dollars.
func (p Price) Hour(s Size) float64 {
	return float64(s.CPU)/1024*p.VCPUHour + float64(s.Memory)/1024*p.GBHour
}

// The list prices of Fargate for Linux in us-east-1, by architecture. X86 is the default of the price settings.
var (
	X86 = Price{VCPUHour: 0.04048, GBHour: 0.004445}
	ARM = Price{VCPUHour: 0.03238, GBHour: 0.00356}
)

// Of returns the price of a task of an architecture, as ECS names it. A price that the user has set holds for each.
func (p Price) Of(architecture string) Price {
	if p == X86 && architecture == "arm64" {
		return ARM
	}
	return p
}

// Cost is an estimate of a task's cost, in US dollars, by its size and age. It ignores discounts and everything but vCPU and
// memory; bastions need neither a public address nor billed storage.
type Cost struct {
	PerHour float64 `json:"per_hour"`
	SoFar   float64 `json:"so_far"`
	Price   Price   `json:"price"` // basis of the estimate
}

// leastBilled is the least time that Fargate charges.
const leastBilled = time.Minute

// Cost estimates the cost of a task from one time until another. known is false for an unknown size. Fargate charges from the
// start of the image pull; from is zero before it.
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
