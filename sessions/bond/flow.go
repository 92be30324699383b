package bond

import (
	"time"

	"github.com/bastion-ssm/bastion/internal/ring"
)

const (
	// queueTarget is how long the bytes of a bulk transfer may wait on a subflow beyond its bare round trip. An interactive answer
	// waits that long behind them.
	queueTarget = 8 * time.Millisecond

	// mostGap bounds the silence that a subflow may bridge with more bytes in flight.
	mostGap = 20 * time.Millisecond

	initialCwnd = 16 << 10
	// guessedRate, in bytes per second, is the lowest rate assumed for a subflow until it was full once.
	guessedRate = 160 << 10
	leastCwnd   = 4 << 10
	mostCwnd    = 16 << 20

	// A measured rate counts for rateSpan, and up to twice as long while the rate does not rise.
	rateSpan = 500 * time.Millisecond
	lowSpan  = 50 * time.Millisecond
	// The least round trip counts for minRTTSpan. Then the flow drains the subflow's queue for drainSpan and measures again,
	// because a queue looks like a longer path.
	minRTTSpan = 10 * time.Second
	drainSpan  = 100 * time.Millisecond

	// A subflow stalls when it acknowledges nothing in flight for stallRTTs round trips and the margin. The margin doubles when the
	// subflow revives.
	stallRTTs   = 4
	stallMargin = 400 * time.Millisecond
	mostStall   = 4 * time.Second
)

// stretch is a part of the stream, or its FIN.
type stretch struct {
	dsn uint64
	len int // 0: the FIN
}

func (s stretch) isFIN() bool { return s.len == 0 }

func (s stretch) end() uint64 { return s.dsn + uint64(s.len) }

// size returns how many bytes of the frame count for ACK's received field.
func (s stretch) size() int {
	if s.isFIN() {
		return finSize
	}
	return dataHeader + s.len
}

// segment is a stretch in flight on one subflow.
type segment struct {
	stretch

	counted     uint64    // bytes that count on the subflow, up to the end of this segment's frame
	sentAt      time.Time //
	delivered   uint64    // counted bytes that the peer had acknowledged on the subflow when this was sent
	deliveredAt time.Time // when that acknowledgement came
	unlimited   bool      // the subflow had room to spare, so this segment's delivery says little about the rate
	rescued     bool      // another subflow carries it too, because this one is late with it
}

// flow is the sending side of a subflow: the segments in flight, and how many bytes may be in flight. It is pure: time comes as an
// argument. Its control follows BBR (draft-ietf-ccwg-bbr): the bound in flight is the measured rate times the bare round trip plus
// the allowed queue. At any time:
//
//   - queued is the size of waiting, and written - received is that of flight, whose first segment may be acknowledged in part;
//   - cwnd, gap and margin are within their bounds.
type flow struct {
	waiting ring.Ring[stretch] // scheduled; the writer takes them from here
	queued  int                // counted bytes in waiting
	flight  ring.Ring[segment] // handed to the writer

	written  uint64        // counted bytes of all segments so far
	received uint64        // of these, acknowledged by the peer
	moved    time.Time     // when received last grew, or the first segment came after a pause
	paused   bool          // nothing was in flight before the present segments
	gap      time.Duration // longest recent wait for an acknowledgement
	spare    uint64        // acknowledged and in flight when the subflow last had room to spare

	srtt     time.Duration
	minRTT   time.Duration
	lows     [2]time.Duration // the least round trips of this span and the last; a span is the least round trip or lowSpan
	lowTurn  time.Time
	minAt    time.Time
	draining time.Time // end of the draining that measures minRTT
	resumes  time.Time // the same, until the timer has handled it; then zero

	rate     float64 // bytes per second: the best of this span and the last
	measured bool    // the subflow was full during the measurement
	rates    [2]float64
	rateTurn time.Time
	cwnd     int
	growAt   uint64  // acknowledged bytes at which cwnd may grow again: once in a round trip
	settled  int     // round trips in succession in which a doubled cwnd gained little
	reached  float64 // the rate at the last real progress

	margin  time.Duration // added to the time until a stall
	revived time.Time     // when the last stall ended; earlier segments measure nothing
}

func newFlow(now time.Time) flow {
	return flow{cwnd: initialCwnd, gap: ackDelay, margin: stallMargin, moved: now, rateTurn: now}
}

func (f *flow) inFlight() int { return f.queued + int(f.written-f.received) }

// room reports whether size more bytes may be in flight.
func (f *flow) room(size int, now time.Time) bool {
	n := f.inFlight()
	return n == 0 || n+size <= f.allowed(now)
}

// allowed returns how many bytes may be in flight.
func (f *flow) allowed(now time.Time) int {
	if now.Before(f.draining) {
		return max(leastCwnd/2, int(f.rate*f.minRTT.Seconds()*3/4))
	}
	return f.cwnd
}

// eta estimates when size more bytes will have arrived, from now.
func (f *flow) eta(size int) time.Duration {
	rate := f.rate
	if !f.measured {
		rate = max(rate, guessedRate)
	}
	return f.srtt/2 + time.Duration(float64(f.inFlight()+size)/rate*float64(time.Second))
}

// schedule puts a stretch on the subflow.
func (f *flow) schedule(s stretch, now time.Time) {
	if f.inFlight() == 0 {
		f.moved, f.paused = now, true
	}
	f.queued += s.size()
	f.waiting.Push(s)
}

// take returns the first waiting stretch. The caller writes it and calls sent, or drops it.
func (f *flow) take() stretch {
	s := f.waiting.Pop()
	f.queued -= s.size()
	return s
}

// sent moves a stretch that the writer took to the segments in flight.
func (f *flow) sent(s stretch, now time.Time) {
	f.written += uint64(s.size())
	f.flight.Push(segment{
		stretch: s, counted: f.written, sentAt: now,
		delivered: f.received, deliveredAt: f.moved, unlimited: f.received < f.spare,
	})
}

// hasSpare notes that the subflow had room but there was nothing to send.
func (f *flow) hasSpare() { f.spare = f.written + uint64(f.queued) }

// acknowledge takes in that the peer has received that many counted bytes, the newest of them delay ago. It returns how many
// segments have arrived.
func (f *flow) acknowledge(received uint64, delay time.Duration, now time.Time) (arrived int) {
	if received == f.received {
		return 0
	}
	var newest segment
	for ; f.flight.Len() > 0 && f.flight.At(0).counted <= received; arrived++ {
		newest = f.flight.Pop()
	}
	f.measureGap(now)
	f.received = received
	f.moved, f.paused = now, false
	if arrived == 0 || newest.sentAt.Before(f.revived) {
		return arrived
	}
	rtt := now.Sub(newest.sentAt)
	f.measureRTT(max(rtt-delay, rtt/8), now)
	f.measureRate(&newest, rtt, now)
	f.resize(!newest.unlimited)
	return arrived
}

// measureGap measures the gaps between bursts of acknowledgements, such as a busy machine or a radio link makes. More bytes in
// flight keep the far end supplied through such a gap.
func (f *flow) measureGap(now time.Time) {
	if f.paused {
		return // the wait was the round trip
	}
	f.gap = min(max(f.gap-f.gap/16, now.Sub(f.moved), ackDelay), mostGap)
}

func (f *flow) measureRTT(rtt time.Duration, now time.Time) {
	rtt = max(rtt, time.Microsecond)
	if f.srtt == 0 {
		f.srtt, f.minRTT, f.minAt = rtt, rtt, now
		f.lows, f.lowTurn = [2]time.Duration{rtt, rtt}, now
		return
	}
	f.srtt += (rtt - f.srtt) / 8
	if now.Sub(f.lowTurn) > max(f.minRTT, lowSpan) {
		f.lows[1], f.lows[0], f.lowTurn = f.lows[0], rtt, now
	}
	f.lows[0] = min(f.lows[0], rtt)
	switch {
	case rtt <= f.minRTT+f.minRTT/8 || rtt < f.minRTT+time.Millisecond:
		f.minRTT, f.minAt = min(f.minRTT, rtt), now
	case now.Sub(f.minAt) <= minRTTSpan:
	case f.draining.Before(f.minAt): // not drained since the minimum was last seen
		f.draining = now.Add(drainSpan + f.srtt)
		f.resumes = f.draining
	case now.After(f.draining):
		// The queue was drained and the round trip is still longer than the old minimum: the path has become longer.
		f.minRTT, f.minAt = rtt, now
	}
}

// lately returns the shortest round trip of the last spans. Its excess over minRTT is a standing queue, not one that comes and goes.
func (f *flow) lately() time.Duration { return min(f.lows[0], f.lows[1]) }

func (f *flow) measureRate(newest *segment, rtt time.Duration, now time.Time) {
	interval := max(now.Sub(newest.deliveredAt), rtt, 100*time.Microsecond)
	rate := float64(f.received-newest.delivered) / interval.Seconds()
	f.measured = f.measured || !newest.unlimited
	if newest.unlimited && rate < f.rate {
		return
	}
	// Not srtt: a subflow that became slow has filled its queue at its former rate.
	if now.Sub(f.rateTurn) > max(rateSpan, 4*f.minRTT) {
		f.rates[1], f.rates[0], f.rateTurn = f.rates[0], 0, now
		f.margin -= (f.margin - stallMargin) / 16 // no stall for a while
	}
	f.rates[0] = max(f.rates[0], rate)
	f.rate = max(f.rates[0], f.rates[1])
}

// The flow knows its rate after settledAfter doublings that each made the subflow less than muchFaster, as in BBR's start-up.
const (
	settledAfter = 3
	muchFaster   = 1.25
)

// resize sets cwnd from the measurements. It at most doubles cwnd, once in a round trip, so that a wrong first measurement does no
// harm. limited says that the subflow was full: only then does its rate show its capacity.
func (f *flow) resize(limited bool) {
	span := f.minRTT + queueTarget + f.gap
	want := int(f.rate * span.Seconds())
	turn := f.received >= f.growAt
	queue := f.lately() - f.minRTT
	if queue > queueTarget {
		f.settled = settledAfter // enough is in flight
	}
	if turn && limited && f.settled < settledAfter {
		if f.rate > muchFaster*f.reached {
			f.reached, f.settled = f.rate, 0
		} else {
			f.settled++
		}
	}
	if f.settled < settledAfter && limited {
		want = max(want, 2*f.cwnd)
	}
	want = min(max(want, leastCwnd), mostCwnd)
	switch {
	case want > f.cwnd && turn:
		f.cwnd = min(want, 2*f.cwnd)
	case want < f.cwnd && queue > queueTarget:
		// Without a queue, fewer bytes in flight would only lower the measured rate, and the flow would take that for the capacity.
		f.cwnd = max(want, f.cwnd-f.cwnd/8)
	}
	if turn {
		f.growAt = f.written + uint64(f.queued)
	}
}

// oldest returns the first segment in flight that ends after acked and that no other subflow carries, or nil.
func (f *flow) oldest(acked uint64) *segment {
	for i := range f.flight.Len() {
		if s := f.flight.At(i); !s.rescued && !s.isFIN() && s.end() > acked {
			return s
		}
	}
	return nil
}

// revive starts the measurements again after a stall, whose silence says nothing about the capacity.
func (f *flow) revive(now time.Time) {
	f.moved, f.revived = now, now
	f.margin = min(2*f.margin, mostStall)
	f.srtt, f.lows, f.gap = f.minRTT, [2]time.Duration{f.minRTT, f.minRTT}, ackDelay
	f.rate, f.rates, f.measured = 0, [2]float64{}, false
	f.cwnd, f.settled, f.reached = initialCwnd, 0, 0
}

// stallsAt returns when the subflow stalls unless the peer acknowledges something; zero if nothing is in flight.
func (f *flow) stallsAt() time.Time {
	if f.inFlight() == 0 {
		return time.Time{}
	}
	return f.moved.Add(min(stallRTTs*f.srtt+f.margin, mostStall))
}
