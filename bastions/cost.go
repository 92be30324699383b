package bastions

import "time"

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

// Cost estimates what the task has cost until now. It is not known while ECS has not said what size the task has.
func (b Bastion) Cost(price Price, now time.Time) (Cost, bool) {
	if b.Size.CPU <= 0 || b.Size.Memory <= 0 {
		return Cost{}, false
	}
	c := Cost{Price: price, PerHour: price.Hour(b.Size)}
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
