package bond

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// network connects Dial with a Listener. Its paths carry as much downwards as an SSM session, and much more upwards. It belongs to
// a synctest bubble.
type network struct {
	t     *testing.T
	far   *far
	takes time.Duration // to open a path
	rest  time.Duration // of a path after each piece
	// bottleneck, if not nil, is shared by all paths: whoever has its token may move a piece.
	bottleneck chan struct{}

	carriers sync.WaitGroup

	mu      sync.Mutex
	refuse  func(n int) error // why the nth open fails; nil: none does
	lanes   []*lane           // all that were ever opened
	began   []time.Time       // opens
	opening int
	most    int // opens at the same time
}

const (
	piece = 1024                    // bytes
	pause = 1250 * time.Microsecond // after each, by default: 0.82 MB/s
)

// lane is one path. near is the client's end of it.
type lane struct {
	net.Conn // of the client
	name     string
	ends     [2]net.Conn // of the path itself
	thaw     chan struct{}
	frozen   chan struct{} // closed while the path is frozen

	mu     sync.Mutex
	closed bool
}

func (l *lane) LocalAddr() net.Addr { return addr(l.name) }

func (l *lane) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	return l.Conn.Close()
}

func (l *lane) wasClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// cut ends the path.
func (l *lane) cut() {
	for _, end := range l.ends {
		_ = end.Close()
	}
}

func newNetwork(t *testing.T, cfg ListenerConfig) *network {
	n := &network{t: t, far: startFar(t, cfg), takes: 200 * time.Millisecond, rest: pause}
	t.Cleanup(func() {
		n.carriers.Wait()
		n.mu.Lock()
		defer n.mu.Unlock()
		for _, l := range n.lanes {
			if !l.wasClosed() {
				t.Errorf("%s was not closed", l.name)
			}
		}
		if n.most > maxAttempts+1 {
			t.Errorf("%d opens at the same time", n.most)
		}
	})
	return n
}

// dial begins a connection, which ends with the test. The other end is what the Listener accepts.
func (n *network) dial(cfg DialConfig) (client, server *Conn) {
	n.t.Helper()
	cfg.Open = n.open
	client, err := Dial(n.t.Context(), cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = client.Close() })
	c, err := n.far.Accept()
	if err != nil {
		n.t.Fatal(err)
	}
	return client, c.(*Conn)
}

// open is for DialConfig.
func (n *network) open(ctx context.Context) (net.Conn, error) {
	n.mu.Lock()
	n.began = append(n.began, time.Now())
	n.opening++
	n.most = max(n.most, n.opening)
	number, takes := len(n.began), n.takes
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.opening--
	}()
	select {
	case <-after(takes):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	n.mu.Lock()
	refuse := n.refuse
	n.mu.Unlock()
	if refuse != nil {
		if err := refuse(number); err != nil {
			return nil, err
		}
	}
	l := &lane{name: fmt.Sprint("session ", number), thaw: make(chan struct{}), frozen: make(chan struct{})}
	var far net.Conn
	l.Conn, l.ends[0] = net.Pipe()
	l.ends[1], far = net.Pipe()
	select {
	case n.far.pipes.streams <- far:
	case <-n.far.pipes.closed:
		return nil, net.ErrClosed
	}
	n.carriers.Go(func() { n.carry(l, l.ends[0], l.ends[1], 64<<10, 10*time.Microsecond) })
	n.carriers.Go(func() { n.carry(l, l.ends[1], l.ends[0], piece, n.rest) })
	n.mu.Lock()
	defer n.mu.Unlock()
	n.lanes = append(n.lanes, l)
	return l, nil
}

// carry is one direction of a path, until one of its ends is closed.
func (n *network) carry(l *lane, from, to net.Conn, size int, rest time.Duration) {
	defer l.cut()
	buf := make([]byte, size)
	for {
		k, err := from.Read(buf)
		if err != nil {
			return
		}
		select {
		case <-l.frozen:
			<-l.thaw
		default:
		}
		if n.bottleneck != nil && size == piece {
			<-n.bottleneck
			<-after(rest)
			n.bottleneck <- struct{}{}
		} else {
			<-after(rest)
		}
		if _, err := to.Write(buf[:k]); err != nil {
			return
		}
	}
}

func (n *network) setRefuse(refuse func(int) error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.refuse = refuse
}

func (n *network) setTakes(takes time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.takes = takes
}

func (n *network) opens() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.began)
}

// live returns the paths that the client has not closed.
func (n *network) live() (live []*lane) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.lanes {
		if !l.wasClosed() {
			live = append(live, l)
		}
	}
	return live
}

func (n *network) cutAll() {
	for _, l := range n.live() {
		l.cut()
	}
}

// stream writes pseudo-random bytes, until size bytes or an error; it returns their hash.
func stream(to io.Writer, size int) (sum [32]byte, err error) {
	h := sha256.New()
	rng := rand.NewChaCha8([32]byte{7})
	chunk := make([]byte, 16<<10)
	for size > 0 && err == nil {
		part := chunk[:min(size, len(chunk))]
		_, _ = rng.Read(part)
		h.Write(part)
		_, err = to.Write(part)
		size -= len(part)
	}
	return [32]byte(h.Sum(nil)), err
}

// move sends size bytes while do runs, and checks that they arrive.
func (n *network) move(from, to *Conn, size int, do func()) {
	n.t.Helper()
	var both sync.WaitGroup
	var sent, received [32]byte
	both.Go(func() {
		var err error
		if sent, err = stream(from, size); err != nil {
			n.t.Error("writing:", err)
		}
	})
	both.Go(func() {
		h := sha256.New()
		if _, err := io.CopyN(h, to, int64(size)); err != nil {
			n.t.Error("reading:", err)
		}
		received = [32]byte(h.Sum(nil))
	})
	do()
	both.Wait()
	if sent != received {
		n.t.Error("what arrived is not what was sent")
	}
}

func states(c *Conn) (up, all int) {
	st := c.Stats()
	for _, s := range st.Subflows {
		if s.State == Up {
			up++
		}
	}
	return up, len(st.Subflows)
}

func wantUp(t *testing.T, c *Conn, low, high int) {
	t.Helper()
	if up, all := states(c); up < low || up > high {
		t.Errorf("%d of %d subflows are up, want %d to %d", up, all, low, high)
	}
}

// idle lets time pass, which is virtual.
func idle(d time.Duration) {
	<-after(d)
	synctest.Wait()
}

func TestDialGrowsAndShrinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, ListenerConfig{})
		client, server := n.dial(DialConfig{})
		start := time.Now()
		n.move(server, client, 20e6, func() {
			idle(2500 * time.Millisecond)
			wantUp(t, client, 8, 8)
		})
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("20 MB took %v: %v", took, client.Stats())
		}
		idle(50 * time.Second)
		wantUp(t, client, 8, 8)
		idle(2 * time.Minute)
		wantUp(t, client, 1, 1)
		if n.opens() != 8 {
			t.Errorf("%d opens", n.opens())
		}
		n.move(client, server, 1e6, func() {})
	})
}

func TestDialStopsGrowingBehindABottleneck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, ListenerConfig{})
		n.bottleneck = make(chan struct{}, 1)
		n.bottleneck <- struct{}{}
		client, server := n.dial(DialConfig{Max: 16})
		n.move(server, client, 16e6, func() {
			idle(10 * time.Second)
			wantUp(t, client, 2, 4)
		})
	})
}

func TestDialRotates(t *testing.T) {
	for _, asked := range []bool{true, false} {
		t.Run(fmt.Sprint("asked ", asked), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := newNetwork(t, ListenerConfig{})
				cfg := DialConfig{Max: 4}
				size, watch := int(40e6), 50 // tenths of a second
				if !asked {
					n.rest *= 5
					cfg.MaxAge = 20 * time.Second
					size, watch = 19e6, 250
				}
				client, server := n.dial(cfg)
				n.move(server, client, size, func() {
					idle(5 * time.Second)
					wantUp(t, client, 4, 4)
					old := n.live()
					if asked {
						client.Rotate()
					}
					least := 4
					for range watch {
						idle(100 * time.Millisecond)
						up, _ := states(client)
						least = min(least, up)
					}
					if least < 4 {
						t.Errorf("at times %d were up", least)
					}
					for _, l := range old {
						if !l.wasClosed() {
							t.Errorf("%s is still there", l.name)
						}
					}
					wantUp(t, client, 4, 6)
				})
				// A little may have been late at the end of a transfer, when there was nothing else to be sent.
				if n := client.Stats().Reinjected + server.Stats().Reinjected; asked && n > 64<<10 {
					t.Errorf("%d bytes were sent again, although no path was lost", n)
				}
				n.move(client, server, 1e6, client.Rotate)
			})
		})
	}
}

// judge takes one error for a failure of this kind, and all others for some failure.
func judge(which error, how Failure) func(error) Failure {
	return func(err error) Failure {
		if errors.Is(err, which) {
			return how
		}
		return FailedOther
	}
}

func TestDialRespectsThrottling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, ListenerConfig{})
		n.rest *= 10
		throttled := errors.New("Rate exceeded")
		client, server := n.dial(DialConfig{Judge: judge(throttled, FailedThrottled)})
		n.setRefuse(func(int) error { return throttled })
		n.move(server, client, 30e6, func() {
			idle(3 * time.Minute)
			if got := n.opens(); got < 6 || got > 18 {
				t.Errorf("%d opens in three minutes of throttling", got)
			}
			n.setRefuse(nil)
			idle(40 * time.Second)
			wantUp(t, client, 8, 8)
			for i := 1; i < len(n.began); i++ {
				if gap := n.began[i].Sub(n.began[i-1]); gap > throttledMost+n.takes {
					t.Errorf("nothing was tried for %v", gap)
				}
			}
		})
	})
}

func TestDialWithoutAnyPathForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, ListenerConfig{})
		client, server := n.dial(DialConfig{})
		var both sync.WaitGroup
		var opens int
		both.Go(func() {
			n.move(server, client, 8e6, func() {
				idle(time.Second)
				n.setRefuse(func(int) error { return errors.New("network is unreachable") })
				n.cutAll()
				opens = n.opens()
				idle(10 * time.Minute)
				opens = n.opens() - opens
				n.setRefuse(nil)
			})
		})
		both.Go(func() { n.move(client, server, 20e6, func() {}) })
		both.Wait()
		if opens < 290 || opens > 600 {
			t.Errorf("%d opens in ten minutes", opens)
		}
		if client.Err() != nil {
			t.Error(client.Err())
		}
	})
}

func TestDialLingerOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, ListenerConfig{})
		client, _ := n.dial(DialConfig{Config: Config{Linger: 5 * time.Minute}})
		idle(time.Minute)
		unreachable := errors.New("network is unreachable")
		n.setRefuse(func(int) error { return unreachable })
		n.cutAll()
		cut := time.Now()
		idle(time.Second)
		if client.Err() != nil {
			t.Fatal(client.Err())
		}
		if tr := client.Stats().Trouble; !errors.Is(tr.Err, unreachable) || tr.At.Before(cut) || tr.Next.Before(tr.At) {
			t.Errorf("the trouble is %+v", tr)
		}
		_, err := client.Read(make([]byte, 1))
		if d := time.Since(cut); d < 5*time.Minute || d > 5*time.Minute+time.Second {
			t.Errorf("it ended after %v", d)
		}
		var reset *ResetError
		if !errors.As(err, &reset) || reset.Code != ResetLinger || !errors.Is(err, unreachable) {
			t.Errorf("the error is %v", err)
		}
		if since := cut.Format(time.TimeOnly); !strings.Contains(err.Error(), since) {
			t.Errorf("%q does not say since when: %s", err, since)
		}
		if fail.KindOf(err) != fail.Lost || fail.NextOf(err) == "" {
			t.Errorf("of kind %v, with next step %q", fail.KindOf(err), fail.NextOf(err))
		}
		<-client.Done()
		opens := n.opens()
		idle(10 * time.Minute)
		if n.opens() != opens {
			t.Error("it goes on opening")
		}
	})
}

func TestDialFatal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, ListenerConfig{})
		denied := fail.New(fail.Denied, "open a session", errors.New("AccessDenied"), "ask for permission")
		client, server := n.dial(DialConfig{Judge: judge(denied, FailedFatal)})
		n.setRefuse(func(int) error { return denied })
		n.move(client, server, 1e6, func() { idle(time.Minute) })
		if n.opens() != 2 {
			t.Errorf("%d opens", n.opens())
		}
		n.setRefuse(nil)
		client.Rotate() // with other credentials
		idle(5 * time.Second)
		if client.Err() != nil {
			t.Fatal(client.Err())
		}
		wantUp(t, client, 1, 2)
		n.setRefuse(func(int) error { return denied })
		n.cutAll()
		idle(time.Second)
		if err := client.Err(); !errors.Is(err, denied) || fail.KindOf(err) != fail.Denied || strings.Contains(err.Error(), "no path") {
			t.Errorf("the error is %v", err)
		}
	})
}

// A bastion that was restarted does not know the connection.
func TestDialFarEndRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, ListenerConfig{})
		client, _ := n.dial(DialConfig{})
		idle(2 * time.Second)
		n.far = startFar(t, ListenerConfig{})
		n.cutAll()
		idle(5 * time.Second) // three times it must say so
		var refused *RefusedError
		if err := client.Err(); !errors.As(err, &refused) || refused.Code != RefuseUnknown {
			t.Errorf("the error is %v", err)
		}
		if fail.KindOf(client.Err()) != fail.Lost {
			t.Errorf("of kind %v", fail.KindOf(client.Err()))
		}
	})
}

func TestDialRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, ListenerConfig{})
		n.far.Drain()
		client, err := Dial(t.Context(), DialConfig{Open: n.open})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		_, err = client.Read(make([]byte, 1))
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Code != RefuseDraining {
			t.Errorf("the error is %v", err)
		}
		idle(time.Minute)
		if n.opens() != 1 {
			t.Errorf("%d opens", n.opens())
		}
	})
}

// No subflow can join before the far end has the connection.
func TestDialAcceptedLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, ListenerConfig{})
		client, err := Dial(t.Context(), DialConfig{Open: func(ctx context.Context) (net.Conn, error) {
			stream, err := n.open(ctx)
			if l, ok := stream.(*lane); ok && n.opens() == 1 {
				return &latePath{lane: l}, nil
			}
			return stream, err
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		var writer sync.WaitGroup
		defer writer.Wait()
		writer.Go(func() {
			if _, err := client.Write([]byte("hello")); err != nil {
				t.Error(err)
			}
		})
		idle(7 * time.Second)
		wantUp(t, client, 0, 0)
		if n.opens() != 1 {
			t.Errorf("%d opens", n.opens())
		}
		server, err := n.far.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(server, make([]byte, 5)); err != nil {
			t.Error(err)
		}
	})
}

// latePath carries the first thing that is written to it after eight seconds.
type latePath struct {
	*lane
	once sync.Once
}

func (p *latePath) Write(b []byte) (int, error) {
	p.once.Do(func() {
		close(p.frozen)
		time.AfterFunc(8*time.Second, func() { close(p.thaw) })
	})
	return p.lane.Write(b)
}

func TestDialFails(t *testing.T) {
	broken := errors.New("broken")
	if _, err := Dial(t.Context(), DialConfig{
		Open: func(context.Context) (net.Conn, error) { return nil, broken },
	}); !errors.Is(err, broken) {
		t.Errorf("the error is %v", err)
	}

	// A far end that does not speak.
	for _, tt := range []struct {
		name  string
		after time.Duration // cancel
		want  time.Duration
	}{{"silent", time.Hour, shakeTimeout}, {"cancelled", time.Second, time.Second}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, silent := net.Pipe()
				defer silent.Close()
				l := &lane{Conn: near}
				ctx, cancel := context.WithTimeout(t.Context(), tt.after)
				defer cancel()
				start := time.Now()
				_, err := Dial(ctx, DialConfig{Open: func(context.Context) (net.Conn, error) { return l, nil }})
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the error is %v", err)
				}
				if d := time.Since(start); d != tt.want {
					t.Errorf("it took %v", d)
				}
				if !l.wasClosed() {
					t.Error("the stream was not closed")
				}
			})
		})
	}
}

// A far end that takes no more subflows costs no further opens.
func TestDialFarEndFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, ListenerConfig{MaxSubflows: 3})
		n.rest *= 10
		client, server := n.dial(DialConfig{})
		n.move(server, client, 9e6, func() {
			idle(30 * time.Second)
			wantUp(t, client, 3, 3)
			if n.opens() > 5 {
				t.Errorf("%d opens", n.opens())
			}
		})
	})
}

func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, ListenerConfig{})
		var log bytes.Buffer // to be read when the connection is closed
		cfg := Config{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
		client, server := n.dial(DialConfig{Config: cfg})
		idle(2 * time.Minute)
		unreachable := errors.New("network is unreachable")
		n.setRefuse(func(int) error { return unreachable })
		before := n.live()
		for _, l := range before {
			close(l.frozen)
		}
		defer func() {
			for _, l := range before {
				close(l.thaw)
			}
		}()
		opens := n.opens()
		client.Probe()
		idle(probeWithin + 100*time.Millisecond)
		wantUp(t, client, 0, 0)
		if n.opens() != opens+1 {
			t.Errorf("%d opens at once when all have stalled", n.opens()-opens)
		}

		// The back-off has become long.
		idle(25 * time.Second)
		n.setRefuse(nil)
		n.setTakes(time.Hour) // opens hang in a network that is gone
		opens = n.opens()
		client.Probe()
		idle(100 * time.Millisecond)
		if n.opens() != opens+1 {
			t.Errorf("%d opens at once in spite of back-off", n.opens()-opens)
		}
		n.setTakes(200 * time.Millisecond)
		client.Probe()
		idle(100 * time.Millisecond)
		if n.opens() != opens+2 {
			t.Errorf("%d opens at once while one hangs", n.opens()-opens-1)
		}
		idle(300 * time.Millisecond)
		wantUp(t, client, 1, 1)
		n.move(client, server, 100e3, func() {})

		server.Probe() // finds out what lives; it opens nothing
		_ = client.Close()
		if strings.Count(log.String(), "not opened") != strings.Count(log.String(), unreachable.Error()) {
			t.Errorf("what Probe cancelled counts as a failure:\n%s", &log)
		}
	})
}

// Close ends everything that is running, and every stream.
func TestCloseDuringEverything(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 4))
			n := newNetwork(t, ListenerConfig{})
			n.takes = random(r)(2*time.Second) + time.Millisecond
			n.refuse = func(k int) error {
				if k > 1 && k%3 == 0 {
					return errors.New("refused")
				}
				return nil
			}
			client, server := n.dial(DialConfig{MaxAge: 4 * time.Second})
			var work sync.WaitGroup
			work.Go(func() { _, _ = stream(server, 100e6) })
			work.Go(func() { _, _ = io.Copy(io.Discard, client) })
			end := time.Now().Add(random(r)(6 * time.Second))
			for time.Now().Before(end) {
				switch r.IntN(4) {
				case 0:
					n.cutAll()
				case 1:
					client.Rotate()
				case 2:
					client.Probe()
				}
				idle(random(r)(time.Second))
			}
			start := time.Now()
			_ = client.Close()
			if d := time.Since(start); d > closeTimeout+tellTimeout {
				t.Errorf("Close took %v", d)
			}
			if live := n.live(); len(live) > 0 {
				t.Errorf("%d streams are open", len(live))
			}
			n.mu.Lock()
			if n.opening > 0 {
				t.Errorf("%d opens are under way", n.opening)
			}
			n.mu.Unlock()
			_ = server.Close()
			work.Wait()
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// An Open that returns a stream after the end, although it was told to stop.
func TestStreamOpenedTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, ListenerConfig{})
		opening := make(chan struct{})
		first := true
		client, err := Dial(t.Context(), DialConfig{Open: func(ctx context.Context) (net.Conn, error) {
			if first {
				first = false
				return n.open(ctx)
			}
			close(opening)
			<-ctx.Done()
			<-after(time.Second)
			return n.open(context.WithoutCancel(ctx))
		}})
		if err != nil {
			t.Fatal(err)
		}
		<-opening
		if err := client.Close(); err != nil {
			t.Error(err)
		}
		if n.opens() != 2 || len(n.live()) > 0 {
			t.Errorf("%d opens, %d streams left", n.opens(), len(n.live()))
		}
	})
}
