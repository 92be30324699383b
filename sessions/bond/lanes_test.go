package bond

import (
	"math/rand/v2"
	"testing"
	"time"
)

// The number of lanes follows the gain of the transfer. It is high where each session has a rate of its own, and one where the
// messages of all share a processor. In between it is the best number.
func TestLanes(t *testing.T) {
	// apart is the rate of k lanes that share nothing, in the order in which they are chosen.
	apart := func(rates ...float64) func(k int) float64 {
		return func(k int) (sum float64) {
			for _, r := range rates[:k] {
				sum += r * mb
			}
			return sum
		}
	}
	for name, c := range map[string]struct {
		rate      func(k int) float64
		have      int
		low, high int
		ofTheBest float64
		apart     bool // what one lane carries is nothing to the others
	}{
		"a rate for each":     {apart(1, 1, 1, 1, 1, 1, 1, 1), 8, 8, 8, 0.95, true},
		"one processor":       {func(k int) float64 { return 12 * mb / float64(k) }, 16, 1, 1, 0.95, false},
		"no difference":       {func(int) float64 { return 12 * mb }, 8, 1, 1, 0.95, false},
		"two are best":        {func(k int) float64 { return []float64{0, 6, 9, 8, 7}[min(k, 4)] * mb }, 8, 2, 2, 0.95, false},
		"limited by three":    {func(k int) float64 { return min(float64(k), 3) * mb }, 8, 3, 4, 0.95, false},
		"there is but one":    {func(int) float64 { return mb }, 1, 1, 1, 0.95, false},
		"a slow one first":    {apart(0.1, 1, 1, 1, 1, 1, 1, 1), 8, 8, 8, 0.95, true},
		"the second is slow":  {apart(1, 0.05, 1, 1, 1, 1, 1, 1), 8, 8, 8, 0.95, true},
		"slow but for two":    {apart(1, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 1), 8, 8, 8, 0.95, true},
		"all others are slow": {apart(1, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01, 0.01), 8, 1, 1, 0.93, true},
		"there are but three": {func(k int) float64 { return mb * float64(k) }, 3, 3, 3, 0.95, false},
	} {
		l := lanes{count: 1}
		rng := rand.New(rand.NewPCG(5, 5))
		now, acked, before, best := epoch, 0.0, 0.0, 0.0
		for k := 1; k <= c.have; k++ {
			best = max(best, c.rate(k))
		}
		// share is the part of the rate that the lanes from before an attempt have.
		share := func(l *lanes) float64 {
			switch {
			case l.phase == laneSteady || l.count <= l.before:
				return 1
			case c.apart:
				return c.rate(l.before) / c.rate(l.count)
			}
			return float64(l.before) / float64(l.count)
		}
		run := func(d time.Duration) float64 {
			start := acked
			for end := now.Add(d); now.Before(end); {
				now = now.Add(wantEvery)
				all := c.rate(l.count) * wantEvery.Seconds() * (0.95 + 0.1*rng.Float64())
				acked += all
				before += all * share(&l)
				l.look(true, true, c.have, laneBytes{uint64(acked), uint64(before)}, 40*time.Millisecond, now)
			}
			return (acked - start) / d.Seconds()
		}
		run(10 * time.Second)
		got := run(2 * time.Minute)
		if l.phase == laneSteady && (l.count < c.low || l.count > c.high) || got < c.ofTheBest*best {
			t.Errorf("%s: %d lanes, %.2f MB/s of %.2f", name, l.count, got/mb, best/mb)
		}
	}
}

// A changed rate voids the result of an earlier attempt.
func TestLanesOfAChangedPath(t *testing.T) {
	l := lanes{count: 1}
	now, acked, rate := epoch, 0.0, 6*mb
	run := func(d time.Duration, apart bool) {
		for end := now.Add(d); now.Before(end); {
			now = now.Add(wantEvery)
			all := rate * wantEvery.Seconds()
			if apart {
				all *= float64(l.count)
			}
			acked += all
			l.look(true, true, 4, laneBytes{uint64(acked), uint64(acked) / uint64(l.count)}, 0, now)
		}
	}
	run(2*time.Minute, false)
	if l.count != 1 {
		t.Fatalf("%d lanes that share a limit", l.count)
	}
	rate = 1 * mb
	run(12*time.Second, true)
	if l.count != 4 {
		t.Errorf("%d lanes of 4 that share nothing any more", l.count)
	}
}

// A transfer with pauses is not a measurement, and a pause undoes the attempt that it interrupts.
func TestLanesOfAPausingTransfer(t *testing.T) {
	l := lanes{count: 1}
	now, acked := epoch, uint64(0)
	for i := range 600 {
		now = now.Add(wantEvery)
		busy := i%30 < 18
		if busy {
			acked += 100_000
		}
		l.look(busy, true, 8, laneBytes{acked, acked}, 0, now)
		if i%30 > 25 && l.count != 1 {
			t.Fatalf("after %v: %d lanes while nothing is sent", now.Sub(epoch), l.count)
		}
	}
}
