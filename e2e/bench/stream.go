//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync/atomic"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// stream is a transfer in one direction that goes on until it is stopped. The receiver compares and counts the bytes where they
// arrive, so that bytes in buffers on the way do not count.
type stream struct {
	moved   atomic.Int64
	corrupt atomic.Bool
	conn    net.Conn
	done    chan struct{} // closed when the client's side has ended, err being set
	err     error
}

const endless = math.MaxInt64

// dialStream connects to addr for a stream, which run begins.
func dialStream(ctx context.Context, addr string) (*stream, error) {
	conn, err := rig.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	return &stream{conn: conn, done: make(chan struct{})}, nil
}

// receive counts and compares the bytes from r, until r ends.
func (s *stream) receive(r io.Reader) error {
	want := rig.Data(endless)
	buf, expected := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := io.ReadFull(want, expected[:n]); err != nil {
				return err
			}
			if !bytes.Equal(buf[:n], expected[:n]) {
				s.corrupt.Store(true)
			}
			s.moved.Add(int64(n))
		}
		if err != nil {
			return err
		}
	}
}

// stop ends the transfer and waits for the client's side of it.
func (s *stream) stop() {
	s.conn.Close()
	<-s.done
}

func (s *stream) run(f func() error) {
	defer close(s.done)
	s.err = f()
}

// direction starts a stream through a forward: download from the far end through b.far's port, upload through b.sink's.
type direction struct {
	name  string
	port  func(b *bench) int
	start func(ctx context.Context, b *bench, addr string) (*stream, error)
}

func directions() []direction {
	return []direction{
		{"download", func(b *bench) int { return b.far.Port() }, startDownload},
		{"upload", func(b *bench) int { return b.sink.Port() }, startUpload},
	}
}

func startDownload(ctx context.Context, _ *bench, addr string) (*stream, error) {
	s, err := dialStream(ctx, addr)
	if err != nil {
		return nil, err
	}
	go s.run(func() error {
		if _, err := s.conn.Write(binary.BigEndian.AppendUint64([]byte{'d'}, endless)); err != nil {
			return err
		}
		return s.receive(s.conn)
	})
	return s, nil
}

func startUpload(ctx context.Context, b *bench, addr string) (*stream, error) {
	s, err := dialStream(ctx, addr)
	if err != nil {
		return nil, err
	}
	b.sink.stream.Store(s)
	go s.run(func() error {
		_, err := io.Copy(s.conn, rig.Data(endless))
		return err
	})
	return s, nil
}

// sink is the far end of transfers: what arrives is the current stream's.
type sink struct {
	*rig.Server
	stream atomic.Pointer[stream]
}

// startSink starts a sink that does handle with each connection.
func startSink(handle func(*sink, net.Conn)) (k *sink, err error) {
	k = new(sink)
	k.Server, err = rig.ServeLoopback(func(c net.Conn) { handle(k, c) })
	return k, err
}

// take takes an upload for the stream that is current when its first byte comes: some peers connect long before.
func (k *sink) take(c net.Conn) {
	r := bufio.NewReaderSize(c, 64<<10)
	if _, err := r.Peek(1); err == nil {
		_ = k.stream.Load().receive(r)
	}
}

// sample is how much had arrived at a time after the start.
type sample struct {
	at    time.Duration
	moved int64
}

// transfer is what a stream did in its steady state.
type transfer struct {
	rate     float64       // MB/s, of 1e6 bytes
	full     time.Duration // from the start until the rate was full
	share    float64       // of one processor, that the client used, percent
	perGB    float64       // CPU seconds of the client for 1e9 bytes
	intact   bool          // the bytes came as they were sent
	duration time.Duration // of the steady state
}

const sampleEvery = 50 * time.Millisecond

// watch lets a stream run for warm, and measures it during span after that.
func watch(ctx context.Context, s *stream, warm, span time.Duration, used func() (usage, error)) (transfer, error) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	start := time.Now()
	samples := []sample{{}}
	var from sample // where the steady state begins
	var before usage
	for {
		select {
		case <-ctx.Done():
			return transfer{}, ctx.Err()
		case <-s.done:
			return transfer{}, fmt.Errorf("ended after %d bytes: %w", s.moved.Load(), s.err)
		case <-tick.C:
		}
		now := sample{time.Since(start), s.moved.Load()}
		samples = append(samples, now)
		if from.at == 0 && now.at >= warm {
			var err error
			if before, err = used(); err != nil {
				return transfer{}, err
			}
			from = now
		}
		if from.at == 0 || now.at < from.at+span {
			continue
		}
		after, err := used()
		if err != nil {
			return transfer{}, err
		}
		took, n := now.at-from.at, now.moved-from.moved
		if n == 0 {
			return transfer{}, errors.New("nothing arrived")
		}
		rate, cpu := float64(n)/took.Seconds(), (after.cpu - before.cpu).Seconds()
		return transfer{
			rate: rate / 1e6, full: fullRate(samples, rate), duration: took, intact: !s.corrupt.Load(),
			share: 100 * cpu / took.Seconds(), perGB: cpu / (float64(n) / 1e9),
		}, nil
	}
}

// fullRate returns the beginning of the first half-second in which at least 90 % of rate, in bytes a second, arrived.
func fullRate(samples []sample, rate float64) time.Duration {
	const window = 500 * time.Millisecond
	i := 0
	for _, end := range samples {
		for i+1 < len(samples) && samples[i+1].at <= end.at-window {
			i++
		}
		begin := samples[i]
		if end.at-begin.at >= window && float64(end.moved-begin.moved) >= 0.9*rate*(end.at-begin.at).Seconds() {
			return begin.at
		}
	}
	return samples[len(samples)-1].at
}
