//go:build linux

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

// taskCPUs are the sizes of tasks that are compared, in CPU units.
var taskCPUs = []int{256, 512, 1024}

// sizePeers are the peers at each size; auto is bastion with its defaults.
func sizePeers() []peer {
	auto := bastion(0)
	auto.name, auto.sessions = "bastion-auto", 8
	return []peer{peerNamed(plugin), bastion(1), bastion(8), bastion(16), auto}
}

// sizes measures the plugin and bastion in tasks of each size, downwards, upwards and both at once. It goes round the peers
// several times and takes medians, so that a slow minute of the machine falls on all of them.
func (b *bench) sizes(ctx context.Context) error {
	if err := b.lab.Gateway().SetFaults(gateway.Faults{}); err != nil {
		return err
	}
	for _, cpu := range taskCPUs {
		if !b.wants(b.cpus, strconv.Itoa(cpu)) {
			continue
		}
		if err := b.resize(ctx, cpu); err != nil {
			return err
		}
		for range b.repeat {
			for _, p := range sizePeers() {
				if err := b.sizePeer(ctx, p, cpu); err != nil {
					return err
				}
			}
		}
	}
	b.rows = medians(b.rows)
	if err := b.write("sizes.json"); err != nil {
		return err
	}
	_, err := os.Stdout.WriteString(sizeTables(b.rows))
	return err
}

// sizePeer takes the rates of one peer in a task with so many CPU units, each on a tunnel of its own.
func (b *bench) sizePeer(ctx context.Context, p peer, cpu int) error {
	if !b.wants(b.peers, p.name) {
		return nil
	}
	for _, way := range []string{"download", "upload", "both"} {
		if !b.wants(b.only, way) {
			continue
		}
		at := map[string]any{"task_cpu": cpu}
		if err := b.try(ctx, p, way, way, "MB/s", at, func(ctx context.Context) error {
			return b.with(ctx, p, b.duplex.Port(), func(t *tunnel) error {
				down, up, err := b.steady(ctx, t.addr, way, p.sizeWarm(way))
				if err != nil {
					return err
				}
				if way != "upload" {
					b.add(p, strings.TrimSuffix("download, "+way, ", download"), "MB/s", down, at)
				}
				if way != "download" {
					b.add(p, strings.TrimSuffix("upload, "+way, ", upload"), "MB/s", up, at)
				}
				fmt.Fprintf(b.log, "bench:   %.2f down, %.2f up, %d sessions\n", down, up, len(b.lab.Gateway().Sessions()))
				return nil
			})
		}); err != nil {
			return err
		}
	}
	return nil
}

// sizeWarm is how long a transfer runs before it is measured: bastion finds out how many sessions are best, with both directions at
// once more slowly.
func (p peer) sizeWarm(way string) time.Duration {
	switch {
	case p.sessions <= 1:
		return 3 * time.Second
	case way == "both":
		return 16 * time.Second
	default:
		return 8 * time.Second
	}
}

// resize replaces the task by one with so many CPU units.
func (b *bench) resize(ctx context.Context, cpu int) error {
	if err := b.runBastion(ctx, "down", "-q"); err != nil {
		return err
	}
	if err := b.runBastion(ctx, "up", "-q", "--task-cpu", strconv.Itoa(cpu)); err != nil {
		return err
	}
	for _, t := range b.lab.Tasks() {
		if t.LastStatus == "RUNNING" {
			b.target = t.Target
			return nil
		}
	}
	return errors.New("the new task does not run")
}

// steady measures a transfer in its steady state, in MB/s each way.
func (b *bench) steady(ctx context.Context, addr, way string, warm time.Duration) (down, up float64, err error) {
	s, err := dialStream(ctx, addr)
	if err != nil {
		return 0, 0, err
	}
	conn, u := s.conn, &stream{}
	b.duplex.stream.Store(u)
	if _, err := conn.Write([]byte{way[0]}); err != nil {
		return 0, 0, errors.Join(err, conn.Close())
	}
	var sending sync.WaitGroup
	if way != "download" {
		sending.Go(func() { _, _ = io.Copy(conn, rig.Data(endless)) })
	}
	go s.run(func() error { return s.receive(conn) })
	defer func() {
		s.stop()
		sending.Wait()
	}()
	if err := settle(ctx, s, warm); err != nil {
		return 0, 0, err
	}
	start, d0, u0 := time.Now(), s.moved.Load(), u.moved.Load()
	if err := settle(ctx, s, b.span); err != nil {
		return 0, 0, err
	}
	took := time.Since(start).Seconds()
	down, up = float64(s.moved.Load()-d0)/1e6/took, float64(u.moved.Load()-u0)/1e6/took
	if s.corrupt.Load() || u.corrupt.Load() {
		return down, up, errors.New("bytes came wrong")
	}
	return down, up, nil
}

func settle(ctx context.Context, s *stream, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-s.done:
		return fmt.Errorf("the transfer ended: %w", s.err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// exchange makes transfers on c, either way or both at once, as the first byte says: d, u or b.
func (k *sink) exchange(c net.Conn) {
	var way [1]byte
	if _, err := io.ReadFull(c, way[:]); err != nil {
		return
	}
	s := k.stream.Load()
	var sending sync.WaitGroup
	if way[0] != 'u' {
		sending.Go(func() {
			_, _ = io.Copy(c, rig.Data(endless))
			c.Close()
		})
	}
	if s != nil {
		_ = s.receive(c)
	}
	c.Close()
	sending.Wait()
}

// medians has one row for the rows of each peer, metric and size: the median, or the one that failed, if one did.
func medians(rows []row) []row {
	var list []row
	runs := map[string][]row{}
	for _, r := range rows {
		key := fmt.Sprint(r.Peer, "\x00", r.Metric, "\x00", r.Params["task_cpu"])
		if runs[key] == nil {
			list = append(list, r)
		}
		runs[key] = append(runs[key], r)
	}
	for i, r := range list {
		of := runs[fmt.Sprint(r.Peer, "\x00", r.Metric, "\x00", r.Params["task_cpu"])]
		failed := func(r row) bool { return r.Params["failed"] != nil }
		if k := slices.IndexFunc(of, failed); k >= 0 {
			list[i] = of[k]
			continue
		}
		slices.SortFunc(of, func(a, b row) int { return cmp.Compare(a.Value, b.Value) })
		list[i] = of[len(of)/2]
		list[i].Value = (of[(len(of)-1)/2].Value + of[len(of)/2].Value) / 2
	}
	return list
}
