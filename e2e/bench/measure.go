//go:build linux

package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

// row is one measured figure, as build/bench.json holds it.
type row struct {
	Peer   string         `json:"peer"`
	Metric string         `json:"metric"`
	Unit   string         `json:"unit"`
	Value  float64        `json:"value"`
	Params map[string]any `json:"params"`
}

// firstByte connects to addr and returns once one byte came back from the far end. A listener that is not yet there, or
// that drops the connection because its tunnel is not ready, is tried again until ctx ends.
func firstByte(ctx context.Context, addr string) error {
	var last error
	for ctx.Err() == nil {
		last = func() error {
			c, err := rig.Dial(ctx, addr)
			if err != nil {
				return err
			}
			defer c.Close()
			stop := context.AfterFunc(ctx, func() { _ = c.Close() })
			defer stop()
			return rig.NewEcho(c).Round()
		}()
		if last == nil {
			return nil
		}
		_ = sleep.For(ctx, 2*time.Millisecond)
	}
	return fmt.Errorf("no first byte from %s: %w (%w)", addr, ctx.Err(), last)
}

// roundTrips makes round trips of one byte over one connection for as long as span, and returns their times.
func roundTrips(ctx context.Context, addr string, span time.Duration) ([]time.Duration, error) {
	c, err := rig.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	echo := rig.NewEcho(c)
	for range 10 { // the first ones open the channel
		if err := echo.Round(); err != nil {
			return nil, fmt.Errorf("round trip: %w", err)
		}
	}
	return timed(span, echo.Round)
}

// timed calls f again and again for as long as span, at least once, and returns the time that each call took.
func timed(span time.Duration, f func() error) ([]time.Duration, error) {
	var times []time.Duration
	for end := time.Now().Add(span); len(times) == 0 || time.Now().Before(end); {
		start := time.Now()
		if err := f(); err != nil {
			return nil, fmt.Errorf("round trip %d: %w", len(times), err)
		}
		times = append(times, time.Since(start))
	}
	return times, nil
}

// quantile returns the q-quantile of times by the nearest rank, in milliseconds.
func quantile(times []time.Duration, q float64) float64 {
	sorted := slices.Sorted(slices.Values(times))
	return ms(sorted[min(int(q*float64(len(sorted))), len(sorted)-1)])
}

func ms(d time.Duration) float64 { return d.Seconds() * 1e3 }
