package access

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/tunnel"
)

// Why a link is not faster is said in words, from two of bastiond's answers.
func TestFarEnd(t *testing.T) {
	base := health{V: 1, At: 10, CPULimit: 0.25, CPUUsed: 1, Periods: 100, Throttled: 10, MemoryLimit: 512 << 20, MemoryUsed: 100 << 20, MaxSessions: 34, Sessions: 8}
	for name, c := range map[string]struct {
		change func(*health)
		want   string // of the reason
		busy   float64
	}{
		"idle":                {func(h *health) { h.CPUUsed += 0.05; h.Periods += 10 }, "", 0.2},
		"throttled":           {func(h *health) { h.CPUUsed += 0.2; h.Periods += 10; h.Throttled += 6 }, "0.25 vCPU, throttled 60 % of the time; a larger task: bastion down, then bastion up --task-cpu 512", 1},
		"in use":              {func(h *health) { h.CPUUsed += 0.24 }, "0.25 vCPU, 96 % in use", 0.96},
		"more than its limit": {func(h *health) { h.CPUUsed += 9 }, "100 % in use", 1},
		"memory":              {func(h *health) { h.MemoryUsed = 490 << 20 }, "memory is the limit: 490 of 512 MiB in use, 8 sessions", 0},
		"sessions":            {func(h *health) { h.Sessions = 34 }, "34 sessions", 0},
	} {
		h := base
		h.At++
		c.change(&h)
		far := h.since(base, time.Now())
		if far == nil {
			t.Errorf("%s: not known", name)
			continue
		}
		if !strings.Contains(far.Limit, c.want) || c.want == "" && far.Limit != "" || busy(far) < c.busy-0.01 || busy(far) > c.busy+0.01 {
			t.Errorf("%s: %q, busy %v; want %q, %v", name, far.Limit, busy(far), c.want, c.busy)
		}
	}
	for name, change := range map[string]func(*health){
		"at once":   func(h *health) { h.At += 0.1 },
		"restarted": func(h *health) { h.At = 1 },
		"backwards": func(h *health) { h.At++; h.CPUUsed = 0 },
	} {
		h := base
		change(&h)
		if far := h.since(base, time.Now()); far != nil {
			t.Errorf("%s: %+v", name, far)
		}
	}
	for limit, want := range map[float64]int{0.25: 512, 0.5: 1024, 1: 2048, 16: 16384, 0: 512} {
		if got := larger(&report.FarEnd{CPULimit: limit}); got != want {
			t.Errorf("larger than %v: %d, want %d", limit, got, want)
		}
	}
}

// An answer that makes no sense is no answer.
func TestParseHealth(t *testing.T) {
	for text, want := range map[string]bool{
		`{"v":1,"at_seconds":1,"cpu_used_seconds":0.5}`: true,
		`{"v":1,"at_seconds":1,"new_field":[1,2]}`:      true,
		`{"v":2,"at_seconds":1}`:                        false,
		`{"v":1,"at_seconds":-1}`:                       false,
		`{"v":1,"cpu_limit":1e300}`:                     false,
		`{"v":1,"cpu_throttled_periods":-5}`:            false,
		`{"v":1,"sessions":"many"}`:                     false,
		``:                                              false,
		`null`:                                          false,
		`{"v":1}` + strings.Repeat(" ", maxHealth):      false,
	} {
		if _, ok := parseHealth([]byte(text)); ok != want {
			t.Errorf("%.50q: %v", text, ok)
		}
	}
}

// fakeAsked is a link whose far end answers questions about its health.
type fakeAsked struct {
	mu    sync.Mutex
	stats tunnel.LinkStats
	ok    bool
	reply health
	asked int
	done  chan struct{}
}

func (f *fakeAsked) Done() <-chan struct{} { return f.done }

func (f *fakeAsked) Stats() tunnel.LinkStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

func (f *fakeAsked) Request(context.Context, string, []byte) (bool, []byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	text, err := json.Marshal(f.reply)
	return f.ok, text, err
}

// bastiond is asked while a transfer goes on, and not otherwise; an older one, which does not know the question, is asked once.
func TestWatchHealth(t *testing.T) {
	for _, knows := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			a := &Access{ctx: ctx}
			conn := &fakeBond{done: make(chan struct{})}
			a.bonds.add(conn, "", "")
			l := &fakeAsked{done: make(chan struct{}), ok: knows, reply: health{V: 1, CPULimit: 0.25}}
			l.stats = tunnel.LinkStats{State: tunnel.State{Phase: tunnel.Up}, Conn: conn}
			var watch sync.WaitGroup
			watch.Go(func() { a.watchHealth(l) })
			second := func(bytes uint64) {
				l.mu.Lock()
				l.stats.Received += bytes
				l.reply.At++
				l.reply.CPUUsed += 0.25
				l.mu.Unlock()
				time.Sleep(healthCheck) //nolint:forbidigo // the bubble's clock
				synctest.Wait()
			}
			for range 5 {
				second(1000)
			}
			if l.asked != 0 {
				t.Errorf("asked %d times without a transfer", l.asked)
			}
			for range 5 {
				second(1 << 20)
			}
			far := a.bonds.of(conn).far
			switch {
			case knows && (l.asked < 4 || far == nil || far.CPUShare < 0.99 || len(conn.far) < 3 || conn.far[0].Busy < 0.99):
				t.Errorf("asked %d times: %+v; the bond was told %+v", l.asked, far, conn.far)
			case !knows && (l.asked != 1 || far != nil || len(conn.far) > 0):
				t.Errorf("an older bastiond was asked %d times: %+v", l.asked, far)
			}
			close(l.done)
			watch.Wait()
			cancel()
		})
	}
}
