package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/fail"
)

func TestForwardHalfClose(t *testing.T) {
	b := newBastion(t)
	l := readyLink(t, b, LinkConfig{})
	dest := serveTCP(t, func(c *net.TCPConn) { // answers only once the question has ended
		q, _ := io.ReadAll(c)
		_, _ = fmt.Fprintf(c, "answer to %s", q)
	})
	var stats Stats
	addr := startForward(t, l, dest, ForwardConfig{Stats: &stats})
	for i := range 3 {
		c := dialTCP(t, addr)
		_, _ = fmt.Fprintf(c, "question %d", i)
		_ = c.CloseWrite()
		if got, err := io.ReadAll(c); string(got) != fmt.Sprintf("answer to question %d", i) || err != nil {
			t.Fatalf("read %q, %v", got, err)
		}
	}
	// The other way round: the destination ends first and reads on.
	read := make(chan string, 1)
	dest = serveTCP(t, func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "greeting")
		_ = c.CloseWrite()
		got, _ := io.ReadAll(c)
		read <- string(got)
	})
	c := dialTCP(t, startForward(t, l, dest, ForwardConfig{Stats: &stats}))
	if got, err := io.ReadAll(c); string(got) != "greeting" || err != nil {
		t.Fatalf("read %q, %v", got, err)
	}
	_, _ = io.WriteString(c, "still here")
	_ = c.Close()
	if got := <-read; got != "still here" {
		t.Errorf("destination read %q", got)
	}
	got := stats.Snapshot()
	got.Active = 0 // the last may be ending
	if want := (StatsSnapshot{Total: 4, BytesUp: 3*10 + 10, BytesDown: 3*20 + 8}); got != want {
		t.Errorf("stats %+v, want %+v", got, want)
	}
}

func TestForwardResetsRefusedClients(t *testing.T) {
	b := newBastion(t)
	b.dial = func(context.Context, string) (net.Conn, error) {
		return nil, &ssh.OpenChannelError{Reason: ssh.Prohibited, Message: "not on the list"}
	}
	l := readyLink(t, b, LinkConfig{})
	var stats Stats
	c, err := net.Dial("tcp", startForward(t, l, "db:5432", ForwardConfig{Stats: &stats}))
	if err == nil { // the reset may be as quick as the connect
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v, want a reset", err)
	}
	late := soon(t)
	for stats.Snapshot().Active > 0 { // the forward has yet to note what the client has seen
		select {
		case <-time.After(time.Millisecond):
		case <-late.Done():
			t.Fatal("the connection counts as active")
		}
	}
	if got := stats.Snapshot(); got.Failed != 1 || got.Total != 1 {
		t.Errorf("stats %+v, want one failed of one", got)
	}
}

// A stream that the loss of the link cuts short must not look complete, and the listener must stay.
func TestForwardSurvivesLostLink(t *testing.T) {
	b := newBastion(t)
	l := readyLink(t, b, LinkConfig{BackoffMin: time.Millisecond})
	dest := serveTCP(t, func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "first half")
		echo(c)
	})
	addr := startForward(t, l, dest, ForwardConfig{})
	c := dialTCP(t, addr)
	if _, err := io.ReadFull(c, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	back := make(chan struct{})
	b.connect = func(context.Context) error { <-back; return nil }
	b.session(0).near.cut()
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %d, %v; want a reset", n, err)
	}
	held := make([]*net.TCPConn, 5) // they connect while the link is down
	for i := range held {
		held[i] = dialTCP(t, addr)
	}
	close(back)
	for _, c := range held {
		if _, err := io.ReadFull(c, make([]byte, 10)); err != nil {
			t.Fatal("a client that waited for the link:", err)
		}
		mustEcho(t, c, "second half")
	}
}

// Forward returns, and leaves nothing, while connections are stuck both ways, held, and half-open, and the link is up.
func TestForwardEndsWithContext(t *testing.T) {
	b := newBastion(t)
	l := readyLink(t, b, LinkConfig{})
	release := make(chan struct{})
	dest := serveTCP(t, func(*net.TCPConn) { <-release }) // reads nothing
	defer close(release)
	ln := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	var stats Stats
	go func() { result <- Forward(ctx, ln, l, dest, ForwardConfig{Stats: &stats}) }()
	var clients []*net.TCPConn
	for range 3 {
		c := dialTCP(t, ln.Addr().String())
		clients = append(clients, c)
		_ = c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		buf := make([]byte, 1<<20)
		for {
			if _, err := c.Write(buf); err != nil {
				break // all buffers and SSH's window are full
			}
		}
	}
	cancel()
	if err := <-result; err != nil {
		t.Error(err)
	}
	if got := stats.Snapshot().Active; got != 0 {
		t.Errorf("%d connections active after the end", got)
	}
	for _, c := range clients {
		if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("read of a client after the end: %v", err)
		}
	}
	if _, err := net.DialTimeout("tcp", ln.Addr().String(), time.Second); err == nil {
		t.Error("the listener is still open")
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

func TestForwardBoundsConnections(t *testing.T) {
	b := newBastion(t)
	l := readyLink(t, b, LinkConfig{})
	var stats Stats
	addr := startForward(t, l, serveTCP(t, echo), ForwardConfig{MaxConns: 2, Stats: &stats})
	first, second := dialTCP(t, addr), dialTCP(t, addr)
	mustEcho(t, first, "1")
	mustEcho(t, second, "2")
	third := dialTCP(t, addr) // into the backlog
	_, _ = io.WriteString(third, "3")
	_ = third.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := third.Read(make([]byte, 1)); !isTimeout(err) {
		t.Errorf("third connection: %v, want none while two are open", err)
	}
	if got := stats.Snapshot(); got.Active != 2 || got.Total != 2 {
		t.Errorf("stats %+v, want 2 active of 2", got)
	}
	_ = first.Close()
	_ = third.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := third.Read(make([]byte, 1)); err != nil {
		t.Error("third connection after the first has ended:", err)
	}
}

func TestForwardRejectsBadDestination(t *testing.T) {
	ln := listen(t)
	if err := Forward(t.Context(), ln, nil, "db", ForwardConfig{}); fail.KindOf(err) != fail.Usage {
		t.Errorf("%v, want kind Usage", err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error("the listener was not closed:", err)
	}
}

// brokenListener fails for a while, as when file descriptors are short, then for good.
type brokenListener struct {
	net.Listener
	errs []error
}

func (b *brokenListener) Accept() (net.Conn, error) {
	err := b.errs[0]
	b.errs = b.errs[1:]
	return nil, err
}

func TestForwardReportsBrokenListener(t *testing.T) {
	passing := &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
	broken := errors.New("no such socket")
	ln := &brokenListener{listen(t), []error{passing, passing, broken}}
	if err := Forward(t.Context(), ln, nil, "db:5432", ForwardConfig{Logger: testLog(t)}); !errors.Is(err, broken) {
		t.Errorf("%v, want %v", err, broken)
	}
	if len(ln.errs) != 0 {
		t.Error("gave up at a passing error")
	}
}

// Many connections at once, each sending and receiving its own bytes both ways at its own pace.
func TestForward200Connections(t *testing.T) {
	const conns, size = 200, 64 << 10
	b := newBastion(t)
	l := readyLink(t, b, LinkConfig{})
	addr := startForward(t, l, serveTCP(t, echo), ForwardConfig{})
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range conns {
		c := dialTCP(t, addr)
		wg.Go(func() {
			<-start
			src := rand.NewChaCha8([32]byte{byte(i), byte(i >> 8)})
			sent, got := sha256.New(), sha256.New()
			var writer sync.WaitGroup
			writer.Go(func() {
				_, err := io.CopyN(io.MultiWriter(c, sent), src, size+int64(i))
				if err != nil {
					t.Error("write:", err)
				}
				_ = c.CloseWrite()
			})
			n, err := io.Copy(got, c)
			writer.Wait()
			if err != nil || n != size+int64(i) || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
				t.Errorf("connection %d: %d bytes of %d, %v, or they differ", i, n, size+i, err)
			}
		})
	}
	close(start)
	wg.Wait()
}

// A small exchange beside bulk uploads waits for no more than its turn. The bound is generous: a fair queue serves it in
// milliseconds, while starvation does not serve it until the uploads end.
func TestForwardServesSmallBesideBulk(t *testing.T) {
	b := newBastion(t)
	l := readyLink(t, b, LinkConfig{})
	sink := serveTCP(t, func(c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
	bulk := startForward(t, l, sink, ForwardConfig{})
	small := dialTCP(t, startForward(t, l, serveTCP(t, echo), ForwardConfig{}))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		c := dialTCP(t, bulk)
		wg.Go(func() {
			buf := make([]byte, 256<<10)
			for !isClosed(stop) {
				if _, err := c.Write(buf); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	var worst time.Duration
	for i := range 100 {
		began := time.Now()
		mustEcho(t, small, fmt.Sprintf("%03d", i))
		worst = max(worst, time.Since(began))
	}
	close(stop)
	wg.Wait()
	t.Logf("worst of 100 round trips beside 4 uploads: %v", worst)
	if worst > 5*time.Second {
		t.Errorf("a round trip took %v", worst)
	}
}

func TestListen(t *testing.T) {
	ctx := t.Context()
	for _, addr := range []string{":0", "127.0.0.1:0", "127.0.0.9:0", "localhost:0"} {
		ln, err := Listen(ctx, addr, false)
		if err != nil {
			t.Errorf("Listen(%q): %v", addr, err)
			continue
		}
		if !ln.Addr().(*net.TCPAddr).IP.IsLoopback() {
			t.Errorf("Listen(%q) listens on %v", addr, ln.Addr())
		}
		_ = ln.Close()
	}
	for _, addr := range []string{"0.0.0.0:0", "[::]:0", "*:0", "192.0.2.1:0", "example.invalid:0", "127.0.0.1", "127.0.0.1:x"} {
		if _, err := Listen(ctx, addr, false); fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" {
			t.Errorf("Listen(%q): %v, want kind Usage and a next step", addr, err)
		}
	}
	ln, err := Listen(ctx, "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	_, err = Listen(ctx, ":"+port, false)
	if fail.KindOf(err) != fail.PortInUse || !strings.Contains(err.Error(), "port "+port) || !strings.Contains(fail.NextOf(err), port) {
		t.Errorf("port in use: %v (%s)", err, fail.NextOf(err))
	}
}
