package server

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/keys"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// arn is who the tests' grants are for.
const arn = "arn:aws:sts::000000000000:assumed-role/developer/ada"

// patience bounds what a test waits for that should be quick.
const patience = 20 * time.Second

// auditLog is a writer that a test can wait on.
type auditLog struct {
	mu     sync.Mutex
	lines  []string
	change chan struct{}
}

func newAuditLog() *auditLog { return &auditLog{change: make(chan struct{})} }

func (l *auditLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, string(bytes.TrimSuffix(p, []byte("\n"))))
	close(l.change)
	l.change = make(chan struct{})
	return len(p), nil
}

func (l *auditLog) records(t testing.TB) []audit.Record {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	records := make([]audit.Record, len(l.lines))
	for i, line := range l.lines {
		if err := json.Unmarshal([]byte(line), &records[i]); err != nil {
			t.Fatalf("audit line %q: %v", line, err)
		}
	}
	return records
}

// wait returns the n-th record (from 1) of an event.
func (l *auditLog) wait(t testing.TB, event string, n int) audit.Record {
	t.Helper()
	timeout := time.After(patience)
	for {
		l.mu.Lock()
		change := l.change
		l.mu.Unlock()
		left := n
		for _, r := range l.records(t) {
			if r.Event == event {
				if left--; left == 0 {
					return r
				}
			}
		}
		select {
		case <-change:
		case <-timeout:
			t.Fatalf("no event %d of %q in the audit log:\n%s", n, event, l)
		}
	}
}

func (l *auditLog) count(t testing.TB, event string) (n int) {
	t.Helper()
	for _, r := range l.records(t) {
		if r.Event == event {
			n++
		}
	}
	return n
}

func (l *auditLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// bastion is a running server under test.
type bastion struct {
	*Server
	log  *auditLog
	stop context.CancelFunc // begins the drain
	done chan error         // Run's result
}

// start runs a server on loopback; at the end of the test it must stop without an error.
func start(t testing.TB, config Config) *bastion {
	t.Helper()
	b := &bastion{log: newAuditLog(), done: make(chan error, 1)}
	if config.Listen == "" {
		config.Listen = "localhost:0"
	}
	if config.Audit == nil {
		config.Audit = b.log
	}
	var err error
	if b.Server, err = New(config); err != nil {
		t.Fatal(err)
	}
	b.run(t)
	b.log.wait(t, audit.Start, 1)
	return b
}

func (b *bastion) run(t testing.TB) {
	var ctx context.Context
	ctx, b.stop = context.WithCancel(context.Background())
	go func() { b.done <- b.Run(ctx) }()
	t.Cleanup(func() {
		b.stop()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if err := <-b.done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// pair makes a key pair.
func pair(t testing.TB) *keys.Pair {
	t.Helper()
	p, err := keys.NewPair("test")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// word makes a grant word.
func word(t testing.TB, p *keys.Pair, ttl time.Duration, permit ...string) string {
	t.Helper()
	g, err := keys.NewGrant(p.PublicKey(), arn, permit, ttl)
	if err != nil {
		t.Fatal(err)
	}
	w, err := g.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// grant makes a pair and has it accepted.
func (b *bastion) grant(t testing.TB, permit ...string) *keys.Pair {
	t.Helper()
	p := pair(t)
	if reply := b.AddGrant(word(t, p, time.Hour, permit...)); reply.Error != "" {
		t.Fatal(reply.Error)
	}
	return p
}

func (b *bastion) clientConfig(p *keys.Pair) *ssh.ClientConfig {
	return &ssh.ClientConfig{
		User: "ada", Auth: []ssh.AuthMethod{ssh.PublicKeys(p.Signer())},
		HostKeyCallback: keys.PinnedHostKey(b.HostKey()), Timeout: patience,
	}
}

// dial connects an SSH client.
func (b *bastion) dial(t testing.TB, p *keys.Pair) *ssh.Client {
	t.Helper()
	c, err := ssh.Dial("tcp", b.listeners[0].Addr().String(), b.clientConfig(p))
	if err != nil {
		t.Fatalf("%v\n%s", err, b.log)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// connect opens a direct-tcpip channel to address.
func connect(t testing.TB, c *ssh.Client, address string) net.Conn {
	t.Helper()
	conn, err := c.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// farEnd serves each connection to it on 127.0.0.1 by serve, and waits for all at the end of the test.
func farEnd(t testing.TB, serve func(*net.TCPConn)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]struct{}{}
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[conn] = struct{}{}
			mu.Unlock()
			work.Go(func() {
				defer conn.Close()
				serve(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for conn := range conns {
			_ = conn.Close()
		}
		mu.Unlock()
		work.Wait()
	})
	return l.Addr().String()
}

// echo sends its input back, and its end.
func echo(conn *net.TCPConn) {
	_, _ = io.Copy(conn, conn)
	_ = conn.CloseWrite()
}

// allowOnly permits the address of a far end, by naming it.
func allowOnly(t testing.TB, addresses ...string) Allow {
	t.Helper()
	return mustAllow(t, strings.Join(addresses, ","))
}

// nameServer answers DNS queries with fixed addresses, on loopback, and returns its address. A name with no addresses
// is never answered; an unknown one does not exist.
func nameServer(t testing.TB, hosts map[string][]string) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
		answer := new(dns.Msg)
		answer.SetReply(query)
		name := query.Question[0].Name
		addrs, known := hosts[strings.TrimSuffix(strings.ToLower(name), ".")]
		switch {
		case !known:
			answer.Rcode = dns.RcodeNameError
		case len(addrs) == 0:
			return
		}
		for _, a := range addrs {
			addr := netip.MustParseAddr(a)
			header := dns.RR_Header{Name: name, Class: dns.ClassINET, Ttl: 0}
			switch query.Question[0].Qtype {
			case dns.TypeA:
				if addr.Is4() {
					header.Rrtype = dns.TypeA
					answer.Answer = append(answer.Answer, &dns.A{Hdr: header, A: addr.AsSlice()})
				}
			case dns.TypeAAAA:
				if addr.Is6() {
					header.Rrtype = dns.TypeAAAA
					answer.Answer = append(answer.Answer, &dns.AAAA{Hdr: header, AAAA: addr.AsSlice()})
				}
			}
		}
		_ = w.WriteMsg(answer)
	})}
	ready := make(chan struct{})
	server.NotifyStartedFunc = func() { close(ready) }
	done := make(chan error, 1)
	go func() { done <- server.ActivateAndServe() }()
	<-ready
	t.Cleanup(func() {
		_ = server.Shutdown()
		if err := <-done; err != nil {
			t.Errorf("name server: %v", err)
		}
	})
	return conn.LocalAddr().String()
}

// dialed stands in for the network: it records each dial and connects it to an echo.
type dialed struct {
	mu        sync.Mutex
	addresses []string
	work      sync.WaitGroup
}

func newDialed(t testing.TB) *dialed {
	d := new(dialed)
	t.Cleanup(d.work.Wait)
	return d
}

func (d *dialed) dial(_ context.Context, _, address string) (net.Conn, error) {
	d.mu.Lock()
	d.addresses = append(d.addresses, address)
	d.mu.Unlock()
	near, far := net.Pipe()
	d.work.Go(func() {
		defer far.Close()
		_, _ = io.Copy(far, far)
	})
	return near, nil
}

func (d *dialed) list() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.addresses)
}

// roundTrip writes a line and wants it back.
func roundTrip(t testing.TB, conn net.Conn, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(conn, line); err != nil {
		t.Fatal(err)
	}
	got, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || got != line+"\n" {
		t.Fatalf("got %q, %v, want %q", got, err, line)
	}
}
