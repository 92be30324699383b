package reliable

import (
	"testing"
	"time"
)

func TestConnectPause(t *testing.T) {
	most := func(d time.Duration) time.Duration { return d - 1 }
	none := func(time.Duration) time.Duration { return 0 }
	for n, want := range []time.Duration{100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000} {
		want *= time.Millisecond
		if got := connectPause(n, most); got != want {
			t.Errorf("attempt %d: at most %v, want %v", n, got, want)
		}
		if got := connectPause(n, none); got != want/4 {
			t.Errorf("attempt %d: at least %v, want %v", n, got, want/4)
		}
	}
	if got := connectPause(1<<30, most); got != maxBackoff {
		t.Errorf("after very long: %v", got)
	}
}
