package gateway

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// advance lets d of the bubble's fake time pass.
func advance(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // no real time passes

type laneRig struct {
	*lane
	faults atomic.Pointer[Faults]
	gen    uint64
	done   chan struct{}
}

func newRig(f Faults) *laneRig {
	r := &laneRig{done: make(chan struct{})}
	r.faults.Store(&f)
	r.lane = newLane(&r.faults, 1)
	r.gen = r.attach()
	return r
}

// data is an output_stream_data message with number n and size bytes of payload.
func data(n, size int) []byte {
	m := frame.Message{Type: frame.OutputStreamData, Seq: int64(n), PayloadType: 1, Payload: make([]byte, size)}
	return m.Append(nil)
}

func seqOf(b []byte) int { return int(binary.BigEndian.Uint64(b[48:])) }

// popAll pops all messages until the lane's end, with their times.
func (r *laneRig) popAll(t *testing.T) (seqs []int, at []time.Duration) {
	t.Helper()
	began := time.Now()
	for {
		batch, err := r.pop(r.gen, r.done, nil)
		if errors.Is(err, io.EOF) {
			return seqs, at
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range batch {
			seqs, at = append(seqs, seqOf(b)), append(at, time.Since(began))
		}
	}
}

func numbers(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

func TestLaneWithoutFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Faults{})
		go func() {
			for i := range 1000 {
				r.push(r.done, data(i, 10))
			}
			r.end()
		}()
		seqs, at := r.popAll(t)
		if !slices.Equal(seqs, numbers(1000)) || at[999] != 0 {
			t.Errorf("%d messages, the last after %v", len(seqs), at[999])
		}
		if n := r.payload.Load(); n != 10_000 {
			t.Errorf("%d bytes counted", n)
		}
	})
}

func TestLaneDelayKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Faults{DelayMS: 50})
		go func() {
			for i := range 10 {
				r.push(r.done, data(i, 10))
				advance(time.Millisecond)
			}
			r.faults.Store(&Faults{DelayMS: 5})
			r.changed()
			r.push(r.done, data(10, 10)) // must not overtake
			r.end()
		}()
		seqs, at := r.popAll(t)
		if !slices.Equal(seqs, numbers(11)) {
			t.Errorf("order %v", seqs)
		}
		if at[0] != 50*time.Millisecond || at[9] != 59*time.Millisecond || at[10] != at[9] {
			t.Errorf("arrivals %v", at)
		}
	})
}

func TestLaneRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, n = 1000, 200
		r := newRig(Faults{RateBps: 100_000})
		var blocked atomic.Int64
		go func() {
			for i := range n {
				before := time.Now()
				r.push(r.done, data(i, size-frame.Overhead))
				blocked.Add(int64(time.Since(before)))
			}
			r.end()
		}()
		seqs, at := r.popAll(t)
		if !slices.Equal(seqs, numbers(n)) || at[n-1].Round(time.Millisecond) != 2*time.Second {
			t.Errorf("%d messages, the last after %v", len(seqs), at[n-1])
		}
		if time.Duration(blocked.Load()) < time.Second {
			t.Error("the sender does not feel the rate")
		}
	})
}

// A session's own rate is in force instead of the faults' one, faster or slower, until it is taken away.
func TestLaneOwnRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size, n = 1000, 100
		for _, faults := range []Faults{{}, {RateBps: 1000}, {RateBps: 1e9}} {
			r := newRig(faults)
			r.ownRate.Store(50_000)
			go func() {
				for i := range n {
					r.push(r.done, data(i, size-frame.Overhead))
				}
				r.end()
			}()
			if seqs, at := r.popAll(t); len(seqs) != n || at[n-1].Round(time.Millisecond) != 2*time.Second {
				t.Errorf("%+v: %d messages, the last after %v", faults, len(seqs), at[n-1])
			}
		}
		r := newRig(Faults{RateBps: 100_000})
		r.ownRate.Store(1)
		r.ownRate.Store(0)
		r.push(r.done, data(0, size-frame.Overhead))
		r.end()
		if _, at := r.popAll(t); at[0] != 10*time.Millisecond {
			t.Errorf("after the end of its own rate: %v", at[0])
		}
	})
}

func TestLaneDropDuplicateReorder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 20_000
		run := func(seed int64) (seqs []int, dropped, duplicated, late int) {
			r := newRig(Faults{Drop: 0.01, Duplicate: 0.02, Reorder: 0.03, Seed: seed})
			go func() {
				for i := range n {
					r.push(r.done, data(i, 1))
				}
				r.end()
			}()
			seqs, _ = r.popAll(t)
			count := make([]int, n)
			last := -1
			for _, s := range seqs {
				if count[s]++; count[s] > 1 {
					duplicated++
				} else if s < last {
					late++
				}
				last = max(last, s)
			}
			for _, c := range count {
				if c == 0 {
					dropped++
				}
			}
			return seqs, dropped, duplicated, late
		}
		seqs, dropped, duplicated, late := run(7)
		if dropped < 150 || dropped > 250 || duplicated < 300 || duplicated > 500 || late < 450 || late > 750 {
			t.Errorf("of %d: %d dropped, %d duplicated, %d late", n, dropped, duplicated, late)
		}
		if again, _, _, _ := run(7); !slices.Equal(seqs, again) {
			t.Error("the same seed makes other choices")
		}
		if other, _, _, _ := run(8); slices.Equal(seqs, other) {
			t.Error("another seed makes the same choices")
		}
	})
}

// Acknowledgements and the gateway's own messages are not data.
func TestLaneDropsOnlyData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Faults{Drop: 1, Duplicate: 1, Reorder: 1})
		ack := frame.Message{Type: frame.Acknowledge, Seq: 5, Payload: []byte("{}")}
		go func() {
			r.push(r.done, data(1, 1))
			r.push(r.done, ack.Append(nil))
			r.control(message(frame.StartPublication, [16]byte{}, struct{}{}))
			r.end()
		}()
		if seqs, _ := r.popAll(t); !slices.Equal(seqs, []int{5, 0}) {
			t.Errorf("arrived: %v", seqs)
		}
	})
}

// The last message, told to wait for the next, does not wait for ever.
func TestLaneReorderOfTheLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Faults{Reorder: 1})
		r.push(r.done, data(0, 1))
		began := time.Now()
		batch, err := r.pop(r.gen, r.done, nil)
		if err != nil || len(batch) != 1 || time.Since(began) != reorderHold {
			t.Errorf("%d messages after %v, %v", len(batch), time.Since(began), err)
		}
	})
}

func TestLanePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Faults{Pause: true})
		go func() {
			r.push(r.done, data(0, 1))
			advance(time.Minute)
			r.faults.Store(&Faults{})
			r.changed()
			r.end()
		}()
		if _, at := r.popAll(t); len(at) != 1 || at[0] != time.Minute {
			t.Errorf("arrivals %v", at)
		}
	})
}

func TestLaneFullBlocksUntilConsumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Faults{})
		const size = 1 << 20
		var pushed atomic.Int64
		for range 2 { // both must get through in the end
			go func() {
				for i := range 20 {
					r.push(r.done, data(i, size))
					pushed.Add(1)
				}
			}()
		}
		synctest.Wait()
		if n := pushed.Load(); n != laneBytes/size-1 { // each message is a little more than 1 MiB
			t.Errorf("%d messages fit", n)
		}
		for n := 0; n < 40; {
			batch, err := r.pop(r.gen, r.done, nil)
			if err != nil {
				t.Fatal(err)
			}
			n += len(batch)
		}
		synctest.Wait()
		if n := pushed.Load(); n != 40 {
			t.Errorf("%d of 40 pushed", n)
		}
	})
}

// Room for all is used by all who wait, not by the first alone.
func TestLaneRoomForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Faults{DelayMS: 100})
		r.push(r.done, data(0, laneBytes))
		var pushed atomic.Int64
		for i := range 3 {
			go func() {
				r.push(r.done, data(i, 10))
				pushed.Add(1)
			}()
		}
		if _, err := r.pop(r.gen, r.done, nil); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := pushed.Load(); n != 3 {
			t.Errorf("%d of 3 pushed", n)
		}
	})
}

func TestLanePushEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, end := range map[string]func(*laneRig){
			"done":   func(r *laneRig) { close(r.done) },
			"detach": func(r *laneRig) { r.detach(r.gen) },
			"end":    func(r *laneRig) { r.end() },
		} {
			r := newRig(Faults{})
			r.push(r.done, data(0, laneBytes))
			var returned atomic.Int64
			for range 3 {
				go func() {
					r.push(r.done, data(1, 10))
					returned.Add(1)
				}()
				synctest.Wait()
			}
			end(r)
			synctest.Wait()
			if n := returned.Load(); n != 3 {
				t.Errorf("%s: %d of 3 returned", name, n)
			}
		}
	})
}

// A replaced consumer gets nothing, and its successor nothing old.
func TestLaneGenerations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(Faults{DelayMS: 10})
		r.push(r.done, data(0, 1))
		old := make(chan error, 1)
		go func() {
			_, err := r.pop(r.gen, r.done, nil)
			old <- err
		}()
		synctest.Wait()
		gen := r.attach()
		r.push(r.done, data(1, 1))
		if err := <-old; !errors.Is(err, errStale) {
			t.Errorf("old consumer: %v", err)
		}
		batch, err := r.pop(gen, r.done, nil)
		if err != nil || len(batch) != 1 || seqOf(batch[0]) != 1 {
			t.Errorf("new consumer: %d messages, %v", len(batch), err)
		}
		if r.detach(r.gen) {
			t.Error("the old consumer detached the new one")
		}
		if !r.detach(gen) {
			t.Error("the new consumer could not detach")
		}
		r.push(r.done, data(2, 1))
		r.attach()
		if r.head != len(r.q) {
			t.Error("a message for nobody was kept")
		}
	})
}

func TestFaultsValidate(t *testing.T) {
	for _, bad := range []Faults{
		{Drop: -0.1},
		{Drop: 1.1},
		{Duplicate: 2},
		{Reorder: -1},
		{Discard: 3},
		{CompleteFirst: -1},
		{MissAck: 2},
		{DelayMS: -1},
		{DelayMS: 60_001},
		{DialDelayMS: -1},
		{RateBps: -1},
		{SlowEvery: 2},
		{SlowBps: 1000},
		{SlowEvery: -1, SlowBps: 1000},
		{PumpChunk: -1},
		{PumpChunk: 1 << 20},
		{MaxPayload: -1},
		{OverPayload: "shorten"},
		{MessageRate: -1},
	} {
		if bad.validate() == nil {
			t.Errorf("%+v is accepted", bad)
		}
	}
	good := Faults{
		DelayMS: 20, RateBps: 1e6, Drop: 1, Duplicate: 0.5, Reorder: 0.1, Seed: -4, PumpChunk: 4096, PumpIntervalUS: -1,
		MaxPayload: 1, OverPayload: OverClose, MessageRate: 1,
	}
	if err := good.validate(); err != nil {
		t.Error(err)
	}
}
