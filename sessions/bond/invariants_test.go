package bond

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// The checks of the invariants that the types state. Tests call them after every step.

// violation is what a check panics with.
type violation string

func must(holds bool, what string, args ...any) {
	if !holds {
		panic(violation("invariant violated: " + fmt.Sprintf(what, args...)))
	}
}

// policyCheck checks a policy after each look, and its change since the last one.
type policyCheck struct {
	growth growth // then
}

// looked is called after a look. refused is the last time when an open was refused.
func (c *policyCheck) looked(now time.Time, p *policy, v view, out plan, refused time.Time) {
	p.places.check(now)
	if out.end {
		return
	}
	present := p.health.check(now, v, out, p.places.limit())
	p.growth.check(now, &c.growth, present, p.places.limit())
	p.pacing.check(now, out, p.health.flapUntil, refused)
	if len(out.open) > 0 && !p.pacing.pathless {
		there, ceiling := len(v.subflows)+len(p.pacing.opening), p.places.ceiling()
		must(there <= ceiling, "%d subflows and opens, where there is room for %d", there, ceiling)
	}
	c.growth = p.growth
}

// check returns how many subflows are present, as in census.
func (h *health) check(now time.Time, v view, out plan, limit int) (present int) {
	must(len(h.fates) == len(v.subflows), "%d subflows are remembered of %d", len(h.fates), len(v.subflows))
	going := slices.Concat(out.leave, out.drop)
	slices.Sort(going)
	must(len(slices.Compact(slices.Clone(going))) == len(going), "subflows are dismissed twice: %v", going)
	staying := 0
	for _, s := range v.subflows {
		f := h.fates[s.id]
		must(f != nil && f.usable() == !s.stalled, "subflow %d: %+v, in view %+v", s.id, f, s)
		age := f.retireAt.Sub(s.since)
		must(age <= h.maxAge && age >= h.maxAge*9/10-1, "subflow %d is replaced at the age of %v", s.id, age)
		isGoing := slices.Contains(going, s.id)
		must(!isGoing || f.dismissed && !s.leaving, "subflow %d is dismissed and leaves already", s.id)
		if slices.Contains(out.drop, s.id) && v.pathless.IsZero() {
			stalled := now.Sub(f.stalledSince)
			must(!f.usable() && stalled >= dropAfter, "subflow %d is dropped after %v", s.id, stalled)
		}
		if !s.leaving && (f.usable() || now.Sub(f.stalledSince) < substituteAfter) {
			present++
			if !isGoing {
				staying++
			}
		}
	}
	must(staying > 0 || present == 0 || limit == 0 || !v.pathless.IsZero(), "all %d subflows are dismissed", present)
	must(h.flapUntil.Sub(now) <= flapMost, "back-off of %v after a flap", h.flapUntil.Sub(now))
	return present
}

func (p *places) check(now time.Time) {
	limit, ceiling := p.limit(), p.ceiling()
	must(limit >= 0 && limit <= ceiling && limit <= p.max && ceiling <= maxSubflows, "limit %d of %d, ceiling %d", limit, p.max, ceiling)
	must(p.lent >= 0, "%d places are lent", p.lent)
	must(limit > 0 || p.lent > 0, "nothing is lent, and there is no place")
	must(p.bound == 0 || p.boundUntil.Sub(now) <= limitMost, "a bound is believed for %v", p.boundUntil.Sub(now))
}

func (p *pacing) check(now time.Time, out plan, flapUntil, refused time.Time) {
	must(slices.IsSortedFunc(p.opening, func(a, b opening) int { return a.begun.Compare(b.begun) }), "opens are not in order: %v", p.opening)
	must(len(p.opening) <= maxAttempts, "%d attempts", len(p.opening))
	if p.hopeless {
		must(len(out.open) == 0, "an open that cannot succeed")
		return
	}
	if !p.pathless {
		must(len(p.opening) <= maxOpening, "%d opens beside a path", len(p.opening))
		must(len(out.open) == 0 || min(p.burst.tokens, p.long.tokens) > -1e-6, "an open without a token: %v, %v", p.burst, p.long)
		must(p.notBefore.Sub(now) <= failureMost, "back-off of %v", p.notBefore.Sub(now))
		return
	}
	at := later(p.notBefore, flapUntil)
	if k := len(p.opening); k > 0 {
		at = later(at, p.opening[k-1].begun.Add(p.spaced))
	}
	most := attemptEvery
	if now.Sub(refused) < refusedMost {
		most = refusedMost
	}
	must(at.Sub(now) <= most, "the next attempt without a path comes after %v", at.Sub(now))
}

// check compares with what growth was before.
func (g *growth) check(now time.Time, before *growth, have, limit int) {
	s, last := &g.step, &before.step
	must(g.target >= 1 && g.target <= maxSubflows, "the target is %d", g.target)
	for w, h := range g.holds {
		must(h.span <= maxHold && h.until.Sub(now) <= h.span, "a hold for %d of %v, until %v from now", w, h.span, h.until.Sub(now))
	}
	switch s.phase {
	case stepOpening:
		must(s.from >= 1 && g.target > s.from, "a step from %d to %d", s.from, g.target)
	case stepJudging:
		must(s.with > s.from, "a step from %d is judged with %d", s.from, s.with)
	}
	if s.phase == stepOpening && s.since.Equal(now) {
		must(g.wants != 0 && !now.Before(g.holds[g.wants].until) && !g.farBusy(now),
			"a step without demand, or in spite of a hold or a busy far end")
		must(g.target <= min(2*s.from, limit), "a step from %d to %d with the limit %d", s.from, g.target, limit)
	} else if last.phase != stepOpening {
		must(g.target <= max(before.target, 2), "the target rises from %d to %d without a step", before.target, g.target)
	}
	if last.phase == stepJudging && s.phase != stepJudging && g.wants != 0 && have == last.with {
		if s.failed {
			must(g.target <= last.from && g.holds[g.wants].until.After(now), "a step is taken back from %d to %d, without a hold", last.from,
				g.target)
		} else {
			rate, ok := g.speed(last.since, now, measureFor)
			must(ok && rate.over(last.base) >= min(helpLeast, 1+helpShare*(float64(last.with)/float64(last.from)-1)),
				"a step is kept with %v after %v", rate, last.base)
		}
	}
}

// machineCheck checks a machine after each call of a method.
type machineCheck struct {
	turns uint64 // at the last check
	calls int
}

func (c *machineCheck) called(now time.Time, m *machine) {
	if m.err != nil {
		return
	}
	m.check()
	usable, lanes := false, 0
	for _, p := range m.paths {
		usable = usable || p.usable()
		if p.lane {
			lanes++
			must(p.usable(), "subflow %d carries new data and is not usable", p.id)
		}
		stretches := p.flow.waiting.Len() + p.flow.flight.Len()
		if p.turn > c.turns {
			must(p.flow.inFlight() <= p.flow.allowed(now) || stretches == 1,
				"%d bytes in flight on subflow %d, %d allowed", p.flow.inFlight(), p.id, p.flow.allowed(now))
		}
		if c.calls%16 == 0 {
			p.flow.check()
		}
	}
	must(usable == m.pathless.IsZero(), "a usable subflow: %v; without any since %v", usable, m.pathless)
	if m.client {
		must(lanes <= m.lanes.count && (lanes > 0 || !usable), "%d lanes of %d, a usable subflow: %v", lanes, m.lanes.count, usable)
	}
	c.turns = m.turns
	c.calls++
}

func (m *machine) check() {
	must(m.acked <= m.next && m.next <= m.written && m.written-m.acked <= uint64(m.buffer), "acked %d, next %d, written %d, buffer %d",
		m.acked, m.next, m.written, m.buffer)
	must(m.next <= m.limit, "sent up to %d, beyond the limit %d", m.next, m.limit)
	must(!m.finSent || m.finished && m.next == m.written, "FIN is sent at %d, before the end at %d", m.next, m.written)
	must(!m.finAcked || m.finSent, "a FIN that was not sent is acknowledged")
	must(len(m.rescued) <= maxRescued, "%d stretches are rescued", len(m.rescued))
	must(slices.IsSortedFunc(m.again, func(a, b repeat) int { return cmp.Compare(a.end(), b.end()) }), "what is sent again is not in order")
	for _, r := range m.again {
		must(r.from == nil || r.from.stalled && !r.from.lost, "a stretch of a subflow that is lost or goes on is sent again for a stalled one")
	}
}

func (f *flow) check() {
	queued, end := 0, f.received
	for i := range f.waiting.Len() {
		queued += f.waiting.At(i).size()
	}
	must(queued == f.queued, "%d bytes wait, %d are counted", queued, f.queued)
	for i := range f.flight.Len() {
		s := f.flight.At(i)
		if i == 0 {
			end = s.counted - uint64(s.size())
			must(end <= f.received && f.received < s.counted, "%d bytes are acknowledged, and the first segment is %d to %d", f.received, end,
				s.counted)
		}
		end += uint64(s.size())
		must(s.counted == end, "a segment ends at %d, and is counted to %d", end, s.counted)
	}
	must(end == f.written, "%d bytes were written, and those in flight end at %d", f.written, end)
	must(f.cwnd >= leastCwnd && f.cwnd <= mostCwnd, "%d bytes may be in flight", f.cwnd)
	must(f.margin >= stallMargin && f.margin <= mostStall && f.gap <= mostGap, "margin %v, gap %v", f.margin, f.gap)
}

// underWay says that the first byte that the peer misses is on its way, or about to be sent again. It holds against an honest peer.
func (m *machine) underWay() bool {
	if m.acked == m.next && (!m.finSent || m.finAcked) {
		return true
	}
	covers := func(s stretch) bool {
		if s.isFIN() {
			return s.dsn == m.acked
		}
		return s.dsn <= m.acked && m.acked < s.end()
	}
	for _, p := range m.paths {
		for i := range p.flow.waiting.Len() {
			if covers(*p.flow.waiting.At(i)) {
				return true
			}
		}
		for i := range p.flow.flight.Len() {
			if covers(p.flow.flight.At(i).stretch) {
				return true
			}
		}
	}
	return slices.ContainsFunc(m.again, func(r repeat) bool { return covers(r.stretch) })
}
