package rediscluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/tunnel"
)

// pipeDialer answers each connection by a function.
type pipeDialer func(dest string, c *net.TCPConn)

func (d pipeDialer) Dial(ctx context.Context, _, addr string) (net.Conn, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	near, err := new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
	if err != nil {
		return nil, err
	}
	far, err := ln.Accept()
	if err != nil {
		return nil, errors.Join(err, near.Close())
	}
	go func() {
		defer far.Close()
		d(addr, far.(*net.TCPConn))
	}()
	return near, nil
}

func dialTCP(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := rig.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// The name that a client is sent to is the one that is dialed, through the listener that it got.
func TestFollow(t *testing.T) {
	dests := make(chan string, 4)
	d := pipeDialer(func(dest string, c *net.TCPConn) {
		dests <- dest
		_, _ = io.WriteString(c, "-MOVED 1 Node-2.vpc:7000\r\n")
		_, _ = io.Copy(io.Discard, c)
	})
	cluster, addr := serve(t, d, "config.vpc:6379", Config{})
	want := []string{"config.vpc:6379", "node-2.vpc:7000", "node-2.vpc:7000"}
	for _, dest := range want {
		c := dialTCP(t, addr)
		var moved string
		if _, err := fmt.Fscanf(c, "-MOVED 1 %s\r\n", &moved); err != nil {
			t.Fatal(err)
		}
		if got := <-dests; got != dest {
			t.Errorf("dialed %s, want %s", got, dest)
		}
		nodes := cluster.Nodes()
		if len(nodes) != 2 || nodes[1].Target != "node-2.vpc:7000" || nodes[1].Listen != moved {
			t.Errorf("moved to %s, nodes %+v", moved, nodes)
		}
		addr = moved
	}
}

// The two directions end separately, as in a forward of anything else.
func TestHalfClose(t *testing.T) {
	d := pipeDialer(func(_ string, c *net.TCPConn) {
		q, _ := io.ReadAll(c)
		_, _ = fmt.Fprintf(c, "$%d\r\n%s\r\n*2\r\n:1\r\n$100\r\nnot all of it", len(q), q)
	})
	stats := new(tunnel.Stats)
	_, addr := serve(t, d, "a:1", Config{Forward: tunnel.ForwardConfig{Stats: stats}})
	c := dialTCP(t, addr)
	asked := command("CLUSTER", "SLOTS") + command("CLUSTER", "SLOTS")
	_, _ = io.WriteString(c, asked)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	want := bulk(asked) + "*2\r\n:1\r\n$100\r\nnot all of it"
	if string(got) != want || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

// A node that names ever more nodes gets no more listeners than there may be, and the rest of what it says passes.
func TestEndlessNodes(t *testing.T) {
	const limit, named = 8, 5000
	var slots strings.Builder
	fmt.Fprintf(&slots, "*%d\r\n", named)
	for i := range named {
		fmt.Fprintf(&slots, "*3\r\n:%d\r\n:%d\r\n*2\r\n%s:6379\r\n", i, i, bulk(fmt.Sprintf("evil-%d.vpc", i)))
	}
	d := pipeDialer(func(_ string, c *net.TCPConn) {
		buf := make([]byte, len(command("CLUSTER", "SLOTS")))
		for range 2 {
			_, _ = io.ReadFull(c, buf)
			_, _ = io.WriteString(c, slots.String())
		}
		for i := range named {
			_, _ = fmt.Fprintf(c, "-MOVED 1 more-%d.vpc:1\r\n", i)
		}
	})
	cluster, addr := serve(t, d, "a:1", Config{MaxNodes: limit})
	c := dialTCP(t, addr)
	_, _ = io.WriteString(c, command("CLUSTER", "SLOTS")+command("CLUSTER", "SLOTS"))
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(got), "$9\r\n127.0.0.1\r\n"); n != 2*limit {
		t.Errorf("%d nodes were rewritten, want %d", n, 2*limit)
	}
	if n := strings.Count(string(got), "-MOVED 1 more-"); n != named {
		t.Errorf("%d redirections passed, want %d", n, named)
	}
	cluster.mu.Lock()
	defer cluster.mu.Unlock()
	if len(cluster.nodes) != limit+1 || len(cluster.byName) != limit+1 {
		t.Errorf("%d nodes, %d names", len(cluster.nodes), len(cluster.byName))
	}
}

// Nodes that have been replaced make room: those that nobody has named for long, and nobody uses.
func TestEvict(t *testing.T) {
	cluster, _ := serve(t, pipeDialer(func(string, *net.TCPConn) {}), "a:1", Config{MaxNodes: 2})
	first := cluster.first(t)
	name := func(host string) bool {
		_, _, ok := cluster.translate(first, announced{host: host, port: 1})
		return ok
	}
	if !name("b") || !name("c") || name("d") {
		t.Fatalf("nodes %+v", cluster.Nodes())
	}
	cluster.mu.Lock()
	old, used := cluster.byName["b:1"], cluster.byName["c:1"]
	old.seen, used.seen = old.seen.Add(-2*keepIdle), used.seen.Add(-3*keepIdle)
	used.conns.Add(1)
	cluster.mu.Unlock()
	if !name("d") || name("e") {
		t.Errorf("nodes %+v", cluster.Nodes())
	}
	if n := cluster.Nodes(); len(n) != 3 || n[1].Target != "c:1" || n[2].Target != "d:1" {
		t.Errorf("nodes %+v", n)
	}
	if conn, err := rig.Dial(t.Context(), old.local.String()); err == nil { // perhaps before it is closed
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Error("the listener of a node that is gone still answers")
		}
		_ = conn.Close()
	}
}

// first waits until c serves.
func (c *Cluster) first(t *testing.T) *node {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		c.mu.Lock()
		nodes := c.nodes
		c.mu.Unlock()
		if len(nodes) > 0 {
			return nodes[0]
		}
		if t.Context().Err() != nil {
			t.Fatal("it does not serve")
		}
	}
	return nil
}

// A node that is known by several names has one listener, and is dialed by the name that the cluster prefers.
func TestNames(t *testing.T) {
	type say struct {
		announced
		target string
	}
	tests := []struct {
		name  string
		cfg   Config
		says  []say
		nodes int
	}{
		{"one name", Config{}, []say{{announced{host: "b", port: 1}, "b:1"}, {announced{host: "B", port: 1}, "b:1"}}, 2},
		{"the destination", Config{}, []say{{announced{host: "10.0.0.1", port: 1}, "10.0.0.1:1"}}, 1},
		{"the same host", Config{}, []say{{announced{port: 2}, "10.0.0.1:2"}, {announced{port: 1}, "10.0.0.1:1"}}, 2},
		{"name, then address", Config{}, []say{
			{announced{host: "b", port: 1, also: []string{"10.0.0.2"}}, "b:1"},
			{announced{host: "10.0.0.2", port: 1, also: []string{"b"}, weak: true}, "b:1"},
		}, 2},
		{"address, then name", Config{}, []say{
			{announced{host: "10.0.0.2", port: 1, also: []string{"b", "?", ""}, weak: true}, "10.0.0.2:1"},
			{announced{host: "b", port: 1, also: []string{"10.0.0.2"}}, "b:1"},
		}, 2},
		{"the destination by its name", Config{}, []say{
			{announced{host: "b", port: 1, also: []string{"10.0.0.1"}}, "10.0.0.1:1"},
			{announced{host: "b", port: 1}, "10.0.0.1:1"},
		}, 1},
		{"an address that another node has now", Config{}, []say{
			{announced{host: "b", port: 1, also: []string{"10.0.0.2"}}, "b:1"},
			{announced{host: "c", port: 1, also: []string{"10.0.0.2"}}, "c:1"},
			{announced{host: "10.0.0.2", port: 1, weak: true}, "c:1"},
		}, 3},
	}
	for _, tt := range tests {
		cluster, _ := serve(t, pipeDialer(func(string, *net.TCPConn) {}), "10.0.0.1:1", tt.cfg)
		first := cluster.first(t)
		for _, s := range tt.says {
			host, port, ok := cluster.translate(first, s.announced)
			var target string
			for _, n := range cluster.Nodes() {
				if n.Listen == fmt.Sprintf("%s:%d", host, port) {
					target = n.Target
				}
			}
			if !ok || target != s.target {
				t.Errorf("%s: %+v leads to %q, want %s", tt.name, s.announced, target, s.target)
			}
		}
		if n := cluster.Nodes(); len(n) != tt.nodes {
			t.Errorf("%s: nodes %+v", tt.name, n)
		}
	}
	cluster, _ := serve(t, pipeDialer(func(string, *net.TCPConn) {}), "a:1", Config{})
	first := cluster.first(t)
	for _, a := range []announced{{host: "?", port: 1}, {host: "b c", port: 1}, {host: "b"}} {
		if _, _, ok := cluster.translate(first, a); ok {
			t.Errorf("%+v was taken for a node", a)
		}
	}
	for i := range 100 {
		cluster.translate(first, announced{host: "b", port: 1, also: []string{fmt.Sprintf("n%d", i)}})
	}
	cluster.mu.Lock()
	defer cluster.mu.Unlock()
	if len(cluster.byName) > maxNames+1 {
		t.Errorf("%d names of one node", len(cluster.byName))
	}
}

// goneDialer's connections are those of a link that is lost: what they sent has come, nobody reads any more.
type goneDialer struct{ pipeDialer }

type goneTCP struct {
	*net.TCPConn
	gone chan struct{}
}

func (g goneTCP) Gone() <-chan struct{} { return g.gone }

func (d goneDialer) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := d.pipeDialer.Dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	gone := make(chan struct{})
	close(gone)
	return goneTCP{c.(*net.TCPConn), gone}, nil
}

// A client is not kept when its far end has gone for good, though it has not ended its own direction.
func TestGone(t *testing.T) {
	d := goneDialer{func(_ string, c *net.TCPConn) { _, _ = io.WriteString(c, "+OK\r\n") }}
	ended := make(chan struct{})
	stats := &tunnel.Stats{OnEnd: func(tunnel.ConnSnapshot, error) { close(ended) }}
	_, addr := serve(t, d, "a:1", Config{Forward: tunnel.ForwardConfig{Stats: stats}})
	c := dialTCP(t, addr)
	if got, err := io.ReadAll(c); string(got) != "+OK\r\n" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	<-ended
}

// When Serve has returned, no listener of a node is left.
func TestEnd(t *testing.T) {
	c, err := New(pipeDialer(func(string, *net.TCPConn) {}), "a:1", Config{})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Serve(ctx, ln) }()
	first := c.first(t)
	if _, _, ok := c.translate(first, announced{host: "b", port: 1}); !ok {
		t.Fatal("no listener")
	}
	listen := c.Nodes()[1].Listen
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if conn, err := rig.Dial(t.Context(), listen); err == nil {
		_ = conn.Close()
		t.Error("the listener of a node is left")
	}
	if _, _, ok := c.translate(first, announced{host: "c", port: 1}); ok {
		t.Error("a listener was opened after the end")
	}

	// A listener that breaks is an error, and ends all.
	ln, err = net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	if c, err = New(pipeDialer(func(string, *net.TCPConn) {}), "a:1", Config{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Serve(t.Context(), ln); err == nil {
		t.Error("no error")
	}
	for _, dest := range []string{"", "a", "a:b", "a:0", "a b:1", ":1"} {
		if _, err := New(nil, dest, Config{}); fail.KindOf(err) != fail.Usage {
			t.Errorf("%q: %v", dest, err)
		}
	}
}

// The listeners of nodes are on loopback also where the first one is not.
func TestUnspecified(t *testing.T) {
	c, err := New(nil, "a:1", Config{})
	if err != nil {
		t.Fatal(err)
	}
	first, err := c.begin(t.Context(), fakeListener("[::]:7"))
	if err != nil || first.local.String() != "127.0.0.1:7" || c.host != "127.0.0.1" {
		t.Errorf("%+v, %v", first, err)
	}
	if first, err = c.begin(t.Context(), fakeListener("[::1]:7")); err != nil || first.local.String() != "[::1]:7" {
		t.Errorf("%+v, %v", first, err)
	}
}

type fakeListener string

func (fakeListener) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (fakeListener) Close() error              { return nil }
func (f fakeListener) Addr() net.Addr          { return f }
func (fakeListener) Network() string           { return "tcp" }
func (f fakeListener) String() string          { return string(f) }
