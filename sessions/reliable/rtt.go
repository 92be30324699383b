package reliable

import "time"

// Retransmission timing. The transport below a data channel is TCP, so only the gateway or an absent peer loses messages. The
// timeouts may be shorter than RFC 6298's, because a needless resend costs only one message.
const (
	initialRTO  = 300 * time.Millisecond // before the first sample
	minRTO      = 200 * time.Millisecond
	maxRTO      = 3 * time.Second // also with backoff
	granularity = 10 * time.Millisecond

	// minRTTWindow is the least time for which a minimum counts, because the path may change.
	minRTTWindow = 10 * time.Second
)

// rttStats estimates the round-trip time as RFC 6298 does, and keeps a windowed minimum. The zero value is ready.
type rttStats struct {
	srtt, rttvar time.Duration
	latest       time.Duration
	measured     bool

	// The minimum of the current window and of the one before it.
	curMin, prevMin time.Duration
	windowStart     time.Time
}

// update takes in one sample. Retransmitted messages must not be sampled: their ack may answer either sending.
func (r *rttStats) update(sample time.Duration, now time.Time) {
	sample = max(sample, 0)
	r.latest = sample
	if !r.measured {
		r.measured = true
		r.srtt, r.rttvar = sample, sample/2
		r.curMin, r.prevMin, r.windowStart = sample, sample, now
		return
	}
	r.rttvar += ((r.srtt - sample).Abs() - r.rttvar) / 4
	r.srtt += (sample - r.srtt) / 8
	if now.Sub(r.windowStart) >= minRTTWindow {
		r.prevMin, r.curMin, r.windowStart = r.curMin, sample, now
	}
	r.curMin = min(r.curMin, sample)
}

// base returns the shortest round trip of late: the time that the path takes without queues.
func (r *rttStats) base() time.Duration { return min(r.curMin, r.prevMin) }

// rto returns the retransmission timeout, without backoff.
func (r *rttStats) rto() time.Duration {
	if !r.measured {
		return initialRTO
	}
	return min(max(r.srtt+max(granularity, 4*r.rttvar), minRTO), maxRTO)
}

// lossDelay returns how long after its sending a message counts as lost, once an ack for a later one has come. It exceeds a round
// trip, because the gateway may reorder messages.
func (r *rttStats) lossDelay() time.Duration {
	if !r.measured {
		return initialRTO
	}
	d := max(r.srtt, r.latest)
	return d + d/4 + granularity
}
