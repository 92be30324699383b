package bond

import (
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
)

// FarEnd is what a client knows of the machine at the far end.
type FarEnd struct {
	Busy  float64   // share of its processor time that was in use of late; 1 is all
	Limit float64   // processors that it has, which may be a fraction
	At    time.Time // when that was measured; zero: it is not known
}

// step is one attempt to grow.
type step struct {
	phase stepPhase
	since time.Time // when the phase began
	from  int       // subflows before
	with  int       // subflows now measured
	base  speed     // before
	flat  bool      // the last step brought less than it might

	failed bool // base is of a step that was taken back, and of the subflows that there are since
}

type stepPhase uint8

const (
	stepNone    stepPhase = iota // waits for demand, measures the rate before
	stepOpening                  // its subflows are being opened
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

// hold is how long no step is made after one that did not help.
type hold struct {
	span  time.Duration
	until time.Time
}

func (h *hold) failed(now time.Time) {
	h.span = backoff.Next(h.span, firstHold, maxHold)
	h.until = now.Add(h.span)
}

// observeFar takes in what is known of the far end. Where it has become another machine, what was learned of it is void.
func (p *policy) observeFar(far FarEnd) {
	if far.Limit != p.far.Limit && !p.far.At.IsZero() {
		p.forget()
	}
	p.far = far
}

// forget makes steps possible again that did not help.
func (p *policy) forget() {
	p.holds = [wantsBoth + 1]hold{}
	p.step.flat, p.step.failed = false, false
}

// farBusy says that the far end's processor is what limits the rate.
func (p *policy) farBusy(now time.Time) bool {
	return !p.far.At.IsZero() && now.Sub(p.far.At) < busyFresh && p.far.Busy >= busyShare
}

// twoWay says that there are transfers in both directions. Where they share a processor, subflows that help one cost the other as
// much, and rates of two ways that are shared out anew all the time hardly show it: what the far end says of its processor does.
func (p *policy) twoWay(now time.Time) bool {
	rate, ok := p.speed(p.demandSince, now, measureFor)
	least := sideShare * (rate.up + rate.down)
	return ok && rate.up >= least && rate.down >= least
}

// grow raises the target while there is demand and it helps, and takes back what does not.
func (p *policy) grow(now time.Time, n *census, wake func(time.Time)) {
	s, have := &p.step, len(n.present)
	begin := func(phase stepPhase) { s.phase, s.since = phase, now }

	switch s.phase {
	case stepNone:
		limit := p.limit()
		if !n.demand || have == 0 || have >= limit {
			return
		}
		if until := p.holds[p.wants].until; now.Before(until) {
			if rate, ok := p.speed(p.demandSince, now, measureFor); ok && s.failed && rate.over(s.base) >= changed {
				p.forget()
				wake(now.Add(lookOften))
				return
			}
			wake(earlier(until, now.Add(lookHeld)))
			return
		}
		if p.farBusy(now) {
			wake(p.far.At.Add(busyFresh))
			return
		}
		if until := p.demandSince.Add(farPatience); p.twoWay(now) && now.Before(until) && p.far.At.Before(p.demandSince) {
			wake(until)
			return
		}
		least := measureFor
		if s.flat {
			least = measureFlat
		}
		base, ok := p.speed(later(p.demandSince, s.since), now, least)
		if !ok || have < p.target {
			// The second: subflows that were lost are being replaced, so this is not what they can carry.
			wake(now.Add(lookOften))
			return
		}
		s.base, s.from, s.failed = base, have, false
		p.target, p.surplus = min(2*have, limit), false
		begin(stepOpening)
		wake(now.Add(stepPatience))

	case stepOpening:
		switch {
		case have >= p.target, now.Sub(s.since) >= stepPatience && have > s.from:
			p.target, s.with = have, have
			begin(stepJudging)
			wake(now.Add(measureFor))
		case now.Sub(p.lastDemand) >= lapsePatience, now.Sub(s.since) >= stepPatience:
			p.target = max(have, 1)
			begin(stepNone)
		default:
			wake(later(p.lastDemand.Add(lapsePatience), now.Add(lookOften)))
			wake(s.since.Add(stepPatience))
		}

	case stepJudging:
		if !n.demand || have != s.with {
			// Not comparable. The next step, if there is to be one, begins with a new measurement.
			begin(stepNone)
			if n.demand {
				wake(now.Add(measureFor))
			}
			return
		}
		wake(now.Add(lookOften))
		rate, ok := p.speed(s.since, now, measureFor)
		if !ok {
			return
		}
		p.judge(now, rate, n, wake)
	}
}

// judge keeps or takes back the subflows of a step, or waits until that is clear.
func (p *policy) judge(now time.Time, rate speed, n *census, wake func(time.Time)) {
	s := &p.step
	gain, most := rate.over(s.base), float64(s.with)/float64(s.from)
	if p.twoWay(now) && p.farBusy(now) && p.far.At.After(s.since) {
		gain = min(gain, rate.total()/s.base.total())
	}
	helped, span := gain-1 >= helpShare*(most-1), now.Sub(s.since)-4*slowest(n.present)
	if !helped && span < judgeFor && (gain > harms || span < harmFor) {
		return
	}
	s.flat = !helped
	s.phase = stepNone
	if !helped && gain < helpLeast {
		p.holds[p.wants].failed(now)
		s.failed = true
		p.target, p.surplus = s.from, true
		s.since = now
		return
	}
	p.holds[p.wants] = hold{}
	// What was measured of the new ones is the base of the next step, if that was long enough.
	p.grow(now, n, wake)
}

// speed is how fast the stream goes each way, in bytes per second.
type speed struct{ up, down float64 }

func (s speed) total() float64 { return s.up + s.down }

func (p *policy) speed(start, now time.Time, least time.Duration) (s speed, ok bool) {
	up, ok := p.sent.since(start, now, least)
	if !ok {
		return s, false
	}
	down, ok := p.received.since(start, now, least)
	return speed{up, down}, ok
}

// over is how much faster s is than before. Of two directions with a transfer, neither counts for more: it is the product of what
// each has gained.
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
