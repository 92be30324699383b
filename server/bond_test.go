package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/sessions/bond"
)

// paths is a client's way to the bond port, in place of SSM sessions.
type paths struct {
	mu      sync.Mutex
	dial    func() (net.Conn, error)
	streams []net.Conn
	down    bool
	asleep  chan struct{} // closed when the client's machine wakes up; nil: it is awake
}

// tcpPaths leads to the bond port of a server.
func tcpPaths(b *bastion) *paths {
	return &paths{dial: func() (net.Conn, error) { return net.Dial("tcp", b.bonds[0].Addr().String()) }}
}

// memPaths leads to the bond port of a server that runs in memory.
func memPaths(m *timed) *paths {
	return &paths{dial: m.bonds[0].(*memListener).dial}
}

var errDown = errors.New("no network")

func (p *paths) open(context.Context) (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.down {
		return nil, errDown
	}
	stream, err := p.dial()
	if err != nil {
		return nil, err
	}
	p.streams = append(p.streams, stream)
	return &sleeper{Conn: stream, paths: p, closed: make(chan struct{})}, nil
}

// sleep makes the client silent while its streams stay, as when its machine sleeps and SSM has not noticed. When it wakes
// up the streams have ended.
func (p *paths) sleep() (wake func()) {
	asleep := make(chan struct{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down, p.asleep = true, asleep
	return sync.OnceFunc(func() {
		p.mu.Lock()
		p.asleep = nil
		p.mu.Unlock()
		close(asleep)
		p.cut(false)
	})
}

// sleeper is the client's end of a stream, by which nothing passes while the client sleeps.
type sleeper struct {
	net.Conn
	paths  *paths
	closed chan struct{}
	once   sync.Once
}

func (s *sleeper) asleep() chan struct{} {
	s.paths.mu.Lock()
	defer s.paths.mu.Unlock()
	return s.paths.asleep
}

func (s *sleeper) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if asleep := s.asleep(); asleep != nil {
		select {
		case <-asleep:
		case <-s.closed:
		}
		return 0, net.ErrClosed
	}
	return n, err
}

func (s *sleeper) Write(p []byte) (int, error) {
	if s.asleep() != nil {
		return len(p), nil
	}
	return s.Conn.Write(p)
}

func (s *sleeper) Close() error {
	s.once.Do(func() { close(s.closed) })
	if s.asleep() != nil {
		return nil // waking up closes it
	}
	return s.Conn.Close()
}

// cut ends all streams, and lets no new one through if down.
func (p *paths) cut(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
	for _, stream := range p.streams {
		_ = stream.Close()
	}
	p.streams = nil
}

func (p *paths) restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = false
}

// bond begins a connection.
func (p *paths) bond(t testing.TB) *bond.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := bond.Dial(ctx, bond.DialConfig{Open: p.open})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// ssh connects an SSH client over a bond connection.
func (p *paths) ssh(t testing.TB, b *bastion, pair *keys.Pair) (*ssh.Client, *bond.Conn) {
	t.Helper()
	raw := p.bond(t)
	conn, chans, requests, err := ssh.NewClientConn(raw, "bastion", b.clientConfig(pair))
	if err != nil {
		t.Fatalf("%v\n%s", err, b.log)
	}
	c := ssh.NewClient(conn, chans, requests)
	t.Cleanup(func() { _ = c.Close() })
	return c, raw
}

// startTimedBond is startTimed with a bond port.
func startTimedBond(t *testing.T, config Config) *timed {
	t.Helper()
	return startTimedOn(t, config, newMemListener())
}

// A connection goes on when the sessions under it end, and the audit log tells of the connection and of each of them.
func TestBond(t *testing.T) {
	far := farEnd(t, echo)
	b := start(t, Config{BondListen: "localhost:0", Allow: allowOnly(t, far)})
	if len(b.bonds) != len(b.listeners) {
		t.Errorf("%d listeners for bonds, %d for SSH", len(b.bonds), len(b.listeners))
	}
	pair := pair(t)
	reply := b.AddGrant(word(t, pair, time.Hour))
	if reply.Ports != (keys.Ports{SSH: b.Port(), Bond: portOf(b.bonds[0])}) {
		t.Errorf("the grant's reply names the ports %+v", reply.Ports)
	}
	p := tcpPaths(b)
	c, raw := p.ssh(t, b, pair)
	conn := connect(t, c, far)
	roundTrip(t, conn, "by the first session")
	p.cut(false)
	roundTrip(t, conn, "by another")

	_, payload, err := c.SendRequest(RequestInfo, true, nil)
	var info Info
	if err := errors.Join(err, json.Unmarshal(payload, &info)); err != nil || info.Ports.Bond != portOf(b.bonds[0]) {
		t.Errorf("info: %+v, %v", info, err)
	}
	if h := b.health(); h.BondPort != portOf(b.bonds[0]) || h.Connections != 1 {
		t.Errorf("%+v", h)
	}
	_ = c.Close()
	closed := b.log.wait(t, audit.BondClose, 1)
	if closed.Reason == "" || closed.DurationMS == nil || *closed.BytesUp == 0 || *closed.BytesDown == 0 ||
		closed.Subflow != nil {
		t.Errorf("%+v", closed)
	}

	id := raw.RemoteAddr().String()
	var events []string
	for _, r := range b.log.records(t) {
		switch r.Event {
		case audit.BondOpen, audit.SubflowJoin, audit.SubflowLost:
			if r.Bond != id || r.Subflow == nil || r.Client == "" {
				t.Errorf("%+v", r)
			}
			events = append(events, r.Event)
		case audit.Auth:
			if r.Bond != id || r.Client != "" || r.Who != arn {
				t.Errorf("%+v", r)
			}
			events = append(events, r.Event)
		case audit.Start:
			if want := listenAddresses(b); !slices.Equal(r.Listen, want) || len(r.BondListen) != len(want) {
				t.Errorf("%+v", r)
			}
		}
	}
	for _, want := range [][]string{{audit.BondOpen, audit.Auth, audit.SubflowLost}, {audit.BondOpen, audit.SubflowJoin}} {
		for i := range len(want) - 1 {
			a, b := slices.Index(events, want[i]), slices.Index(events, want[i+1])
			if a < 0 || b < a {
				t.Errorf("%v, want %s before %s", events, want[i], want[i+1])
			}
		}
	}
}

// The client of a bastiond that was started anew need not wait: its connection is gone.
func TestBondUnknownAfterRestart(t *testing.T) {
	old := start(t, Config{BondListen: "localhost:0"})
	anew := start(t, Config{BondListen: "localhost:0"})
	p := tcpPaths(old)
	c, raw := p.ssh(t, old, old.grant(t))
	p.mu.Lock()
	p.dial = tcpPaths(anew).dial
	p.mu.Unlock()
	p.cut(false)

	_ = c.Wait()
	var refused *bond.RefusedError
	if err := raw.Err(); !errors.As(err, &refused) || refused.Code != bond.RefuseUnknown {
		t.Errorf("%v", err)
	}
	if r := anew.log.wait(t, audit.SubflowDeny, 1); r.Reason != "unknown connection" || r.Result != audit.Refused ||
		r.Bond != raw.RemoteAddr().String() || *r.Subflow == 0 {
		t.Errorf("%+v", r)
	}
}

func TestBondMemory(t *testing.T) {
	b := start(t, Config{BondListen: "localhost:0", BondMemory: 2 << 20})
	p := tcpPaths(b)
	grant := b.grant(t)
	var err error
	for n := 0; err == nil; n++ {
		if n == 10 {
			t.Fatal("memory for 10 connections")
		}
		raw := p.bond(t)
		var c ssh.Conn
		if c, _, _, err = ssh.NewClientConn(raw, "bastion", b.clientConfig(grant)); err == nil {
			t.Cleanup(func() { _ = c.Close() })
		}
	}
	var refused *bond.RefusedError
	if !errors.As(err, &refused) || refused.Code != bond.RefuseMemory {
		t.Errorf("%v", err)
	}
	if r := b.log.wait(t, audit.SubflowDeny, 1); !strings.HasPrefix(r.Reason, "out of memory") {
		t.Errorf("%+v", r)
	}
	if c := b.dial(t, grant); c == nil {
		t.Error("the SSH port is closed too")
	}
}

// A client that does not sign in loses what it took.
func TestBondUnauthenticated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := startTimedBond(t, Config{HandshakeTimeout: 30 * time.Second, BondMaxConns: 2})
		p := memPaths(m)
		refused := func() bool {
			c := p.bond(t)
			c.SetReadDeadline(time.Now().Add(time.Second))
			_, err := io.ReadFull(c, make([]byte, len("SSH-2.0-")))
			var refused *bond.RefusedError
			if err != nil && (!errors.As(err, &refused) || refused.Code != bond.RefuseConns) {
				t.Error(err)
			}
			return err != nil
		}
		for n := range 3 {
			if refused() != (n == 2) {
				t.Errorf("connection %d of 2 is refused, or is not", n+1)
			}
		}
		if m.after(29 * time.Second); !refused() {
			t.Error("a client has less time than it should")
		}
		if m.after(40 * time.Second); refused() {
			t.Error("a client may take as long as it wishes")
		}
		if r := m.log.wait(t, audit.AuthRefused, 2); r.Bond == "" || r.Client != "" {
			t.Errorf("%+v", r)
		}
	})
}

// A client that has lost every path is waited for, and then counts as gone since it was lost.
func TestBondLinger(t *testing.T) {
	config := Config{
		ClientTimeout: 20 * time.Minute, IdleStop: 30 * time.Minute, BondLinger: 30 * time.Minute,
		Allow: mustAllow(t, "10.0.0.0/8:*"),
	}
	// longLived is a client whose grant lasts, and what makes sure that it is answered.
	longLived := func(t *testing.T) (m *timed, p *paths, answers func()) {
		t.Helper()
		m = startTimedBond(t, config)
		p = memPaths(m)
		pair := m.grant(t)
		if r := m.AddGrant(word(t, pair, 10*time.Hour)); r.Error != "" {
			t.Fatal(r.Error)
		}
		c, _ := p.ssh(t, m.bastion, pair)
		return m, p, func() {
			t.Helper()
			if ok, _, err := c.SendRequest(requestKeepalive, true, nil); !ok || err != nil {
				t.Fatalf("%v, %v\n%s", ok, err, m.log)
			}
		}
	}
	t.Run("it does not come back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m := startTimedBond(t, config)
			p := memPaths(m)
			p.ssh(t, m.bastion, m.grant(t))
			m.after(10 * time.Minute)
			p.cut(true)
			if m.after(40*time.Minute - time.Second); !m.running() || m.health().Connections != 1 {
				t.Errorf("given up before its time:\n%s", m.log)
			}
			if m.after(40*time.Minute + 10*time.Second); m.running() {
				t.Errorf("idle after the linger time, and still there:\n%s", m.log)
			}
			if r := lastReason(t, m, audit.Disconnect); !strings.Contains(r, "no path") {
				t.Errorf("disconnected because of %q", r)
			}
			if r := lastReason(t, m, audit.Stop); r != "idle" {
				t.Errorf("stopped because of %q", r)
			}
		})
	})
	t.Run("it comes back", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, p, answers := longLived(t)
			for round := range time.Duration(3) {
				p.cut(true)
				m.after((round + 1) * 29 * time.Minute)
				p.restore()
				answers()
			}
			if n := m.health().Connections; n != 1 {
				t.Errorf("%d connections", n)
			}
		})
	})
	t.Run("it sleeps", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			m, p, answers := longLived(t)
			wake := p.sleep()
			m.after(29 * time.Minute)
			wake()
			answers()
			defer p.sleep()()
			if m.after(58 * time.Minute); m.health().Connections != 1 {
				t.Errorf("given up before its time:\n%s", m.log)
			}
			if m.after(60 * time.Minute); m.running() {
				t.Errorf("idle after the linger time, and still there:\n%s", m.log)
			}
		})
	})
	t.Run("the maximum life wins", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			config := config
			config.MaxLife = time.Hour
			m := startTimedBond(t, config)
			p := memPaths(m)
			pair := m.grant(t)
			c, _ := p.ssh(t, m.bastion, pair)
			connect(t, c, "10.0.0.1:80")
			m.after(50 * time.Minute)
			p.cut(true)
			if m.after(time.Hour + 10*time.Second); m.running() {
				t.Errorf("still there:\n%s", m.log)
			}
		})
	})
}

// A client that drops its paths at the wrong time still gets to finish.
func TestBondDrain(t *testing.T) {
	far := farEnd(t, echo)
	b := start(t, Config{BondListen: "localhost:0", Allow: allowOnly(t, far)})
	grant := b.grant(t)
	p := tcpPaths(b)
	c, _ := p.ssh(t, b, grant)
	conn := connect(t, c, far)
	b.stop()
	b.log.wait(t, audit.Drain, 1)
	p.cut(false)
	roundTrip(t, conn, "late")

	_, err := p.bond(t).Read(make([]byte, 1))
	var refused *bond.RefusedError
	if !errors.As(err, &refused) || refused.Code != bond.RefuseDraining {
		t.Errorf("a new connection: %v", err)
	}
	_ = conn.Close()
	b.log.wait(t, audit.Stop, 1)
	if err := c.Wait(); err == nil {
		t.Error("it ended without an error")
	}
}
