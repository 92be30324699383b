package bond

import "time"

// Stats are the figures of a connection.
type Stats struct {
	Version  int // of the protocol
	Subflows []SubflowStats

	Sent       uint64 // bytes that the peer has acknowledged in order
	Received   uint64 // bytes that came in order
	Reinjected uint64 // bytes sent again on another subflow
	Damaged    int    // subflows closed because they carried bytes that the peer had not sent

	Pathless time.Time // since when no subflow is usable; zero while one is

	Limit   Limit   // of the service, at the client
	Trouble Trouble // of the client, in opening subflows
}

// Trouble says why the client cannot open subflows. It is zero if the latest attempt succeeded, or before the first.
type Trouble struct {
	Err  error     // of the latest attempt
	At   time.Time // when it failed
	Next time.Time // when the next attempt may begin
}

// Limit is how many subflows the service allows, as far as the client knows.
type Limit struct {
	Subflows int       // 0: unknown
	Err      error     // of the attempt to have one more; nil: another session needed a place
	Retry    time.Time // when the client tries one more, if it needs one then
	Lent     bool      // another session holds a place for now
}

// SubflowStats are the figures of one subflow.
type SubflowStats struct {
	ID    uint32
	Name  string // of the stream under it: the id of the SSM session
	State State
	Age   time.Duration

	RTT      time.Duration // smoothed, from sending a frame to its ACK; 0: not measured yet
	MinRTT   time.Duration // the shortest in flow.minRTTSpan
	SendRate float64       // bytes per second, when the subflow last had enough to send
	InFlight int           // bytes sent but not acknowledged

	Sent       uint64 // bytes of DATA, headers included
	Received   uint64
	Reinjected uint64 // bytes of other subflows that this one carried too
}

// State says whether a subflow carries data.
type State string

// The states of a subflow.
const (
	Up      State = "up"
	Stalled State = "stalled" // does not acknowledge: what it carried is sent again on others
	Leaving State = "leaving" // takes no more data, and ends
)

// view is the policy's picture of a client's connection.
type view struct {
	subflows   []subflowView
	wanted     time.Time // when this end last had too few subflows
	peerWanted time.Time // when the peer last had too few
	lastData   time.Time // when data was last sent or received
	sent       uint64    // bytes that arrived in order at the peer
	received   uint64    // bytes that arrived in order here
	pathless   time.Time // since when no subflow is usable; zero while one is
	ended      bool
	far        FarEnd
}

type subflowView struct {
	id      uint32
	since   time.Time
	stalled bool
	leaving bool
	rtt     time.Duration
}

// view returns the present view.
func (c *Conn) view() view {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.m
	v := view{
		wanted: m.wanted, peerWanted: m.peerWanted, lastData: m.lastData, pathless: m.pathless, ended: c.ending,
		sent: m.acked, received: m.in.next,
	}
	for _, p := range m.paths {
		v.subflows = append(v.subflows, subflowView{
			id: p.id, since: p.joined, stalled: p.stalled, leaving: p.leaving, rtt: p.flow.srtt,
		})
	}
	return v
}

// Stats returns the connection's figures.
func (c *Conn) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	m, now := c.m, time.Now()
	st := Stats{
		Sent: m.acked, Received: m.in.next, Reinjected: m.reinjected, Pathless: m.pathless,
		Damaged: c.damaged, Version: int(c.who.Load().version),
	}
	if c.manager != nil {
		st.Limit, st.Trouble = c.manager.known()
	}
	for _, p := range m.paths {
		s := SubflowStats{
			ID: p.id, Name: p.name, State: Up, Age: now.Sub(p.joined),
			RTT: p.flow.srtt, MinRTT: p.flow.minRTT, SendRate: p.flow.rate,
			InFlight: p.flow.inFlight(), Sent: p.flow.written, Received: p.counted, Reinjected: p.reinjected,
		}
		switch {
		case p.leaving:
			s.State = Leaving
		case p.stalled:
			s.State = Stalled
		}
		st.Subflows = append(st.Subflows, s)
	}
	return st
}
