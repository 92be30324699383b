package bond

import (
	"math/rand/v2"
	"time"
)

// maxSubflows bounds a connection's subflows, leaving ones included.
const maxSubflows = 16

// policy decides how many subflows a client has, and which. Each subflow costs a StartSession call, which AWS rations and
// CloudTrail records. So the policy opens few on suspicion, and keeps open ones for a while. It has no I/O and no clock: a view
// goes in, a plan comes out. One goroutine uses it.
//
// Its parts do not know each other; the policy passes each the facts that it needs from the others. Each part states its
// invariants, and the tests check them after every look.
type policy struct {
	linger time.Duration

	health health // which subflows carry data, and which must go
	growth growth // how many the transfer needs
	places places // how many the far end and the service allow
	pacing pacing // when the next attempt to open one begins
}

func newPolicy(now time.Time, maximum int, maxAge, linger time.Duration) *policy {
	p := &policy{linger: linger, growth: newGrowth(), places: places{max: maximum}, pacing: newPacing(now)}
	p.health = health{maxAge: maxAge, fates: make(map[uint32]*fate)}
	p.setRandom(rand.N[time.Duration])
	return p
}

// setRandom sets the source of uniform random durations from [0, d).
func (p *policy) setRandom(random func(d time.Duration) time.Duration) {
	p.health.random, p.places.random, p.pacing.random = random, random, random
}

// plan is the policy's instruction to the path manager.
type plan struct {
	open    []attemptID // attempts to begin; each counts until opened or openFailed is called
	abandon []attemptID // attempts to cancel; they no longer count
	leave   []uint32    // subflows to end in good order
	drop    []uint32    // subflows to close at once
	// end says that the connection has no path and will not get one: either linger has passed, or no attempt can succeed.
	end  bool
	next time.Time // time of the next look; zero: only after a change
}

// wake makes the next look come at this time or earlier.
func (o *plan) wake(at time.Time) { o.next = earlier(o.next, at) }

// look returns what to do now. The path manager calls it after a change, and at the last plan's next.
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

// dismiss ends superfluous subflows, first those whose successors are up or have no place beside them.
func (p *policy) dismiss(now time.Time, n *census, want int, out *plan) {
	noPlace := n.total >= p.places.ceiling() && len(p.pacing.opening) == 0 && p.pacing.mayOpen(now)
	p.health.replace(now, n, want, noPlace, out)
	if len(n.retiring) > 0 && p.places.lent == 0 {
		return
	}
	// The present subflows may exceed the limit: one with a substitute has recovered, or the connection has lent a place.
	staying := len(n.present) - len(out.leave)
	p.health.dismissWorst(n, max(staying-p.places.limit(), p.growth.excess(now, staying, want)), out)
}

// open opens the missing subflows as fast as pacing allows.
func (p *policy) open(now time.Time, n *census, want int, pathless bool, out *plan) {
	p.pacing.setPathless(pathless)
	if p.pacing.hopeless {
		return
	}
	ceiling := p.places.ceiling()
	if p.places.lent > 0 { // running attempts need places that are lent now
		p.pacing.keep(max(ceiling-n.total, 0), 0, out)
	}
	switch {
	case !pathless:
		missing := min(want-n.fresh(), want+rotateTogether-len(n.present), ceiling-n.total)
		p.pacing.open(now, missing, out)
	case p.places.lent > 0 && ceiling == 0: // the place comes back soon
	default:
		begun := p.pacing.attempt(now, p.health.flapUntil, out)
		if begun && n.total-len(out.drop)+len(p.pacing.opening) > ceiling {
			p.health.makeRoom(n, out)
		}
	}
}

// opened takes in that an attempt has succeeded: the next view has the subflow.
func (p *policy) opened(id attemptID) { p.pacing.opened(id) }

// openFailed takes in that an attempt has failed beside have subflows.
func (p *policy) openFailed(now time.Time, id attemptID, how Failure, have int) {
	attempt := p.pacing.ended(id)
	if how == FailedUnanswered && p.pacing.pathless {
		how = FailedOther // no evidence that other sessions get answers
	}
	coming := len(p.pacing.opening) // the service may have started these already
	switch how {
	case failedFull:
		p.places.full(now, have+coming)
	case FailedLimit, FailedUnanswered:
		taken := have
		if how == FailedUnanswered { // not even beside the most subflows since it began
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

// backedOff returns when the backoff after failures ends.
func (p *policy) backedOff() time.Time { return later(p.pacing.notBefore, p.health.flapUntil) }

// lend gives a place to another session: see places.
func (p *policy) lend(now time.Time) { p.places.lend(now) }

// giveBack ends a lend. kept says that the other session goes on and keeps the place.
func (p *policy) giveBack(now time.Time, kept bool) {
	if p.places.giveBack(now, kept) {
		p.pacing.notBefore = time.Time{}
	}
}

// rotate replaces all subflows with numbers below this one.
func (p *policy) rotate(below uint32) {
	p.health.retireBelow = max(p.health.retireBelow, below)
	p.retry()
}

// retry resets all backoff, because earlier failures may not recur. Without a path, the next look opens a subflow at once.
func (p *policy) retry() {
	p.pacing.retry()
	p.health.forgive()
	p.growth.forget()
}
