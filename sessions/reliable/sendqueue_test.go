package reliable

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var epoch = time.Unix(1_800_000_000, 0)

// sendFrame is a frame for the send queue, which does not look into it: its number, and n bytes in all.
func sendFrame(seq int64, n int) []byte {
	return binary.BigEndian.AppendUint64(make([]byte, 0, n), uint64(seq))[:n]
}

func frameSeq(b []byte) int64 { return int64(binary.BigEndian.Uint64(b)) }

// sender drives a send queue with a clock of its own.
type sender struct {
	t   testing.TB
	q   *sendQueue
	now time.Time
}

func newSender(t testing.TB) *sender {
	return &sender{t, newSendQueue(4<<20, 16<<10, nil), epoch}
}

// push sends n messages of the length that the queue allows, and returns how many it let through.
func (s *sender) push(n int) int {
	for i := range n {
		room := s.q.room(1 << 20)
		if room == 0 {
			return i
		}
		s.q.push(sendFrame(s.q.nextSeq(), room), room, s.now)
	}
	return n
}

// ack acknowledges messages after a time.
func (s *sender) ack(after time.Duration, seqs ...int64) {
	s.now = s.now.Add(after)
	for _, seq := range seqs {
		if !s.q.onAck(seq, s.now) {
			s.t.Errorf("the ack of %d is no news", seq)
		}
	}
}

// resends returns the numbers of all messages that are due to be sent again.
func (s *sender) resends() (seqs []int64) {
	for {
		b, ok := s.q.resend(s.now)
		if !ok {
			return seqs
		}
		seqs = append(seqs, frameSeq(b))
	}
}

// timer lets the queue's deadline come.
func (s *sender) timer() {
	s.t.Helper()
	at := s.q.deadline()
	if at.IsZero() {
		s.t.Fatal("no deadline")
	}
	if at.After(s.now) {
		s.now = at
	}
	s.q.onTimer(s.now)
}

func (s *sender) wantResends(want ...int64) {
	s.t.Helper()
	if diff := cmp.Diff(want, s.resends()); diff != "" {
		s.t.Errorf("resent (-want +got):\n%s", diff)
	}
}

func TestSendQueueWindow(t *testing.T) {
	s := newSender(t)
	if n := s.push(1000); n != InitialWindow/minPayload {
		t.Fatalf("%d messages at first, want %d", n, InitialWindow/minPayload)
	}
	// Slow start: each ack lets two more out.
	for seq := range int64(8) {
		s.ack(10*time.Millisecond, seq)
		if n := s.push(1000); n != 2 {
			t.Errorf("%d messages after the ack of %d, want 2", n, seq)
		}
	}
	if got := s.q.outstanding(); got != 24 {
		t.Errorf("%d outstanding, want 24", got)
	}
}

func TestSendQueueIdleWindowStays(t *testing.T) {
	s := newSender(t)
	for range 500 { // one message at a time says nothing of what the path can hold
		s.push(1)
		s.ack(time.Millisecond, s.q.nextSeq()-1)
	}
	if s.q.window != InitialWindow || s.q.payload != minPayload {
		t.Errorf("window %d, payload %d: grown without need", s.q.window, s.q.payload)
	}
}

func TestSendQueueGrowsPayload(t *testing.T) {
	s := newSender(t)
	var sizes []int
	for range 3000 {
		if s.push(1000); s.q.payload != 0 && (len(sizes) == 0 || sizes[len(sizes)-1] != s.q.payload) {
			sizes = append(sizes, s.q.payload)
		}
		s.ack(20*time.Microsecond, s.q.base)
	}
	if diff := cmp.Diff([]int{1024, 2048, 4096, 8192, 16384}, sizes); diff != "" {
		t.Errorf("payloads: %s", diff)
	}
	if s.q.window != s.q.maxWindow {
		t.Errorf("window %d, want %d", s.q.window, s.q.maxWindow)
	}
	if s.q.inFlight > s.q.maxWindow {
		t.Errorf("%d bytes in flight", s.q.inFlight)
	}
}

func TestSendQueueOneProbeOfALength(t *testing.T) {
	s := newSender(t)
	for !s.q.probing {
		s.push(1)
		if s.q.room(1<<20) == 0 {
			s.ack(20*time.Microsecond, s.q.base)
		}
	}
	probe := s.q.probe
	for i := probe + 1; s.push(1) == 1; i++ {
		if n := len(s.q.get(i).frame); n != minPayload {
			t.Fatalf("message %d of %d bytes before the probe %d was acknowledged", i, n, probe)
		}
	}
	// Later messages get through; the probe never does.
	for seq := s.q.base; seq < s.q.nextSeq(); seq++ {
		if seq != probe {
			s.ack(0, seq)
		}
	}
	for until := s.now.Add(time.Minute); s.now.Before(until); {
		if limit, stuck := s.q.oversize(s.now); stuck {
			if limit != minPayload || s.now.Sub(s.q.probedAt) < probePatience {
				t.Errorf("limit %d after %v", limit, s.now.Sub(s.q.probedAt))
			}
			return
		}
		s.timer()
		s.resends()
	}
	t.Error("a message that cannot get through is sent for ever")
}

// A message that is too long fills the least window when it is the only one in flight. A short one goes out beside it even so.
// Otherwise nothing would show that its length is the cause.
func TestSendQueueLonelyProbe(t *testing.T) {
	s := newSender(t)
	for s.q.probeSize < minWindow {
		s.push(1)
		if s.q.room(1<<20) == 0 {
			s.ack(20*time.Microsecond, s.q.base)
		}
	}
	probe := s.q.probe
	for s.q.base < probe {
		s.ack(0, s.q.base)
	}
	for s.now.Sub(s.q.probedAt) < probePatience {
		s.timer()
		s.wantResends(probe)
		if s.push(1) == 1 {
			s.ack(10*time.Millisecond, s.q.nextSeq()-1)
		}
	}
	if limit, stuck := s.q.oversize(s.now); !stuck || limit != minWindow/2 {
		t.Errorf("not found to be too long, or longer ones than %d; %d messages out", limit, s.q.outstanding())
	}
}

func TestSendQueueTimeout(t *testing.T) {
	s := newSender(t)
	s.push(16)
	start := s.now
	s.timer()
	if got := s.now.Sub(start); got != initialRTO {
		t.Errorf("first timeout after %v, want %v", got, initialRTO)
	}
	s.wantResends(0) // one probe, whatever the window
	if s.q.window != minWindow {
		t.Errorf("window %d after a timeout, want %d", s.q.window, minWindow)
	}
	var last time.Time
	var gaps []time.Duration
	for range 5 {
		last = s.now
		s.timer()
		gaps = append(gaps, s.now.Sub(last))
		if n := len(s.resends()); n != 1 {
			t.Fatalf("%d resends after a timeout, want 1", n)
		}
	}
	for i := 1; i < len(gaps); i++ {
		if gaps[i] != min(2*gaps[i-1], maxRTO) {
			t.Errorf("timeouts %v do not back off to %v", gaps, maxRTO)
		}
	}
	if !s.q.stalled() {
		t.Error("not stalled")
	}
	// An ack of the last probe proves the rest lost, which goes out as the window allows.
	s.ack(10*time.Millisecond, 5)
	if s.q.stalled() {
		t.Error("stalled after an ack")
	}
	s.now = s.now.Add(s.q.rtt.lossDelay())
	s.q.onTimer(s.now)
	if got := s.resends(); len(got) != minWindow/minPayload || got[0] != 0 {
		t.Errorf("resent %v", got)
	}
}

func TestSendQueueLoss(t *testing.T) {
	s := newSender(t)
	s.push(10)
	s.ack(20*time.Millisecond, 0, 1, 2, 4, 5, 6) // 3 is missing, 7 to 9 are not due
	window := s.q.window
	s.wantResends() // it may only be late
	s.timer()
	s.wantResends(3)
	if s.q.window >= window {
		t.Errorf("window %d after a loss, %d before", s.q.window, window)
	}
	if s.now.Sub(epoch) > 40*time.Millisecond {
		t.Errorf("found after %v", s.now.Sub(epoch))
	}
	// The rest of the same round trip does not shrink it again.
	window = s.q.window
	s.ack(0, 9)
	s.timer()
	s.wantResends(7, 8)
	if s.q.window != window {
		t.Errorf("window %d after more losses of the same round trip, want %d", s.q.window, window)
	}
}

func TestSendQueueLateAckOfResent(t *testing.T) {
	s := newSender(t)
	s.push(1)
	s.ack(50*time.Millisecond, 0)
	s.push(3)
	s.timer()
	s.wantResends(1)
	rtt := s.q.rtt
	s.ack(time.Millisecond, 1) // of the first sending, surely
	if s.q.rtt != rtt {
		t.Error("an ambiguous ack was taken as a sample of the round trip")
	}
	s.wantResends() // it says nothing about later sendings
	if s.q.onAck(1, s.now) || s.q.onAck(17, s.now) || s.q.onAck(-1, s.now) {
		t.Error("an ack of nothing was news")
	}
}

func TestSendQueuePause(t *testing.T) {
	s := newSender(t)
	s.push(5)
	s.q.setPaused(true)
	if s.push(1) != 0 || !s.q.deadline().IsZero() {
		t.Error("sends while the agent is absent")
	}
	s.wantResends()
	s.now = s.now.Add(time.Minute)
	s.q.onTimer(s.now)
	s.wantResends()
	s.q.setPaused(false)
	s.wantResends(0, 1, 2, 3, 4)
}

func TestSendQueuePathLost(t *testing.T) {
	s := newSender(t)
	for range 200 {
		s.push(1000)
		s.ack(20*time.Microsecond, s.q.base)
	}
	s.push(1000)
	base, n := s.q.base, s.q.outstanding()
	s.q.setPaused(true)
	s.q.onPathLost()
	var got []int64
	for len(got) < n {
		batch := s.resends()
		if len(batch) == 0 {
			t.Fatalf("%d of %d messages sent again", len(got), n)
		}
		got = append(got, batch...)
		s.ack(time.Millisecond, batch...)
	}
	for i, seq := range got {
		if seq != base+int64(i) {
			t.Fatalf("resent %v, want all from %d in order", got, base)
		}
	}
}

// The window stops growing when messages queue on the way, long before they are lost.
func TestSendQueueDelay(t *testing.T) {
	const rate = 1 << 20 // bytes a second that the path carries
	s := newSender(t)
	busy := s.now // when the path has carried all sent bytes
	type arrival struct {
		at  time.Time
		seq int64
	}
	var under []arrival
	worst := time.Duration(0)
	for s.now.Sub(epoch) < 20*time.Second {
		for {
			room := s.q.room(1 << 20)
			if room == 0 {
				break
			}
			seq := s.q.nextSeq()
			s.q.push(sendFrame(seq, room), room, s.now)
			if busy.Before(s.now) {
				busy = s.now
			}
			busy = busy.Add(time.Duration(room) * time.Second / rate)
			under = append(under, arrival{busy.Add(40 * time.Millisecond), seq})
		}
		if s.now.Sub(epoch) > 10*time.Second {
			worst = max(worst, busy.Sub(s.now))
		}
		s.now = under[0].at
		s.q.onAck(under[0].seq, s.now)
		under = under[1:]
	}
	if worst > 80*time.Millisecond {
		t.Errorf("%v queue on the way", worst)
	}
	if busy.Sub(epoch) < 19*time.Second {
		t.Errorf("the path was idle for %v", 20*time.Second-busy.Sub(epoch))
	}
	if s.q.lossesTotal > 0 {
		t.Errorf("%d messages taken for lost", s.q.lossesTotal)
	}
}

func TestRTT(t *testing.T) {
	var r rttStats
	if r.rto() != initialRTO || r.lossDelay() != initialRTO {
		t.Errorf("before the first sample: %v, %v", r.rto(), r.lossDelay())
	}
	now := epoch
	r.update(400*time.Millisecond, now)
	if r.rto() != 1200*time.Millisecond { // R + 4 R/2, RFC 6298
		t.Errorf("rto %v after one sample", r.rto())
	}
	for range 100 {
		r.update(400*time.Millisecond, now)
	}
	if got := r.rto(); got < 410*time.Millisecond || got > 420*time.Millisecond {
		t.Errorf("rto %v of a steady path", got)
	}
	r.update(time.Millisecond, now)
	for range 100 {
		r.update(time.Millisecond, now)
	}
	if r.rto() != minRTO {
		t.Errorf("rto %v of a fast path", r.rto())
	}
	// The minimum is forgotten, after a while.
	for range 3 {
		now = now.Add(minRTTWindow)
		r.update(50*time.Millisecond, now)
	}
	if r.base() != 50*time.Millisecond {
		t.Errorf("base %v", r.base())
	}
	r.update(time.Minute, now)
	if r.rto() != maxRTO {
		t.Errorf("rto %v", r.rto())
	}
}

// FuzzSendQueue turns bytes into events for a send queue, and checks it against a plain account of sent and acknowledged messages.
func FuzzSendQueue(f *testing.F) {
	f.Add([]byte{0, 0, 1, 0, 2, 3, 4, 5})
	f.Fuzz(func(t *testing.T, ops []byte) {
		now := epoch
		recycled := 0
		q := newSendQueue(64<<10, 8<<10, func([]byte) { recycled++ })
		waiting := map[int64]bool{} // not acknowledged
		paused := false
		next := int64(0)
		for len(ops) >= 2 {
			op, arg := ops[0]%9, int(ops[1])
			ops = ops[2:]
			switch op {
			case 0, 1: // send
				room := q.room(1 + arg*64)
				if room > 0 && paused {
					t.Fatal("room while paused")
				}
				if room == 0 {
					break
				}
				n := min(room, 1+arg*64)
				if q.inFlight > 0 && q.inFlight+n > q.window {
					t.Fatalf("%d in flight, %d more allowed in a window of %d", q.inFlight, n, q.window)
				}
				if q.nextSeq() != next {
					t.Fatalf("number %d, want %d", q.nextSeq(), next)
				}
				q.push(sendFrame(next, max(n, 8)), n, now)
				waiting[next] = true
				next++
			case 2, 3: // an ack of something recent, known or not
				seq := q.base + int64(arg%32) - 4
				if got := q.onAck(seq, now); got != waiting[seq] {
					t.Fatalf("ack of %d: news is %v", seq, got)
				}
				delete(waiting, seq)
			case 4: // time passes
				now = now.Add(time.Duration(arg) * time.Millisecond)
			case 5: // the timer
				if at := q.deadline(); !at.IsZero() {
					if at.After(now) {
						now = at
					}
					q.onTimer(now)
					if at := q.deadline(); !at.IsZero() && !at.After(now) {
						t.Fatal("the deadline has been served and is still due")
					}
				}
			case 6: // resend
				for range arg {
					b, ok := q.resend(now)
					if !ok {
						break
					}
					if paused {
						t.Fatal("resent while paused")
					}
					if !waiting[frameSeq(b)] {
						t.Fatalf("resent %d, which is acknowledged", frameSeq(b))
					}
				}
			case 7:
				paused = arg%2 == 0
				q.setPaused(paused)
			case 8:
				q.onPathLost()
				paused = false
			}
			checkSendQueue(t, q, waiting, recycled, next)
		}
		// Whatever happened, everything gets through once acks come.
		q.setPaused(false)
		for range 10 * (len(waiting) + 1) {
			for {
				b, ok := q.resend(now)
				if !ok {
					break
				}
				seq := frameSeq(b)
				now = now.Add(time.Millisecond)
				q.onAck(seq, now)
				delete(waiting, seq)
			}
			if len(waiting) == 0 {
				break
			}
			if at := q.deadline(); at.After(now) {
				now = at
			}
			q.onTimer(now)
		}
		if len(waiting) > 0 || q.outstanding() > 0 {
			t.Fatalf("%d messages are never sent again", len(waiting))
		}
	})
}

// checkSendQueue checks the queue's invariants.
func checkSendQueue(t *testing.T, q *sendQueue, waiting map[int64]bool, recycled int, next int64) {
	t.Helper()
	inFlight, lost := 0, 0
	for i := range q.msgs.Len() {
		m := q.msgs.At(i)
		seq := q.base + int64(i)
		if (m.state != sendAcked) != waiting[seq] {
			t.Fatalf("message %d is in state %d", seq, m.state)
		}
		switch m.state {
		case sendInFlight:
			inFlight += len(m.frame)
		case sendLost:
			lost++
		}
	}
	if inFlight != q.inFlight || lost != q.lost {
		t.Fatalf("%d bytes in flight and %d lost, counted as %d and %d", inFlight, lost, q.inFlight, q.lost)
	}
	if q.msgs.Len() > 0 && !waiting[q.base] {
		t.Fatalf("the oldest message %d is acknowledged and kept", q.base)
	}
	if recycled != int(next)-len(waiting) {
		t.Fatalf("%d frames given back, want %d", recycled, int(next)-len(waiting))
	}
	if q.window < minWindow || q.window > q.maxWindow || q.payload < minPayload || q.payload > q.maxPayload {
		t.Fatalf("window %d, payload %d", q.window, q.payload)
	}
	if inFlight > 0 && !q.paused && q.deadline().IsZero() {
		t.Fatal("something is in flight and nothing will be done about it")
	}
}
