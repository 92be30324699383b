package bond

import (
	"slices"
	"time"
)

const (
	// After pingAfter of silence on a subflow, this end asks the peer for a sign of life and waits pongWithin for it. On a stalled
	// subflow it asks every pingStalled.
	pingAfter   = 15 * time.Second
	pongWithin  = 10 * time.Second
	pingStalled = 3 * time.Second

	// farewell is how long the server waits for an absent client that owes only its last acknowledgement. The client may have
	// received everything and gone for good.
	farewell = 2 * time.Minute
	// storageSpan is how long unused storage is kept.
	storageSpan = 10 * time.Second
)

// deadline returns when the machine needs onTimer next; zero means never.
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
		at = earlier(at, p.flow.resumes) // then the subflow may carry more
	}
	return at
}

// pingTime returns when to ask for a sign of life, or to give up waiting for one.
func (m *machine) pingTime(p *path) time.Time {
	switch {
	case !p.pongBy.IsZero():
		return p.pongBy
	case p.stalled:
		return p.heard.Add(pingStalled)
	}
	return p.heard.Add(pingAfter)
}

// goodbye returns when the server ends without the client's last acknowledgement, or zero. The server must have received the whole
// stream, and the client must lack at most the FIN.
func (m *machine) goodbye() time.Time {
	if m.client || !m.finSent || m.finAcked || !m.in.complete() || m.acked < m.written || m.pathless.IsZero() {
		return time.Time{}
	}
	return m.pathless.Add(farewell)
}

// onTimer handles everything that is due. It returns the subflows that the owner must close.
func (m *machine) onTimer(now time.Time) (expired []*path) {
	if m.err != nil {
		return nil
	}
	due := func(at time.Time) bool { return !at.IsZero() && !now.Before(at) }
	if due(m.rescueAt) {
		m.rescueAt = time.Time{} // schedule sets it again
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

// probe asks on every subflow. Subflows that do not answer in time stall.
func (m *machine) probe(within time.Duration, now time.Time) {
	for _, p := range m.paths {
		m.ping(p, within, now)
	}
}

// earlier returns the earlier of two times. A zero time means none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
