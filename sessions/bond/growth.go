package bond

import (
	"slices"
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
)

const (
	// While either end has demand and the last step helped, growth doubles the number of subflows.
	demandWithin   = 250 * time.Millisecond // demand means that either end wanted more subflows within this time
	measureFor     = 300 * time.Millisecond // least time to measure a rate
	measureWindow  = 3 * time.Second        // most time to measure a rate
	measureFlat    = 2 * time.Second        // least time before a step, after one that gained little
	helpShare      = 0.5                    // share of a proportional gain that keeps a step at once
	judgeFor       = 3 * time.Second        // plus four round trips; then growth takes back a step that gains less than helpLeast
	helpLeast      = 1.05                   //
	harms, harmFor = 0.9, time.Second       // growth takes back a step that slows the transfer to harms after harmFor
	busyShare      = 0.9                    // share of the far end's processor time in use above which more subflows gain nothing
	busyFresh      = 5 * time.Second        // how long a report of the far end counts
	farPatience    = 3 * time.Second        // wait for the first report, where transfers both ways may share the processor
	sideShare      = 0.01                   // share of the traffic below which a direction carries no transfer
	stepPatience   = 10 * time.Second       // wait for a step's subflows to come up; growth then judges those that did
	lapsePatience  = 2 * time.Second        // how long demand may be absent while a step waits for its subflows
	firstHold      = 30 * time.Second       // pause after a step that did not help; doubles each time
	maxHold        = 30 * time.Minute       //
	changed        = 1.3                    // times the rate before such a step: another limit applies now
	lookOften      = 50 * time.Millisecond  // between looks during a measurement
	lookHeld       = 2 * time.Second        // between looks during a hold
	lookIdle       = 10 * time.Second       // between looks while nothing flows

	keepFor     = 10 * time.Second // after demand, how long growth replaces lost subflows
	shrinkAfter = time.Minute      // without demand, until growth gives subflows back
	shrinkEvery = 5 * time.Second  //
	quietAfter  = time.Minute      // without data, until one subflow is enough
	spareAfter  = time.Second      // of data, until growth wants a second subflow
)

// FarEnd describes the load of the far end's machine.
type FarEnd struct {
	Busy  float64   // share of its processor time recently in use; 1 is all
	Limit float64   // number of its processors, which may be a fraction
	At    time.Time // when the far end measured this; zero: unknown
}

// growth decides how many subflows the transfer needs. While either end has demand, it adds subflows in steps. It keeps a step that
// made the transfer faster, and takes back one that did not. Without demand it gives subflows back. After each look:
//
//   - 1 <= target <= maxSubflows; beyond 2, only a step raises it, to at most twice the subflows and to the limit;
//   - a step begins only with demand, without a hold, and unless the far end reports to be busy;
//   - growth keeps a judged step only with a gain of helpLeast, or of helpShare if that is less;
//   - after any other step it restores the target and sets a hold;
//   - no hold is longer than maxHold.
type growth struct {
	target         int // subflows, at least 1
	sent, received rateMeter
	far            FarEnd

	wants       wants
	demandSince time.Time // zero: no demand
	lastDemand  time.Time
	lastData    time.Time
	dataSince   time.Time // zero: no data within quietAfter
	lastShrink  time.Time

	step    step
	holds   [wantsBoth + 1]hold // after steps that did not help, by the wants at that time
	surplus bool                // dismiss the subflows that the step added, at this look
}

// step is one attempt to grow.
type step struct {
	phase stepPhase
	since time.Time // when the phase began
	from  int       // subflows before
	with  int       // subflows during the measurement
	base  speed     // rate before the step
	flat  bool      // the last step gained less than helpShare

	failed bool // growth took the step back, so base is also the rate of the present subflows
}

func (s *step) begin(phase stepPhase, now time.Time) { s.phase, s.since = phase, now }

type stepPhase uint8

const (
	stepNone    stepPhase = iota // waits for demand, measures the rate before
	stepOpening                  // opens the step's subflows
	stepJudging                  // measures the rate after
)

// wants says which ends want more subflows.
type wants uint8

const (
	wantsUp   wants = 1 << iota // this end
	wantsDown                   // the far end
	wantsBoth = wantsUp | wantsDown
)

func wantsOf(now time.Time, v view) wants {
	var w wants
	if !v.wanted.IsZero() && now.Sub(v.wanted) < demandWithin {
		w |= wantsUp
	}
	if !v.peerWanted.IsZero() && now.Sub(v.peerWanted) < demandWithin {
		w |= wantsDown
	}
	return w
}

// hold is a pause after a step that did not help.
type hold struct {
	span  time.Duration
	until time.Time
}

func (h *hold) failed(now time.Time) {
	h.span = backoff.Next(h.span, firstHold, maxHold)
	h.until = now.Add(h.span)
}

func newGrowth() growth { return growth{target: 1} }

// observe takes in the rates and the demand.
func (g *growth) observe(now time.Time, v view) {
	g.sent.add(now, v.sent)
	g.received.add(now, v.received)
	if v.far.Limit != g.far.Limit && !g.far.At.IsZero() {
		g.forget() // the far end is a different machine now
	}
	g.far = v.far
	g.wants = wantsOf(now, v)
	switch {
	case g.wants == 0:
		g.demandSince = time.Time{}
	case g.demandSince.IsZero():
		g.demandSince = now
	}
	g.lastDemand = later(g.lastDemand, later(v.wanted, v.peerWanted))
	g.lastData = v.lastData
	switch {
	case now.Sub(v.lastData) >= quietAfter:
		g.dataSince = time.Time{}
	case g.dataSince.IsZero():
		g.dataSince = v.lastData
	}
}

// flowing reports whether data flowed within quietAfter.
func (g *growth) flowing() bool { return !g.dataSince.IsZero() }

// forget ends all holds, so that growth may try steps again that did not help before.
func (g *growth) forget() {
	g.holds = [wantsBoth + 1]hold{}
	g.step.flat, g.step.failed = false, false
}

// farBusy reports whether the far end's processor limits the rate.
func (g *growth) farBusy(now time.Time) bool {
	return !g.far.At.IsZero() && now.Sub(g.far.At) < busyFresh && g.far.Busy >= busyShare
}

// twoWay reports whether both directions carry transfers. Where they share a processor, subflows that help one cost the other as
// much. The two rates hardly show that, because their shares change all the time; the far end's report of its processor does.
func (g *growth) twoWay(now time.Time) bool {
	rate, ok := g.speed(g.demandSince, now, measureFor)
	least := sideShare * (rate.up + rate.down)
	return ok && rate.up >= least && rate.down >= least
}

// grow raises the target, up to limit, while demand lasts and more subflows help.
func (g *growth) grow(now time.Time, present []subflowView, limit int, out *plan) {
	switch g.step.phase {
	case stepNone:
		g.tryStep(now, len(present), limit, out)
	case stepOpening:
		g.awaitStep(now, len(present), out)
	case stepJudging:
		g.measureStep(now, present, limit, out)
	}
}

// tryStep begins a step if there is demand and no reason against it.
func (g *growth) tryStep(now time.Time, have, limit int, out *plan) {
	s := &g.step
	if g.wants == 0 || have == 0 || have >= limit {
		return
	}
	if until := g.holds[g.wants].until; now.Before(until) {
		if rate, ok := g.speed(g.demandSince, now, measureFor); ok && s.failed && rate.over(s.base) >= changed {
			g.forget()
			out.wake(now.Add(lookOften))
			return
		}
		out.wake(earlier(until, now.Add(lookHeld)))
		return
	}
	if g.farBusy(now) {
		out.wake(g.far.At.Add(busyFresh))
		return
	}
	if until := g.demandSince.Add(farPatience); g.twoWay(now) && now.Before(until) && g.far.At.Before(g.demandSince) {
		out.wake(until)
		return
	}
	least := measureFor
	if s.flat {
		least = measureFlat
	}
	base, ok := g.speed(later(g.demandSince, s.since), now, least)
	if !ok || have < g.target {
		// While lost subflows still need a successor, the rate does not show what the target can carry.
		out.wake(now.Add(lookOften))
		return
	}
	s.base, s.from, s.failed = base, have, false
	g.target, g.surplus = min(2*have, limit), false
	s.begin(stepOpening, now)
	out.wake(now.Add(stepPatience))
}

// awaitStep waits for a step's subflows.
func (g *growth) awaitStep(now time.Time, have int, out *plan) {
	s := &g.step
	late := now.Sub(s.since) >= stepPatience
	switch {
	case have >= g.target, late && have > s.from:
		g.target, s.with = have, have
		s.begin(stepJudging, now)
		out.wake(now.Add(measureFor))
	case late, now.Sub(g.lastDemand) >= lapsePatience:
		g.target = max(have, 1)
		s.begin(stepNone, now)
	default:
		out.wake(later(g.lastDemand.Add(lapsePatience), now.Add(lookOften)))
		out.wake(s.since.Add(stepPatience))
	}
}

// measureStep judges a step once its rate is known.
func (g *growth) measureStep(now time.Time, present []subflowView, limit int, out *plan) {
	s := &g.step
	if g.wants == 0 || len(present) != s.with {
		// The rates are not comparable. The next step begins with a new measurement.
		s.begin(stepNone, now)
		if g.wants != 0 {
			out.wake(now.Add(measureFor))
		}
		return
	}
	out.wake(now.Add(lookOften))
	rate, ok := g.speed(s.since, now, measureFor)
	if !ok || !g.judge(now, rate, slowest(present)) || g.surplus {
		return
	}
	// This measurement is the next step's base, if it was long enough.
	g.tryStep(now, len(present), limit, out)
}

// judge keeps a step or takes it back. It returns false while the measurement does not decide.
func (g *growth) judge(now time.Time, rate speed, rtt time.Duration) bool {
	s := &g.step
	gain, most := rate.over(s.base), float64(s.with)/float64(s.from)
	if g.twoWay(now) && g.farBusy(now) && g.far.At.After(s.since) {
		gain = min(gain, rate.total()/s.base.total())
	}
	helped, span := gain-1 >= helpShare*(most-1), now.Sub(s.since)-4*rtt
	if !helped && span < judgeFor && (gain > harms || span < harmFor) {
		return false
	}
	s.flat = !helped
	s.phase = stepNone
	if helped || gain >= helpLeast {
		g.holds[g.wants] = hold{}
		return true
	}
	g.holds[g.wants].failed(now)
	s.failed = true
	g.target, g.surplus = s.from, true
	s.since = now
	return true
}

// shrink lowers the target after a long time without demand.
func (g *growth) shrink(now time.Time, have, limit int, out *plan) {
	if now.Sub(g.lastDemand) >= keepFor && g.step.phase != stepOpening {
		// The next demand replaces the subflows lost since.
		g.target = max(min(g.target, have), 1)
	}
	floor := g.floor(limit)
	if g.target <= floor && have <= floor {
		return
	}
	at := later(g.lastDemand.Add(shrinkAfter), g.lastShrink.Add(shrinkEvery))
	if now.Before(at) {
		out.wake(at)
		return
	}
	g.target = max(min(g.target, have)-1, floor)
	g.lastShrink = now
	out.wake(now.Add(shrinkEvery))
}

// floor returns the number of subflows without demand: two while data flows now and then, so that the loss of one causes no pause.
func (g *growth) floor(limit int) int {
	if g.flowing() && limit >= 2 {
		return 2
	}
	return 1
}

// want returns how many subflows the connection should have now.
func (g *growth) want(now time.Time, limit int, out *plan) int {
	floor := g.floor(limit)
	if !g.flowing() {
		out.wake(now.Add(lookIdle)) // data may flow again; nothing else can change the number
	} else {
		out.wake(g.lastData.Add(quietAfter))
		if spare := g.dataSince.Add(spareAfter); now.Before(spare) {
			out.wake(spare)
			floor = 1
		}
	}
	return min(max(g.target, floor), limit)
}

// excess returns how many subflows must go at this look: all of a step that growth took back, or one if shrink lowered the target.
func (g *growth) excess(now time.Time, have, want int) int {
	switch {
	case g.surplus:
		g.surplus = false
		return have - want
	case g.lastShrink.Equal(now):
		return min(have-want, 1)
	}
	return 0
}

func slowest(subflows []subflowView) time.Duration {
	var d time.Duration
	for _, s := range subflows {
		d = max(d, s.rtt)
	}
	return d
}

// speed is how fast the stream goes each way, in bytes per second.
type speed struct{ up, down float64 }

func (s speed) total() float64 { return s.up + s.down }

func (g *growth) speed(start, now time.Time, least time.Duration) (s speed, ok bool) {
	up, ok := g.sent.since(start, now, least)
	if !ok {
		return s, false
	}
	down, ok := g.received.since(start, now, least)
	return speed{up, down}, ok
}

// over returns how much faster s is than before: the product of the gains in the directions that carry a transfer.
func (s speed) over(before speed) float64 {
	gain := 1.0
	all := before.up + before.down
	for _, d := range [][2]float64{{s.up, before.up}, {s.down, before.down}} {
		if d[1] > 0 && d[1] >= sideShare*all {
			gain *= d[0] / d[1]
		}
	}
	return gain
}

// rateMeter measures how fast a counter has risen recently.
type rateMeter struct {
	samples []rateSample // oldest first
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
	// The newest sample always stands for now; the others keep their distance.
	if k := len(m.samples); k >= 2 && now.Sub(m.samples[k-2].at) < lookOften/2 {
		m.samples[k-1] = rateSample{now, count}
		return
	}
	m.samples = append(m.samples, rateSample{now, count})
}

// since returns the rate since start, over the last measureWindow at most. ok is false for a span below least.
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
