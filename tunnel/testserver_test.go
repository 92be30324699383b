package tunnel

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// memConn is one end of a buffered connection in memory. Unlike net.Pipe's, its writes do not wait for reads, as both
// ends of SSH write first; unlike a socket, it works inside a synctest bubble.
type memConn struct{ in, out *memHalf }

// memHalf is one direction.
type memHalf struct {
	mu       sync.Mutex
	cond     sync.Cond
	buf      []byte
	limit    int   // writers wait while buf holds so much
	ended    bool  // the writer's end was closed
	err      error // for both
	writeErr error // for the writer
	swallow  bool  // a black hole: writes succeed and nothing arrives
	held     bool  // readers wait
}

func newMemHalf(limit int) *memHalf {
	h := &memHalf{limit: limit}
	h.cond.L = &h.mu
	return h
}

func memPipe() (a, b *memConn) {
	x, y := newMemHalf(256<<10), newMemHalf(256<<10)
	return &memConn{in: x, out: y}, &memConn{in: y, out: x}
}

func (h *memHalf) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.err != nil:
			return 0, h.err
		case len(h.buf) > 0 && !h.held:
			n := copy(p, h.buf)
			h.buf = h.buf[n:]
			h.cond.Broadcast()
			return n, nil
		case h.ended && !h.held:
			return 0, io.EOF
		}
		h.cond.Wait()
	}
}

func (h *memHalf) write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for n := 0; ; {
		switch {
		case h.err != nil:
			return n, h.err
		case h.writeErr != nil:
			return n, h.writeErr
		case h.ended:
			return n, io.ErrClosedPipe
		case h.swallow:
			return len(p), nil
		}
		m := min(len(p)-n, h.limit-len(h.buf))
		h.buf = append(h.buf, p[n:n+m]...)
		n += m
		h.cond.Broadcast()
		if n == len(p) {
			return n, nil
		}
		h.cond.Wait()
	}
}

func (h *memHalf) update(f func()) {
	h.mu.Lock()
	f()
	h.cond.Broadcast()
	h.mu.Unlock()
}

func (h *memHalf) fail(err error) {
	h.update(func() {
		if h.err == nil {
			h.err = err
		}
	})
}

func (c *memConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *memConn) Write(p []byte) (int, error) { return c.out.write(p) }
func (c *memConn) CloseWrite() error           { c.out.update(func() { c.out.ended = true }); return nil }

func (c *memConn) Close() error {
	_ = c.CloseWrite()
	c.in.fail(net.ErrClosed)
	return nil
}

// cut breaks the connection for both ends, as a reset does.
func (c *memConn) cut() {
	err := errors.New("transport cut")
	c.in.fail(err)
	c.out.fail(err)
}

// blackhole makes the connection swallow everything, both ways, without an error.
func (c *memConn) blackhole() {
	c.in.update(func() { c.in.swallow = true })
	c.out.update(func() { c.out.swallow = true })
}

// hold stops what c sends before it arrives, or lets it go on.
func (c *memConn) hold(held bool) { c.out.update(func() { c.out.held = held }) }

func (c *memConn) LocalAddr() net.Addr              { return destAddr("mem") }
func (c *memConn) RemoteAddr() net.Addr             { return destAddr("mem") }
func (c *memConn) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (c *memConn) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (c *memConn) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }

// bastion is an SSH server on x/crypto/ssh that forwards, as bastiond does. It is a Connector too.
type bastion struct {
	host   ssh.Signer
	user   ssh.Signer
	name   string
	pinned ssh.PublicKey // what Connect tells the client to expect; nil: host's

	// dial opens the destinations; an *ssh.OpenChannelError becomes the refusal.
	dial func(ctx context.Context, addr string) (net.Conn, error)
	// connect, if set, is called at the beginning of each Connect.
	connect func(ctx context.Context) error

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	sessions []*bastionSession
	auths    int      // attempts to log in with a key
	requests []string // global requests
	deaf     bool     // accepts channels no more: opens are not answered
}

// bastionSession is one SSH connection as the bastion sees it.
type bastionSession struct {
	server *ssh.ServerConn // valid once ready is closed
	ready  chan struct{}   // closed after the handshake
	near   *memConn        // the client's end of the transport
	opens  []string        // destinations dialed
	ended  chan struct{}
}

// conn waits for the bastion's end of the handshake, which may be over after the client's.
func (s *bastionSession) conn(t testing.TB) *ssh.ServerConn {
	t.Helper()
	select {
	case <-s.ready:
		return s.server
	case <-s.ended:
		t.Fatal("the handshake has failed")
		return nil
	}
}

func newBastion(t testing.TB) *bastion {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	b := &bastion{
		host: newSigner(t), user: newSigner(t), name: "bastion-1",
		dial: func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		},
		ctx: ctx, cancel: cancel,
	}
	t.Cleanup(b.stop)
	return b
}

func newSigner(t testing.TB) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (b *bastion) stop() {
	b.cancel()
	b.mu.Lock()
	for _, s := range b.sessions {
		s.near.cut()
	}
	b.mu.Unlock()
	b.wg.Wait()
}

// Connect implements Connector.
func (b *bastion) Connect(ctx context.Context) (*Transport, error) {
	if _, draining := Replacing(ctx); draining && UseOf(ctx) == Unused {
		return nil, Gone(errors.New("it stops"))
	}
	if b.connect != nil {
		if err := b.connect(ctx); err != nil {
			return nil, err
		}
	}
	near, far := memPipe()
	s := &bastionSession{near: near, ready: make(chan struct{}), ended: make(chan struct{})}
	b.mu.Lock()
	b.sessions = append(b.sessions, s)
	b.mu.Unlock()
	b.wg.Go(func() { b.serve(s, far) })
	pinned := b.pinned
	if pinned == nil {
		pinned = b.host.PublicKey()
	}
	return &Transport{
		Conn: near, User: "u", Describe: b.name,
		Auth: []ssh.AuthMethod{ssh.PublicKeys(b.user)}, HostKey: ssh.FixedHostKey(pinned),
	}, nil
}

func (b *bastion) serve(s *bastionSession, far net.Conn) {
	defer close(s.ended)
	defer far.Close()
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.auths++
		if !bytes.Equal(key.Marshal(), b.user.PublicKey().Marshal()) {
			return nil, errors.New("unknown key")
		}
		return nil, nil
	}}
	cfg.AddHostKey(b.host)
	conn, chans, reqs, err := ssh.NewServerConn(far, cfg)
	if err != nil {
		return
	}
	s.server = conn
	close(s.ready)
	var wg sync.WaitGroup
	wg.Go(func() {
		for r := range reqs {
			b.mu.Lock()
			b.requests = append(b.requests, r.Type)
			b.mu.Unlock()
			_ = r.Reply(r.Type == "info@bastion", []byte("{}"))
		}
	})
	for ch := range chans {
		b.mu.Lock()
		deaf := b.deaf
		b.mu.Unlock()
		if !deaf {
			wg.Go(func() { b.channel(s, ch) })
		}
	}
	wg.Wait()
}

func (b *bastion) channel(s *bastionSession, nc ssh.NewChannel) {
	var m struct {
		Host       string
		Port       uint32
		Originator string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(nc.ExtraData(), &m); err != nil || nc.ChannelType() != "direct-tcpip" {
		_ = nc.Reject(ssh.UnknownChannelType, "only direct-tcpip")
		return
	}
	addr := net.JoinHostPort(m.Host, strconv.Itoa(int(m.Port)))
	b.mu.Lock()
	s.opens = append(s.opens, addr)
	b.mu.Unlock()
	dest, err := b.dial(b.ctx, addr)
	if err != nil {
		if refusal, ok := errors.AsType[*ssh.OpenChannelError](err); ok {
			_ = nc.Reject(refusal.Reason, refusal.Message)
		} else {
			_ = nc.Reject(ssh.ConnectionFailed, err.Error())
		}
		return
	}
	defer dest.Close()
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	defer ch.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(ch, dest)
		_ = ch.CloseWrite()
	})
	_, _ = io.Copy(dest, ch) // the end of the channel, or of everything, ends it
	_ = dest.(interface{ CloseWrite() error }).CloseWrite()
	go func() { // when the client has closed the channel both ways, the destination is not waited for
		ssh.DiscardRequests(reqs)
		_ = dest.Close()
	}()
	wg.Wait()
}

func (b *bastion) session(i int) *bastionSession {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sessions[i]
}

func (b *bastion) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.sessions)
}

func (b *bastion) dialed(i int) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.sessions[i].opens...)
}

// drain announces the bastion's end on session i.
func (b *bastion) drain(t testing.TB, i int, payload string) {
	t.Helper()
	if _, _, err := b.session(i).conn(t).SendRequest(drainRequest, false, []byte(payload)); err != nil {
		t.Fatal(err)
	}
}

// startLink starts a Link that is closed at the end of the test.
func startLink(t testing.TB, c Connector, cfg LinkConfig) *Link {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = testLog(t)
	}
	l := NewLink(c, cfg)
	l.Start(context.Background())
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// readyLink starts a Link and waits until it is up.
func readyLink(t testing.TB, c Connector, cfg LinkConfig) *Link {
	t.Helper()
	l := startLink(t, c, cfg)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := l.Ready(ctx); err != nil {
		t.Fatal("link not ready:", err)
	}
	return l
}

func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// startForward starts a Forward that is ended, and must end without an error, at the end of the test.
func startForward(t testing.TB, d Dialer, dest string, cfg ForwardConfig) (addr string) {
	t.Helper()
	ln := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	result := make(chan error, 1)
	if cfg.Logger == nil {
		cfg.Logger = testLog(t)
	}
	go func() { result <- Forward(ctx, ln, d, dest, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-result; err != nil {
			t.Error("Forward:", err)
		}
	})
	return ln.Addr().String()
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := Listen(context.Background(), "127.0.0.1:0", false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	return ln
}

// serveTCP is a TCP server on loopback that gives each connection to handle and closes it then.
func serveTCP(t testing.TB, handle func(*net.TCPConn)) (addr string) {
	t.Helper()
	ln := listen(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		_ = ln.Close()
		wg.Wait()
	})
	return ln.Addr().String()
}

// echo sends back what it gets, and its end.
func echo(c *net.TCPConn) {
	_, _ = io.Copy(c, c)
	_ = c.CloseWrite()
}

func dialTCP(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

// mustEcho checks that c echoes.
func mustEcho(t testing.TB, c io.ReadWriter, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal("write:", err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal("read:", err)
	}
	if string(got) != text {
		t.Fatalf("got %q, want %q", got, text)
	}
}

// tool returns the path of a program that the test needs. On a developer's machine the test is skipped without it; CI has
// it.
func tool(t testing.TB, candidates ...string) string {
	t.Helper()
	for _, name := range candidates {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%v is not installed (make deps installs it)", candidates)
	}
	t.Skipf("%v is not installed (make deps installs it)", candidates)
	return ""
}
