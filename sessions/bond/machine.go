package bond

import (
	"cmp"
	"errors"
	"io"
	"slices"
	"time"
)

const (
	// initialLimit is how far the peer may send before the first ACK says more.
	initialLimit = 64 << 10

	// A write waits while more than this is not on its way yet, because an interactive write waits behind it. It is as much as all
	// subflows send in unsentSpan, within the bounds.
	unsentSpan    = 3 * time.Millisecond
	leastUnsent   = 8 << 10
	initialUnsent = 64 << 10 // until that is measured
	mostUnsent    = 1 << 20

	// windowAcks is on how many subflows this end tells the peer that it may go on. A message on each of many subflows would burden
	// the far end, and a single one may be on a subflow that has died silently.
	windowAcks = 2

	// leaveWithin is how long the two ends may take to agree that a subflow ends.
	leaveWithin = 5 * time.Second
)

// machine is one end of a connection: what it sends, by which subflow, and what it has received. It is pure: it does no I/O, has no
// clock and is not safe for concurrent use. Its owner calls a method for each event. Then it looks whether there is something to send
// (pending), to tell the path manager (changed), or to end (err and through). It calls onTimer at deadline.
//
// Until it is cut short, after each call:
//
//   - acked <= next <= limit, next <= written, and no more than buffer bytes are kept;
//   - FIN is sent after everything else, and acknowledged after it was sent;
//   - the first byte that the peer misses is on a subflow or among those to be sent again, which are in order;
//   - a subflow on which something was put has no more in flight than its flow allows, or nothing but that;
//   - pathless is zero if and only if a subflow is usable, and then a client has at least one lane and at most lanes.count;
//   - maxRescued stretches at most are on two subflows because one is late.
type machine struct {
	client bool
	window int
	buffer int
	linger time.Duration

	paths     []*path
	lanes     lanes  // of a client
	laneBytes uint64 // see laneBytes.before

	// Sending. The stream's bytes are numbered from 0; acked <= next <= written.
	out      streamBuf
	acked    uint64 // the peer has everything before
	next     uint64 // the first byte that was never scheduled
	written  uint64
	limit    uint64    // the first byte that may not be sent yet
	turns    uint64    // stretches that were scheduled
	usedAt   time.Time // when the last of them was
	rescued  []stretch // late stretches that another subflow carries too
	rescueAt time.Time // when to look for late stretches again; zero: nothing can be late
	finished bool      // nothing more will be written
	finSent  bool
	finAcked bool
	again    []repeat // to send again, because their subflow is lost or stalled; in order

	// Receiving.
	in         assembly
	given      uint64 // the limit that the peer was given
	discarding bool   // the reader has gone

	// Demand.
	full       time.Time     // since when there is more to send than the subflows take; zero: there is not
	fullFor    time.Duration // of the time since wantSince
	wantSince  time.Time     // when this end last looked whether it wants more subflows
	wanted     time.Time     // when this end last did
	peerWanted time.Time     // and the peer
	lastData   time.Time
	pathless   time.Time // since when no subflow is usable

	reinjected uint64

	err error // why the connection was cut short

	// changed says that the path manager should look. The owner resets it.
	changed bool
}

func newMachine(client bool, window, buffer int, linger time.Duration, now time.Time) *machine {
	return &machine{
		client: client, window: window, buffer: buffer, linger: linger,
		limit: initialLimit, given: initialLimit, pathless: now, wantSince: now, lastData: now, lanes: lanes{count: 1},
	}
}

// join adds a subflow.
func (m *machine) join(id uint32, name string, now time.Time) *path {
	p := &path{
		id: id, name: name, joined: now, flow: newFlow(now),
		heard: now, recvSince: now, ackNow: true, // the peer learns our window
	}
	m.paths = append(m.paths, p)
	m.recount(now)
	m.schedule(now)
	m.changed = true
	return p
}

// lose takes a subflow out. Other subflows carry again what the peer has not acknowledged of it.
func (m *machine) lose(p *path, now time.Time) {
	i := slices.Index(m.paths, p)
	if i < 0 {
		return
	}
	m.paths = slices.Delete(m.paths, i, i+1)
	p.lost = true
	if p.stalled {
		// stall has put its stretches there, or they were sent again already.
		for i := range m.again {
			if m.again[i].from == p {
				m.again[i].from = nil
			}
		}
	} else {
		m.repeatAll(p, nil)
	}
	m.acknowledgeAll() // what it had to tell the peer
	m.recount(now)
	m.schedule(now)
	m.changed = true
}

// repeatAll queues all that a subflow carries to be sent again.
func (m *machine) repeatAll(p, from *path) {
	for i := range p.flow.flight.Len() {
		m.again = append(m.again, repeat{p.flow.flight.At(i).stretch, from})
	}
	for i := range p.flow.waiting.Len() {
		m.again = append(m.again, repeat{*p.flow.waiting.At(i), from})
	}
	slices.SortStableFunc(m.again, func(a, b repeat) int { return cmp.Compare(a.end(), b.end()) })
}

// stall notes that nothing comes through a subflow. It keeps what it carries, and others carry that too.
func (m *machine) stall(p *path, now time.Time) {
	p.stalled, p.stalledAt = true, now
	m.repeatAll(p, p)
	m.acknowledgeAll()
	m.recount(now)
	m.schedule(now)
	m.changed = true
}

// revive notes that a stalled subflow gives a sign of life.
func (m *machine) revive(p *path, now time.Time) {
	p.stalled = false
	p.flow.revive(now)
	p.pongBy = time.Time{} // whatever it was waiting for, this is the sign of life
	m.again = slices.DeleteFunc(m.again, func(r repeat) bool { return r.from == p })
	m.recount(now)
	m.schedule(now)
	m.changed = true
}

// has says whether the peer has acknowledged all of a stretch.
func (m *machine) has(s stretch) bool {
	if s.isFIN() {
		return m.finAcked
	}
	return s.end() <= m.acked
}

// recount sees whether there is a usable subflow.
func (m *machine) recount(now time.Time) {
	m.chooseLanes()
	usable := slices.ContainsFunc(m.paths, (*path).usable)
	switch {
	case usable:
		m.pathless = time.Time{}
	case m.pathless.IsZero():
		m.pathless = now
	}
}

// --- writing ---

// writable returns how many bytes may be written now.
func (m *machine) writable() int {
	if m.finished {
		return 0
	}
	return max(0, min(m.buffer-int(m.written-m.acked), m.unsentLimit()-int(m.written-m.next)))
}

func (m *machine) unsentLimit() int {
	var rate float64
	for _, p := range m.paths {
		switch {
		case !m.carries(p):
		case !p.flow.measured:
			return initialUnsent
		default:
			rate += p.flow.rate
		}
	}
	if rate == 0 {
		return initialUnsent
	}
	return min(max(int(rate*unsentSpan.Seconds()), leastUnsent), mostUnsent)
}

// write takes up to writable bytes of p and returns how many.
func (m *machine) write(p []byte, now time.Time) int {
	n := min(len(p), m.writable())
	if n == 0 {
		return 0
	}
	m.out.put(m.written, p[:n])
	m.written += uint64(n)
	m.schedule(now)
	return n
}

// closeWrite ends the stream that this end writes.
func (m *machine) closeWrite(now time.Time) {
	m.finished = true
	m.schedule(now)
}

// --- reading ---

// read takes bytes that came in order. The error is io.EOF at the peer's FIN.
func (m *machine) read(p []byte) (int, error) {
	n := m.in.read(p)
	if n == 0 && m.in.complete() {
		return 0, io.EOF
	}
	m.offerWindow()
	return n, nil
}

// offerWindow tells the peer that there is room again, once it is worth a message.
func (m *machine) offerWindow() {
	if !m.in.fin && m.windowEnd() >= m.given+uint64(m.window/2) {
		m.acknowledgeOn(windowAcks)
	}
}

// acknowledgeOn says how far this end is on some subflows, the fastest ones; on all in version 1.
func (m *machine) acknowledgeOn(some int) {
	fast := slices.DeleteFunc(slices.Clone(m.paths), func(p *path) bool { return p.stalled || p.leaving })
	if len(fast) <= some || fast[0].seal == nil {
		m.acknowledgeAll()
		return
	}
	slices.SortStableFunc(fast, func(a, b *path) int { return cmp.Compare(a.flow.srtt, b.flow.srtt) })
	for _, p := range fast[:some] {
		p.ackNow = true
	}
}

// acknowledgeAll says on every subflow how far this end is. On one alone, the most important news, that the peer may go on, would be
// lost with that subflow.
func (m *machine) acknowledgeAll() {
	for _, p := range m.paths {
		p.ackNow = true
	}
}

func (m *machine) windowEnd() uint64 { return m.in.buf.base + uint64(m.window) }

// leave begins to end a subflow in good order.
func (m *machine) leave(p *path, now time.Time) {
	if p.leaving || p.lost {
		return
	}
	p.leaving = true
	p.leaveBy = now.Add(leaveWithin)
	m.recount(now)
	m.schedule(now)
	m.changed = true
}

// --- the end ---

// discard says that the reader has gone.
func (m *machine) discard() {
	m.discarding = true
	m.in.skip()
	m.offerWindow()
}

// fail cuts the connection short, unless both streams are through. The peer is told, unless it told us.
func (m *machine) fail(err error) {
	if m.err != nil || m.through() {
		return
	}
	m.changed = true
	if e, ok := errors.AsType[*RefusedError](err); ok && e.Code == RefuseClosed && e.sure && m.finSent && m.in.complete() {
		// The server ended in good order, so it had everything: only its last acknowledgement was lost.
		m.finAcked, m.acked = true, m.written
		m.out.advance(m.acked)
		return
	}
	m.err = err
	last := resetFor(err)
	for _, p := range m.paths {
		p.control = append(p.control[:0], last...) // the peer needs no answers any more
	}
}

// resetFor tells the peer about the error that cut the connection short; nothing if the peer sent it.
func resetFor(err error) []frame {
	reset := frame{typ: frameReset, code: ResetAborted}
	if e, ok := errors.AsType[*ResetError](err); ok {
		if e.Remote {
			return nil
		}
		reset.code, reset.text = e.Code, clipText(e.Reason)
	}
	if e, ok := errors.AsType[*protocolError](err); ok {
		reset.code, reset.text = ResetProtocol, clipText(e.what)
	}
	return []frame{reset}
}

// through says that both streams have ended in good order, and that both ends know it.
func (m *machine) through() bool { return m.finAcked && m.in.complete() }

// told says that the peer has everything that this end has to say.
func (m *machine) told() bool {
	return !slices.ContainsFunc(m.paths, func(p *path) bool { return !p.stalled && m.pending(p) })
}
