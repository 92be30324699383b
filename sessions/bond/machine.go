package bond

import (
	"cmp"
	"errors"
	"io"
	"math"
	"slices"
	"time"
)

const (
	// initialLimit is how far the peer may send before the first ACK says more.
	initialLimit = 64 << 10
	// maxFlight bounds the segments in flight, which bounds what the peer has to remember about gaps.
	maxFlight = 8192

	// ackDelay is how long an ACK may wait for more to acknowledge; ackEvery bytes do not wait. One for less than ackLittle,
	// which is no bulk, waits for an answer that it can go with.
	ackDelay  = 10 * time.Millisecond
	ackIdle   = 100 * time.Millisecond
	ackLittle = 1 << 10
	ackEvery  = 8 << 10

	// A write waits when more than this is not on its way yet: what has been written, an interactive write must wait for. It
	// is what all subflows send in unsentSpan, within the bounds.
	unsentSpan    = 3 * time.Millisecond
	leastUnsent   = 8 << 10
	initialUnsent = 64 << 10 // while that is not measured
	mostUnsent    = 1 << 20

	// windowAcks is on how many subflows the peer is told that it may go on: a message on each of many would be a burden to the
	// far end, each time, and one alone may be on a subflow that has died without a word.
	windowAcks = 2

	leastChunk = 1 << 10

	// wantEvery is how often this end looks whether it had more to send than its subflows took, and tells the peer.
	wantEvery = 100 * time.Millisecond

	// lateMargin is what is allowed beyond two round trips before another subflow is to carry a stretch too.
	// It is more than a task's processor may be taken away for. maxRescued bounds the stretches on their way so: where everything
	// is late because the far end is, they would be a burden to it.
	lateMargin = 100 * time.Millisecond
	maxRescued = 4

	// A subflow that delivers in more than twice the time of another, and muchLater beyond, is left alone, even if that is full.
	// Each remeasure it gets something, because it may have become better.
	muchLater = 10 * time.Millisecond
	remeasure = 5 * time.Second

	// similar is by how much the arrival times of two subflows may differ for them to take turns: the far end of an SSM
	// session pauses for a millisecond after each message, and the other subflow does meanwhile.
	similar = 2 * time.Millisecond

	// recvSpan is over how long the rate of what comes is measured.
	recvSpan = 200 * time.Millisecond

	// pingAfter is the silence after which the peer is asked for a sign of life on a subflow, and pongWithin how long that
	// may take. A stalled subflow is asked each pingStalled.
	pingAfter   = 15 * time.Second
	pongWithin  = 10 * time.Second
	pingStalled = 3 * time.Second

	// leaveWithin is how long the two ends may take to agree that a subflow ends.
	leaveWithin = 5 * time.Second
	// farewell is how long the server waits for a client that is away when nothing but its last acknowledgement is left to
	// come: the client may have had it all, and gone for good. A client may return, so that it learns what was missing.
	farewell = 2 * time.Minute
	// storageSpan is how long storage is kept that was not needed.
	storageSpan = 10 * time.Second
)

// path is a subflow as the machine sees it.
type path struct {
	id     uint32
	name   string
	joined time.Time
	flow   flow
	seal   *seal  // of what this end writes; nil in version 1
	turn   uint64 // the machine's turns when something was last scheduled on it

	lane       bool   // new data goes on it; see lanes
	laneBefore bool   // it was one before an attempt with others; without an attempt, it is one
	laneSeen   uint64 // received at the last look at lanes

	stalled   bool
	stalledAt time.Time
	lost      bool // gone from machine.paths; its goroutines may still hold it

	leaving  bool // nothing new is put on it; LEAVE goes out when what waits has
	left     bool // LEAVE is out
	peerLeft bool
	leaveBy  time.Time

	// What waits for the writer, besides segments: one frame of each type, the latest.
	control []frame

	// Receiving.
	counted uint64    // bytes of DATA and FIN that came
	acked   uint64    // of these, acknowledged
	newest  time.Time // when the last of them came
	ackAt   time.Time // when to acknowledge them; zero: nothing to acknowledge
	ackDue  bool      // they are to be acknowledged now, by whatever subflow
	ackNow  bool      // an ACK is to go out on this subflow now
	heard   time.Time // when anything came
	pongBy  time.Time // when a PONG must have come; zero: none is awaited
	token   uint64

	recvRate  float64
	recvMark  uint64
	recvSince time.Time

	reinjected uint64 // bytes that it carried for others
}

// usable says whether new data may be put on the subflow.
func (p *path) usable() bool { return !p.stalled && !p.leaving }

// say has the writer send a frame, instead of one of the same type that still waits: while the writer is stuck, a peer may ask
// for as long as it likes, and is told the latest.
func (p *path) say(f frame) {
	if i := slices.IndexFunc(p.control, func(waits frame) bool { return waits.typ == f.typ }); i >= 0 {
		p.control[i] = f
		return
	}
	p.control = append(p.control, f)
}

// over says that both ends have taken leave of the subflow, and nothing is on its way.
func (p *path) over() bool {
	return p.left && p.peerLeft && p.flow.inFlight() == 0 && p.counted == p.acked && !p.ackNow && !p.ackDue && len(p.control) == 0
}

// repeat is a stretch to be sent again.
type repeat struct {
	stretch
	from *path // the stalled subflow that still holds it; nil: the subflow is lost
}

// machine is one end of a connection: what it sends, by which subflow, and what it has received. It is pure: it does no I/O,
// has no clock and is not safe for concurrent use. Its owner calls the methods as things happen, sees then whether there is
// something to send (pending), to tell the path manager (changed), or to end (err and through), and calls onTimer at deadline.
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
	rescued  []stretch // that were late, and went on another subflow too; those that the peer has are taken out in time
	rescueAt time.Time // when to see again whether something is late; zero: nothing is that may be
	finished bool      // nothing more will be written
	finSent  bool
	finAcked bool
	again    []repeat // to be sent again, because their subflow is lost or stalled; in order

	// Receiving.
	in         assembly
	given      uint64 // the limit that the peer was given
	discarding bool   // nobody reads any more

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

	// changed says, for the owner to reset, that something happened which the path manager should look at.
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

// lose takes a subflow out. What it carried and was not acknowledged is sent again on others.
func (m *machine) lose(p *path, now time.Time) {
	i := slices.Index(m.paths, p)
	if i < 0 {
		return
	}
	m.paths = slices.Delete(m.paths, i, i+1)
	p.lost = true
	if p.stalled {
		// What it carried was put there before, or has been sent again already.
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

// repeatAll puts what a subflow carries among what is to be sent again.
func (m *machine) repeatAll(p, from *path) {
	for i := range p.flow.flight.Len() {
		m.again = append(m.again, repeat{p.flow.flight.At(i).stretch, from})
	}
	for i := range p.flow.waiting.Len() {
		m.again = append(m.again, repeat{*p.flow.waiting.At(i), from})
	}
	slices.SortStableFunc(m.again, func(a, b repeat) int { return cmp.Compare(a.end(), b.end()) })
}

// stall notes that nothing comes through a subflow. It goes on with what it carries, and others carry that too.
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

// acknowledgeAll says on every subflow how far this end is. What matters most, that the peer may go on, would else be lost
// with the one subflow that carried it.
func (m *machine) acknowledgeAll() {
	for _, p := range m.paths {
		p.ackNow = true
	}
}

func (m *machine) windowEnd() uint64 { return m.in.buf.base + uint64(m.window) }

// --- scheduling ---

// schedule puts what may be sent on the subflows that will deliver it soonest.
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

// scheduleOne puts the next stretch on a subflow, and returns which; nil if there is nothing to be sent, or, as more says, no
// subflow with room.
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

// rescue puts a stretch that is late on its subflow on another too: with nothing new to be sent, that is what the peer waits
// for. It returns nil if there is none, or none that another subflow would deliver sooner, and notes when to look again.
func (m *machine) rescue(now time.Time) *path {
	m.rescueAt = time.Time{}
	m.rescued = slices.DeleteFunc(m.rescued, m.has)
	if len(m.paths) < 2 || m.flying() >= maxFlight || len(m.rescued) >= maxRescued {
		return nil // the next acknowledgement makes it look again
	}
	fast := m.best(dataHeader+leastChunk, now, true)
	if fast == nil {
		return nil
	}
	var late *segment
	for _, p := range m.paths {
		if p == fast || p.stalled { // all that a stalled one has is sent again anyway
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

// newestPath returns the subflow on which something was last scheduled; nil if it is lost.
func (m *machine) newestPath() *path {
	for _, p := range m.paths {
		if p.turn == m.turns {
			return p
		}
	}
	return nil
}

// acknowledged returns how many of the first stretches to be sent again the peer has by now.
func (m *machine) acknowledged() int {
	for i, r := range m.again {
		if !m.has(r.stretch) {
			return i
		}
	}
	return len(m.again)
}

// flying is how many stretches are on their way.
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

// chunk is how much of the stream to put on a subflow at once: little where the subflow is slow, so that the bytes spread.
func (m *machine) chunk(p *path, now time.Time) int {
	n := max(leastChunk, min(maxData, p.flow.allowed(now)/8))
	if free := p.flow.allowed(now) - p.flow.inFlight() - dataHeader; free < n {
		n = max(free, leastChunk)
	}
	return n
}

// best returns the subflow that will deliver size bytes soonest; of several alike, the one that has rested longest, or the one
// that was used last if that was a while ago. Those that are full are left out if room is asked for. It is nil if there is none.
func (m *machine) best(size int, now time.Time, room bool) *path {
	return m.bestOf((*path).usable, size, now, room)
}

// bestOf is best among the subflows that may be used.
func (m *machine) bestOf(may func(*path) bool, size int, now time.Time, room bool) *path {
	soonest := time.Duration(math.MaxInt64)
	for _, p := range m.paths {
		if may(p) {
			soonest = min(soonest, p.flow.eta(size))
		}
	}
	// The far end of the one that was used last has rested meanwhile, and what is used is known to work.
	takeTurns := now.Sub(m.usedAt) < similar
	var best *path
	var bestETA time.Duration
	for _, p := range m.paths {
		if !may(p) || room && !p.flow.room(size, now) {
			continue
		}
		eta := p.flow.eta(size)
		if eta/2 > soonest+muchLater && now.Sub(p.flow.moved) < remeasure {
			continue // it is sooner to wait until another one has room
		}
		switch margin := max(similar, bestETA/8); {
		case best == nil || eta < bestETA-margin,
			eta < bestETA+margin && (p.turn < best.turn) == takeTurns:
			best, bestETA = p, eta
		}
	}
	return best
}

// setFull keeps account of how long the subflows are too few.
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

// --- what the writers send ---

// pending says whether there is something for the subflow's writer.
func (m *machine) pending(p *path) bool {
	if m.err != nil || p.lost {
		return len(p.control) > 0
	}
	return p.flow.waiting.Len() > 0 || len(p.control) > 0 || p.ackNow || p.ackDue || p.leaving && !p.left
}

// fill appends to buf what is to be written on a subflow now, about limit bytes at most.
func (m *machine) fill(p *path, buf []byte, limit int, now time.Time) []byte {
	for i := range p.control {
		buf = p.appendFrame(buf, &p.control[i])
	}
	clear(p.control)
	p.control = p.control[:0]
	if m.err != nil || p.lost {
		return buf
	}
	if p.ackNow || p.ackDue || !p.ackAt.IsZero() && p.flow.waiting.Len() > 0 {
		buf = m.appendAcks(p, buf, now)
	}
	for p.flow.waiting.Len() > 0 && len(buf) < limit {
		buf = m.appendStretch(p, buf, p.flow.take(), now)
	}
	if p.leaving && !p.left && p.flow.waiting.Len() == 0 {
		p.left = true
		buf = p.appendFrame(buf, &frame{typ: frameLeave})
	}
	return buf
}

// appendAcks acknowledges what came on a subflow, and with the same message what waits to be acknowledged of the others: each
// message costs the SSM agent as much processor time as a kilobyte of data.
func (m *machine) appendAcks(p *path, buf []byte, now time.Time) []byte {
	f := m.ackOf(p, now)
	buf = p.appendFrame(buf, &f)
	if p.seal == nil || p.stalled || p.leaving {
		return buf
	}
	for _, q := range m.paths {
		if q == p || q.ackNow || q.counted == q.acked || !q.ackDue && q.ackAt.IsZero() {
			continue
		}
		f := m.ackOf(q, now)
		f.typ, f.subflow = frameAckOf, q.id
		buf = p.appendFrame(buf, &f)
	}
	return buf
}

// ackOf is the ACK of what came on a subflow, which is about to be sent.
func (m *machine) ackOf(p *path, now time.Time) frame {
	f := frame{typ: frameAck, ack: m.in.ack(), limit: max(m.given, m.windowEnd()), received: p.counted}
	if p.counted != p.acked {
		f.delay = uint32(min(now.Sub(p.newest).Microseconds(), math.MaxUint32))
	}
	m.given = f.limit
	p.acked = p.counted
	p.ackNow, p.ackDue, p.ackAt = false, false, time.Time{}
	return f
}

func (m *machine) appendStretch(p *path, buf []byte, s stretch, now time.Time) []byte {
	switch {
	case m.has(s):
		return buf // it has come by another subflow meanwhile
	case s.isFIN():
		p.flow.sent(s, now)
		return p.appendFrame(buf, &frame{typ: frameFIN, dsn: s.dsn})
	case s.dsn < m.acked: // the peer has its beginning, which is not kept
		s.len -= int(m.acked - s.dsn)
		s.dsn = m.acked
	}
	p.flow.sent(s, now)
	start := len(buf)
	buf = appendDataHeader(buf, s.dsn, s.len)
	buf = slices.Grow(buf, s.len+sealSize)
	m.out.copyOut(s.dsn, buf[len(buf):len(buf)+s.len])
	return p.seal.append(buf[:len(buf)+s.len], start)
}

// appendFrame appends an encoded frame with the subflow's seal. Frames are sealed in the order in which they are written.
func (p *path) appendFrame(buf []byte, f *frame) []byte {
	return p.seal.append(appendFrame(buf, f), len(buf))
}

// --- what comes in ---

// onFrame takes in a frame that came on a subflow. A *protocolError ends the connection.
func (m *machine) onFrame(p *path, f *frame, now time.Time) error {
	if m.err != nil || p.lost {
		return nil //nolint:nilerr // what comes after the end is nothing
	}
	p.heard = now
	if p.stalled && p.flow.inFlight() == 0 {
		m.revive(p, now)
	}
	switch f.typ {
	case frameData:
		return m.onData(p, f, now)
	case frameFIN:
		return m.onFIN(p, f, now)
	case frameAck:
		return m.onAck(p, f, now)
	case frameAckOf:
		return m.onAckOf(f, now)
	case framePing:
		p.say(frame{typ: framePong, token: f.token})
	case framePong:
		m.onPong(p, f)
	case frameWant:
		m.peerWanted = now
		m.changed = true
	case frameLeave:
		m.onLeave(p, now)
	case frameReset:
		m.fail(&ResetError{Code: f.code, Reason: f.text, Remote: true})
	}
	return nil
}

func (m *machine) onData(p *path, f *frame, now time.Time) error {
	end := f.dsn + uint64(len(f.data))
	switch {
	case end < f.dsn || end > m.given:
		return protocolErrorf("DATA up to %d, where %d is the limit", end, m.given)
	case m.in.fin && end > m.in.length:
		return protocolErrorf("DATA up to %d after FIN at %d", end, m.in.length)
	case p.peerLeft:
		return protocolErrorf("DATA after LEAVE")
	}
	m.count(p, dataHeader+len(f.data), now)
	before := m.in.next
	if !m.in.add(f.dsn, f.data) {
		return protocolErrorf("more gaps than a sender may leave")
	}
	m.lastData = now
	if m.in.next > before {
		m.inOrder()
	}
	return nil
}

func (m *machine) onFIN(p *path, f *frame, now time.Time) error {
	switch {
	case m.in.fin && f.dsn != m.in.length:
		return protocolErrorf("FIN at %d after FIN at %d", f.dsn, m.in.length)
	case f.dsn > m.given || f.dsn < m.in.buf.end:
		return protocolErrorf("FIN at %d, with data up to %d and the limit %d", f.dsn, m.in.buf.end, m.given)
	case p.peerLeft:
		return protocolErrorf("FIN after LEAVE")
	}
	m.count(p, finSize, now)
	p.ackNow = true
	m.in.fin, m.in.length = true, f.dsn
	m.inOrder()
	return nil
}

// inOrder notes that the stream has come further.
func (m *machine) inOrder() {
	if m.discarding {
		m.in.skip()
		m.offerWindow()
	}
	if m.in.complete() {
		m.acknowledgeAll() // the peer waits for nothing but this
	}
}

// count keeps the account of what came on a subflow, and sees to its acknowledgement.
func (m *machine) count(p *path, n int, now time.Time) {
	p.counted += uint64(n)
	p.newest = now
	if span := now.Sub(p.recvSince); span >= recvSpan {
		p.recvRate = float64(p.counted-p.recvMark) / span.Seconds()
		p.recvSince, p.recvMark = now, p.counted
	}
	every := max(ackEvery, int(p.recvRate*ackDelay.Seconds()/2))
	switch {
	case int(p.counted-p.acked) >= every:
		p.ackDue = true
	case p.counted-p.acked >= ackLittle:
		p.ackAt = earlier(p.ackAt, now.Add(ackDelay))
	case p.ackAt.IsZero():
		p.ackAt = now.Add(ackIdle)
	}
}

// onAckOf takes in the ACK of a subflow that came on another one. The subflow may have been lost meanwhile.
func (m *machine) onAckOf(f *frame, now time.Time) error {
	for _, p := range m.paths {
		if p.id == f.subflow {
			return m.onAck(p, f, now)
		}
	}
	return nil
}

func (m *machine) onAck(p *path, f *frame, now time.Time) error {
	if p.seal != nil && f.received < p.flow.received {
		f.received = p.flow.received // a newer one came first, by another subflow
	}
	switch {
	case f.received > p.flow.written || f.received < p.flow.received:
		return protocolErrorf("ACK of %d bytes on a subflow, where %d were sent and %d acknowledged",
			f.received, p.flow.written, p.flow.received)
	case f.limit < f.ack && !m.finSent:
		return protocolErrorf("ACK of %d with the limit %d", f.ack, f.limit)
	case f.ack > m.next && !(m.finSent && f.ack == m.written+1):
		return protocolErrorf("ACK of %d, where %d bytes were sent", f.ack, m.next)
	}
	if f.ack > m.acked { // an older one may come later, by a slower subflow
		m.finAcked = m.finAcked || f.ack == m.written+1 && m.finSent
		m.acked = min(f.ack, m.written)
		m.out.advance(m.acked)
		m.lastData = now
	}
	m.limit = max(m.limit, f.limit)
	arrived := p.flow.acknowledge(f.received, time.Duration(f.delay)*time.Microsecond, now)
	if p.stalled && arrived > 0 {
		m.revive(p, now)
	}
	m.schedule(now)
	return nil
}

func (m *machine) onPong(p *path, f *frame) {
	if f.token == p.token {
		p.pongBy = time.Time{}
	}
}

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

func (m *machine) onLeave(p *path, now time.Time) {
	p.peerLeft = true
	p.ackNow = true
	m.leave(p, now)
}

// --- time ---

// deadline returns when onTimer is needed next; the zero time means never.
func (m *machine) deadline() time.Time {
	if m.err != nil {
		return time.Time{}
	}
	at := m.goodbye()
	if !m.pathless.IsZero() {
		at = earlier(at, m.pathless.Add(m.linger))
	}
	at = earlier(at, m.rescueAt)
	if m.out.idle() || m.in.buf.idle() {
		at = earlier(at, m.lastData.Add(storageSpan))
	}
	for _, p := range m.paths {
		at = earlier(at, m.pathDeadline(p))
	}
	return at
}

func (m *machine) pathDeadline(p *path) time.Time {
	at := m.pingTime(p)
	if !p.ackNow && !p.ackDue {
		at = earlier(at, p.ackAt)
	}
	if !p.stalled {
		at = earlier(at, p.flow.stallsAt())
	}
	if p.leaving {
		at = earlier(at, p.leaveBy)
	}
	if len(m.again) > 0 || m.next < m.written {
		at = earlier(at, p.flow.resumes) // then it may carry more
	}
	return at
}

// pingTime is when to ask for a sign of life, or to give up waiting for one.
func (m *machine) pingTime(p *path) time.Time {
	switch {
	case !p.pongBy.IsZero():
		return p.pongBy
	case p.stalled:
		return p.heard.Add(pingStalled)
	}
	return p.heard.Add(pingAfter)
}

// goodbye is when the server ends without the client's last acknowledgement: all has come from it, and it has all but,
// perhaps, the FIN.
func (m *machine) goodbye() time.Time {
	if m.client || !m.finSent || m.finAcked || !m.in.complete() || m.acked < m.written || m.pathless.IsZero() {
		return time.Time{}
	}
	return m.pathless.Add(farewell)
}

// earlier returns the earlier of two times, of which the zero time is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// onTimer does what is due. It returns the subflows that are to be closed.
func (m *machine) onTimer(now time.Time) (expired []*path) {
	if m.err != nil {
		return nil
	}
	due := func(at time.Time) bool { return !at.IsZero() && !now.Before(at) }
	if due(m.rescueAt) {
		m.rescueAt = time.Time{} // schedule sees to it
	}
	for _, p := range slices.Clone(m.paths) {
		p.ackDue = p.ackDue || due(p.ackAt)
		if !p.stalled && due(p.flow.stallsAt()) {
			m.stall(p, now)
		}
		if due(m.pingTime(p)) {
			if !p.pongBy.IsZero() && !p.stalled {
				m.stall(p, now)
			}
			m.ping(p, pongWithin, now)
		}
		if due(p.flow.resumes) {
			p.flow.resumes = time.Time{}
		}
		if p.leaving && due(p.leaveBy) {
			expired = append(expired, p)
		}
	}
	switch {
	case due(m.goodbye()):
		m.finAcked = true
		m.changed = true
	case !m.pathless.IsZero() && due(m.pathless.Add(m.linger)):
		m.fail(&ResetError{Code: ResetLinger, Reason: "no path to the far end for " + m.linger.String()})
	case due(m.lastData.Add(storageSpan)):
		m.out.release()
		m.in.buf.release()
	}
	m.schedule(now)
	return expired
}

// ping asks for a sign of life.
func (m *machine) ping(p *path, within time.Duration, now time.Time) {
	if p.stalled {
		within = pingStalled
	}
	p.token++
	p.pongBy = now.Add(within)
	p.say(frame{typ: framePing, token: p.token})
}

// probe asks on every subflow; those that do not answer in time are stalled.
func (m *machine) probe(within time.Duration, now time.Time) {
	for _, p := range m.paths {
		m.ping(p, within, now)
	}
}

// --- the end ---

// discard says that nobody reads any more.
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
		// The server ended in good order, so it had all that was written: only its word for that was lost.
		m.finAcked, m.acked = true, m.written
		m.out.advance(m.acked)
		return
	}
	m.err = err
	last := resetFor(err)
	for _, p := range m.paths {
		p.control = append(p.control[:0], last...) // nobody waits for answers any more
	}
}

// resetFor is what the peer is told of the error that cut the connection short; nothing if it comes from there.
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

// told says that nothing is left that the peer should still be told.
func (m *machine) told() bool {
	return !slices.ContainsFunc(m.paths, func(p *path) bool { return !p.stalled && m.pending(p) })
}
