package access

import (
	"net"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/sessions/bond"
)

// lacksBond lists the capabilities that a link without a bond lacks.
var lacksBond = []string{
	"no bond: a connection lives as long as its session",
	"no bond: one connection is as fast as one session",
}

// explain sets the latest failure and the time of the next attempt; a zero retry means that it is unknown.
func explain(l *report.Link, err error, retry time.Time) {
	l.Error, l.Next, l.Retry = "", "", retry
	if err != nil {
		l.Error, l.Next = err.Error(), fail.NextOf(err)
	}
}

// addConn adds the figures of a link's connection.
func (a *Access) addConn(l *report.Link, conn net.Conn) {
	switch conn := conn.(type) {
	case bonded:
		state := a.bonds.of(conn)
		addBond(l, conn.Stats(), state.flows)
		l.Far, l.MaxAge = state.far, a.settings.Link.SessionMaxAge.Seconds()
		l.Document, l.DocumentReason = a.documentInUse(state.target)
	case *sessions.Stream:
		addSingle(l, conn)
		l.Document, l.DocumentReason = a.documentInUse(conn.Target())
	}
}

// addBond adds the figures of a bond.
func addBond(l *report.Link, st bond.Stats, rates map[uint32]flowRate) {
	l.Kind, l.Reinjected, l.BondVersion, l.Damaged = "bond", st.Reinjected, st.Version, st.Damaged
	if !st.Pathless.IsZero() {
		l.State, l.Since, l.Pathless = "waiting", st.Pathless, &st.Pathless
		explain(l, st.Trouble.Err, future(st.Trouble.Next))
	}
	l.Limit = sessionLimit(st.Limit, time.Now())
	for _, f := range st.Subflows {
		l.Sessions = append(l.Sessions, report.Session{
			ID: f.Name, State: string(f.State), Age: f.Age.Seconds(), RTT: milliseconds(f.RTT), MinRTT: milliseconds(f.MinRTT),
			SendRate: rates[f.ID].up, ReceiveRate: rates[f.ID].down, Capacity: f.SendRate, InFlight: f.InFlight,
			Sent: f.Sent, Received: f.Received, Reinjected: f.Reinjected,
		})
	}
}

func sessionLimit(known bond.Limit, now time.Time) *report.SessionLimit {
	if known.Subflows == 0 {
		return nil
	}
	limit := &report.SessionLimit{Sessions: known.Subflows, Reason: "a place was needed for another session"}
	if known.Retry.After(now) {
		limit.Retry = &known.Retry
	}
	if known.Err != nil {
		limit.Reason = reasonOf(known.Err)
	}
	return limit
}

// addSingle adds the figures of a session that is itself the connection.
func addSingle(l *report.Link, s *sessions.Stream) {
	st := s.Stats()
	l.Lacks = lacksBond
	l.Sessions = append(l.Sessions, report.Session{
		ID: s.SessionID(), State: string(bond.Up), Age: st.Age.Seconds(), RTT: milliseconds(st.RTT), Sent: st.Sent, Received: st.Received,
	})
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
