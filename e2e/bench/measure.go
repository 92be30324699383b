//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
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
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Millisecond):
		}
	}
	return fmt.Errorf("no first byte from %s: %w (%w)", addr, ctx.Err(), last)
}

// roundTrips makes n round trips of one byte over one connection and returns their median and 99th percentile.
func roundTrips(ctx context.Context, addr string, n int) (p50, p99 time.Duration, err error) {
	c, err := rig.Dial(ctx, addr)
	if err != nil {
		return 0, 0, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	echo := rig.NewEcho(c)
	for range 10 { // the first ones open the channel
		if err := echo.Round(); err != nil {
			return 0, 0, fmt.Errorf("round trip: %w", err)
		}
	}
	times := make([]time.Duration, n)
	for i := range times {
		start := time.Now()
		if err := echo.Round(); err != nil {
			return 0, 0, fmt.Errorf("round trip %d: %w", i, err)
		}
		times[i] = time.Since(start)
	}
	slices.Sort(times)
	return times[n/2], times[n*99/100], nil
}

// transfer is one bulk transfer's outcome.
type transfer struct {
	rate   float64 // MB/s, of 1e6 bytes
	cpu    float64 // the client's CPU seconds per GB, of 1e9 bytes
	intact bool    // the bytes came as they were sent
}

// moveFunc is rig.Download or rig.Upload.
type moveFunc func(context.Context, net.Conn, int64) error

// bulk times a transfer of n bytes through addr and charges the CPU time that the client's
// processes used meanwhile.
func bulk(ctx context.Context, t *tunnel, n int64, move moveFunc) (transfer, error) {
	c, err := rig.Dial(ctx, t.addr)
	if err != nil {
		return transfer{}, err
	}
	defer c.Close()
	before, err := t.usage()
	if err != nil {
		return transfer{}, err
	}
	start := time.Now()
	err = move(ctx, c, n)
	if err != nil && !errors.Is(err, rig.ErrCorrupt) {
		return transfer{}, err
	}
	intact := err == nil
	took := time.Since(start)
	after, err := t.usage()
	if err != nil {
		return transfer{}, err
	}
	return transfer{
		rate:   float64(n) / 1e6 / took.Seconds(),
		cpu:    (after.CPU - before.CPU).Seconds() / (float64(n) / 1e9),
		intact: intact,
	}, nil
}
