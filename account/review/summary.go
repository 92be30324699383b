package review

import (
	"cmp"
	"slices"
	"time"

	"github.com/bastion-ssm/bastion/internal/audit"
)

// Total is what one user did with one destination.
type Total struct {
	Who         string    `json:"who"`
	Destination string    `json:"destination"`
	Connections int       `json:"connections"` // that were opened
	Failed      int       `json:"failed"`      // that the network did not let happen
	Refused     int       `json:"refused"`
	First       time.Time `json:"first"`
	Last        time.Time `json:"last"`
	BytesUp     int64     `json:"bytes_up"`
	BytesDown   int64     `json:"bytes_down"`
	Open        int       `json:"open"` // connections whose end, and with it their bytes, the log does not have
}

// Summarize adds accesses up by user and destination, and orders the totals by both.
func Summarize(accesses []Access) []Total {
	type key struct{ who, destination string }
	index := make(map[key]int)
	var totals []Total
	for _, a := range accesses {
		k := key{a.Who, a.Destination}
		i, known := index[k]
		if !known {
			i = len(totals)
			index[k] = i
			totals = append(totals, Total{Who: a.Who, Destination: a.Destination, First: a.Time, Last: a.Time})
		}
		totals[i].add(a)
	}
	slices.SortFunc(totals, func(a, b Total) int {
		return cmp.Or(cmp.Compare(a.Who, b.Who), cmp.Compare(a.Destination, b.Destination))
	})
	return totals
}

func (t *Total) add(a Access) {
	if a.Time.Before(t.First) {
		t.First = a.Time
	}
	if a.Time.After(t.Last) {
		t.Last = a.Time
	}
	switch {
	case a.Result == audit.Refused:
		t.Refused++
		return
	case a.BytesUp == nil && a.Result == audit.Failed:
		t.Failed++
		return
	}
	t.Connections++
	if a.BytesUp == nil || a.BytesDown == nil {
		t.Open++
		return
	}
	t.BytesUp += *a.BytesUp
	t.BytesDown += *a.BytesDown
}
