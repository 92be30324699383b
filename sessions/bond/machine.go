package bond

import (
	"cmp"
	"errors"
	"io"
	"slices"
	"time"
)

const (
	// initialLimit is how far the peer may send before the first ACK extends it.
	initialLimit = 64 << 10

	// A write waits while more bytes than this are unsent, because a later interactive write waits behind them. The bound is as
	// much as all subflows send in unsentSpan, between leastUnsent and mostUnsent.
	unsentSpan    = 3 * time.Millisecond
	leastUnsent   = 8 << 10
	initialUnsent = 64 << 10 // until the rates are measured
	mostUnsent    = 1 << 20

	// windowAcks is on how many subflows this end tells the peer that its window is open again. A message on each of many subflows
	// would burden the far end; a single one may be on a subflow that has died silently.
	windowAcks = 2

	// leaveWithin is how long the two ends may take to agree on a subflow's end.
	leaveWithin = 5 * time.Second
)

// machine is one end of a connection: the bytes to send, the subflows that carry them, and the bytes received. It is pure: it has
// no I/O and no clock, and is not safe for concurrent use. Its owner calls a method for each event. Then the owner looks whether
// the machine has something to send (pending), to tell the path manager (changed), or has ended (err and through). It calls onTimer
// at deadline.
//
// Until the connection fails, after each call:
//
//   - acked <= next <= limit, next <= written, and the send buffer holds at most buffer bytes;
//   - FIN is sent after all other bytes, and acknowledged after it was sent;
//   - the first byte that the peer misses is on a subflow or in again, which is in order;
//   - a subflow with scheduled bytes has no more in flight than its flow allows, or only one stretch;
//   - pathless is zero if and only if a subflow is usable, and then a client has from one to lanes.count lanes;
//   - at most maxRescued stretches are on two subflows because one is late.
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
	acked    uint64 // the peer has all bytes before this one
	next     uint64 // the first byte that was never scheduled
	written  uint64
	limit    uint64    // the first byte that this end may not send yet
	turns    uint64    // stretches scheduled so far
	usedAt   time.Time // when the last of them was scheduled
	rescued  []stretch // late stretches that another subflow carries too
	rescueAt time.Time // when to look for late stretches again; zero: nothing can be late
	finished bool      // the application will write nothing more
	finSent  bool
	finAcked bool
	again    []repeat // to send again, because their subflow is lost or stalled; in order

	// Receiving.
	in         assembly
	given      uint64 // the limit that the peer knows
	discarding bool   // the reader has gone

	// Demand.
	full       time.Time     // since when the subflows cannot take all there is to send; zero: they can
	fullFor    time.Duration // of the time since wantSince, how long they could not
	wantSince  time.Time     // when this end last looked whether it wants more subflows
	wanted     time.Time     // when this end last wanted more
	peerWanted time.Time     // when the peer last wanted more
	lastData   time.Time
	pathless   time.Time // since when no subflow is usable; zero: one is

	reinjected uint64

	err error // why the connection failed

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
		heard: now, recvSince: now, ackNow: true, // tell the peer the window
	}
	m.paths = append(m.paths, p)
	m.recount(now)
	m.schedule(now)
	m.changed = true
	return p
}

// lose removes a subflow. Others carry again the bytes on it that the peer has not acknowledged.
func (m *machine) lose(p *path, now time.Time) {
	i := slices.Index(m.paths, p)
	if i < 0 {
		return
	}
	m.paths = slices.Delete(m.paths, i, i+1)
	p.lost = true
	if p.stalled {
		// stall has queued its stretches, or they were sent again already.
		for i := range m.again {
			if m.again[i].from == p {
				m.again[i].from = nil
			}
		}
	} else {
		m.repeatAll(p, nil)
	}
	m.acknowledgeAll() // replaces acknowledgements that were lost with the subflow
	m.recount(now)
	m.schedule(now)
	m.changed = true
}

// repeatAll queues all stretches on a subflow to be sent again.
func (m *machine) repeatAll(p, from *path) {
	for i := range p.flow.flight.Len() {
		m.again = append(m.again, repeat{p.flow.flight.At(i).stretch, from})
	}
	for i := range p.flow.waiting.Len() {
		m.again = append(m.again, repeat{*p.flow.waiting.At(i), from})
	}
	slices.SortStableFunc(m.again, func(a, b repeat) int { return cmp.Compare(a.end(), b.end()) })
}

// stall marks a subflow as silent. The subflow keeps its stretches, and others carry them too.
func (m *machine) stall(p *path, now time.Time) {
	p.stalled, p.stalledAt = true, now
	m.repeatAll(p, p)
	m.acknowledgeAll()
	m.recount(now)
	m.schedule(now)
	m.changed = true
}

// revive marks a stalled subflow as usable again.
func (m *machine) revive(p *path, now time.Time) {
	p.stalled = false
	p.flow.revive(now)
	p.pongBy = time.Time{} // whatever it was waiting for, this is the sign of life
	m.again = slices.DeleteFunc(m.again, func(r repeat) bool { return r.from == p })
	m.recount(now)
	m.schedule(now)
	m.changed = true
}

// has reports whether the peer has acknowledged all of a stretch.
func (m *machine) has(s stretch) bool {
	if s.isFIN() {
		return m.finAcked
	}
	return s.end() <= m.acked
}

// recount updates pathless and the lanes.
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

// writable returns how many bytes the caller may write now.
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

// write takes up to writable bytes of p and returns how many it took.
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

// closeWrite ends this end's stream.
func (m *machine) closeWrite(now time.Time) {
	m.finished = true
	m.schedule(now)
}

// --- reading ---

// read copies bytes that came in order. The error is io.EOF at the peer's FIN.
func (m *machine) read(p []byte) (int, error) {
	n := m.in.read(p)
	if n == 0 && m.in.complete() {
		return 0, io.EOF
	}
	m.offerWindow()
	return n, nil
}

// offerWindow tells the peer that the window is open again, once that is worth a message.
func (m *machine) offerWindow() {
	if !m.in.fin && m.windowEnd() >= m.given+uint64(m.window/2) {
		m.acknowledgeOn(windowAcks)
	}
}

// acknowledgeOn sends an ACK on that many of the fastest subflows; in version 1 on all.
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

// acknowledgeAll sends an ACK on every subflow. With a single one, the most important news, that the peer may go on, could be lost.
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

// discard notes that the reader has gone.
func (m *machine) discard() {
	m.discarding = true
	m.in.skip()
	m.offerWindow()
}

// fail ends the connection with err, unless both streams are through. It tells the peer, unless the peer said so first.
func (m *machine) fail(err error) {
	if m.err != nil || m.through() {
		return
	}
	m.changed = true
	if e, ok := errors.AsType[*RefusedError](err); ok && e.Code == RefuseClosed && e.sure && m.finSent && m.in.complete() {
		// The server ended in good order, so it had all bytes: only its last acknowledgement was lost.
		m.finAcked, m.acked = true, m.written
		m.out.advance(m.acked)
		return
	}
	m.err = err
	last := resetFor(err)
	for _, p := range m.paths {
		p.control = append(p.control[:0], last...) // the peer needs no more answers
	}
}

// resetFor returns the RESET that tells the peer about err, or nothing if the peer sent the error.
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

// through reports whether both streams have ended in good order and both ends know it.
func (m *machine) through() bool { return m.finAcked && m.in.complete() }

// told reports whether this end has sent the peer all its frames.
func (m *machine) told() bool {
	return !slices.ContainsFunc(m.paths, func(p *path) bool { return !p.stalled && m.pending(p) })
}
