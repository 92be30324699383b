package bond

import (
	"cmp"
	"slices"
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
)

const (
	substituteAfter = 3 * time.Second  // of stalling: another subflow takes the place
	dropAfter       = 30 * time.Second // of stalling: the session under it has had its time to resume
	youngFor        = 10 * time.Second // a subflow that is lost or stalls at this age was no good one

	// Without a path, the back-off after such subflows, doubled with each in succession.
	flapFirst, flapMost = 200 * time.Millisecond, 2 * time.Second

	rotateTogether = 2 // subflows more than wanted while others are replaced
)

// health judges the subflows that there are: which carry data, which have stalled, are too old or flap, and which of them will
// be missed least. After each look:
//
//   - it remembers the subflows of the view and no others;
//   - each is replaced at an age between nine tenths of maxAge and maxAge;
//   - a subflow that was told to go is not told again;
//   - while there is a path, only a subflow that has stalled for dropAfter is dropped;
//   - of those present one stays, unless the last place is lent;
//   - flaps hold nothing back for longer than flapMost.
type health struct {
	maxAge time.Duration
	random func(time.Duration) time.Duration

	fates       map[uint32]*fate // of the subflows in the last view
	retireBelow uint32           // subflows with smaller numbers are to be replaced
	flaps       int              // subflows that were no good, in succession
	flapUntil   time.Time        // back-off after them, while there is no path
}

// fate is what health remembers of a subflow.
type fate struct {
	retireAt     time.Time
	stalledSince time.Time // zero: it is usable
	upSince      time.Time // of the first look at which it was usable
	dismissed    bool      // left or dropped by the policy
}

func (f *fate) usable() bool { return f.stalledSince.IsZero() }

// young says that the subflow has not been up for long, and may be no good.
func (f *fate) young(now time.Time) bool {
	return f.upSince.IsZero() || now.Sub(f.upSince) < youngFor
}

// census sorts the subflows of a view.
type census struct {
	present  []subflowView // carry data, or will again shortly: not leaving, and not stalled for long
	retiring []subflowView // those of present that are to be replaced
	stalled  []subflowView // for long
	total    int           // all that are there, those that leave included
	staying  int           // those that do not leave, which has no place any more
}

func (n *census) fresh() int { return len(n.present) - len(n.retiring) }

// observe takes in which subflows there are, and how they do.
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

// meet returns the fate of a subflow, as it is now.
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

// flap takes in that a subflow was lost, or stalled, soon after it came up.
func (h *health) flap(now time.Time) {
	h.flapUntil = now.Add(jitter(backoff.After(h.flaps, flapFirst, flapMost), h.random))
	h.flaps++
}

// forgive forgets the subflows that were no good.
func (h *health) forgive() { h.flaps, h.flapUntil = 0, time.Time{} }

// dropStalled gives those up that have been stalled for too long.
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

// replace lets those go that are to be replaced and will not be missed, because as many as are wanted are usable without them.
// noPlace says that nothing but a place for a successor is missing: then the first goes before it, and the others carry on.
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

// dismissWorst lets some go.
func (h *health) dismissWorst(n *census, some int, out *plan) {
	worst := slices.DeleteFunc(slices.Clone(n.present), func(s subflowView) bool { return h.fates[s.id].dismissed })
	slices.SortFunc(worst, worstFirst)
	for _, s := range worst[:min(max(some, 0), len(worst))] {
		h.leave(s, out)
	}
}

// makeRoom drops a stalled subflow, if there is one.
func (h *health) makeRoom(n *census, out *plan) {
	for _, s := range slices.Concat(n.stalled, n.present) {
		if !h.fates[s.id].dismissed {
			h.drop(s, out)
			return
		}
	}
}

// worstFirst orders subflows by how little will be missed without them: stalled, much slower, older.
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
