package bond

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"time"
)

// written returns the frames that a machine writes on a subflow now.
func written(t *testing.T, m *machine, p *path, now time.Time) (frames []frame) {
	t.Helper()
	r := newFrameReader(bytes.NewReader(m.fill(p, nil, 64<<10, now)))
	m.check()
	p.flow.check()
	for {
		var f frame
		if err := r.next(&f); errors.Is(err, io.EOF) {
			return frames
		} else if err != nil {
			t.Fatal(err)
		}
		f.data = bytes.Clone(f.data)
		frames = append(frames, f)
	}
}

func feed(t *testing.T, m *machine, p *path, now time.Time, frames ...frame) {
	t.Helper()
	for i := range frames {
		if err := m.onFrame(p, &frames[i], now); err != nil {
			t.Fatal(err)
		}
		m.check()
		p.flow.check()
	}
}

// twoSubflows returns a machine whose first ACKs are out.
func twoSubflows(t *testing.T, now time.Time) (m *machine, first, second *path) {
	t.Helper()
	m = newMachine(true, DefaultWindow, DefaultSendBuffer, DefaultLinger, now)
	first, second = m.join(0, "", now), m.join(1, "", now)
	for _, p := range m.paths {
		written(t, m, p, now)
	}
	return m, first, second
}

func acked(frames []frame, ack uint64) bool {
	return slices.ContainsFunc(frames, func(f frame) bool { return f.typ == frameAck && f.ack == ack })
}

// The other subflows acknowledge at once the bytes that a lost subflow has received.
func TestAckAfterLoss(t *testing.T) {
	now := time.Unix(1e9, 0)
	m, first, second := twoSubflows(t, now)
	feed(t, m, first, now, frame{typ: frameData, data: []byte("hello")})
	if m.pending(second) {
		t.Error("the other subflow acknowledges what did not come on it, without need")
	}
	m.lose(first, now)
	if !acked(written(t, m, second, now), 5) {
		t.Error("the acknowledgement is lost with the subflow")
	}
}

// The machine acknowledges the complete stream on all subflows, because the peer may wait for nothing else.
func TestAckOfAll(t *testing.T) {
	now := time.Unix(1e9, 0)
	m, first, second := twoSubflows(t, now)
	feed(t, m, first, now, frame{typ: frameFIN, dsn: 5})
	feed(t, m, second, now, frame{typ: frameData, data: []byte("hello")})
	for _, p := range []*path{first, second} {
		if !acked(written(t, m, p, now), 6) {
			t.Errorf("subflow %d does not say it", p.id)
		}
	}
}

// The machine also announces an open window on several subflows.
func TestWindowOpens(t *testing.T) {
	now := time.Unix(1e9, 0)
	m, first, second := twoSubflows(t, now)
	for dsn := 0; dsn < DefaultWindow; dsn += maxData {
		feed(t, m, first, now, frame{typ: frameData, dsn: uint64(dsn), data: make([]byte, maxData)})
	}
	written(t, m, first, now)
	if _, err := m.read(make([]byte, DefaultWindow/2-1)); err != nil || m.pending(first) || m.pending(second) {
		t.Error("half of the window is not free yet")
	}
	if _, err := m.read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*path{first, second} {
		if frames := written(t, m, p, now); len(frames) != 1 || frames[0].limit != DefaultWindow*3/2 {
			t.Errorf("subflow %d says %+v", p.id, frames)
		}
	}
}

// A stalled subflow's bytes go out by another. Once the stalled one gives a sign of life, the remaining bytes need not.
func TestStallAndRevival(t *testing.T) {
	now := time.Unix(1e9, 0)
	m, first, second := twoSubflows(t, now)
	m.write(bytes.Repeat([]byte("x"), leastChunk), now)
	carrier, other := first, second
	if second.flow.inFlight() > 0 {
		carrier, other = second, first
	}
	sent := written(t, m, carrier, now)
	if len(sent) != 1 || sent[0].typ != frameData || len(written(t, m, other, now)) > 0 {
		t.Fatalf("sent %v", sent)
	}
	now = m.deadline()
	for !carrier.stalled && now.Before(time.Unix(1e9, 0).Add(mostStall+time.Second)) {
		m.onTimer(now)
		now = now.Add(10 * time.Millisecond)
	}
	again := written(t, m, other, now)
	if i := slices.IndexFunc(again, func(f frame) bool { return f.typ == frameData }); i < 0 || again[i].dsn != 0 ||
		!bytes.Equal(again[i].data, sent[0].data) || m.reinjected != leastChunk {
		t.Errorf("after the stall, sent %v", again)
	}

	m.stall(other, now) // nothing is left that could carry it
	feed(t, m, other, now, frame{typ: frameAck, limit: 1 << 20, received: other.flow.written})
	if other.stalled || len(m.again) > 0 || m.reinjected != leastChunk {
		t.Errorf("stalled %v; %d stretches are to go out again, %d bytes have", other.stalled, len(m.again), m.reinjected)
	}
	feed(t, m, carrier, now, frame{typ: frameAck, ack: leastChunk, limit: 1 << 20, received: carrier.flow.written})
	if carrier.stalled || m.acked != leastChunk {
		t.Errorf("stalled %v, %d bytes acknowledged", carrier.stalled, m.acked)
	}
}

// held returns how many bytes of storage are in use, gaps included.
func (a *assembly) held() int { return int(a.buf.end - a.buf.base) }
