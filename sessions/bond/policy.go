package bond

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
)

// maxSubflows is the most that a connection may have, those that are just leaving included.
const maxSubflows = 16

// The path manager's times and measures. Every subflow costs a StartSession call, which AWS rations and CloudTrail
// records: so few are opened on suspicion, and those that are there are kept for a while.
const (
	// Growth: while there is demand and the last step helped, the number of subflows is doubled.
	demandWithin   = 250 * time.Millisecond // demand is there if either end wanted more subflows within this time
	measureFor     = 300 * time.Millisecond // the least time over which a rate is measured
	measureWindow  = 3 * time.Second        // and the most
	measureFlat    = 2 * time.Second        // ... before a step, once steps have stopped to bring much
	helpShare      = 0.5                    // of the gain in proportion to the subflows: a step that brings so much is kept at once
	judgeFor       = 3 * time.Second        // and four round trips: a step that has not brought helpLeast by then is taken back
	helpLeast      = 1.05                   //
	harms, harmFor = 0.9, time.Second       // one that makes the transfer so slow is taken back after this time
	busyShare      = 0.9                    // of the far end's processor time: with so much in use, more subflows bring nothing
	busyFresh      = 5 * time.Second        // that is known for so long
	farPatience    = 3 * time.Second        // for the first news of it, where transfers both ways may share it
	sideShare      = 0.01                   // of the traffic: a direction with less has no transfer
	stepPatience   = 10 * time.Second       // for the subflows of a step to come up; it is then judged by those that did
	lapsePatience  = 2 * time.Second        // for demand to come back while a step's subflows are being opened
	firstHold      = 30 * time.Second       // no growth after a step that did not help; doubled each time
	maxHold        = 30 * time.Minute       //
	lookOften      = 50 * time.Millisecond  // between looks while something is measured
	lookHeld       = 2 * time.Second        // between looks while steps are held back
	changed        = 1.3                    // so much faster than before such a step shows that something else is the limit now
	lookIdle       = 10 * time.Second       // between looks while nothing flows
	keepFor        = 10 * time.Second       // after demand lost subflows are still replaced
	shrinkAfter    = time.Minute            // without demand
	shrinkEvery    = 5 * time.Second        //
	quietAfter     = time.Minute            // without data: one subflow is enough
	spareAfter     = time.Second            // data: have a second one
	rotateTogether = 2                      // subflows more than wanted while others are replaced

	// Loss.
	substituteAfter = 3 * time.Second  // of stalling
	dropAfter       = 30 * time.Second // of stalling: the session under it has had its time to resume
	youngFor        = 10 * time.Second // a subflow that is lost or stalls at this age was no good one

	// Back-off, in each case doubled with every failure in succession.
	failureFirst, failureMost     = 500 * time.Millisecond, time.Minute
	throttledFirst, throttledMost = time.Second, 30 * time.Second
	flapFirst, flapMost           = 200 * time.Millisecond, 2 * time.Second
	fullFor                       = 10 * time.Minute // after the far end has refused another subflow

	maxOpening = 2 // subflows being opened at any time

	// Without any path an attempt begins at least every attemptEvery, whatever has become of those before it, so that the
	// connection goes on within that time of the moment it could. The least is for what fails at once; throttled attempts, and
	// those beside others that hang, keep close to the most. Only refusals, which somebody has to lift, are tried more seldom.
	attemptFirst, attemptEvery = 200 * time.Millisecond, 2 * time.Second
	refusedFirst, refusedMost  = 500 * time.Millisecond, 10 * time.Second
	// So many attempts are under way at most. The first of them have all the time that an open may take, for networks that are
	// slow; of the others, the oldest makes room for the next.
	maxAttempts, patientAttempts = 8, 4

	// The service may start no further session: a container may have so many. The next attempt comes soon, because a place may
	// just be getting free, and then seldom.
	limitFirst           = 5 * time.Second
	limitNext, limitMost = 10 * time.Minute, time.Hour
	lentGrace, lentPause = 30 * time.Second, 2 * time.Second // after a place that was lent is back: it may not be free yet
)

// policy decides how many subflows a client has and which. It does no I/O and has no clock: what the path manager sees
// goes in, what it is to do comes out. One goroutine uses it.
type policy struct {
	max    int
	maxAge time.Duration
	linger time.Duration
	random func(time.Duration) time.Duration // a uniform one of [0, d)

	fates          map[uint32]*fate
	sent, received rateMeter

	// Opening.
	opening     []opening     // those being opened, the oldest first
	burst, long bucket        // tokens for opens: a few a second, and one a second in the long run
	notBefore   time.Time     // back-off
	spaced      time.Duration // from the latest open to the next, without a path
	failures    int           // in succession
	throttles   int           // in succession
	flaps       int           // subflows that were no good, in succession
	flapUntil   time.Time     // back-off after them, while there is no path
	full        int           // the number of subflows beyond which there is no other; 0: not known
	fullUntil   time.Time
	limits      int       // sessions that the service did not start, in succession
	limitAt     int       // the subflows that there were then
	lent        int       // places that are another session's for now
	graceUntil  time.Time // after they are back
	returning   bool      // they are back, and nothing is on them yet
	total       int       // subflows at the last look
	hopeless    bool      // a further open cannot succeed

	// What is wanted.
	target      int       // subflows, by growth
	demandSince time.Time // zero: no demand
	lastDemand  time.Time
	lastData    time.Time
	dataSince   time.Time // zero: no data within quietAfter
	lastShrink  time.Time
	pathless    bool   // at the last look
	retireBelow uint32 // subflows with smaller numbers are to be replaced
	step        step
	holds       [wantsBoth + 1]hold // after steps that did not help, by what was wanted
	surplus     bool                // what a step has added is to go, at this look
	wants       wants
	far         FarEnd
}

// fate is what the policy remembers of a subflow.
type fate struct {
	retireAt     time.Time
	stalledSince time.Time
	usable       bool      // at the last look
	upSince      time.Time // of the first look at which it was usable
	dismissed    bool      // left or dropped by the policy
}

// young says that the subflow has not been up for long, and may be no good.
func (f *fate) young(now time.Time) bool {
	return f.upSince.IsZero() || now.Sub(f.upSince) < youngFor
}

// plan is what the path manager is to do.
type plan struct {
	open  int      // so many subflows; they count as being opened until opened or openFailed is called
	leave []uint32 // in good order
	drop  []uint32 // at once
	// abandon names those being opened, by the time when they were begun, that are given up. They do not count any more.
	abandon []time.Time
	// end says that the connection has no path and will not get one: because linger is over, or no attempt can succeed.
	end  bool
	next time.Time // look again at this time; zero: only when something changes
}

// opening is an attempt to open a subflow.
type opening struct {
	begun  time.Time
	beside int // the most subflows that there have been since
}

// Failure is how the opening of a subflow failed, which says when another attempt makes sense.
type Failure uint8

// The failures that DialConfig.Judge tells apart.
const (
	FailedOther      Failure = iota
	FailedThrottled          // calls come too fast
	FailedLimit              // the service starts no more sessions to this far end
	FailedUnanswered         // the service started a session that nobody answered: beside others that live, the same
	FailedRefused            // the service refuses, and will until somebody changes that
	FailedFatal              // a further one cannot succeed, until Rotate or Probe is called

	failedFull // the far end takes no more subflows
)

func newPolicy(now time.Time, maximum int, maxAge, linger time.Duration) *policy {
	return &policy{
		max: maximum, maxAge: maxAge, linger: linger,
		random: rand.N[time.Duration],
		fates:  make(map[uint32]*fate),
		burst:  newBucket(now, 4, 3),
		long:   newBucket(now, maxSubflows, 1),
		target: 1,
	}
}

// look is called when something changed, and when the last plan said so.
func (p *policy) look(now time.Time, v view) plan {
	var out plan
	if v.ended {
		return out
	}
	census := p.observe(now, v)
	wake := func(at time.Time) {
		if out.next.IsZero() || at.Before(out.next) {
			out.next = at
		}
	}

	if !v.pathless.IsZero() {
		over := v.pathless.Add(p.linger)
		if !now.Before(over) || p.hopeless {
			out.end = true
			return out
		}
		wake(over)
	}

	p.dropStalled(now, census, &out, wake)
	p.grow(now, census, wake)
	p.shrink(now, census, wake)
	want := p.want(now, census, wake)
	p.dismiss(now, census, want, &out, wake)
	p.open(now, v, census, want, &out, wake)
	return out
}

// census sorts the subflows of a view.
type census struct {
	present  []subflowView // carry data, or will again shortly: not leaving, and not stalled for long
	retiring []subflowView // those of present that are to be replaced
	stalled  []subflowView // for long
	total    int           // all that are there, those that leave included
	demand   bool
	flowing  bool // data within quietAfter
}

func (n *census) fresh() int { return len(n.present) - len(n.retiring) }

// observe takes in a view.
func (p *policy) observe(now time.Time, v view) *census {
	n := &census{total: len(v.subflows)}
	p.total = n.total
	staying := n.total // one that leaves has no place any more
	seen := make(map[uint32]bool, len(v.subflows))
	for _, s := range v.subflows {
		seen[s.id] = true
		f := p.fates[s.id]
		if f == nil {
			f = &fate{retireAt: s.since.Add(p.maxAge - p.random(p.maxAge/10+1))}
			p.fates[s.id] = f
		}
		switch {
		case !s.stalled:
			f.stalledSince = time.Time{}
		case f.stalledSince.IsZero():
			f.stalledSince = now
			if f.young(now) {
				p.flap(now)
			}
		}
		f.usable = !s.stalled
		if f.usable {
			if f.upSince.IsZero() {
				f.upSince = now
			}
			if now.Sub(f.upSince) >= youngFor {
				p.flaps = 0
			}
		}
		switch {
		case s.leaving || f.dismissed:
			staying--
		case s.stalled && now.Sub(f.stalledSince) >= substituteAfter:
			n.stalled = append(n.stalled, s)
		default:
			n.present = append(n.present, s)
			if s.id < p.retireBelow || !now.Before(f.retireAt) {
				n.retiring = append(n.retiring, s)
			}
		}
	}
	for id, f := range p.fates {
		if seen[id] {
			continue
		}
		if !f.dismissed && f.usable && f.young(now) {
			p.flap(now)
		}
		delete(p.fates, id)
	}

	for i := range p.opening {
		p.opening[i].beside = max(p.opening[i].beside, staying)
	}
	p.returning = p.returning && len(n.present) == 0 && now.Before(p.graceUntil)
	if p.limits > 0 && p.lent == 0 && staying > p.limitAt { // it was no limit
		p.limits, p.limitAt, p.full = 0, 0, 0
	}
	p.sent.add(now, v.sent)
	p.received.add(now, v.received)
	p.observeFar(v.far)
	p.wants = wantsOf(now, v)
	n.demand = p.wants != 0
	switch {
	case !n.demand:
		p.demandSince = time.Time{}
	case p.demandSince.IsZero():
		p.demandSince = now
	}
	p.lastDemand = later(p.lastDemand, later(v.wanted, v.peerWanted))
	p.lastData = v.lastData
	n.flowing = now.Sub(v.lastData) < quietAfter
	switch {
	case !n.flowing:
		p.dataSince = time.Time{}
	case p.dataSince.IsZero():
		p.dataSince = v.lastData
	}
	if now.After(p.fullUntil) {
		p.full = 0
	}
	return n
}

// flap takes in that a subflow was lost, or stalled, soon after it came up.
func (p *policy) flap(now time.Time) {
	p.flapUntil = now.Add(p.jitter(backoff.After(p.flaps, flapFirst, flapMost)))
	p.flaps++
}

// dropStalled gives those up that have been stalled for too long.
func (p *policy) dropStalled(now time.Time, n *census, out *plan, wake func(time.Time)) {
	for _, s := range n.stalled {
		f := p.fates[s.id]
		if over := f.stalledSince.Add(dropAfter); now.Before(over) {
			wake(over)
			continue
		}
		f.dismissed = true
		out.drop = append(out.drop, s.id)
	}
	for _, s := range n.present {
		if f := p.fates[s.id]; !f.stalledSince.IsZero() {
			wake(f.stalledSince.Add(substituteAfter))
		}
	}
}

// shrink lowers the target when there has been no demand for long.
func (p *policy) shrink(now time.Time, n *census, wake func(time.Time)) {
	have := len(n.present)
	if now.Sub(p.lastDemand) >= keepFor && p.step.phase != stepOpening {
		// What has been lost since is replaced when it is wanted again.
		p.target = max(min(p.target, have), 1)
	}
	floor := p.floor(n)
	if p.target <= floor && have <= floor {
		return
	}
	at := later(p.lastDemand.Add(shrinkAfter), p.lastShrink.Add(shrinkEvery))
	if now.Before(at) {
		wake(at)
		return
	}
	p.target = max(min(p.target, have)-1, floor)
	p.lastShrink = now
	wake(now.Add(shrinkEvery))
}

// floor is how many subflows there are to be without any demand: two where data flows now and then, so that the loss of
// one is no pause.
func (p *policy) floor(n *census) int {
	if n.flowing && p.limit() >= 2 {
		return 2
	}
	return 1
}

// limit is how many subflows there may be. It is 0 only while the last place is lent.
func (p *policy) limit() int {
	if p.full > 0 {
		return max(min(p.max, p.full)-p.lent, 0)
	}
	return p.max
}

// want returns how many subflows there are to be now.
func (p *policy) want(now time.Time, n *census, wake func(time.Time)) int {
	floor := p.floor(n)
	if !n.flowing {
		wake(now.Add(lookIdle)) // data may flow again; that changes nothing else
	} else {
		wake(p.lastData.Add(quietAfter))
		if spare := p.dataSince.Add(spareAfter); now.Before(spare) {
			wake(spare)
			floor = 1
		}
	}
	return min(max(p.target, floor), p.limit())
}

// dismiss lets those go that are not wanted any more.
func (p *policy) dismiss(now time.Time, n *census, want int, out *plan, wake func(time.Time)) {
	leave := func(s subflowView) {
		p.fates[s.id].dismissed = true
		out.leave = append(out.leave, s.id)
	}
	usable := 0
	for _, s := range n.present {
		if p.fates[s.id].usable {
			usable++
		}
	}
	// Those that will not be missed, because their successors are there.
	for _, s := range n.retiring {
		others := usable
		if p.fates[s.id].usable {
			others--
		}
		if others >= want {
			leave(s)
			usable = others
		}
	}
	if len(out.leave) == 0 && len(n.retiring) > 0 && n.total+len(p.opening) >= p.ceiling() && len(n.present) > 1 &&
		n.total == len(n.present) && len(p.opening) == 0 && p.mayOpen(now) {
		// There is no room for a successor beside it. The others carry on.
		leave(n.retiring[0])
	}
	for _, s := range n.present {
		if f := p.fates[s.id]; now.Before(f.retireAt) {
			wake(f.retireAt)
		}
	}
	if len(n.retiring) > 0 && p.lent == 0 {
		return
	}
	// One whenever shrink has lowered the target; and those beyond the limit, after one with a substitute has recovered, or
	// because their places are lent.
	over := len(n.present) - len(out.leave) - p.limit()
	switch {
	case p.surplus:
		over, p.surplus = max(over, len(n.present)-want), false
	case p.lastShrink.Equal(now) && len(n.present) > want:
		over = max(over, 1)
	}
	worst := slices.DeleteFunc(slices.Clone(n.present), func(s subflowView) bool { return p.fates[s.id].dismissed })
	slices.SortFunc(worst, worstFirst)
	for _, s := range worst[:min(max(over, 0), len(worst))] {
		leave(s)
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

// ceiling is how many subflows there may be at any moment, those that leave and those that replace them included.
func (p *policy) ceiling() int {
	if p.full > 0 {
		return max(min(p.full, maxSubflows)-p.lent, 0)
	}
	return maxSubflows
}

// open opens what is missing, as fast as is allowed.
func (p *policy) open(now time.Time, v view, n *census, want int, out *plan, wake func(time.Time)) {
	pathless := !v.pathless.IsZero()
	first := pathless && !p.pathless
	p.pathless = pathless
	if p.hopeless {
		return
	}
	if p.lent > 0 {
		p.abandon(len(p.opening)-max(p.ceiling()-n.total, 0), 0, out) // they hold, or will hold, places that are not ours now
	}
	if pathless {
		p.openPathless(now, n, first, out, wake)
		return
	}
	p.abandon(len(p.opening)-maxOpening, 0, out) // that were begun when there was no path
	missing := want - n.fresh()
	missing = min(missing, want+rotateTogether-len(n.present), p.ceiling()-n.total) - len(p.opening)
	for ; missing > 0 && len(p.opening) < maxOpening; missing-- {
		if at := p.opensAt(now); now.Before(at) {
			wake(at)
			return
		}
		p.begin(now, out)
	}
}

// openPathless opens one at once when the last path has gone, and then one after the other, whatever becomes of them.
func (p *policy) openPathless(now time.Time, n *census, first bool, out *plan, wake func(time.Time)) {
	if first {
		p.failures, p.notBefore = 0, time.Time{}
	}
	if p.lent > 0 && p.ceiling() == 0 {
		return // it is back shortly
	}
	at := p.backedOff()
	if k := len(p.opening); k > 0 {
		at = later(at, p.opening[k-1].begun.Add(p.spaced))
	}
	if now.Before(at) {
		wake(at)
		return
	}
	p.abandon(len(p.opening)+1-maxAttempts, patientAttempts, out)
	p.makeRoom(n, out)
	p.begin(now, out)
	wake(now.Add(p.spaced))
}

// abandon gives up k of those being opened: the oldest, but for the first spared ones.
func (p *policy) abandon(k, spared int, out *plan) {
	if k = min(k, len(p.opening)-spared); k > 0 {
		for _, o := range p.opening[spared : spared+k] {
			out.abandon = append(out.abandon, o.begun)
		}
		p.opening = slices.Delete(p.opening, spared, spared+k)
	}
}

// makeRoom drops a stalled subflow if there are as many as there may be.
func (p *policy) makeRoom(n *census, out *plan) {
	if n.total-len(out.drop)+len(p.opening) < p.ceiling() {
		return
	}
	for _, s := range slices.Concat(n.stalled, n.present) {
		if f := p.fates[s.id]; !f.dismissed {
			f.dismissed = true
			out.drop = append(out.drop, s.id)
			return
		}
	}
}

// opensAt returns when the next open may begin.
func (p *policy) opensAt(now time.Time) time.Time {
	return later(p.notBefore, later(p.burst.readyAt(now), p.long.readyAt(now)))
}

// backedOff returns until when failures hold opens back.
func (p *policy) backedOff() time.Time { return later(p.notBefore, p.flapUntil) }

func (p *policy) mayOpen(now time.Time) bool { return !p.hopeless && !now.Before(p.opensAt(now)) }

func (p *policy) begin(now time.Time, out *plan) {
	p.burst.take(now)
	p.long.take(now)
	p.opening = append(p.opening, opening{begun: now})
	p.spaced = attemptEvery*3/4 + p.random(attemptEvery/4+1)
	out.open++
}

// opened is told that an open has succeeded: the next view has the subflow.
func (p *policy) opened(begun time.Time) {
	p.ended(begun)
	p.failures, p.throttles, p.notBefore = 0, 0, time.Time{}
}

// openFailed is told that an open, begun at that time, has failed. have is how many subflows there are.
func (p *policy) openFailed(now, begun time.Time, how Failure, have int) {
	beside := max(p.ended(begun).beside, have)
	if how == FailedUnanswered && p.pathless {
		how = FailedOther // there is nothing that says that others are answered
	}
	var pause time.Duration
	switch how {
	case FailedFatal:
		p.hopeless = true
		return
	case failedFull:
		// Those that are being opened may have been taken.
		p.full, p.fullUntil = max(have+len(p.opening), 1), now.Add(fullFor)
	case FailedLimit:
		p.atLimit(now, have)
	case FailedUnanswered: // no agent came in all that time
		p.atLimit(now, beside)
	case FailedThrottled:
		pause = backoff.After(p.throttles, throttledFirst, throttledMost)
	case FailedRefused, FailedOther:
		pause = backoff.After(p.failures, failureFirst, failureMost)
	}
	if p.pathless {
		p.failedPathless(now, begun, how)
		return
	}
	if pause == 0 {
		return
	}
	if now.Before(p.notBefore) && (how != FailedThrottled || p.throttles > 0) {
		return // of two at once one counts
	}
	if how == FailedThrottled {
		p.throttles++
	} else {
		p.failures++
	}
	p.notBefore = now.Add(p.jitter(pause))
}

// failedPathless is openFailed while there is no path.
func (p *policy) failedPathless(now, begun time.Time, how Failure) {
	latest := begun
	if k := len(p.opening); k > 0 {
		latest = later(latest, p.opening[k-1].begun)
	}
	soon := latest.Add(p.spaced)
	switch how {
	case FailedThrottled:
		p.throttles++
		p.notBefore = later(p.notBefore, soon)
	case FailedRefused:
		p.notBefore = now.Add(p.jitter(backoff.After(p.failures, refusedFirst, refusedMost)))
		p.failures++
	default:
		at := now.Add(p.jitter(backoff.After(p.failures, attemptFirst, attemptEvery)))
		if soon.Before(at) {
			at = soon
		}
		p.notBefore = later(p.notBefore, at)
		p.failures++
	}
}

// atLimit takes in that the service did not start a session beside the have subflows that there are.
func (p *policy) atLimit(now time.Time, have int) {
	if now.Before(p.graceUntil) {
		p.notBefore = later(p.notBefore, now.Add(p.jitter(lentPause)))
		return
	}
	fresh := p.full == 0
	// Those that are being opened may have been started.
	p.full = max(have+len(p.opening), 1)
	p.limitAt = p.full
	if !fresh {
		return // of two at once one counts
	}
	pause := limitFirst
	switch {
	case p.pathless: // sessions that are over may count still: this says little
		p.limits = max(p.limits, 1)
	case p.limits > 0:
		pause = backoff.After(p.limits-1, limitNext, limitMost)
		fallthrough
	default:
		p.limits++
	}
	p.fullUntil = now.Add(p.jitter(pause))
}

// known returns the service's limit, if one is known.
func (p *policy) known() Limit {
	if p.limits == 0 && p.lent == 0 && !p.returning {
		return Limit{}
	}
	return Limit{Subflows: p.limitAt, Retry: p.fullUntil, Lent: p.lent > 0 || p.returning}
}

// lend gives a place of the container's to another session, which could not be started: the connection has as many as there
// are now, less one.
func (p *policy) lend(now time.Time) {
	if p.lent == 0 {
		p.full = max(p.total, 1)
		p.limitAt, p.limits = p.full, max(p.limits, 1)
	}
	p.lent++
	p.fullUntil = later(p.fullUntil, now.Add(limitNext))
}

// giveBack ends a lend. kept says that the other session goes on, so that the place is gone.
func (p *policy) giveBack(now time.Time, kept bool) {
	p.lent--
	switch {
	case kept:
		p.full = max(p.full-1, 1)
		p.limitAt, p.fullUntil = p.full, now.Add(p.jitter(limitNext))
	case p.lent == 0:
		p.graceUntil, p.notBefore, p.returning = now.Add(lentGrace), time.Time{}, true
	}
}

// first is told that the connection's first subflow is being opened.
func (p *policy) first(now time.Time) {
	p.burst.take(now)
	p.long.take(now)
}

// ended forgets one of those being opened, and returns it.
func (p *policy) ended(begun time.Time) (o opening) {
	if i := slices.IndexFunc(p.opening, func(o opening) bool { return o.begun.Equal(begun) }); i >= 0 {
		o = p.opening[i]
		p.opening = slices.Delete(p.opening, i, i+1)
	}
	return o
}

// rotate has all subflows with numbers below this replaced.
func (p *policy) rotate(below uint32) {
	p.retireBelow = max(p.retireBelow, below)
	p.retry()
}

// retry forgets all back-off: what failed may succeed now. Without any path the next look opens one at once.
func (p *policy) retry() {
	p.hopeless, p.pathless = false, false
	p.failures, p.throttles, p.flaps = 0, 0, 0
	p.notBefore, p.flapUntil = time.Time{}, time.Time{}
	p.forget()
}

// jitter spreads a pause, lest all clients of a service that was away come back at once.
func (p *policy) jitter(d time.Duration) time.Duration {
	return backoff.Between(d/2, d, p.random)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func slowest(subflows []subflowView) time.Duration {
	var d time.Duration
	for _, s := range subflows {
		d = max(d, s.rtt)
	}
	return d
}

// bucket is a token bucket.
type bucket struct {
	cap, tokens float64
	rate        float64 // tokens per second
	at          time.Time
}

func newBucket(now time.Time, full, rate float64) bucket {
	return bucket{cap: full, tokens: full, rate: rate, at: now}
}

func (b *bucket) fill(now time.Time) {
	b.tokens = min(b.cap, b.tokens+b.rate*now.Sub(b.at).Seconds())
	b.at = now
}

// take takes a token, or owes it.
func (b *bucket) take(now time.Time) {
	b.fill(now)
	b.tokens--
}

// readyAt returns when there is a token.
func (b *bucket) readyAt(now time.Time) time.Time {
	b.fill(now)
	if b.tokens >= 1 {
		return now
	}
	return now.Add(time.Duration((1-b.tokens)/b.rate*float64(time.Second)) + time.Microsecond)
}

// rateMeter keeps what it needs to say how fast a counter rose of late.
type rateMeter struct {
	samples []rateSample // the oldest first
}

type rateSample struct {
	at    time.Time
	count uint64
}

func (m *rateMeter) add(now time.Time, count uint64) {
	old := 0
	for old < len(m.samples) && now.Sub(m.samples[old].at) > 2*measureWindow {
		old++
	}
	m.samples = slices.Delete(m.samples, 0, old)
	// The newest one always stands for now; others are kept apart far enough.
	if k := len(m.samples); k >= 2 && now.Sub(m.samples[k-2].at) < lookOften/2 {
		m.samples[k-1] = rateSample{now, count}
		return
	}
	m.samples = append(m.samples, rateSample{now, count})
}

// since returns the rate from start on, but not of more than the last measureWindow. It has none to tell if that is less than
// least.
func (m *rateMeter) since(start, now time.Time, least time.Duration) (perSecond float64, ok bool) {
	start = later(start, now.Add(-measureWindow))
	for _, s := range m.samples {
		if s.at.Before(start) {
			continue
		}
		span := now.Sub(s.at)
		if span < least {
			return 0, false
		}
		return float64(m.samples[len(m.samples)-1].count-s.count) / span.Seconds(), true
	}
	return 0, false
}
