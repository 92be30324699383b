package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestPoolPolicy(t *testing.T) {
	idle := load{ready: true, idle: time.Hour}
	fresh := load{ready: true, idle: time.Second}
	used := load{ready: true, conns: 1}
	busy := load{ready: true, conns: 1, busy: true}
	down := load{conns: 1, busy: true}
	for _, tt := range []struct {
		name  string
		loads []load
		want  step
	}{
		{"one idle", []load{idle}, step{retire: -1}},
		{"one busy", []load{busy}, step{grow: true, retire: -1}},
		{"one with room", []load{busy, used}, step{retire: -1}},
		{"all busy", []load{busy, busy}, step{grow: true, retire: -1}},
		{"one is down", []load{busy, down}, step{retire: -1}},
		{"full", []load{busy, busy, busy}, step{retire: -1}},
		{"idle beside idle", []load{idle, idle}, step{retire: 1}},
		{"not idle for long", []load{used, fresh}, step{retire: -1}},
		{"spare beside busy", []load{busy, idle}, step{retire: -1}},
		{"two spares beside busy", []load{busy, idle, idle}, step{retire: 2}},
		{"idle beside one with room", []load{idle, used}, step{retire: 0}},
		{"idle beside one that is down", []load{down, idle}, step{retire: -1}},
		{"none", nil, step{retire: -1}},
	} {
		if got := decide(tt.loads, 3, time.Minute); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
}

// startPool starts a Pool of Links to b that is closed at the end of the test.
func startPool(t *testing.T, c Connector, cfg PoolConfig) *Pool {
	t.Helper()
	cfg.New = func(onState func(State)) *Link {
		return NewLink(c, LinkConfig{Logger: testLog(t), OnState: onState})
	}
	cfg.Logger = testLog(t)
	p := NewPool(cfg)
	p.Start(context.Background())
	t.Cleanup(func() { _ = p.Close() })
	if err := p.Ready(soon(t)); err != nil {
		t.Fatal("not ready:", err)
	}
	return p
}

func dialPool(t *testing.T, p *Pool) net.Conn {
	t.Helper()
	c, err := p.Dial(soon(t), "tcp", "db:5432")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// alive counts the SSH connections that the bastion has.
func (b *bastion) alive() (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.sessions {
		if !isClosed(s.ended) {
			n++
		}
	}
	return n
}

// A pool grows while its connections have much to do, gives new ones to those with the least, and shrinks.
func TestPoolFollowsTheLoad(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		p := startPool(t, b, PoolConfig{Max: 3, BusyConns: 2})
		var conns []net.Conn
		for _, want := range []int{1, 1, 2, 2, 3, 3, 3, 3} {
			c := dialPool(t, p)
			mustEcho(t, c, "hello")
			conns = append(conns, c)
			if got := b.alive(); got != want {
				t.Errorf("%d connections: %d Links, want %d", len(conns), got, want)
			}
			advance(2300 * time.Millisecond) // not at a tick
		}
		var spread []int
		for _, m := range p.Stats() {
			spread = append(spread, m.Channels)
			if m.Conn == nil || m.Sent == 0 || m.Received == 0 {
				t.Errorf("stats: %+v", m)
			}
		}
		if want := []int{3, 3, 2}; !slices.Equal(spread, want) {
			t.Errorf("connections by Link: %v, want %v", spread, want)
		}
		for _, c := range conns {
			_ = c.Close()
		}
		advance(50 * time.Second)
		if got := b.alive(); got != 3 {
			t.Errorf("%d Links before they were idle for long", got)
		}
		advance(20 * time.Second)
		if got := b.alive(); got != 1 {
			t.Errorf("%d Links when idle, want 1", got)
		}
		mustEcho(t, dialPool(t, p), "again")
	})
}

// A bulk transfer makes a Link busy: another is there before it is asked for, and stays.
func TestPoolKeepsASpareBesideBulk(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		p := startPool(t, b, PoolConfig{Max: 4})
		bulk := dialPool(t, p)
		var wg sync.WaitGroup
		defer wg.Wait()
		stop := make(chan struct{})
		defer close(stop)
		wg.Go(func() { _, _ = io.Copy(io.Discard, bulk) })
		wg.Go(func() {
			defer func() { _ = bulk.Close() }()
			tick := time.NewTicker(100 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
					if _, err := bulk.Write(make([]byte, 32<<10)); err != nil {
						return
					}
				}
			}
		})
		advance(5 * time.Second)
		if got := b.alive(); got != 2 {
			t.Fatalf("%d Links beside a bulk transfer, want 2", got)
		}
		mustEcho(t, dialPool(t, p), "quick")
		if first, second := len(b.dialed(0)), len(b.dialed(1)); first != 1 || second != 1 {
			t.Errorf("connections by Link: %d, %d", first, second)
		}
		advance(90 * time.Second)
		if got := b.alive(); got != 2 {
			t.Errorf("%d Links, want 2", got)
		}
		if st := p.Stats(); st[0].SendRate < 250e3 || st[0].SendRate > 420e3 {
			t.Errorf("rate %.0f, want 320 KiB/s", st[0].SendRate)
		}
	})
}

// Each Link reconnects by itself; the whole is down when all are.
func TestPoolReconnects(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		var seen phases
		p := startPool(t, b, PoolConfig{Max: 2, BusyConns: 1, OnState: seen.add})
		first := dialPool(t, p)
		advance(1500 * time.Millisecond)
		second := dialPool(t, p)
		mustEcho(t, second, "two")
		if got := b.alive(); got != 2 {
			t.Fatalf("%d Links, want 2", got)
		}
		b.session(0).near.cut()
		if _, err := first.Read(make([]byte, 1)); !errors.Is(err, errLost) {
			t.Errorf("on the lost Link: %v", err)
		}
		mustEcho(t, second, "still")
		mustEcho(t, dialPool(t, p), "at once")
		advance(1500 * time.Millisecond)
		if got := b.alive(); got != 2 {
			t.Errorf("%d Links after the loss of one, want 2", got)
		}
		if got := seen.list(); !slices.Equal(got, []Phase{Connecting, Up}) {
			t.Errorf("phases %v", got)
		}
		b.session(1).near.cut()
		b.session(2).near.cut()
		synctest.Wait()
		mustEcho(t, dialPool(t, p), "held")
		_ = p.Close()
		if got, want := seen.list(), []Phase{Connecting, Up, Reconnecting, Up, Down}; !slices.Equal(got, want) {
			t.Errorf("phases %v, want %v", got, want)
		}
		if err := p.Err(); err != nil {
			t.Errorf("closed: %v", err)
		}
		if _, err := p.Dial(soon(t), "tcp", "db:1"); err == nil {
			t.Error("a closed pool dials")
		}
	})
}

// A Link that cannot be added does not end the Pool, and is not tried again at once; the last one does.
func TestPoolOutlivesALink(t *testing.T) {
	bubble(t, func(t *testing.T, b *bastion) {
		p := startPool(t, b, PoolConfig{Max: 2, BusyConns: 1})
		refused := errors.New("no more sessions")
		var attempts atomic.Int64
		b.connect = func(context.Context) error { attempts.Add(1); return Permanent(refused) }
		c := dialPool(t, p)
		advance(10 * time.Second)
		mustEcho(t, c, "goes on")
		if attempts.Load() != 1 {
			t.Errorf("%d attempts, want 1", attempts.Load())
		}
		advance(25 * time.Second)
		if attempts.Load() != 2 {
			t.Errorf("%d attempts after the pause, want 2", attempts.Load())
		}
		b.session(0).near.cut()
		select {
		case <-p.Done():
		case <-time.After(time.Minute):
			t.Fatal("the pool has no Link and goes on")
		}
		if err := p.Err(); !errors.Is(err, refused) {
			t.Errorf("ended by %v", err)
		}
		if _, err := p.Dial(soon(t), "tcp", "db:1"); !errors.Is(err, refused) {
			t.Errorf("dial: %v", err)
		}
		synctest.Wait()
	})
}

// The state of the whole is that of a Link that is left, also when the one that it was goes.
func TestPoolStateIsThatOfTheBest(t *testing.T) {
	refused := errors.New("refused")
	closed := Phase("closed")
	for _, tt := range []struct {
		name   string
		events func(a, b *member, on func(*member, Phase))
		want   []Phase
	}{
		{"one that reconnects is left", func(a, b *member, on func(*member, Phase)) {
			on(a, Up)
			on(b, Reconnecting)
			on(a, Down)
			on(b, Up)
		}, []Phase{Up, Reconnecting, Up}},
		{"what was told was of the one that has gone", func(a, b *member, on func(*member, Phase)) {
			on(a, Up)
			on(b, Idle)
			on(a, Reconnecting)
			on(a, Down)
		}, []Phase{Up, Reconnecting, Idle}},
		{"one that is up is left", func(a, b *member, on func(*member, Phase)) {
			on(a, Up)
			on(b, Up)
			on(a, Reconnecting)
			on(a, Down)
		}, []Phase{Up}},
		{"a dial has seen the end", func(a, b *member, on func(*member, Phase)) {
			on(b, Down)
			on(a, Up)
			a.retired = true
			on(a, Down)
		}, []Phase{Connecting, Up, Down}},
		{"one that reconnects is closed too", func(a, b *member, on func(*member, Phase)) {
			on(a, Up)
			on(b, Reconnecting)
			on(a, closed)
			on(b, closed)
		}, []Phase{Up, Down}},
		{"all end", func(a, b *member, on func(*member, Phase)) {
			on(a, Up)
			on(b, Up)
			on(b, Down)
			on(a, Down)
		}, []Phase{Up, Down}},
	} {
		var seen phases
		p := NewPool(PoolConfig{OnState: seen.add})
		a, b := &member{state: State{Phase: Connecting}}, &member{state: State{Phase: Connecting}}
		p.members = []*member{a, b}
		now := time.Now()
		tt.events(a, b, func(m *member, phase Phase) {
			now = now.Add(time.Second)
			st := State{Phase: phase, Since: now}
			switch phase {
			case Down:
				st.Err = refused
			case closed:
				st.Phase = Down
			}
			p.onState(m, st)
		})
		if got := seen.list(); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
		if got := p.State().Phase; got != tt.want[len(tt.want)-1] {
			t.Errorf("%s: the state is %s, and %s was told last", tt.name, got, tt.want[len(tt.want)-1])
		}
	}
}

func TestPoolCloseWithoutStart(t *testing.T) {
	p := NewPool(PoolConfig{})
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if err := p.Ready(soon(t)); !errors.Is(err, errLinkClosed) {
		t.Errorf("ready: %v", err)
	}
}
