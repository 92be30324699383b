package bond

import "time"

const (
	// An ACK waits up to ackDelay for more bytes to acknowledge, unless ackEvery bytes have come. For less than ackLittle, which is
	// no bulk transfer, it waits up to ackIdle to travel with an answer.
	ackDelay  = 10 * time.Millisecond
	ackIdle   = 100 * time.Millisecond
	ackLittle = 1 << 10
	ackEvery  = 8 << 10

	// recvSpan is the span over which this end measures the rate of arrival.
	recvSpan = 200 * time.Millisecond
)

// onFrame takes in a frame that came on a subflow. The caller ends the connection after a *protocolError.
func (m *machine) onFrame(p *path, f *frame, now time.Time) error {
	if m.err != nil || p.lost {
		return nil //nolint:nilerr // ignore frames after the end
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

// inOrder reacts to new bytes in order.
func (m *machine) inOrder() {
	if m.discarding {
		m.in.skip()
		m.offerWindow()
	}
	if m.in.complete() {
		m.acknowledgeAll() // the peer waits only for this
	}
}

// count counts bytes received on a subflow, and schedules their acknowledgement.
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

// onAckOf takes in an ACK that came on another subflow than its own, which may be lost by now.
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

func (m *machine) onLeave(p *path, now time.Time) {
	p.peerLeft = true
	p.ackNow = true
	m.leave(p, now)
}
