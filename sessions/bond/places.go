package bond

import (
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
)

const (
	fullFor = 10 * time.Minute // after the far end has refused another subflow

	// The service may start no further session: a container may have so many. The next attempt comes soon, because a place may
	// just be getting free, and then seldom.
	limitFirst           = 5 * time.Second
	limitNext, limitMost = 10 * time.Minute, time.Hour

	lentGrace = 30 * time.Second // after a place that was lent is back: it may not be free yet
)

// places knows how many subflows there may be. The far end or the service may bound them, and a place may be lent to another
// session for which there is none. At any time:
//
//   - 0 <= limit <= ceiling <= maxSubflows, and limit <= max;
//   - limit is 0 only while a place is lent;
//   - nothing is believed for longer than limitMost;
//   - with a path, subflows and those being opened are never more than ceiling after an open.
type places struct {
	max    int
	random func(time.Duration) time.Duration

	bound      int // the subflows beyond which there is no other; 0: not known
	boundUntil time.Time
	limits     int       // sessions that the service did not start, in succession
	limitAt    int       // the subflows that there were then
	lent       int       // places that are another session's for now
	graceUntil time.Time // after they are back
	returning  bool      // they are back, and nothing is on them yet
	taken      int       // subflows at the last look
}

// limit is how many subflows there may be. It is 0 only while the last place is lent.
func (p *places) limit() int {
	if p.bound > 0 {
		return max(min(p.max, p.bound)-p.lent, 0)
	}
	return p.max
}

// ceiling is how many subflows there may be at any moment, those that leave and those that replace them included.
func (p *places) ceiling() int {
	if p.bound > 0 {
		return max(min(p.bound, maxSubflows)-p.lent, 0)
	}
	return maxSubflows
}

// observe takes in which subflows there are.
func (p *places) observe(now time.Time, n *census) {
	p.taken = n.total
	p.returning = p.returning && len(n.present) == 0 && now.Before(p.graceUntil)
	if p.limits > 0 && p.lent == 0 && n.staying > p.limitAt { // it was no limit
		p.limits, p.limitAt, p.bound = 0, 0, 0
	}
	if now.After(p.boundUntil) {
		p.bound = 0
	}
}

// full takes in that the far end has taken so many subflows, and takes no more.
func (p *places) full(now time.Time, taken int) {
	p.bound, p.boundUntil = max(taken, 1), now.Add(fullFor)
}

// met takes in that the service did not start a session beside the taken places.
func (p *places) met(now time.Time, taken int, pathless bool) {
	fresh := p.bound == 0
	p.bound = max(taken, 1)
	p.limitAt = p.bound
	if !fresh {
		return // of two at once one counts
	}
	pause := limitFirst
	switch {
	case pathless: // sessions that are over may count still: this says little
		p.limits = max(p.limits, 1)
	case p.limits > 0:
		pause = backoff.After(p.limits-1, limitNext, limitMost)
		fallthrough
	default:
		p.limits++
	}
	p.boundUntil = now.Add(jitter(pause, p.random))
}

// known returns the service's limit, if one is known.
func (p *places) known() Limit {
	if p.limits == 0 && p.lent == 0 && !p.returning {
		return Limit{}
	}
	return Limit{Subflows: p.limitAt, Retry: p.boundUntil, Lent: p.lent > 0 || p.returning}
}

// lend gives a place of the container's to another session, which could not be started: the connection has as many as there
// are now, less one.
func (p *places) lend(now time.Time) {
	if p.lent == 0 {
		p.bound = max(p.taken, 1)
		p.limitAt, p.limits = p.bound, max(p.limits, 1)
	}
	p.lent++
	p.boundUntil = later(p.boundUntil, now.Add(limitNext))
}

// giveBack ends a lend, and returns whether all places are back. kept says that this one is not: the other session goes on.
func (p *places) giveBack(now time.Time, kept bool) (back bool) {
	p.lent--
	switch {
	case kept:
		p.bound = max(p.bound-1, 1)
		p.limitAt, p.boundUntil = p.bound, now.Add(jitter(limitNext, p.random))
	case p.lent == 0:
		p.graceUntil, p.returning = now.Add(lentGrace), true
		return true
	}
	return false
}

// justReturned says that a place which was lent has come back so recently that the service may not know of it.
func (p *places) justReturned(now time.Time) bool { return now.Before(p.graceUntil) }
