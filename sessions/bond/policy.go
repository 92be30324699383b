package bond

import (
	"math/rand/v2"
	"time"
)

// maxSubflows bounds a connection's subflows, leaving ones included.
const maxSubflows = 16

// policy decides how many subflows a client has and which. Each subflow costs a StartSession call, which AWS rations and CloudTrail
// records: the policy opens few on suspicion, and keeps open ones for a while. It does no I/O and has no clock: the path manager's
// view goes in, a plan comes out. One goroutine uses it.
//
// Its parts do not know each other; the policy tells each what it needs of the others. Each states its invariants, which the tests
// check after every look.
type policy struct {
	linger time.Duration

	health health // which subflows carry data, and which must go
	growth growth // how many the transfer needs
	places places // how many the far end and the service allow
	pacing pacing // when the policy opens the next one
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

// plan tells the path manager what to do.
type plan struct {
	open    []attemptID // attempts to begin; each counts until opened or openFailed is called
	abandon []attemptID // attempts to cancel; they no longer count
	leave   []uint32    // subflows to end in good order
	drop    []uint32    // subflows to close at once
	// end says that the connection has no path and will not get one: linger is over, or no attempt can succeed.
	end  bool
	next time.Time // look again at this time; zero: only when something changes
}

// wake makes the path manager look again at this time or earlier.
func (o *plan) wake(at time.Time) { o.next = earlier(o.next, at) }

// look returns what to do now. The path manager calls it after a change, and when the last plan said so.
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

// dismiss ends subflows that are not needed: first those whose successors are up, or have no place beside them.
func (p *policy) dismiss(now time.Time, n *census, want int, out *plan) {
	noPlace := n.total >= p.places.ceiling() && len(p.pacing.opening) == 0 && p.pacing.mayOpen(now)
	p.health.replace(now, n, want, noPlace, out)
	if len(n.retiring) > 0 && p.places.lent == 0 {
		return
	}
	// There may be more than the limit because one with a substitute has recovered, or because a place was lent.
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
	if p.places.lent > 0 { // attempts under way need places that are not ours now
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
		how = FailedOther // nothing shows that other sessions are answered
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

// giveBack ends a lend. kept says that the other session goes on: the place is lost.
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

// retry forgets all backoff: what failed may succeed now. Without a path, the next look opens a subflow at once.
func (p *policy) retry() {
	p.pacing.retry()
	p.health.forgive()
	p.growth.forget()
}
