package review

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/internal/fargate"
)

// Life is how long a bastion ran within a range, by its own lines. Fargate bills a task from the pull of its image, some seconds before.
type Life struct {
	Bastion string // the task's ID
	Who     string // of its first grant; empty: the range has none
	From    time.Time
	To      time.Time
	Stopped bool         // it said so; otherwise it runs, or was killed after its last line
	Size    fargate.Size // zero: an older bastiond did not say
}

// Lives returns the lives of the bastions whose lines the range has, the earliest first. A life is cut to the range. One without a stop
// ends with its last line, unless running says that the task with this ID runs: then it ends with the range.
func (l *Log) Lives(ctx context.Context, r Range, running func(task string) bool) ([]Life, error) {
	lives := make(map[string]*Life)
	// Those events that a bastion has between its first and its last connection, and none for each.
	events := []string{audit.Start, audit.Grant, audit.Auth, audit.Disconnect, audit.BondClose, audit.Drain, audit.Stop}
	err := l.read(ctx, r, events, func(e line) {
		life := lives[e.task]
		if life == nil {
			life = &Life{Bastion: e.task, From: r.From, To: e.at}
			if e.Event == audit.Stop && e.DurationMS != nil {
				life.From = e.at.Add(-time.Duration(*e.DurationMS) * time.Millisecond)
			}
			lives[e.task] = life
		}
		life.add(e)
	})
	if err != nil {
		return nil, err
	}
	out := make([]Life, 0, len(lives))
	for _, life := range lives {
		if !life.Stopped && running(life.Bastion) {
			life.To = r.To
		}
		if life.From.Before(r.From) {
			life.From = r.From
		}
		out = append(out, *life)
	}
	slices.SortFunc(out, func(a, b Life) int { return cmp.Or(a.From.Compare(b.From), cmp.Compare(a.Bastion, b.Bastion)) })
	return out, nil
}

func (f *Life) add(e line) {
	if e.at.After(f.To) {
		f.To = e.at
	}
	switch e.Event {
	case audit.Start:
		f.From = e.at
		if e.VCPU > 0 && e.VCPU < 1024 { // more than Fargate has
			f.Size = fargate.Size{CPU: int(e.VCPU*1024 + 0.5), Memory: int(e.MemoryMiB)}
		}
	case audit.Grant:
		f.Who = cmp.Or(f.Who, e.Who)
	case audit.Stop:
		f.Stopped = true
	}
}

// Spent is what lives cost by one name.
type Spent struct {
	Name     string  `json:"name"`
	Bastions int     `json:"bastions"`
	Hours    float64 `json:"hours"`
	USD      float64 `json:"usd"`
	Assumed  int     `json:"assumed_size"` // bastions that did not say their size
}

// Spend adds the cost of lives up by owner, the dearest first. A life without a size gets the assumed one.
func Spend(lives []Life, price fargate.Price, assumed fargate.Size) []Spent {
	index := make(map[string]int)
	var out []Spent
	for _, life := range lives {
		i, known := index[life.Who]
		if !known {
			i = len(out)
			index[life.Who] = i
			out = append(out, Spent{Name: life.Who})
		}
		size := life.Size
		if size.CPU == 0 || size.Memory == 0 {
			size = assumed
			out[i].Assumed++
		}
		cost, _ := price.Cost(size, life.From, life.To)
		out[i].Bastions++
		out[i].Hours += life.To.Sub(life.From).Hours()
		out[i].USD += cost.SoFar
	}
	slices.SortFunc(out, func(a, b Spent) int { return cmp.Or(cmp.Compare(b.USD, a.USD), cmp.Compare(a.Name, b.Name)) })
	return out
}

// Month returns the range of a month, such as 2026-11, or of this month until now.
func Month(text string, now time.Time) (Range, error) {
	now = now.UTC()
	first := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	if text != "this" {
		t, err := time.Parse("2006-01", text)
		if err != nil {
			return Range{}, errMonth(text)
		}
		first = t
	}
	r := Range{From: first, To: first.AddDate(0, 1, 0)}
	if now.Before(r.To) {
		r.To = now
	}
	if !r.From.Before(r.To) {
		return r, errMonth(text)
	}
	return r, nil
}
