package bond

import (
	"math/rand/v2"
	"time"
)

// maxSubflows is the most that a connection may have, those that are just leaving included.
const maxSubflows = 16

// policy decides how many subflows a client has and which. Each of them costs a StartSession call, which AWS rations and
// CloudTrail records: so few are opened on suspicion, and those that are there are kept for a while. The policy does no I/O and
// has no clock: what the path manager sees goes in, what it is to do comes out. One goroutine uses it.
//
// Its parts do not know of each other; the policy tells each what it needs of the others. Each states invariants, which its check
// in the tests asks for after every look.
type policy struct {
	linger time.Duration

	health health // which subflows carry data, and which are to go
	growth growth // how many are wanted
	places places // how many there may be
	pacing pacing // when the next is opened
}

func newPolicy(now time.Time, maximum int, maxAge, linger time.Duration) *policy {
	p := &policy{linger: linger, growth: newGrowth(), places: places{max: maximum}, pacing: newPacing(now)}
	p.health = health{maxAge: maxAge, fates: make(map[uint32]*fate)}
	p.setRandom(rand.N[time.Duration])
	return p
}

// setRandom sets the source of random durations: a uniform one of [0, d).
func (p *policy) setRandom(random func(d time.Duration) time.Duration) {
	p.health.random, p.places.random, p.pacing.random = random, random, random
}

// plan is what the path manager is to do.
type plan struct {
	open    []attemptID // a subflow by each; it counts as being opened until opened or openFailed is called
	abandon []attemptID // that are under way; they do not count any more
	leave   []uint32    // subflows, in good order
	drop    []uint32    // at once
	// end says that the connection has no path and will not get one: because linger is over, or no attempt can succeed.
	end  bool
	next time.Time // look again at this time; zero: only when something changes
}

// wake has the path manager look again at this time at the latest.
func (o *plan) wake(at time.Time) { o.next = earlier(o.next, at) }

// look is called when something changed, and when the last plan said so.
func (p *policy) look(now time.Time, v view) plan {
	var out plan
	if v.ended {
		return out
	}
	n := p.observe(now, v)
	if !v.pathless.IsZero() {
		over := v.pathless.Add(p.linger)
		if !now.Before(over) || p.pacing.hopeless {
			out.end = true
			return out
		}
		out.wake(over)
	}
	p.health.dropStalled(now, n, &out)
	limit := p.places.limit()
	p.growth.grow(now, n.present, limit, &out)
	p.growth.shrink(now, len(n.present), limit, &out)
	want := p.growth.want(now, limit, &out)
	p.dismiss(now, n, want, &out)
	p.open(now, n, want, !v.pathless.IsZero(), &out)
	return out
}

// observe takes in a view.
func (p *policy) observe(now time.Time, v view) *census {
	n := p.health.observe(now, v.subflows)
	p.growth.observe(now, v)
	p.places.observe(now, n)
	p.pacing.observe(n)
	return n
}

// dismiss lets those go that are not wanted any more: first those whose successors are there, or have no place beside them.
func (p *policy) dismiss(now time.Time, n *census, want int, out *plan) {
	noPlace := n.total >= p.places.ceiling() && len(p.pacing.opening) == 0 && p.pacing.mayOpen(now)
	p.health.replace(now, n, want, noPlace, out)
	if len(n.retiring) > 0 && p.places.lent == 0 {
		return
	}
	// Those beyond the limit are there after one with a substitute has recovered, or because their places are lent.
	staying := len(n.present) - len(out.leave)
	p.health.dismissWorst(n, max(staying-p.places.limit(), p.growth.excess(now, staying, want)), out)
}

// open opens what is missing, as fast as is allowed.
func (p *policy) open(now time.Time, n *census, want int, pathless bool, out *plan) {
	p.pacing.setPathless(pathless)
	if p.pacing.hopeless {
		return
	}
	ceiling := p.places.ceiling()
	if p.places.lent > 0 { // those being opened hold, or will hold, places that are not ours now
		p.pacing.keep(max(ceiling-n.total, 0), 0, out)
	}
	switch {
	case !pathless:
		missing := min(want-n.fresh(), want+rotateTogether-len(n.present), ceiling-n.total)
		p.pacing.open(now, missing, out)
	case p.places.lent > 0 && ceiling == 0: // the place is back shortly
	case p.pacing.attempt(now, p.health.flapUntil, out) && n.total-len(out.drop)+len(p.pacing.opening) > ceiling:
		p.health.makeRoom(n, out)
	}
}

// opened is told that an open has succeeded: the next view has the subflow.
func (p *policy) opened(id attemptID) { p.pacing.opened(id) }

// openFailed is told that an open has failed. have is how many subflows there are.
func (p *policy) openFailed(now time.Time, id attemptID, how Failure, have int) {
	attempt := p.pacing.ended(id)
	if how == FailedUnanswered && p.pacing.pathless {
		how = FailedOther // nothing says that others are answered
	}
	coming := len(p.pacing.opening) // may have been started, and taken, already
	switch how {
	case failedFull:
		p.places.full(now, have+coming)
	case FailedLimit, FailedUnanswered:
		taken := have
		if how == FailedUnanswered { // no agent came in all the time since it was begun
			taken = max(attempt.beside, have)
		}
		if p.places.justReturned(now) {
			p.pacing.waitForReturned(now)
		} else {
			p.places.met(now, taken+coming, p.pacing.pathless)
		}
	}
	p.pacing.failed(now, attempt, how)
}

// backedOff returns until when failures hold opens back.
func (p *policy) backedOff() time.Time { return later(p.pacing.notBefore, p.health.flapUntil) }

// lend gives a place to another session, which could not be started: see places.
func (p *policy) lend(now time.Time) { p.places.lend(now) }

// giveBack ends a lend. kept says that the other session goes on, so that the place is gone.
func (p *policy) giveBack(now time.Time, kept bool) {
	if p.places.giveBack(now, kept) {
		p.pacing.notBefore = time.Time{}
	}
}

// rotate has all subflows with numbers below this replaced.
func (p *policy) rotate(below uint32) {
	p.health.retireBelow = max(p.health.retireBelow, below)
	p.retry()
}

// retry forgets all back-off: what failed may succeed now. Without any path the next look opens one at once.
func (p *policy) retry() {
	p.pacing.retry()
	p.health.forgive()
	p.growth.forget()
}
