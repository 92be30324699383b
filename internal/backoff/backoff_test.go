package backoff

import (
	"testing"
	"time"
)

func TestDoubles(t *testing.T) {
	const first, most = 100 * time.Millisecond, 10 * time.Second
	pause := time.Duration(0)
	for n, want := range []time.Duration{100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000} {
		want *= time.Millisecond
		if got := After(n, first, most); got != want {
			t.Errorf("After(%d) = %v, want %v", n, got, want)
		}
		if pause = Next(pause, first, most); pause != want {
			t.Errorf("pause %d by Next is %v, want %v", n, pause, want)
		}
	}
	for _, n := range []int{1 << 30, 63, 64} {
		if got := After(n, first, most); got != most {
			t.Errorf("After(%d) = %v, want %v", n, got, most)
		}
	}
	if got := After(-1, first, most); got != first {
		t.Errorf("After(-1) = %v, want %v", got, first)
	}
	if got := After(0, time.Minute, time.Second); got != time.Second {
		t.Errorf("a first pause above the most is %v", got)
	}
}

func TestBetween(t *testing.T) {
	least := func(time.Duration) time.Duration { return 0 }
	most := func(n time.Duration) time.Duration { return n - 1 }
	for _, tt := range [][2]time.Duration{{0, 0}, {1, 1}, {time.Second, 3 * time.Second}} {
		if got := Between(tt[0], tt[1], least); got != tt[0] {
			t.Errorf("from %v: %v", tt[0], got)
		}
		if got := Between(tt[0], tt[1], most); got != tt[1] {
			t.Errorf("up to %v: %v", tt[1], got)
		}
	}
}
