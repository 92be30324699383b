//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

func TestReceive(t *testing.T) {
	const n = 300_000
	for name, test := range map[string]struct {
		r      io.Reader
		intact bool
	}{
		"as sent":  {rig.Data(n), true},
		"bytewise": {iotest.OneByteReader(rig.Data(n)), true},
		"changed":  {io.MultiReader(rig.Data(n-1), strings.NewReader("x")), false},
		"doubled":  {io.MultiReader(rig.Data(n/2), rig.Data(n/2)), false},
	} {
		var s stream
		if err := s.receive(test.r); !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
		if s.moved.Load() != n || s.corrupt.Load() == test.intact {
			t.Errorf("%s: %d bytes, corrupt: %v", name, s.moved.Load(), s.corrupt.Load())
		}
	}
}

// A stream whose rate grows for three seconds is measured after its growth, and the growth's end is found.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		defer b.Close()
		s := &stream{conn: a, done: make(chan struct{})}
		go s.run(func() error {
			buf := make([]byte, 1)
			_, err := a.Read(buf) // until it is stopped
			return err
		})
		grown := make(chan struct{})
		go func() { // 1, 2, 3, then 4 MB/s
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for start := time.Now(); ; {
				select {
				case <-grown:
					return
				case <-tick.C:
					s.moved.Add(10_000 * int64(min(time.Since(start).Seconds()+1, 4)))
				}
			}
		}()
		var used time.Duration
		got, err := watch(t.Context(), s, 5*time.Second, 4*time.Second, func() (usage, error) {
			used += time.Second
			return usage{cpu: used}, nil
		})
		close(grown)
		s.stop()
		if err != nil {
			t.Fatal(err)
		}
		if got.rate < 3.9 || got.rate > 4.1 || !got.intact ||
			got.share < 24 || got.share > 26 || got.perGB < 60 || got.perGB > 65 {
			t.Errorf("%+v", got)
		}
		if got.full < 2500*time.Millisecond || got.full > 3200*time.Millisecond {
			t.Errorf("full rate after %v, want about 3 s", got.full)
		}
	})
}

// A stream that ends by itself is no transfer at any rate, and neither is one that stands still.
func TestWatchFails(t *testing.T) {
	ends := &stream{done: make(chan struct{})}
	ends.run(func() error { return io.ErrUnexpectedEOF })
	if _, err := watch(t.Context(), ends, 0, time.Minute, nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("ended: %v", err)
	}
	none := func() (usage, error) { return usage{}, nil }
	_, err := watch(t.Context(), &stream{}, 0, sampleEvery, none)
	if err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Errorf("still: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := watch(ctx, &stream{}, 0, time.Minute, none); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestQuantile(t *testing.T) {
	var times []time.Duration
	for i := range 100 {
		times = append(times, time.Duration(100-i)*time.Millisecond)
	}
	for q, want := range map[float64]float64{0: 1, 0.5: 51, 0.99: 100, 1: 100} {
		if got := quantile(times, q); got != want {
			t.Errorf("quantile(%v) = %v ms, want %v", q, got, want)
		}
	}
	if !slices.IsSortedFunc(times, func(a, b time.Duration) int { return int(b - a) }) {
		t.Error("the times were put in another order")
	}
}

func TestSessionUsage(t *testing.T) {
	// A shell and its child are one session, as a peer and the programs that it starts.
	p, err := rig.Start(nil, "sh", "-c", "sleep 60 & echo started; wait")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = p.Stop(syscall.SIGKILL) }()
	if _, err := p.Line(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	sid := p.Cmd.Process.Pid
	both, err := sessionUsage(sid)
	if err != nil {
		t.Fatal(err)
	}
	alone, err := rig.ProcessUsage(sid)
	if err != nil {
		t.Fatal(err)
	}
	if both.peak <= alone.PeakRSS || both.rss <= 0 || both.rss > both.peak {
		t.Errorf("the session: %+v, its head: %+v", both, alone)
	}
	if _, err := p.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if u, err := sessionUsage(sid); err == nil {
		t.Errorf("ended: %+v", u)
	}
}

func TestParseStat(t *testing.T) {
	fields := "S 1 2 77" + strings.Repeat(" 0", 17) + " 1234 0"
	if session, pages, err := parseStat([]byte("5 (a) b (c) " + fields)); session != 77 || pages != 1234 || err != nil {
		t.Errorf("session %d, %d pages, %v", session, pages, err)
	}
	if _, _, err := parseStat([]byte("5 (a) S 1")); err == nil {
		t.Error("a short line is taken")
	}
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	if _, pages, err := parseStat(stat); pages < 100 || err != nil {
		t.Errorf("self: %d pages, %v", pages, err)
	}
}

func TestReadDump(t *testing.T) {
	read := func(s string) dumped {
		got, err := readDump(strings.NewReader(s))
		if err != nil || got.bytes != int64(len(s)) {
			t.Errorf("%d of %d bytes, %v", got.bytes, len(s), err)
		}
		return got
	}
	long := strings.Repeat("x", 1<<20)
	one := read("\\restrict abc\nrow 1\n" + long + "\n\\unrestrict abc\n")
	two := read("\\restrict xyz\nrow 1\n" + long + "\n\\unrestrict xyz\n")
	if one.sum != two.sum {
		t.Error("dumps that differ in the random word have different sums")
	}
	if other := read("\\restrict xyz\nrow 2\n" + long + "\n\\unrestrict xyz\n"); other.sum == two.sum {
		t.Error("dumps that differ in a row have the same sum")
	}
	if _, err := readDump(iotest.ErrReader(io.ErrClosedPipe)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("error %v", err)
	}
}

func TestParseAllocs(t *testing.T) {
	got, err := parseAllocs([]byte(`goos: linux
BenchmarkAllocations/size=1MB-2         	       1	   4859940 ns/op	 205.76 MB/s	       569.0 allocs/MB
BenchmarkAllocations/size=64MB         	       1	 268314212 ns/op	 238.53 MB/s	       1.2e+03 allocs/MB	 5 B/op
BenchmarkOther/size=64MB         	       1	 268314212 ns/op	 238.53 MB/s	       7 allocs/MB
PASS
`))
	if want := []allocs{{1, 569}, {64, 1200}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v; want %v", got, err, want)
	}
	if got, err := parseAllocs([]byte("PASS\n")); err == nil {
		t.Errorf("nothing: %v", got)
	}
}

// Connections are served or counted as not served; none is waited for without end.
func TestCrowd(t *testing.T) {
	far, err := rig.StartFarEnd("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if served, err := crowd(t.Context(), far.Addr(), 50); served != 50 || err != nil {
		t.Errorf("%d of 50 served, %v", served, err)
	}
	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if served, err := crowd(ctx, deaf.Addr().String(), 5); served != 0 || err == nil {
		t.Errorf("%d served by nobody, %v", served, err)
	}
}

// An upload is counted where it arrives, by the stream that is current when its first byte comes.
func TestSink(t *testing.T) {
	k, err := startSink((*sink).take)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	early, err := rig.Dial(t.Context(), k.Addr()) // connects long before its first byte, as some peers do
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	s := &stream{}
	k.stream.Store(s)
	const n = 1 << 20
	if _, err := io.Copy(early, rig.Data(n)); err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for s.moved.Load() < n {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%d of %d bytes counted", s.moved.Load(), n)
		}
	}
	if s.corrupt.Load() {
		t.Error("corrupt")
	}
}

func TestFirstLine(t *testing.T) {
	if got := firstLine(fmt.Errorf("one\ntwo")); got != "one" {
		t.Errorf("%q", got)
	}
}
