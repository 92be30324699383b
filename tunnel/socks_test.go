package tunnel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/net/proxy"
)

// startSOCKS starts a SOCKS proxy that is ended, and must end without an error, at the end of the test.
func startSOCKS(t testing.TB, d Dialer, cfg ProxyConfig) (addr string) {
	t.Helper()
	ln := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	if cfg.Logger == nil {
		cfg.Logger = testLog(t)
	}
	go func() { result <- ServeProxy(ctx, ln, d, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-result; err != nil {
			t.Error("ServeProxy:", err)
		}
	})
	return ln.Addr().String()
}

// vpcNames makes the bastion resolve names that exist only there, each to the given address.
func (b *bastion) vpcNames(names map[string]string) {
	next := b.dial
	b.dial = func(ctx context.Context, addr string) (net.Conn, error) {
		there, ok := names[addr]
		if !ok {
			return nil, &ssh.OpenChannelError{Reason: ssh.ConnectionFailed, Message: "lookup " + addr + ": no such host"}
		}
		return next(ctx, there)
	}
}

func TestSOCKSWithCurl(t *testing.T) {
	curl := tool(t, "curl")
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "hello from %s", r.Host)
	}))
	defer page.Close()
	b := newBastion(t)
	b.vpcNames(map[string]string{"wiki.corp.example:8080": page.Listener.Addr().String()})
	addr := startSOCKS(t, readyLink(t, b, LinkConfig{}), ProxyConfig{})

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, curl, "-sS", "--max-time", "10", "--socks5-hostname", addr,
		"http://wiki.corp.example:8080/").CombinedOutput()
	if err != nil || string(out) != "hello from wiki.corp.example:8080" {
		t.Errorf("curl: %v, %s", err, out)
	}
	out, err = exec.CommandContext(ctx, curl, "-sS", "--max-time", "10", "--socks5-hostname", addr,
		"http://nowhere.corp.example/").CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 97 { // CURLE_PROXY
		t.Errorf("curl of an unknown name: %v, %s; want exit code 97", err, out)
	}
}

func TestSOCKSHalfClose(t *testing.T) {
	b := newBastion(t)
	dest := serveTCP(t, func(c *net.TCPConn) {
		q, _ := io.ReadAll(c)
		_, _ = fmt.Fprintf(c, "answer to %s", q)
	})
	b.vpcNames(map[string]string{"db.corp.example:5432": dest})
	var stats Stats
	addr := startSOCKS(t, readyLink(t, b, LinkConfig{}), ProxyConfig{Stats: &stats})
	dialer, err := proxy.SOCKS5("tcp", addr, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := dialer.Dial("tcp", "db.corp.example:5432")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = io.WriteString(c, "question")
	_ = c.(interface{ CloseWrite() error }).CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "answer to question" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	if got := stats.Snapshot(); got.Total != 1 || got.BytesUp != 8 || got.BytesDown != 18 {
		t.Errorf("stats %+v", got)
	}
}

// request sends one SOCKS5 request, with all that follows in the same segment, and returns the reply code.
func request(t *testing.T, addr string, cmd byte, dest []byte, early string) (reply byte, c *net.TCPConn) {
	t.Helper()
	c = dialTCP(t, addr)
	msg := append([]byte{5, 1, 0, 5, cmd, 0}, dest...)
	msg = append(msg, early...)
	if _, err := c.Write(msg); err != nil {
		t.Fatal(err)
	}
	var answer [2 + 10]byte
	if _, err := io.ReadFull(c, answer[:]); err != nil {
		t.Fatalf("reply: %v (so far %x)", err, answer)
	}
	if !bytes.Equal(answer[:3], []byte{5, 0, 5}) {
		t.Fatalf("answer %x", answer)
	}
	return answer[3], c
}

func domain(name string, port byte) []byte {
	return append(append([]byte{3, byte(len(name))}, name...), 0, port)
}

func TestSOCKSReplies(t *testing.T) {
	b := newBastion(t)
	dest := serveTCP(t, echo)
	var dialed []string
	there := b.dial
	b.dial = func(ctx context.Context, addr string) (net.Conn, error) {
		dialed = append(dialed, addr)
		host, _, _ := net.SplitHostPort(addr)
		switch host {
		case "denied":
			return nil, &ssh.OpenChannelError{Reason: ssh.Prohibited, Message: "not on the list"}
		case "refused":
			return nil, &ssh.OpenChannelError{Reason: ssh.ConnectionFailed, Message: "dial tcp: Connection refused"}
		case "net":
			return nil, &ssh.OpenChannelError{Reason: ssh.ConnectionFailed, Message: "Network is unreachable"}
		case "unknown":
			return nil, &ssh.OpenChannelError{Reason: ssh.ConnectionFailed, Message: "no such host"}
		case "full":
			return nil, &ssh.OpenChannelError{Reason: ssh.ResourceShortage}
		}
		return there(ctx, dest)
	}
	addr := startSOCKS(t, readyLink(t, b, LinkConfig{}), ProxyConfig{})
	v6 := append([]byte{4}, net.ParseIP("fd00::5").To16()...)
	for _, tc := range []struct {
		name string
		cmd  byte
		dest []byte
		want byte
		seen string // by the bastion
	}{
		{"name", 1, domain("some.corp.example", 80), 0, "some.corp.example:80"},
		{"IPv4", 1, []byte{1, 10, 0, 0, 9, 0, 80}, 0, "10.0.0.9:80"},
		{"IPv6", 1, append(v6, 0, 80), 0, "[fd00::5]:80"},
		{"policy", 1, domain("denied", 80), 2, "denied:80"},
		{"network unreachable", 1, domain("net", 80), 3, "net:80"},
		{"no such name", 1, domain("unknown", 80), 4, "unknown:80"},
		{"refused", 1, domain("refused", 80), 5, "refused:80"},
		{"bastion full", 1, domain("full", 80), 1, "full:80"},
		{"no port", 1, domain("some", 0), 1, ""},
		{"no name", 1, domain("", 80), 1, ""},
		{"BIND", 2, domain("some", 80), 7, ""},
		{"UDP ASSOCIATE", 3, []byte{1, 0, 0, 0, 0, 0, 0}, 7, ""},
		{"unknown command", 9, domain("some", 80), 7, ""},
		{"unknown address type", 1, []byte{9, 0, 0}, 8, ""},
	} {
		dialed = nil
		got, c := request(t, addr, tc.cmd, tc.dest, "early")
		if got != tc.want || strings.Join(dialed, " ") != tc.seen {
			t.Errorf("%s: reply %d, bastion saw %q; want %d, %q", tc.name, got, dialed, tc.want, tc.seen)
		}
		if got != 0 {
			if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Errorf("%s: the connection stays after the reply", tc.name)
			}
			continue
		}
		// What the client sent without waiting for the reply is not lost.
		early := make([]byte, 5)
		if _, err := io.ReadFull(c, early); err != nil || string(early) != "early" {
			t.Errorf("%s: echo %q, %v", tc.name, early, err)
		}
		_ = c.Close()
	}
}

func TestSOCKSHandshakeTimeout(t *testing.T) {
	addr := startSOCKS(t, nil, ProxyConfig{HandshakeTimeout: 50 * time.Millisecond})
	c := dialTCP(t, addr)
	_, _ = c.Write([]byte{5}) // and nothing more
	if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("read: %v, want the end", err)
	}
}

// The end of the proxy interrupts clients in their handshake, waiting for the bastion, and connected.
func TestSOCKSEndsWithContext(t *testing.T) {
	b := newBastion(t)
	dest := serveTCP(t, echo)
	there := b.dial
	b.dial = func(ctx context.Context, addr string) (net.Conn, error) {
		if strings.HasPrefix(addr, "slow:") {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return there(ctx, dest)
	}
	l := readyLink(t, b, LinkConfig{})
	ln := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- ServeProxy(ctx, ln, l, ProxyConfig{HandshakeTimeout: time.Hour}) }()
	addr := ln.Addr().String()
	_, connected := request(t, addr, 1, domain("fast", 80), "")
	mustEcho(t, connected, "hello")
	waiting := dialTCP(t, addr)
	_, _ = waiting.Write(append([]byte{5, 1, 0, 5, 1, 0}, domain("slow", 80)...))
	if _, err := io.ReadFull(waiting, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	silent := dialTCP(t, addr)
	_, _ = silent.Write([]byte{5, 1, 0})
	if _, err := io.ReadFull(silent, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-result; err != nil {
		t.Error(err)
	}
	for i, c := range []*net.TCPConn{connected, waiting, silent} {
		_, err := io.Copy(io.Discard, c)
		if err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("client %d: %v", i, err)
		}
	}
}
