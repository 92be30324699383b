package server

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/keys"
)

// timed is a server that runs in memory, on the clock of a synctest bubble.
type timed struct {
	*bastion
	listener *memListener
	began    time.Time
}

func startTimed(t *testing.T, config Config) *timed {
	t.Helper()
	return startTimedOn(t, config)
}

// startTimedOn is startTimed with listeners for the bond port.
func startTimedOn(t *testing.T, config Config, bonds ...net.Listener) *timed {
	t.Helper()
	b := &bastion{log: newAuditLog(), done: make(chan error, 1)}
	config.Audit = b.log
	if config.Dial == nil {
		config.Dial = silentDestination
	}
	var err error
	if b.Server, err = newServer(config); err != nil {
		t.Fatal(err)
	}
	m := &timed{bastion: b, listener: newMemListener(), began: time.Now()}
	b.listeners, b.port, b.bonds = []net.Listener{m.listener}, 2222, bonds
	b.run(t)
	synctest.Wait()
	return m
}

// silentDestination takes everything and says nothing, until it is closed.
func silentDestination(context.Context, string, string) (net.Conn, error) {
	return memConn{in: newMemHalf(), out: newMemHalf()}, nil
}

// after lets time pass until d after the start, and whatever happens then happen.
func (m *timed) after(d time.Duration) {
	<-time.After(time.Until(m.began.Add(d)))
	synctest.Wait()
}

// running says whether Run has not returned yet.
func (m *timed) running() bool {
	select {
	case <-m.finished:
		return false
	default:
		return true
	}
}

// wantEnd wants Run to return d after the start, neither sooner nor later.
func (m *timed) wantEnd(t *testing.T, d time.Duration) {
	t.Helper()
	if m.after(d - time.Nanosecond); !m.running() {
		t.Fatalf("it stopped before %v:\n%s", d, m.log)
	}
	if m.after(d); m.running() {
		t.Fatalf("it still runs after %v:\n%s", d, m.log)
	}
}

// connect makes an SSH connection. The notices to drain go to the channel that it returns.
func (m *timed) connect(t *testing.T, p *keys.Pair) (*ssh.Client, <-chan string) {
	t.Helper()
	raw, err := m.listener.dial()
	if err != nil {
		t.Fatal(err)
	}
	conn, chans, requests, err := ssh.NewClientConn(raw, "bastion", m.clientConfig(p))
	if err != nil {
		t.Fatalf("%v\n%s", err, m.log)
	}
	drains := make(chan string, 10)
	passed := make(chan *ssh.Request)
	go func() {
		defer close(passed)
		for r := range requests {
			if r.Type == RequestDrain && !r.WantReply {
				drains <- string(r.Payload)
			}
			passed <- r
		}
	}()
	c := ssh.NewClient(conn, chans, passed)
	t.Cleanup(func() { _ = c.Close() })
	return c, drains
}

func gone(c *ssh.Client) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		_ = c.Wait()
		close(done)
	}()
	return done
}

func isDone(done <-chan struct{}) bool {
	synctest.Wait()
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func lastReason(t *testing.T, m *timed, event string) string {
	t.Helper()
	reason := "no such event"
	for _, r := range m.log.records(t) {
		if r.Event == event {
			reason = r.Reason
		}
	}
	return reason
}

func TestIdleStop(t *testing.T) {
	t.Run("nobody comes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := startTimed(t, Config{IdleStop: 10 * time.Minute})
			m.wantEnd(t, 10*time.Minute)
			if r := lastReason(t, m, audit.Stop); r != "idle" {
				t.Errorf("stopped because of %q", r)
			}
		})
	})
	t.Run("a grant counts", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := startTimed(t, Config{IdleStop: 10 * time.Minute})
			m.after(9 * time.Minute)
			m.grant(t)
			m.wantEnd(t, 19*time.Minute)
		})
	})
	t.Run("a connection counts while it lasts", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := startTimed(t, Config{IdleStop: 10 * time.Minute})
			c, _ := m.connect(t, m.grant(t))
			m.after(50 * time.Minute)
			_ = c.Close()
			m.wantEnd(t, 60*time.Minute)
		})
	})
	t.Run("one that does not authenticate does not", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := startTimed(t, Config{IdleStop: 10 * time.Minute, HandshakeTimeout: 9 * time.Minute})
			m.after(2 * time.Minute)
			raw, err := m.listener.dial()
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			m.wantEnd(t, 10*time.Minute)
		})
	})
	t.Run("never", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := startTimed(t, Config{IdleStop: -1, MaxLife: 100 * time.Hour, Drain: time.Hour})
			m.wantEnd(t, 99*time.Hour)
		})
	})
}

func TestMaxLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startTimed(t, Config{
			Allow: mustAllow(t, "10.0.0.0/8:*"), IdleStop: -1, MaxLife: 2 * time.Hour, Drain: 25 * time.Second,
		})
		p := m.grant(t) // for one hour
		m.after(50 * time.Minute)
		if r := m.AddGrant(word(t, p, 10*time.Hour)); r.Error != "" || !r.NotAfter.Equal(m.began.Add(2*time.Hour)) {
			t.Fatalf("%+v", r)
		}
		c, drains := m.connect(t, p)
		conn := connect(t, c, "10.0.0.1:80")
		m.after(2*time.Hour - 25*time.Second - 1)
		if len(drains) > 0 {
			t.Error("told to drain too soon")
		}
		m.after(2*time.Hour - 25*time.Second)
		if len(drains) != 1 || <-drains != "25" {
			t.Error("not told to drain, or not once, or not in 25 seconds")
		}
		m.wantEnd(t, 2*time.Hour)
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("the channel goes on")
		}
		if r := lastReason(t, m, audit.Stop); r != "maximum life" {
			t.Errorf("stopped because of %q", r)
		}
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startTimed(t, Config{Allow: mustAllow(t, "10.0.0.0/8:*"), Drain: 25 * time.Second})
		p := m.grant(t)
		c, drains := m.connect(t, p)
		conn := connect(t, c, "10.0.0.1:80")
		m.after(time.Minute)
		m.stop()
		synctest.Wait()
		if len(drains) != 1 || <-drains != "25" {
			t.Error("not told to drain, or not once, or not in 25 seconds")
		}
		m.after(time.Minute + 10*time.Second)
		wantRefused(t, c, "10.0.0.1:80", ssh.ResourceShortage, "the bastion is stopping")
		if r := m.AddGrant(word(t, p, time.Hour)); r.Code != keys.CodeDraining || r.Error == "" {
			t.Errorf("%+v", r)
		}
		if _, err := m.listener.dial(); err == nil {
			t.Error("it still listens")
		}
		if h := m.health(); !h.Draining || h.Channels != 1 {
			t.Errorf("%+v", h)
		}
		if _, err := conn.Write([]byte("goes on")); err != nil || !m.running() {
			t.Errorf("the open channel: %v; running: %v", err, m.running())
		}
		_ = conn.Close() // the last
		if synctest.Wait(); m.running() {
			t.Error("it waits for nobody")
		}
		if d := m.log.wait(t, audit.Drain, 1); d.Reason != "told to stop" || d.Deadline != stamp(m.began.Add(85*time.Second)) {
			t.Errorf("%+v", d)
		}
	})
}

// stuckConn is a connection whose peer takes nothing any more, once stuck is closed.
type stuckConn struct {
	net.Conn
	stuck, closed chan struct{}
	once          sync.Once
}

func (c *stuckConn) Write(p []byte) (int, error) {
	select {
	case <-c.stuck:
		<-c.closed
		return 0, net.ErrClosed
	default:
		return c.Conn.Write(p)
	}
}

func (c *stuckConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// A drain first refuses new clients, is on record, tells every client, waits for the channels, and only then ends the connections.
// The stop is the last record. A client that takes nothing any more delays the end by noticeTime, and nobody's notice.
func TestDrainOrder(t *testing.T) {
	for name, tt := range map[string]struct {
		channel, stuck bool
		wait           time.Duration // from the drain to the end
	}{
		"idle": {false, false, 0}, "stuck": {false, true, noticeTime},
		"used": {true, false, 25 * time.Second}, "used & stuck": {true, true, 25 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := startTimed(t, Config{Allow: mustAllow(t, "10.0.0.0/8:*"), Drain: 25 * time.Second})
				stuck := make(chan struct{})
				m.listener.wrap = func(c net.Conn) net.Conn { return &stuckConn{Conn: c, stuck: stuck, closed: make(chan struct{})} }
				last, lastTold := m.connect(t, m.grant(t))
				m.listener.wrap = nil
				used, usedTold := m.connect(t, m.grant(t))
				idle, idleTold := m.connect(t, m.grant(t))
				if tt.channel {
					connect(t, used, "10.0.0.1:80")
				}
				ends := []<-chan struct{}{gone(used), gone(idle)}
				m.after(time.Minute)
				if tt.stuck {
					close(stuck)
				}
				m.stop()
				synctest.Wait()
				if len(usedTold) != 1 || len(idleTold) != 1 || !tt.stuck && len(lastTold) != 1 {
					t.Errorf("told at once: %d, %d, %d", len(usedTold), len(idleTold), len(lastTold))
				}
				if _, err := m.listener.dial(); err == nil {
					t.Error("it still listens")
				}
				if tt.wait > 0 {
					for _, end := range ends {
						if isDone(end) {
							t.Error("a connection ended before its time")
						}
					}
					if n := m.log.count(t, audit.Disconnect); n != 0 {
						t.Errorf("%d have ended on record", n)
					}
					m.wantEnd(t, time.Minute+tt.wait)
				}
				if synctest.Wait(); m.running() {
					t.Error("it waits for nobody")
				}
				var order, ofUsed []string
				for _, r := range m.log.records(t) {
					if r.Event != audit.Drain && len(order) == 0 {
						continue
					}
					if r.Event != audit.Close {
						order = append(order, r.Event)
					}
					if r.Conn == 2 {
						ofUsed = append(ofUsed, r.Event)
					}
				}
				if got := strings.Join(order, " "); got != "drain disconnect disconnect disconnect stop" {
					t.Errorf("on record: %s", got)
				}
				if got := strings.Join(ofUsed, " "); got != "disconnect" && !tt.channel || got != "close disconnect" && tt.channel {
					t.Errorf("on record of the connection with a channel: %s", got)
				}
				_ = last.Close()
			})
		})
	}
}

func TestDrainDeadline(t *testing.T) {
	for name, tt := range map[string]struct{ drain, want time.Duration }{
		"in time": {25 * time.Second, 85 * time.Second}, "none": {-1, time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := startTimed(t, Config{Allow: mustAllow(t, "10.0.0.0/8:*"), Drain: tt.drain})
				c, _ := m.connect(t, m.grant(t))
				connect(t, c, "10.0.0.1:80")
				time.AfterFunc(time.Minute, m.stop)
				m.wantEnd(t, tt.want)
			})
		})
	}
}

// A client that neither reads nor answers cannot hold up the end.
func TestCloseWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startTimed(t, Config{Allow: mustAllow(t, "10.0.0.0/8:*"), Drain: time.Hour})
		c, _ := m.connect(t, m.grant(t))
		connect(t, c, "10.0.0.1:80")
		m.stop()
		synctest.Wait()
		if err := m.Close(); err != nil || m.running() {
			t.Errorf("%v; running: %v", err, m.running())
		}
	})
}

func TestGrantExpiryEndsConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startTimed(t, Config{Allow: mustAllow(t, "10.0.0.0/8:*"), MaxLife: 10 * time.Hour})
		short, renewed, long := pair(t), pair(t), pair(t)
		for p, ttl := range map[*keys.Pair]time.Duration{short: time.Hour, renewed: time.Hour, long: 3 * time.Hour} {
			if r := m.AddGrant(word(t, p, ttl)); r.Error != "" {
				t.Fatal(r.Error)
			}
		}
		c, _ := m.connect(t, short)
		c2, _ := m.connect(t, renewed)
		c3, _ := m.connect(t, long)
		conn := connect(t, c, "10.0.0.1:80")
		shortGone, renewedGone, longGone := gone(c), gone(c2), gone(c3)
		m.after(30 * time.Minute)
		if r := m.AddGrant(word(t, renewed, 90*time.Minute)); r.Error != "" {
			t.Fatal(r.Error)
		}

		if m.after(time.Hour - 1); isDone(shortGone) {
			t.Error("ended before its time")
		}
		if m.after(time.Hour); !isDone(shortGone) || isDone(renewedGone) || isDone(longGone) {
			t.Errorf("after an hour: ended %v, %v, %v", isDone(shortGone), isDone(renewedGone), isDone(longGone))
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("the channel goes on")
		}
		if r := m.log.wait(t, audit.Disconnect, 1); r.Reason != "the grant has ended" {
			t.Errorf("%+v", r)
		}
		raw, err := m.listener.dial()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := ssh.NewClientConn(raw, "bastion", m.clientConfig(short)); err == nil {
			t.Error("the ended grant lets its key in")
		}
		if m.after(2 * time.Hour); !isDone(renewedGone) || isDone(longGone) {
			t.Errorf("after two hours: ended %v, %v", isDone(renewedGone), isDone(longGone))
		}
	})
}

// A grant that comes when its time is over is refused.
func TestLateGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startTimed(t, Config{})
		w := word(t, pair(t), time.Minute)
		m.after(time.Minute)
		if r := m.AddGrant(w); r.Code != keys.CodeExpired || r.Error == "" || r.HostKey != "" {
			t.Errorf("%+v", r)
		}
		if n := m.log.count(t, audit.GrantRefused); n != 1 {
			t.Errorf("%d refusals in the audit log", n)
		}
	})
}

// Grants end while the server drains, too.
func TestGrantExpiryWhileDraining(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startTimed(t, Config{Allow: mustAllow(t, "10.0.0.0/8:*"), Drain: time.Hour})
		p := pair(t)
		if r := m.AddGrant(word(t, p, 10*time.Minute)); r.Error != "" {
			t.Fatal(r.Error)
		}
		c, _ := m.connect(t, p)
		connect(t, c, "10.0.0.1:80")
		m.stop()
		m.wantEnd(t, 10*time.Minute)
	})
}

func TestHandshakeTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startTimed(t, Config{HandshakeTimeout: 30 * time.Second})
		raw, err := m.listener.dial()
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		closed := make(chan struct{})
		go func() {
			_, _ = io.Copy(io.Discard, raw)
			close(closed)
		}()
		if m.after(30*time.Second - 1); isDone(closed) {
			t.Error("ended before its time")
		}
		if m.after(30 * time.Second); !isDone(closed) {
			t.Error("a client may take as long as it wishes")
		}
		if r := m.log.wait(t, audit.AuthRefused, 1); r.Conn != 1 || r.Reason == "" {
			t.Errorf("%+v", r)
		}
	})
}

// A client that does not answer is gone; one that has nothing to say is not.
func TestClientTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startTimed(t, Config{ClientTimeout: 20 * time.Minute, IdleStop: -1})
		p := m.grant(t)
		if r := m.AddGrant(word(t, p, 10*time.Hour)); r.Error != "" {
			t.Fatal(r.Error)
		}
		quiet, _ := m.connect(t, p)
		quietGone := gone(quiet)
		raw, err := m.listener.dial()
		if err != nil {
			t.Fatal(err)
		}
		mute, _, _, err := ssh.NewClientConn(raw, "bastion", m.clientConfig(p)) // nobody answers its requests
		if err != nil {
			t.Fatal(err)
		}
		muteGone := make(chan struct{})
		go func() {
			_ = mute.Wait()
			close(muteGone)
		}()
		if m.after(25*time.Minute - 1); isDone(muteGone) {
			t.Error("ended before its time")
		}
		if m.after(25 * time.Minute); !isDone(muteGone) { // the first keepalive goes out after a quarter of 20 minutes
			t.Error("a client that does not answer stays")
		}
		if r := m.log.wait(t, audit.Disconnect, 1); r.Conn != 2 || r.Reason != "the client has not answered for 20m0s" {
			t.Errorf("%+v", r)
		}
		if m.after(9 * time.Hour); isDone(quietGone) {
			t.Error("a quiet client was ended")
		}
	})
}

func TestDialTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startTimed(t, Config{
			Allow: mustAllow(t, "10.0.0.0/8:*"), DialTimeout: 10 * time.Second,
			Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			},
		})
		c, _ := m.connect(t, m.grant(t))
		began := time.Now()
		wantRefused(t, c, "10.0.0.1:80", ssh.ConnectionFailed, "cannot connect")
		if d := time.Since(began); d != 10*time.Second {
			t.Errorf("it took %v", d)
		}

		// The client need not wait for it.
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = c.Dial("tcp", "10.0.0.1:80")
		}()
		synctest.Wait()
		_ = c.Close()
		<-done
		if r := m.log.wait(t, audit.Disconnect, 1); *r.DurationMS != 10_000 {
			t.Errorf("%d ms", *r.DurationMS)
		}
	})
}

// Each address gets its share of the time, so that one that is silent does not use up another's.
func TestDialShares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := newServer(Config{Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, errors.New("silent")
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 12*time.Second)
		defer cancel()
		began := time.Now()
		addr := netip.MustParseAddrPort("10.0.0.1:80")
		_, _ = s.dialShare(ctx, addr, 3)
		if d := time.Since(began); d != 4*time.Second {
			t.Errorf("the first of three took %v", d)
		}
		_, _ = s.dialShare(ctx, addr, 1)
		if d := time.Since(began); d != 12*time.Second {
			t.Errorf("all took %v", d)
		}
	})
}
