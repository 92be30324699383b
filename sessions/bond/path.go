package bond

import (
	"slices"
	"time"
)

// path is a subflow from the machine's point of view.
type path struct {
	id     uint32
	name   string
	joined time.Time
	flow   flow
	seal   *seal  // of this end's frames; nil in version 1
	turn   uint64 // the machine's turns at the last schedule

	lane       bool   // new data may use it; see lanes
	laneBefore bool   // a lane before the present attempt; without one, the same as lane
	laneSeen   uint64 // received at the last look at lanes

	stalled   bool
	stalledAt time.Time
	lost      bool // removed from machine.paths; its goroutines may still hold it

	leaving  bool // gets nothing new; LEAVE follows the waiting stretches
	left     bool // LEAVE is sent
	peerLeft bool
	leaveBy  time.Time

	// Waiting frames besides segments: the latest of each type.
	control []frame

	// Receiving.
	counted uint64    // bytes of DATA and FIN received
	acked   uint64    // of these, acknowledged
	newest  time.Time // when the last of them came
	ackAt   time.Time // when to acknowledge them; zero: nothing to acknowledge
	ackDue  bool      // acknowledge them now, on any subflow
	ackNow  bool      // send an ACK on this subflow now
	heard   time.Time // when anything last came
	pongBy  time.Time // deadline for the awaited PONG; zero: none is awaited
	token   uint64

	recvRate  float64
	recvMark  uint64
	recvSince time.Time

	reinjected uint64 // bytes that it carried for other subflows
}

// usable reports whether the machine may put new data on the subflow.
func (p *path) usable() bool { return !p.stalled && !p.leaving }

// say makes the writer send a frame. It replaces a waiting frame of the same type. So a peer that asks any number of times while
// the writer is stuck gets only the latest answer.
func (p *path) say(f frame) {
	if i := slices.IndexFunc(p.control, func(waits frame) bool { return waits.typ == f.typ }); i >= 0 {
		p.control[i] = f
		return
	}
	p.control = append(p.control, f)
}

// over reports whether both ends have left the subflow and nothing is on its way.
func (p *path) over() bool {
	return p.left && p.peerLeft && p.flow.inFlight() == 0 && p.counted == p.acked && !p.ackNow && !p.ackDue && len(p.control) == 0
}

// appendFrame appends an encoded frame with its seal. Seal frames in the order in which they are written.
func (p *path) appendFrame(buf []byte, f *frame) []byte {
	return p.seal.append(appendFrame(buf, f), len(buf))
}
