package bond

import (
	"cmp"
	"slices"
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
)

const (
	substituteAfter = 3 * time.Second  // of stalling, until another subflow takes its place
	dropAfter       = 30 * time.Second // of stalling, until health drops the subflow: its session has had enough time to resume
	youngFor        = 10 * time.Second // a subflow lost or stalled before this age was bad from the start

	// Backoff after bad subflows without a path; it doubles with each in succession.
	flapFirst, flapMost = 200 * time.Millisecond, 2 * time.Second

	rotateTogether = 2 // extra subflows during a replacement
)

// health judges the subflows: which ones carry data, stall, flap or are too old, and which one the connection will miss least.
// After each look:
//
//   - health remembers the subflows of the view and no others;
//   - it replaces each subflow at an age from nine tenths of maxAge to maxAge;
//   - a plan names a subflow once, and no later plan names it again;
//   - with a path, it drops a subflow only after dropAfter of stalling;
//   - it keeps at least one of those present, unless the last place is lent;
//   - the backoff after flaps is at most flapMost.
type health struct {
	maxAge time.Duration
	random func(time.Duration) time.Duration

	fates       map[uint32]*fate // of the subflows in the last view
	retireBelow uint32           // replace subflows with smaller numbers
	flaps       int              // bad subflows in succession
	flapUntil   time.Time        // end of the backoff after them
}

// fate is what health remembers about a subflow.
type fate struct {
	retireAt     time.Time
	stalledSince time.Time // zero: usable
	upSince      time.Time // first look that saw it usable
	dismissed    bool      // a plan has named it
}

func (f *fate) usable() bool { return f.stalledSince.IsZero() }

// young reports whether the subflow has not been up for long, and so may be bad.
func (f *fate) young(now time.Time) bool {
	return f.upSince.IsZero() || now.Sub(f.upSince) < youngFor
}

// census sorts the subflows of a view.
type census struct {
	present  []subflowView // carry data, or soon will again: neither leaving nor stalled for long
	retiring []subflowView // the subflows of present that need a successor
	stalled  []subflowView // stalled for long
	total    int           // all subflows, leaving ones included
	staying  int           // all except leaving ones, which no longer hold a place
}

func (n *census) fresh() int { return len(n.present) - len(n.retiring) }

// observe takes in the subflows of a view, and sorts them.
func (h *health) observe(now time.Time, subflows []subflowView) *census {
	n := &census{total: len(subflows)}
	seen := make(map[uint32]bool, len(subflows))
	for _, s := range subflows {
		seen[s.id] = true
		f := h.meet(now, s)
		switch {
		case s.leaving || f.dismissed:
			continue
		case !f.usable() && now.Sub(f.stalledSince) >= substituteAfter:
			n.stalled = append(n.stalled, s)
		default:
			n.present = append(n.present, s)
			if s.id < h.retireBelow || !now.Before(f.retireAt) {
				n.retiring = append(n.retiring, s)
			}
		}
		n.staying++
	}
	for id, f := range h.fates {
		if seen[id] {
			continue
		}
		if !f.dismissed && f.usable() && f.young(now) {
			h.flap(now)
		}
		delete(h.fates, id)
	}
	return n
}

// meet returns a subflow's fate, brought up to date.
func (h *health) meet(now time.Time, s subflowView) *fate {
	f := h.fates[s.id]
	if f == nil {
		f = &fate{retireAt: s.since.Add(h.maxAge - h.random(h.maxAge/10+1))}
		h.fates[s.id] = f
	}
	if s.stalled {
		if f.usable() {
			f.stalledSince = now
			if f.young(now) {
				h.flap(now)
			}
		}
		return f
	}
	f.stalledSince = time.Time{}
	if f.upSince.IsZero() {
		f.upSince = now
	}
	if !f.young(now) {
		h.flaps = 0
	}
	return f
}

// flap extends the backoff after a young subflow was lost or stalled.
func (h *health) flap(now time.Time) {
	h.flapUntil = now.Add(jitter(backoff.After(h.flaps, flapFirst, flapMost), h.random))
	h.flaps++
}

// forgive resets that backoff.
func (h *health) forgive() { h.flaps, h.flapUntil = 0, time.Time{} }

// dropStalled drops subflows that have stalled for dropAfter.
func (h *health) dropStalled(now time.Time, n *census, out *plan) {
	for _, s := range n.stalled {
		if over := h.fates[s.id].stalledSince.Add(dropAfter); now.Before(over) {
			out.wake(over)
		} else {
			h.drop(s, out)
		}
	}
	for _, s := range n.present {
		if f := h.fates[s.id]; !f.usable() {
			out.wake(f.stalledSince.Add(substituteAfter))
		}
	}
}

func (h *health) drop(s subflowView, out *plan) {
	h.fates[s.id].dismissed = true
	out.drop = append(out.drop, s.id)
}

func (h *health) leave(s subflowView, out *plan) {
	h.fates[s.id].dismissed = true
	out.leave = append(out.leave, s.id)
}

// replace ends retiring subflows while at least want others are usable. noPlace says that a successor lacks only a place: then the
// first retiring subflow goes before its successor comes, and the others carry on.
func (h *health) replace(now time.Time, n *census, want int, noPlace bool, out *plan) {
	usable := 0
	for _, s := range n.present {
		f := h.fates[s.id]
		if f.usable() {
			usable++
		}
		if now.Before(f.retireAt) {
			out.wake(f.retireAt)
		}
	}
	for _, s := range n.retiring {
		others := usable
		if h.fates[s.id].usable() {
			others--
		}
		if others >= want {
			h.leave(s, out)
			usable = others
		}
	}
	if noPlace && len(out.leave) == 0 && len(n.retiring) > 0 && len(n.present) > 1 && n.total == len(n.present) {
		h.leave(n.retiring[0], out)
	}
}

// dismissWorst ends as many subflows as some says, the worst first.
func (h *health) dismissWorst(n *census, some int, out *plan) {
	worst := slices.DeleteFunc(slices.Clone(n.present), func(s subflowView) bool { return h.fates[s.id].dismissed })
	slices.SortFunc(worst, worstFirst)
	for _, s := range worst[:min(max(some, 0), len(worst))] {
		h.leave(s, out)
	}
}

// makeRoom drops one subflow, preferably a stalled one.
func (h *health) makeRoom(n *census, out *plan) {
	for _, s := range slices.Concat(n.stalled, n.present) {
		if !h.fates[s.id].dismissed {
			h.drop(s, out)
			return
		}
	}
}

// worstFirst orders subflows by how little the connection will miss them: stalled, much slower, older.
func worstFirst(a, b subflowView) int {
	if a.stalled != b.stalled {
		if a.stalled {
			return -1
		}
		return 1
	}
	if slow := 2 * min(a.rtt, b.rtt); max(a.rtt, b.rtt) > slow && slow > 0 {
		return cmp.Compare(b.rtt, a.rtt)
	}
	return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.id, b.id))
}
