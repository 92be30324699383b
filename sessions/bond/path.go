package bond

import (
	"slices"
	"time"
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

	leaving  bool // it gets nothing new; LEAVE follows what waits
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

// say makes the writer send a frame. It replaces a waiting frame of the same type: while the writer is stuck, a peer may ask any
// number of times, and gets the latest answer.
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

// appendFrame appends an encoded frame with the subflow's seal. Frames are sealed in the order in which they are written.
func (p *path) appendFrame(buf []byte, f *frame) []byte {
	return p.seal.append(appendFrame(buf, f), len(buf))
}
