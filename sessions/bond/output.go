package bond

import (
	"math"
	"slices"
	"time"
)

// pending reports whether the subflow's writer has something to send.
func (m *machine) pending(p *path) bool {
	if m.err != nil || p.lost {
		return len(p.control) > 0
	}
	return p.flow.waiting.Len() > 0 || len(p.control) > 0 || p.ackNow || p.ackDue || p.leaving && !p.left
}

// fill appends to buf the frames to write on a subflow now, about limit bytes at most.
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

// appendAcks acknowledges the bytes received on a subflow. The same message carries the acknowledgements due on the others: each
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

// ackOf returns the ACK of a subflow, for the caller to send now.
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
		return buf // another subflow has delivered it meanwhile
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
