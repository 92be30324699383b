//go:build linux

package e2e

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// With four of eight sessions at a tenth of the rate, and every second further one, a link is nearly as fast as with only the four
// others. It may lose 20 % at most.
func TestSlowSessions(t *testing.T) {
	const size, healthy = 8 << 20, 4
	w := newWorld(t, nil)
	w.faults(survivalLine)
	w.up()
	type rates struct{ down, up float64 } // bytes per second
	measure := func(sessions string, ready func(s *survivor)) rates {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		p, addrs := w.forward("--sessions", sessions, w.far.Addr(), ":")
		s := &survivor{world: w, ctx: ctx, forwarder: p, transfers: rig.StartTransfers(ctx, addrs[0], 1<<20)}
		ready(s)
		if _, err := s.transfers.Stop(survivalLimit); err != nil {
			t.Fatalf("warm up: %v\n%s", err, p.Output())
		}
		rate := func(move func(context.Context, net.Conn, int64) error) float64 {
			c := dial(ctx, t, addrs[0])
			defer c.Close()
			start := time.Now()
			if err := move(ctx, c, size); err != nil {
				t.Fatalf("%v\n%s", err, p.Output())
			}
			return size / time.Since(start).Seconds()
		}
		r := rates{rate(rig.Download), rate(rig.Upload)}
		t.Logf("%s sessions: %.2f MB/s down, %.2f up", sessions, r.down/1e6, r.up/1e6)
		w.interrupt(p)
		return r
	}
	slow := func(s *survivor) {
		s.grow(2 * healthy)
		line := survivalLine
		line.SlowEvery, line.SlowBps = 2, line.RateBps/10
		w.faults(line)
		for i, info := range s.ports() {
			if i%2 == 0 {
				if err := w.Gateway().SetRate(info.ID, line.SlowBps); err != nil {
					t.Error(err)
				}
			}
		}
	}
	// What else this machine does can only take from a rate: the best of a few is compared.
	var alone, mixed rates
	best := func(r *rates, now rates) { r.down, r.up = max(r.down, now.down), max(r.up, now.up) }
	for range 3 {
		w.faults(survivalLine)
		best(&alone, measure("4", func(s *survivor) { s.grow(healthy) }))
		best(&mixed, measure("8", slow))
		if min(mixed.down/alone.down, mixed.up/alone.up) >= 0.8 {
			return
		}
	}
	t.Errorf("beside slow sessions there is %.0f %% of the others' throughput down, %.0f %% up",
		100*mixed.down/alone.down, 100*mixed.up/alone.up)
}
