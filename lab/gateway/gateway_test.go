package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// closeStatus reads until the websocket ends and returns the status of its close frame, or -1.
func closeStatus(t *testing.T, ws *websocket.Conn) websocket.StatusCode {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for {
		if _, _, err := ws.Read(ctx); err != nil {
			if ctx.Err() != nil {
				t.Fatal("the websocket stays open")
			}
			return websocket.CloseStatus(err)
		}
	}
}

func TestTokens(t *testing.T) {
	g := newGateway(t, Config{})
	port := serveTCP(t, echo)
	first, err := g.Start(sshSpec("tokens", port))
	if err != nil {
		t.Fatal(err)
	}
	other, err := g.Start(sshSpec("other", port))
	if err != nil {
		t.Fatal(err)
	}
	refused := func(why, id, token string) {
		t.Helper()
		ws := dialWS(t, g, id)
		hello(t, ws, token)
		if s := closeStatus(t, ws); s != websocket.StatusPolicyViolation {
			t.Errorf("%s: close status %d", why, s)
		}
	}
	refused("a made-up token", "tokens", "AAAA")
	refused("an empty token", "tokens", "")
	refused("a token of another session", "tokens", other)
	refused("no such session", "nothing", first)

	second, err := g.Resume("tokens")
	if err != nil {
		t.Fatal(err)
	}
	refused("a replaced token", "tokens", first)
	a := &peer{t: t, early: map[int64]frame.Message{}}
	a.connect(g, "tokens", second)
	a.handshake("1.3.0.0")
	refused("a used token", "tokens", second)

	third, err := g.Resume("tokens")
	if err != nil {
		t.Fatal(err)
	}
	b := &peer{t: t, early: map[int64]frame.Message{}, seq: a.seq}
	b.connect(g, "tokens", third)
	if s := closeStatus(t, a.ws); s != websocket.StatusNormalClosure {
		t.Errorf("the websocket that was replaced: close status %d", s)
	}
	waitFor(t, "the dial", func() bool { return handlerReady(g, "tokens") })
	b.send(frame.PayloadOutput, []byte("hello"))
	b.await("the echo", isPayload(frame.PayloadOutput))
	if i := g.Sessions(); len(i) != 2 || i[0].ID != "tokens" || i[0].Resumes != 1 || !i[0].Connected || i[1].Connected {
		t.Errorf("sessions: %+v", i)
	}
}

func TestHelloIsEnforced(t *testing.T) {
	g := newGateway(t, Config{})
	for name, message := range map[string]struct {
		typ  websocket.MessageType
		body string
	}{
		"binary":     {websocket.MessageBinary, `{"MessageSchemaVersion":"1.0","TokenValue":"x"}`},
		"no JSON":    {websocket.MessageText, `token`},
		"old schema": {websocket.MessageText, `{"MessageSchemaVersion":"0.9","TokenValue":"x"}`},
	} {
		ws := dialWS(t, g, "s")
		if err := ws.Write(t.Context(), message.typ, []byte(message.body)); err != nil {
			t.Fatal(err)
		}
		if s := closeStatus(t, ws); s != websocket.StatusPolicyViolation {
			t.Errorf("%s: close status %d", name, s)
		}
	}
	ws := dialWS(t, g, "s")
	_ = ws.Write(t.Context(), websocket.MessageText, bytes.Repeat([]byte("x"), helloBytes+1))
	if s := closeStatus(t, ws); s != websocket.StatusMessageTooBig {
		t.Errorf("huge hello: close status %d", s)
	}
}

// statusOf is the answer to a plain GET of a ws:// URL.
func statusOf(t *testing.T, url string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http"+strings.TrimPrefix(url, "ws"), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

func TestHTTPRefusals(t *testing.T) {
	g := newGateway(t, Config{})
	for path, want := range map[string]int{
		"/v1/data-channel/x?role=subscribe":          http.StatusNotFound,
		"/v1/data-channel/?role=publish_subscribe":   http.StatusNotFound,
		"/v1/control-channel/x":                      http.StatusNotFound,
		"/v1/data-channel/x?role=publish_subscribe":  http.StatusUpgradeRequired,
		"/v1/data-channel/x?role=publish_subscribe&": http.StatusUpgradeRequired,
	} {
		if got := statusOf(t, g.cfg.BaseURL()+path); got != want {
			t.Errorf("%s: %d, not %d", path, got, want)
		}
	}
}

func TestStartRefuses(t *testing.T) {
	g := newGateway(t, Config{MaxSessions: 2})
	ok := sshSpec("one", 22)
	for name, change := range map[string]func(*Spec){
		"no id":        func(s *Spec) { s.ID = "" },
		"id":           func(s *Spec) { s.ID = "a/b" },
		"document":     func(s *Spec) { s.Document = "AWS-RunShellScript" },
		"port 0":       func(s *Spec) { s.Port = 0 },
		"port 65536":   func(s *Spec) { s.Port = 65536 },
		"no dial":      func(s *Spec) { s.Dial = nil },
		"host for ssh": func(s *Spec) { s.Host = "db" },
		"no host":      func(s *Spec) { s.Document = DocPortRemote },
		"no exec":      func(s *Spec) { s.Document = DocECSExec },
		"no decrypt":   func(s *Spec) { s.Document, s.Exec, s.KMSKeyID = DocECSExec, execReal, "key" },
	} {
		s := ok
		change(&s)
		if _, err := g.Start(s); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := g.Start(ok); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Start(ok); !errors.Is(err, ErrInvalid) {
		t.Errorf("the same id again: %v", err)
	}
	if _, err := g.Start(sshSpec("two", 22)); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Start(sshSpec("three", 22)); !errors.Is(err, ErrLimit) {
		t.Errorf("one too many: %v", err)
	}
	if err := g.Terminate("two"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Start(sshSpec("two", 22)); !errors.Is(err, ErrInvalid) {
		t.Errorf("the id of a session that has ended: %v", err)
	}
	if _, err := g.Start(sshSpec("three", 22)); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
}

func TestTerminateAndCounters(t *testing.T) {
	g := newGateway(t, Config{})
	p := start(t, g, sshSpec("s", serveTCP(t, echo)))
	p.handshake("1.3.0.0")
	if _, err := g.Resume("s"); err != nil {
		t.Fatal(err)
	}
	if c := g.Counters(); c != (Counters{Started: 1, Ports: 1, Live: 1, Resumes: 1, Sockets: 1}) {
		t.Errorf("counters %+v", c)
	}
	if err := g.Terminate("s"); err != nil {
		t.Fatal(err)
	}
	if n := len(g.Sessions()); n != 0 {
		t.Errorf("%d sessions after Terminate", n)
	}
	if out := p.end(); out != "" {
		t.Errorf("channel_closed says %q", out)
	}
	_ = p.ws.Close(websocket.StatusNormalClosure, "")
	waitFor(t, "the websocket to go", func() bool { return g.Counters().Sockets == 0 })
	if c := g.Counters(); c != (Counters{Started: 1, Ports: 1, Terminated: 1, Resumes: 1}) {
		t.Errorf("counters %+v", c)
	}
	if _, err := g.Resume("s"); !errors.Is(err, ErrTerminated) {
		t.Errorf("Resume: %v", err)
	}
	if err := g.Terminate("s"); err != nil {
		t.Errorf("Terminate again: %v", err)
	}
	if _, err := g.Resume("t"); !errors.Is(err, ErrNoSession) {
		t.Errorf("Resume of nothing: %v", err)
	}
	if err := g.Terminate("t"); !errors.Is(err, ErrNoSession) {
		t.Errorf("Terminate of nothing: %v", err)
	}
}

// A client that does not hang up after channel_closed is hung up on.
func TestWebsocketEndsAfterChannelClosed(t *testing.T) {
	t.Parallel()
	g := newGateway(t, Config{})
	p := start(t, g, sshSpec("s", serveTCP(t, echo)))
	p.handshake("1.3.0.0")
	_ = g.Terminate("s")
	p.end()
	if s := closeStatus(t, p.ws); s != websocket.StatusNormalClosure {
		t.Errorf("close status %d", s)
	}
}

func TestIdleSessionEnds(t *testing.T) {
	t.Parallel()
	g := newGateway(t, Config{IdleTimeout: 300 * time.Millisecond})
	p := start(t, g, sshSpec("s", serveTCP(t, echo)))
	p.handshake("1.3.0.0")
	if out := p.end(); !strings.Contains(out, "timed out") {
		t.Errorf("channel_closed says %q", out)
	}
	if len(g.Sessions()) > 0 {
		t.Error("the session lives on")
	}
}

func TestSocketLife(t *testing.T) {
	g := newGateway(t, Config{SocketLife: 100 * time.Millisecond})
	p := start(t, g, sshSpec("s", serveTCP(t, echo)))
	if s := closeStatus(t, p.ws); s != websocket.StatusNormalClosure {
		t.Errorf("close status %d", s)
	}
	if n := len(g.Sessions()); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"close", "reset"} {
		t.Run(how, func(t *testing.T) {
			g := newGateway(t, Config{})
			port := serveTCP(t, generate)
			p := start(t, g, sshSpec("s", port))
			quiet := start(t, g, sshSpec("quiet", port))
			p.handshake("1.3.0.0")
			quiet.handshake("1.3.0.0")
			waitFor(t, "the dial", func() bool { return handlerReady(g, "s") })
			const n = 200_000
			p.send(frame.PayloadOutput, request(3, n))
			out := append([]byte(nil), p.output(n/2)...)
			if n := g.Cut("s", how); n != 1 {
				t.Fatalf("%d websockets cut", n)
			}
			if n := g.Cut("s", how); n != 0 {
				t.Errorf("%d websockets cut again", n)
			}
			if status := closeStatus(t, p.ws); (status == websocket.StatusNormalClosure) != (how == "close") {
				t.Errorf("close status %d", status)
			}
			if i := g.Sessions(); i[0].Connected || !i[1].Connected {
				t.Errorf("sessions %+v", i)
			}
			token, err := g.Resume("s")
			if err != nil {
				t.Fatal(err)
			}
			p.connect(g, "s", token)
			if out = append(out, p.output(n-len(out))...); !bytes.Equal(out, noise(3, n)) {
				t.Error("the download has changed")
			}
			if n := g.Cut("", how); n != 2 {
				t.Errorf("%d websockets cut of all", n)
			}
		})
	}
}

// A rate can be given to one session, and to every second one that starts.
func TestSlowSessions(t *testing.T) {
	t.Parallel()
	g := newGateway(t, Config{})
	port := serveTCP(t, generate)
	rates := func() (rates []int64) {
		for _, s := range g.sessions() {
			if up, down := s.up.ownRate.Load(), s.down.ownRate.Load(); up != down {
				t.Errorf("%s: %d up, %d down", s.spec.ID, up, down)
			}
			rates = append(rates, s.up.ownRate.Load())
		}
		return rates
	}
	if err := g.SetFaults(Faults{SlowEvery: 2, SlowBps: 5000}); err != nil {
		t.Fatal(err)
	}
	exec := Spec{ID: "exec", Document: DocECSExec, Exec: func(context.Context, []string) (Process, error) { return nil, io.EOF }}
	if _, err := g.Start(exec); err != nil { // is no port session, and does not count
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b", "c", "d"} {
		start(t, g, sshSpec(id, port))
	}
	if err := g.SetRate("c", 700); err != nil {
		t.Error(err)
	}
	if err := g.SetRate("d", 0); err != nil {
		t.Error(err)
	}
	if err := g.Terminate("exec"); err != nil {
		t.Error(err)
	}
	if got := rates(); !slices.Equal(got, []int64{0, 5000, 700, 0}) {
		t.Errorf("rates %v", got)
	}
	if g.SetRate("e", 1) == nil || g.SetRate("a", -1) == nil {
		t.Error("a rate for no session, or a negative one, is accepted")
	}
}

// The far end sees a reset, not an orderly end, and the session ends by it.
func TestResetPort(t *testing.T) {
	t.Parallel()
	g := newGateway(t, Config{})
	ended := make(chan error, 2)
	port := serveTCP(t, func(c net.Conn) {
		_, _ = c.Write([]byte("hello"))
		_, err := io.Copy(io.Discard, c)
		ended <- err
	})
	p, other := start(t, g, sshSpec("s", port)), start(t, g, sshSpec("other", port))
	p.handshake("1.3.0.0")
	other.handshake("1.3.0.0")
	if got := string(p.output(5)) + string(other.output(5)); got != "hellohello" {
		t.Fatalf("%q", got)
	}
	if n := g.ResetPort("s"); n != 1 {
		t.Fatalf("%d connections reset", n)
	}
	if err := <-ended; err == nil {
		t.Error("the far end sees an orderly end")
	}
	_ = p.end()
	if i := g.Sessions(); len(i) != 1 || i[0].ID != "other" {
		t.Errorf("sessions %+v", i)
	}
	if n := g.ResetPort("s"); n != 0 {
		t.Errorf("%d connections reset again", n)
	}
}

// Messages for an absent client are not kept, and the agent is told to pause.
func TestAbsentClient(t *testing.T) {
	t.Parallel()
	g := newGateway(t, Config{})
	talk := make(chan struct{})
	port := serveTCP(t, func(c net.Conn) {
		<-talk
		_, _ = c.Write([]byte("news"))
		_, _ = io.Copy(io.Discard, c)
	})
	p := start(t, g, sshSpec("s", port))
	p.handshake("1.3.0.0")
	_ = p.ws.CloseNow()
	waitFor(t, "the agent to pause", func() bool {
		a := agentOf(g, "s")
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.paused
	})
	close(talk)
	token, err := g.Resume("s")
	if err != nil {
		t.Fatal(err)
	}
	p.connect(g, "s", token)
	if got := p.output(4); string(got) != "news" {
		t.Errorf("after the resume: %q", got)
	}
}

// With drops, duplicates and reordering both ways, an honest client gets everything through.
func TestFaultsEndToEnd(t *testing.T) {
	g := newGateway(t, Config{})
	const n = 100_000
	p := start(t, g, sshSpec("s", serveTCP(t, generate)))
	p.handshake("1.3.0.0")
	if err := g.SetFaults(Faults{
		Drop: 0.02, Duplicate: 0.02, Reorder: 0.05, Seed: 3, DelayMS: 1, PumpIntervalUS: -1,
	}); err != nil {
		t.Fatal(err)
	}
	req := frame.Message{
		Type: frame.InputStreamData, Seq: p.seq, PayloadType: frame.PayloadOutput, Payload: request(9, n),
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // a client resends, too
		for p.write(req); sleep(stop, 50*time.Millisecond); {
			p.write(req)
		}
	})
	out := p.output(n)
	close(stop)
	wg.Wait()
	if !bytes.Equal(out, noise(9, n)) {
		t.Error("the download has changed")
	}
}

// Close ends everything that runs: sessions that never had a client, busy ones, and websockets without a hello.
func TestCloseWhileBusy(t *testing.T) {
	g := newGateway(t, Config{})
	port := serveTCP(t, generate)
	if _, err := g.Start(sshSpec("idle", port)); err != nil {
		t.Fatal(err)
	}
	p := start(t, g, sshSpec("busy", port))
	p.handshake("1.3.0.0")
	waitFor(t, "the dial", func() bool { return handlerReady(g, "busy") })
	p.send(frame.PayloadOutput, request(1, 10<<20))
	p.output(10_000)
	silent := dialWS(t, g, "busy")
	began := time.Now()
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("Close took %v", d)
	}
	closeStatus(t, silent)
	if c := g.Counters(); c.Live != 0 || c.Sockets != 0 || c.Terminated != 2 {
		t.Errorf("counters %+v", c)
	}
	if _, err := g.Start(sshSpec("late", port)); !errors.Is(err, ErrClosed) {
		t.Errorf("Start after Close: %v", err)
	}
	if got := statusOf(t, g.StreamURL("busy")); got != http.StatusServiceUnavailable {
		t.Errorf("a websocket after Close: %d", got)
	}
}

// A client that never reads does not stop the gateway from closing.
func TestCloseWithDeafClient(t *testing.T) {
	g := newGateway(t, Config{})
	if err := g.SetFaults(Faults{PumpIntervalUS: -1, PumpChunk: 64 << 10}); err != nil {
		t.Fatal(err)
	}
	p := start(t, g, sshSpec("deaf", serveTCP(t, generate)))
	p.handshake("1.3.0.0")
	waitFor(t, "the dial", func() bool { return handlerReady(g, "deaf") })
	p.send(frame.PayloadOutput, request(1, 64<<20))
	s := g.session("deaf")
	waitFor(t, "the lane to fill", func() bool {
		s.down.mu.Lock()
		defer s.down.mu.Unlock()
		return s.down.queued > laneBytes-(1<<17)
	})
	_ = g.Close()
}

// failing is a client's connection. Once armed, it reads once more, and its next write fails.
type failing struct {
	net.Conn
	armed   chan struct{}
	entered chan struct{} // capacity 1: there is something to write
	fail    chan struct{} // the write returns
	read    chan struct{} // reads go on
	last    bool          // of the reader: it has read that once
}

func (f *failing) Write(b []byte) (int, error) {
	select {
	case <-f.armed:
	default:
		return f.Conn.Write(b)
	}
	f.entered <- struct{}{}
	<-f.fail
	return 0, syscall.EPIPE
}

func (f *failing) Read(b []byte) (int, error) {
	if f.last {
		<-f.read
	}
	n, err := f.Conn.Read(b)
	select {
	case <-f.armed:
		f.last = true
	default:
	}
	return n, err
}

// oneConn is a listener that makes its first connection c's.
type oneConn struct {
	net.Listener
	c *failing
}

func (l oneConn) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil || l.c.Conn != nil {
		return c, err
	}
	l.c.Conn = c
	return l.c, nil
}

// The gateway hears a client that sends a last word and goes, although writes to the client fail before it reads that word.
func TestLastWords(t *testing.T) {
	t.Parallel()
	c := &failing{
		armed: make(chan struct{}), entered: make(chan struct{}, 1), fail: make(chan struct{}), read: make(chan struct{}),
	}
	var srv *httptest.Server
	g := New(Config{AgentDelay: -1, BaseURL: func() string { return "ws" + strings.TrimPrefix(srv.URL, "http") }})
	srv = httptest.NewUnstartedServer(g)
	srv.Listener = oneConn{srv.Listener, c}
	srv.Start()
	t.Cleanup(srv.Close)
	t.Cleanup(func() { _ = g.Close() })

	p := start(t, g, sshSpec("s", serveTCP(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })))
	p.handshake("1.3.0.0")
	waitFor(t, "the dial", func() bool { return handlerReady(g, "s") })
	waitFor(t, "the last acknowledgement", func() bool { return g.Sessions()[0].Unacked == 0 })
	close(c.armed)
	p.send(frame.PayloadOutput, []byte("data"))
	<-c.entered
	p.flag(frame.TerminateSession)
	close(c.fail)
	// Time to do the wrong thing.
	time.AfterFunc(100*time.Millisecond, func() { close(c.read) })
	waitFor(t, "the end of the session", func() bool { return len(g.Sessions()) == 0 })
}
