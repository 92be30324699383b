package bond

import (
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
)

const (
	fullFor = 10 * time.Minute // how long places believes that the far end takes no more subflows

	// The service bounds a container's sessions. After a refusal the first retry comes soon, because a place may just be getting
	// free. Later retries are rare.
	limitFirst           = 5 * time.Second
	limitNext, limitMost = 10 * time.Minute, time.Hour

	lentGrace = 30 * time.Second // after a lent place is back: the service may not know that yet
)

// places tracks how many subflows the far end and the service allow. The connection may lend a place to another session for which
// the service has none. At any time:
//
//   - 0 <= limit <= ceiling <= maxSubflows, and limit <= max;
//   - limit is 0 only while a place is lent;
//   - places believes a bound for limitMost at most;
//   - with a path, an open never brings subflows and attempts beyond ceiling.
type places struct {
	max    int
	random func(time.Duration) time.Duration

	bound      int // most subflows; 0: unknown
	boundUntil time.Time
	limits     int       // sessions in succession that the service did not start
	limitAt    int       // subflows at that time
	lent       int       // places that other sessions hold for now
	graceUntil time.Time // end of lentGrace
	returning  bool      // lent places are back but not used yet
	taken      int       // subflows at the last look
}

// limit returns how many subflows the connection may keep. It is 0 only while the last place is lent.
func (p *places) limit() int {
	if p.bound > 0 {
		return max(min(p.max, p.bound)-p.lent, 0)
	}
	return p.max
}

// ceiling returns how many subflows may exist at any moment, including leaving ones and their successors.
func (p *places) ceiling() int {
	if p.bound > 0 {
		return max(min(p.bound, maxSubflows)-p.lent, 0)
	}
	return maxSubflows
}

// observe takes in the number of subflows.
func (p *places) observe(now time.Time, n *census) {
	p.taken = n.total
	p.returning = p.returning && len(n.present) == 0 && now.Before(p.graceUntil)
	if p.limits > 0 && p.lent == 0 && n.staying > p.limitAt { // so the earlier refusal was not a limit
		p.limits, p.limitAt, p.bound = 0, 0, 0
	}
	if now.After(p.boundUntil) {
		p.bound = 0
	}
}

// full records that the far end takes no more than taken subflows.
func (p *places) full(now time.Time, taken int) {
	p.bound, p.boundUntil = max(taken, 1), now.Add(fullFor)
}

// met records that the service did not start a session beside taken others.
func (p *places) met(now time.Time, taken int, pathless bool) {
	fresh := p.bound == 0
	p.bound = max(taken, 1)
	p.limitAt = p.bound
	if !fresh {
		return // count two at once as one
	}
	pause := limitFirst
	switch {
	case pathless: // the service may still count sessions that are over
		p.limits = max(p.limits, 1)
	case p.limits > 0:
		pause = backoff.After(p.limits-1, limitNext, limitMost)
		fallthrough
	default:
		p.limits++
	}
	p.boundUntil = now.Add(jitter(pause, p.random))
}

// known returns the service's limit, if known.
func (p *places) known() Limit {
	if p.limits == 0 && p.lent == 0 && !p.returning {
		return Limit{}
	}
	return Limit{Subflows: p.limitAt, Retry: p.boundUntil, Lent: p.lent > 0 || p.returning}
}

// lend gives one of the container's places to another session that could not start: the connection then keeps one subflow less.
func (p *places) lend(now time.Time) {
	if p.lent == 0 {
		p.bound = max(p.taken, 1)
		p.limitAt, p.limits = p.bound, max(p.limits, 1)
	}
	p.lent++
	p.boundUntil = later(p.boundUntil, now.Add(limitNext))
}

// giveBack ends a lend and reports whether all places are back. kept says that the other session goes on and keeps the place.
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

// justReturned reports whether a lent place came back so recently that the service may not know.
func (p *places) justReturned(now time.Time) bool { return now.Before(p.graceUntil) }
