package bond

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pumpConn is one end of a stream over a path. Written bytes go into a buffer. The path takes them in small pieces with a pause
// after each, as the SSM agent does, and delivers them after a delay.
type pumpConn struct {
	net.Conn // only for the methods that nobody calls
	in, out  *pump
}

// pump is one direction of a path.
type pump struct {
	piece int           // bytes that are taken at once
	pause time.Duration // after each
	delay time.Duration
	room  int // bytes of the buffer

	before func(waiting int) // called before each piece with the buffer's size; nil: nothing

	mu      sync.Mutex
	cond    sync.Cond
	buf     []byte // written, not taken
	flying  []flight
	arrived []byte
	closed  bool
	frozen  bool
}

// flight is a piece on its way.
type flight struct {
	piece []byte
	at    time.Time // of its arrival
}

func newPump(piece int, pause, delay time.Duration) *pump {
	p := &pump{piece: piece, pause: pause, delay: delay, room: 4 << 20}
	p.cond.L = &p.mu
	return p
}

// run moves bytes until the pump is closed.
func (p *pump) run() {
	var arrivals sync.WaitGroup
	defer arrivals.Wait()
	arrivals.Go(p.arrive)
	for {
		p.mu.Lock()
		for (len(p.buf) == 0 || p.frozen) && !p.closed {
			p.cond.Wait()
		}
		if p.closed {
			p.mu.Unlock()
			return
		}
		if p.before != nil {
			waiting := len(p.buf)
			p.mu.Unlock()
			p.before(waiting)
			p.mu.Lock()
		}
		n := min(p.piece, len(p.buf))
		p.flying = append(p.flying, flight{slices.Clone(p.buf[:n]), time.Now().Add(p.delay)})
		p.buf = p.buf[n:]
		p.cond.Broadcast()
		p.mu.Unlock()
		p.rest()
	}
}

// arrive hands each piece over when its time has come.
func (p *pump) arrive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for len(p.flying) == 0 && !p.closed {
			p.cond.Wait()
		}
		if p.closed {
			return
		}
		next := p.flying[0]
		p.flying = p.flying[1:]
		p.mu.Unlock()
		time.Sleep(time.Until(next.at)) //nolint:forbidigo // the bubble's clock
		p.mu.Lock()
		p.arrived = append(p.arrived, next.piece...)
		p.cond.Broadcast()
	}
}

// rest is the pause, in virtual time.
func (p *pump) rest() {
	p.mu.Lock()
	pause := p.pause
	p.mu.Unlock()
	time.Sleep(pause) //nolint:forbidigo // the bubble's clock
}

func (p *pump) slowDown(times int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pause *= time.Duration(times)
}

func (p *pump) freeze(frozen bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = frozen
	p.cond.Broadcast()
}

func (p *pump) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.cond.Broadcast()
}

func (c *pumpConn) Read(b []byte) (int, error) {
	p := c.in
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.arrived) == 0 {
		if p.closed {
			return 0, io.EOF
		}
		p.cond.Wait()
	}
	n := copy(b, p.arrived)
	p.arrived = p.arrived[n:]
	return n, nil
}

func (c *pumpConn) Write(b []byte) (int, error) {
	p := c.out
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for n < len(b) {
		if p.closed {
			return n, os.ErrClosed
		}
		if room := min(p.room-len(p.buf), len(b)-n); room > 0 {
			p.buf = append(p.buf, b[n:n+room]...)
			n += room
			p.cond.Broadcast()
			continue
		}
		p.cond.Wait()
	}
	return n, nil
}

func (c *pumpConn) Close() error {
	c.in.close()
	c.out.close()
	return nil
}

// ssmPaths makes a connection over n paths like SSM sessions. It ends with the test's bubble.
func ssmPaths(t *testing.T, n int, delay time.Duration) (client, server *Conn, down []*pump) {
	t.Helper()
	client, server, _ = newPair(t, 0)
	var pumps sync.WaitGroup
	t.Cleanup(pumps.Wait)
	for i := range n {
		d := newPump(1024, 1100*time.Microsecond, delay)
		u := newPump(64<<10, 10*time.Microsecond, delay)
		pumps.Go(d.run)
		pumps.Go(u.run)
		attachPair(t, client, server, uint32(i), &pumpConn{in: d, out: u}, &pumpConn{in: u, out: d})
		down = append(down, d)
	}
	t.Cleanup(func() {
		var both sync.WaitGroup
		both.Go(func() { _ = client.Close() })
		both.Go(func() { _ = server.Close() })
		both.Wait()
	})
	return client, server, down
}

// flood writes all that from takes until the returned function is called.
func flood(from *Conn) (stop func()) {
	var writer sync.WaitGroup
	writer.Go(func() {
		chunk := make([]byte, 32<<10)
		for {
			if _, err := from.Write(chunk); err != nil {
				return
			}
		}
	})
	return func() {
		_ = from.SetWriteDeadline(time.Unix(1, 0))
		writer.Wait()
	}
}

// drain reads for a span of time, and returns how many bytes came.
func drain(t *testing.T, from *Conn, span time.Duration) int {
	t.Helper()
	buf := make([]byte, 64<<10)
	total := 0
	for end := time.Now().Add(span); ; {
		_ = from.SetReadDeadline(end)
		n, err := from.Read(buf)
		total += n
		if errors.Is(err, os.ErrDeadlineExceeded) {
			_ = from.SetReadDeadline(time.Time{})
			return total
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// download returns how many bytes per second the client gets of a server that writes all it can, after a warm-up.
func download(t *testing.T, server, client *Conn) float64 {
	t.Helper()
	defer flood(server)()
	drain(t, client, 12*time.Second)
	return float64(drain(t, client, 5*time.Second)) / 5
}

func TestThroughputAddsUp(t *testing.T) {
	for _, delay := range []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond} {
		var one float64
		for _, n := range []int{1, 8, 16} {
			synctest.Test(t, func(t *testing.T) {
				client, server, _ := ssmPaths(t, n, delay)
				got := download(t, server, client)
				if n == 1 {
					one = got
				}
				t.Logf("%v each way, %d subflows: %.2f MB/s, %.1f times one", delay, n, got/1e6, got/one)
				if got < 0.9*float64(n)*one {
					t.Errorf("%d subflows carry %.1f times what one does", n, got/one)
				}
			})
		}
	}
}

// TestHiccups runs over paths that stop now and then, as on a busy machine or by radio. They carry what they can.
func TestHiccups(t *testing.T) {
	for _, delay := range []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			client, server, down := ssmPaths(t, 2, delay)
			done := make(chan struct{})
			var hiccups sync.WaitGroup
			for i, p := range down {
				rng := rand.New(rand.NewPCG(1, uint64(i)))
				hiccups.Go(func() {
					for {
						select {
						case <-done:
							return
						case <-after(time.Duration(rng.Int64N(int64(300 * time.Millisecond)))):
						}
						p.freeze(true)
						time.Sleep(time.Duration(rng.Int64N(int64(120 * time.Millisecond)))) //nolint:forbidigo // as above
						p.freeze(false)
					}
				})
			}
			got := download(t, server, client)
			close(done)
			hiccups.Wait()
			// Of the time the paths move, which is five parts of seven.
			if want := 2 * 0.93e6 * 5 / 7; got < 0.8*want {
				t.Errorf("%v each way: %.2f MB/s, where the paths carry %.2f", delay, got/1e6, want/1e6)
			}
			t.Logf("%v each way: %.2f MB/s", delay, got/1e6)
		})
	}
}

func TestSlowSubflowsDoNotHinder(t *testing.T) {
	measure := func(slow int) (rate float64) {
		synctest.Test(t, func(t *testing.T) {
			client, server, down := ssmPaths(t, 4+slow, 20*time.Millisecond)
			for _, p := range down[4:] {
				p.slowDown(10)
			}
			rate = download(t, server, client)
		})
		return rate
	}
	healthy, mixed := measure(0), measure(4)
	t.Logf("4 healthy subflows: %.2f MB/s, with 4 slow ones: %.2f MB/s", healthy/1e6, mixed/1e6)
	if mixed < healthy {
		t.Error("the slow ones hinder")
	}
}

// TestSubflowsTurnSlow slows subflows down that have much in flight, below an application with a window of its own, as SSH's
// channels have. The other subflows carry their late bytes too: otherwise all would wait for them.
func TestSubflowsTurnSlow(t *testing.T) {
	const delay, chunk, window = 20 * time.Millisecond, 16 << 10, 1 << 20
	measure := func(n int, turn bool) (rate float64) {
		synctest.Test(t, func(t *testing.T) {
			client, server, down := ssmPaths(t, n, delay)
			room := make(chan struct{}, window/chunk)
			var writer sync.WaitGroup
			writer.Go(func() {
				for {
					room <- struct{}{}
					if _, err := server.Write(make([]byte, chunk)); err != nil {
						return
					}
				}
			})
			defer writer.Wait()
			defer func() {
				_ = server.SetWriteDeadline(time.Unix(1, 0))
				<-room
			}()
			read := func(span time.Duration) (total int) {
				for start := time.Now(); time.Since(start) < span; total += chunk {
					if _, err := io.ReadFull(client, make([]byte, chunk)); err != nil {
						t.Fatal(err)
					}
					time.AfterFunc(max(delay, 1), func() { <-room }) // never due as it is made: see after
				}
				return total
			}
			read(5 * time.Second)
			for i, p := range down {
				if turn && i%2 == 1 {
					p.slowDown(10)
				}
			}
			rate = float64(read(5*time.Second)) / 5
			time.Sleep(2 * delay) //nolint:forbidigo // the bubble's clock; for the last of the window's timers
		})
		return rate
	}
	healthy, mixed := measure(2, false), measure(4, true)
	t.Logf("2 healthy subflows: %.2f MB/s, 2 of 4 turned slow: %.2f MB/s", healthy/1e6, mixed/1e6)
	if mixed < 0.8*healthy {
		t.Error("those that turned slow hinder")
	}
}

// TestStalledSubflows freezes half of the subflows under a transfer. What they hold is sent again on the others, and when they
// thaw they carry data again.
func TestStalledSubflows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, down := ssmPaths(t, 4, 20*time.Millisecond)
		stop := flood(server)
		defer func() { stop() }()
		drain(t, client, 5*time.Second)
		down[0].freeze(true)
		down[1].freeze(true)
		drain(t, client, 2*time.Second)
		if rate := float64(drain(t, client, 5*time.Second)) / 5; rate < 1.7e6 {
			t.Errorf("two subflows of four carry %.2f MB/s", rate/1e6)
		}
		stalled := 0
		for _, s := range server.Stats().Subflows {
			if s.State == Stalled {
				stalled++
			}
		}
		if stalled != 2 {
			t.Errorf("%d subflows are stalled, not 2", stalled)
		}
		down[0].freeze(false)
		down[1].freeze(false)
		drain(t, client, 5*time.Second)
		if rate := float64(drain(t, client, 5*time.Second)) / 5; rate < 3.4e6 {
			t.Errorf("four subflows carry %.2f MB/s after two have thawed", rate/1e6)
		}
	})
}

// TestLatencyUnderBulk measures how long a small write waits behind a bulk transfer: less than 60 ms beyond the path.
func TestLatencyUnderBulk(t *testing.T) {
	const delay = 20 * time.Millisecond
	for _, n := range []int{1, 8} {
		synctest.Test(t, func(t *testing.T) {
			client, server, _ := ssmPaths(t, n, delay)
			var mu sync.Mutex
			var written []time.Time // of each chunk, before it is written
			const size = 4 << 10
			var writer sync.WaitGroup
			writer.Go(func() {
				for {
					mu.Lock()
					written = append(written, time.Now())
					mu.Unlock()
					if _, err := server.Write(make([]byte, size)); err != nil {
						return
					}
				}
			})
			defer writer.Wait()
			defer func() { _ = server.SetWriteDeadline(time.Unix(1, 0)) }()
			var waits []time.Duration
			start := time.Now()
			for i := 0; time.Since(start) < 12*time.Second; i++ {
				if _, err := io.ReadFull(client, make([]byte, size)); err != nil {
					t.Fatal(err)
				}
				mu.Lock()
				began := written[i]
				mu.Unlock()
				if began.Sub(start) > 3*time.Second {
					waits = append(waits, time.Since(began))
				}
			}
			slices.Sort(waits)
			p99 := waits[len(waits)*99/100]
			t.Logf("%d subflows: p50 %v, p99 %v", n, waits[len(waits)/2], p99)
			if p99 > delay+75*time.Millisecond {
				t.Errorf("%d subflows: 1 %% of what is written waits for more than %v", n, p99)
			}
		})
	}
}

// TestAnswersTakeTurns shows that two subflows make round trips shorter: while the far end of one pauses, the other carries the
// answer.
func TestAnswersTakeTurns(t *testing.T) {
	measure := func(n int) (roundTrip time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			client, server, _ := ssmPaths(t, n, 0)
			go func() { _, _ = io.Copy(server, server) }()
			const rounds = 500
			start := time.Now()
			for range rounds {
				if _, err := client.Write([]byte{1}); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(client, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			}
			roundTrip = time.Since(start) / rounds
		})
		return roundTrip
	}
	one, two := measure(1), measure(2)
	t.Logf("round trip with one subflow: %v, with two: %v", one, two)
	if two > one*6/10 {
		t.Error("they do not take turns")
	}
}
