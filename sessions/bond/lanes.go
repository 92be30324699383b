package bond

import (
	"cmp"
	"slices"
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
)

// With the pause after it, an attempt costs less than a fiftieth of the transfer: part of the rate for about a second.
const (
	laneSettle  = 200 * time.Millisecond // plus four round trips, from a change until its effect can be measured
	laneMeasure = 500 * time.Millisecond // least time to measure a rate
	laneMore    = 1500 * time.Millisecond
	laneHelps   = 1.1                    // keep more lanes if they are this much faster
	laneClearly = 1.4                    // ... at once, after laneMeasure; else after laneMore
	laneHarms   = 0.9                    // give up any number of lanes that is this slow after laneMeasure
	laneLoses   = 0.97                   // keep fewer lanes if they are at least this fast
	laneIdle    = 500 * time.Millisecond // a shorter pause does not interrupt a transfer: a throttled far end pauses for 100 ms at a time
	brokenPause = 5 * time.Second        // after an attempt that a longer pause interrupted
	firstPause  = 20 * time.Second
	mostPause   = 10 * time.Minute
)

// lanes decides on how many of its subflows a client sends new data. The SSM agent takes data as fast as it can, so one session can
// mostly carry everything, in larger messages than several would. Each message costs the task processor time. So lanes begins with
// one, and keeps more only if they make the transfer faster. The other subflows serve the other direction.
//
// New lanes that gain little beside old ones at full speed are slow themselves. Faster ones may be among the rest, and trying them
// does no harm. lanes is pure.
type lanes struct {
	count int // subflows that carry new data; at least 1

	phase   lanePhase
	since   time.Time // when the phase, or the measurement within it, began
	mark    laneBytes // acknowledged bytes at that time
	settled bool      // the last change has had time to take effect
	before  int       // lanes before the attempt
	base    laneRates // rates before the attempt
	idle    time.Time // when the transfer went idle; zero: it is busy
	pause   time.Duration
	until   time.Time // end of the pause before the next attempt
	fewer   bool      // the next attempt uses fewer lanes
}

// laneBytes counts bytes that the peer has acknowledged.
type laneBytes struct {
	all    uint64 // of the stream
	before uint64 // on the lanes in use, or, in an attempt, on those in use before it; frames included
}

// laneRates are in bytes per second.
type laneRates struct{ all, before float64 }

func (b laneBytes) since(mark laneBytes, span time.Duration) laneRates {
	return laneRates{float64(b.all-mark.all) / span.Seconds(), float64(b.before-mark.before) / span.Seconds()}
}

type lanePhase uint8

const (
	laneSteady  lanePhase = iota // measures the present rate
	laneAttempt                  // measures the rate with another number of lanes
)

// restart begins a new measurement.
func (l *lanes) restart(phase lanePhase, acked laneBytes, now time.Time) {
	l.phase, l.since, l.mark, l.settled = phase, now, acked, false
}

// look reports whether it has changed count. The machine calls it about every wantEvery. busy says that the lanes were mostly full,
// and found that their rates are known. have is the number of usable subflows, and acked counts acknowledged bytes.
func (l *lanes) look(busy, found bool, have int, acked laneBytes, rtt time.Duration, now time.Time) (changed bool) {
	switch {
	case busy:
		l.idle = time.Time{}
	case l.idle.IsZero():
		l.idle = now
	}
	busy = busy || now.Sub(l.idle) < laneIdle
	switch {
	case !busy || !found && l.phase == laneSteady:
		if l.phase == laneAttempt { // the measurements are not comparable
			l.count, l.until = l.before, now.Add(brokenPause)
			l.restart(laneSteady, acked, now)
			return true
		}
		l.restart(laneSteady, acked, now)
		return false
	case !l.settled:
		if now.Sub(l.since) >= laneSettle+4*rtt {
			l.since, l.mark, l.settled = now, acked, true
		}
		return false
	}
	span := now.Sub(l.since)
	if span < laneMeasure {
		return false
	}
	rate := acked.since(l.mark, span)
	if l.phase == laneSteady {
		return l.try(rate, have, acked, now)
	}
	gain, more := rate.all/l.base.all, l.count > l.before
	switch {
	case more && gain < laneHelps && l.apart(rate) && l.count < have:
		l.count = min(2*l.count, have)
		l.restart(laneAttempt, acked, now)
		return true
	case more && gain >= laneClearly:
	case span < laneMore && gain >= laneHarms:
		return false
	case more && gain >= laneHelps, !more && gain >= laneLoses:
	default:
		l.count, l.fewer = l.before, more && l.before > 1
		l.pause = backoff.Next(l.pause, firstPause, mostPause)
		l.until = now.Add(l.pause)
		l.restart(laneSteady, acked, now)
		return true
	}
	l.pause = 0
	if !more {
		l.until = now.Add(firstPause) // more lanes did not help
	}
	l.restart(laneSteady, acked, now)
	return false
}

// apart reports whether the old lanes are about as fast beside the new ones as they were alone. If all shared one limit equally,
// the old ones would keep only their share of it. The boundary is the middle between the two.
func (l *lanes) apart(rate laneRates) bool {
	shared := float64(l.before) / float64(l.count)
	return rate.before >= (1+shared)/2*l.base.before
}

// try begins an attempt with another number of lanes, if one is due.
func (l *lanes) try(rate laneRates, have int, acked laneBytes, now time.Time) bool {
	if now.Before(l.until) && l.changed(rate, now) {
		l.until, l.fewer = now, false
	}
	next := min(2*l.count, have)
	if l.fewer {
		next = l.count / 2
	}
	if now.Before(l.until) || rate.all == 0 || next == l.count || next < 1 {
		if now.Sub(l.since) > 4*laneMore {
			l.restart(laneSteady, acked, now) // an old measurement says nothing about the present
		}
		return false
	}
	l.before, l.base, l.count, l.fewer = l.count, rate, next, false
	l.restart(laneAttempt, acked, now)
	return true
}

// changed reports whether the rate differs from the one before the latest attempt, whose result is then void.
func (l *lanes) changed(rate laneRates, now time.Time) bool {
	if l.base.all == 0 || now.Sub(l.since) < laneMore {
		return false
	}
	gain := rate.all / l.base.all
	return gain >= laneClearly || gain <= 1/laneClearly
}

// chooseLanes picks the subflows that carry new data.
func (m *machine) chooseLanes() {
	if !m.client {
		return // the server uses all: the SSM agent paces each session by itself
	}
	used := 0
	var others []*path
	for _, p := range m.paths {
		switch {
		case !p.usable():
			p.lane = false
		case p.lane:
			used++
		default:
			others = append(others, p)
		}
	}
	for ; used > m.lanes.count; used-- {
		worst := slices.MaxFunc(m.paths, func(a, b *path) int {
			if a.lane != b.lane {
				return cmp.Compare(laneRank(a), laneRank(b))
			}
			return cmp.Compare(a.flow.eta(leastChunk), b.flow.eta(leastChunk))
		})
		worst.lane = false
	}
	slices.SortStableFunc(others, func(a, b *path) int { return cmp.Compare(a.flow.srtt, b.flow.srtt) })
	for _, p := range others {
		if used >= m.lanes.count {
			break
		}
		p.lane = true
		used++
	}
}

func laneRank(p *path) int {
	if p.lane {
		return 1
	}
	return 0
}

// carries reports whether the machine may put new data on the subflow.
func (m *machine) carries(p *path) bool { return p.usable() && (!m.client || p.lane) }

// lookAtLanes updates lanes, and reports whether all subflows are in use.
func (m *machine) lookAtLanes(busy bool, now time.Time) (all bool) {
	if !m.client {
		return true
	}
	have, found := 0, true
	var rtt time.Duration
	for _, p := range m.paths {
		if m.lanes.phase == laneSteady {
			p.laneBefore = p.lane
		}
		if p.laneBefore {
			m.laneBytes += p.flow.received - p.laneSeen
		}
		p.laneSeen = p.flow.received
		if p.usable() {
			have++
		}
		if p.lane {
			found = found && p.flow.settled >= settledAfter
			rtt = max(rtt, p.flow.srtt)
		}
	}
	if m.lanes.look(busy, found, have, laneBytes{m.acked, m.laneBytes}, rtt, now) {
		m.chooseLanes()
	}
	return m.lanes.count >= have && m.lanes.phase == laneSteady
}
