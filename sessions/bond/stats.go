package bond

import "time"

// Stats are the figures of a connection.
type Stats struct {
	Subflows []SubflowStats

	Sent       uint64 // bytes that the peer has acknowledged in order
	Received   uint64 // bytes that came in order
	Reinjected uint64 // bytes sent again on another subflow

	Pathless time.Time // since when no subflow is usable; the zero time while one is
}

// SubflowStats are the figures of one subflow.
type SubflowStats struct {
	ID    uint32
	Name  string // of the stream under it: the id of the SSM session
	State State
	Age   time.Duration

	RTT      time.Duration // smoothed, from a frame's sending to its ACK; 0: not measured yet
	MinRTT   time.Duration // the least of late
	SendRate float64       // bytes per second, as measured when last there was enough to send
	InFlight int           // bytes sent and not acknowledged

	Sent       uint64 // bytes of DATA, headers included
	Received   uint64
	Reinjected uint64 // bytes of other subflows that this one carried again
}

// State says whether a subflow carries data.
type State string

// The states of a subflow.
const (
	Up      State = "up"
	Stalled State = "stalled" // does not acknowledge: what it carried is sent again on others
	Leaving State = "leaving" // takes no more data, and ends
)

// view is what the client's path manager looks at.
type view struct {
	subflows  []subflowView
	wanted    time.Time // when the subflows last were too few for either end
	lastData  time.Time // when data was last sent or received
	delivered uint64    // bytes that arrived in order, at either end
	pathless  time.Time // since when no subflow is usable; the zero time while one is
	ended     bool
}

type subflowView struct {
	id      uint32
	since   time.Time
	stalled bool
	leaving bool
	rtt     time.Duration
}
