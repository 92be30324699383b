package bond

import (
	"math"
	"slices"
	"time"
)

const (
	// maxFlight bounds the segments in flight, and so the gaps that the peer must remember.
	maxFlight = 8192

	leastChunk = 1 << 10

	// wantEvery is how often this end checks whether its subflows could not take all bytes, and tells the peer.
	wantEvery = 100 * time.Millisecond

	// A stretch is late after two round trips and lateMargin; then another subflow carries it too. The margin is longer than a
	// throttled task has to wait for its processor. maxRescued bounds such stretches, because they would burden a slow far end
	// where everything is late.
	lateMargin = 100 * time.Millisecond
	maxRescued = 4

	// A subflow gets nothing while another, even a full one, would deliver in less than half the time and muchLater earlier. Even
	// so, it gets a stretch every remeasure, because it may have become faster.
	muchLater = 10 * time.Millisecond
	remeasure = 5 * time.Second

	// Two subflows whose arrival times differ by less than similar take turns. The SSM agent pauses for a millisecond after each
	// message, and the other subflow works meanwhile.
	similar = 2 * time.Millisecond
)

// repeat is a stretch to be sent again.
type repeat struct {
	stretch
	from *path // the stalled subflow that still holds it; nil: that subflow is lost
}

// schedule puts sendable bytes on the subflows that will deliver them soonest.
func (m *machine) schedule(now time.Time) {
	if m.err != nil {
		return
	}
	for {
		p, more := m.scheduleOne(now)
		if p == nil && !more {
			p = m.rescue(now)
		}
		if p == nil {
			m.setFull(more, now)
			if !more {
				m.noteSpare(now)
			}
			return
		}
		m.lastData = now
		m.turns++
		p.turn = m.turns
		m.usedAt = now
	}
}

// scheduleOne puts the next stretch on a subflow and returns that subflow. p is nil if nothing can be sent; then more says that
// only room on a subflow is missing.
func (m *machine) scheduleOne(now time.Time) (p *path, more bool) {
	m.again = m.again[m.acknowledged():]
	if len(m.again) > 0 {
		s := m.again[0].stretch
		if p = m.best(s.size(), now, true); p == nil {
			return nil, true
		}
		m.again = m.again[1:]
		m.reinjected += uint64(s.len)
		p.reinjected += uint64(s.len)
		p.flow.schedule(s, now)
		return p, true
	}
	n := int(min(m.written, m.limit) - m.next)
	if n == 0 && (!m.finished || m.finSent || m.next < m.written) {
		return nil, false
	}
	if m.flying() >= maxFlight {
		return nil, false
	}
	if p = m.bestOf(m.carries, dataHeader+min(n, leastChunk), now, true); p == nil {
		return nil, true
	}
	s := stretch{dsn: m.next, len: min(n, m.chunk(p, now))}
	m.next += uint64(s.len)
	m.finSent = m.finSent || s.isFIN()
	p.flow.schedule(s, now)
	return p, true
}

// rescue puts a late stretch on another subflow too, because the peer waits for it when new data is absent. It returns that
// subflow, or nil if no stretch is late or none would arrive sooner. It notes when to look again.
func (m *machine) rescue(now time.Time) *path {
	m.rescueAt = time.Time{}
	m.rescued = slices.DeleteFunc(m.rescued, m.has)
	if len(m.paths) < 2 || m.flying() >= maxFlight || len(m.rescued) >= maxRescued {
		return nil // the next acknowledgement triggers another look
	}
	fast := m.best(dataHeader+leastChunk, now, true)
	if fast == nil {
		return nil
	}
	var late *segment
	for _, p := range m.paths {
		if p == fast || p.stalled { // its stretches are sent again anyway
			continue
		}
		s := p.flow.oldest(m.acked)
		if s == nil {
			continue
		}
		at := s.sentAt.Add(fast.flow.srtt + max(fast.flow.srtt, p.flow.minRTT) + lateMargin)
		switch {
		case now.Before(at):
			m.rescueAt = earlier(m.rescueAt, at)
		case late == nil || s.dsn < late.dsn:
			late = s
		}
	}
	if late == nil || !fast.flow.room(late.size(), now) {
		return nil
	}
	late.rescued = true
	m.rescued = append(m.rescued, late.stretch)
	m.reinjected += uint64(late.len)
	fast.reinjected += uint64(late.len)
	fast.flow.schedule(late.stretch, now)
	return fast
}

// acknowledged returns how many stretches at the beginning of again the peer has by now.
func (m *machine) acknowledged() int {
	for i, r := range m.again {
		if !m.has(r.stretch) {
			return i
		}
	}
	return len(m.again)
}

// flying returns how many stretches are on their way.
func (m *machine) flying() int {
	n := 0
	for _, p := range m.paths {
		n += p.flow.flight.Len() + p.flow.waiting.Len()
	}
	return n
}

func (m *machine) noteSpare(now time.Time) {
	for _, p := range m.paths {
		if p.flow.room(leastChunk, now) {
			p.flow.hasSpare()
		}
	}
}

// chunk returns how much of the stream to put on a subflow at once: little on a slow one, so that the bytes spread.
func (m *machine) chunk(p *path, now time.Time) int {
	n := max(leastChunk, min(maxData, p.flow.allowed(now)/8))
	if free := p.flow.allowed(now) - p.flow.inFlight() - dataHeader; free < n {
		n = max(free, leastChunk)
	}
	return n
}

// best returns the subflow that will deliver size bytes soonest, or nil. Of similar subflows it takes the one that has rested
// longest, or, after a pause, the last one used. With room it skips full subflows.
func (m *machine) best(size int, now time.Time, room bool) *path {
	return m.bestOf((*path).usable, size, now, room)
}

// bestOf is best among the subflows that may allows.
func (m *machine) bestOf(may func(*path) bool, size int, now time.Time, room bool) *path {
	soonest := time.Duration(math.MaxInt64)
	for _, p := range m.paths {
		if may(p) {
			soonest = min(soonest, p.flow.eta(size))
		}
	}
	// After a pause, the far end of the last one used has rested too, and that subflow is known to work.
	takeTurns := now.Sub(m.usedAt) < similar
	var best *path
	var bestETA time.Duration
	for _, p := range m.paths {
		if !may(p) || room && !p.flow.room(size, now) {
			continue
		}
		eta := p.flow.eta(size)
		if eta/2 > soonest+muchLater && now.Sub(p.flow.moved) < remeasure {
			continue // waiting for room on another one is faster
		}
		switch margin := max(similar, bestETA/8); {
		case best == nil || eta < bestETA-margin,
			eta < bestETA+margin && (p.turn < best.turn) == takeTurns:
			best, bestETA = p, eta
		}
	}
	return best
}

// newestPath returns the subflow of the last schedule, or nil if it is lost.
func (m *machine) newestPath() *path {
	for _, p := range m.paths {
		if p.turn == m.turns {
			return p
		}
	}
	return nil
}

// setFull adds up how long the subflows have been full.
func (m *machine) setFull(full bool, now time.Time) {
	if !m.full.IsZero() {
		m.fullFor += now.Sub(m.full)
		m.full = time.Time{}
	}
	if full {
		m.full = now
	}
	span := now.Sub(m.wantSince)
	if span < wantEvery {
		return
	}
	busy := m.fullFor > span/2
	if m.lookAtLanes(busy, now) && busy {
		m.wanted = now
		m.changed = true
		if p := m.best(0, now, false); p != nil && !m.client {
			p.say(frame{typ: frameWant})
		}
	}
	m.wantSince, m.fullFor = now, 0
}
