package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xtaci/smux"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

func portSpec(id string, port int) Spec {
	return Spec{ID: id, Document: DocPort, Target: testTarget, Port: port, Dial: dialer}
}

// once answers a connection's first byte and hangs up.
func once(c net.Conn) {
	var b [1]byte
	_, _ = io.ReadFull(c, b[:])
	_, _ = c.Write(append(b[:], "bye"...))
}

// The SSH document's session ends with the far end's connection, after its last bytes.
func TestFarEndHangsUpSSH(t *testing.T) {
	g := newGateway(t, Config{})
	p := start(t, g, sshSpec("s", serveTCP(t, once)))
	p.handshake("1.3.0.0")
	waitFor(t, "the dial", func() bool { return handlerReady(g, "s") })
	p.send(frame.PayloadOutput, []byte("1"))
	if got := p.output(4); string(got) != "1bye" {
		t.Errorf("got %q", got)
	}
	if out := p.end(); out != "" {
		t.Errorf("channel_closed says %q", out)
	}
	if n := len(g.Sessions()); n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// The port document's raw session says nothing when the far end hangs up, and dials again for the next data.
func TestFarEndHangsUpBasicPort(t *testing.T) {
	var conns atomic.Int64
	g := newGateway(t, Config{})
	spec := portSpec("s", serveTCP(t, func(c net.Conn) {
		conns.Add(1)
		once(c)
	}))
	closed := notifyClose(&spec)
	p := start(t, g, spec)
	p.handshake("1.0.0.0")
	waitFor(t, "the dial", func() bool { return handlerReady(g, "s") })
	for i, want := range []string{"1bye", "2bye", "3bye"} {
		p.send(frame.PayloadOutput, []byte(want[:1]))
		if got := p.output(4); string(got) != want {
			t.Errorf("connection %d: %q", i, got)
		}
		<-closed
	}
	if n := conns.Load(); n != 3 {
		t.Errorf("%d connections", n)
	}
	p.flag(frame.TerminateSession)
	p.end()
}

// closeNotifier tells of each Close.
type closeNotifier struct {
	net.Conn
	closed chan<- struct{}
}

func (c closeNotifier) Close() error {
	c.closed <- struct{}{}
	return c.Conn.Close()
}

// notifyClose makes the spec's connections report when the agent closes them. A basic port session closes its connection as soon as
// it has noticed the far end's hang-up, and then waits for data.
func notifyClose(spec *Spec) <-chan struct{} {
	closed := make(chan struct{}, 100)
	spec.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dialer(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return closeNotifier{c, closed}, nil
	}
	return closed
}

func TestDisconnectToPort(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		document, version string
		ends              bool
	}{
		"port": {DocPort, "1.0.0.0", false},
		"ssh":  {DocSSH, "1.3.0.0", true},
	} {
		t.Run(name, func(t *testing.T) {
			hungUp := make(chan struct{}, 2)
			g := newGateway(t, Config{})
			spec := sshSpec("s", serveTCP(t, func(c net.Conn) {
				echo(c)
				hungUp <- struct{}{}
			}))
			spec.Document = c.document
			closed := notifyClose(&spec)
			p := start(t, g, spec)
			p.handshake(c.version)
			waitFor(t, "the dial", func() bool { return handlerReady(g, "s") })
			p.send(frame.PayloadOutput, []byte("a"))
			p.output(1)
			p.flag(frame.DisconnectToPort)
			<-hungUp
			if c.ends {
				p.end()
				return
			}
			<-closed // by the flag
			<-closed // by the pump, which has noticed
			p.send(frame.PayloadOutput, []byte("b"))
			if got := p.output(1); string(got) != "b" {
				t.Errorf("got %q", got)
			}
		})
	}
}

func TestTerminateSessionFlag(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"1.0.0.0", "1.3.0.0"} {
		hungUp := make(chan struct{}, 1)
		g := newGateway(t, Config{})
		p := start(t, g, portSpec("s", serveTCP(t, func(c net.Conn) {
			echo(c)
			hungUp <- struct{}{}
		})))
		p.handshake(version)
		waitFor(t, "the plugin", func() bool { return handlerReady(g, "s") })
		p.flag(frame.TerminateSession)
		p.end()
		if version == "1.0.0.0" { // else nothing was dialed
			<-hungUp
		}
	}
}

func TestClosedPort(t *testing.T) {
	g := newGateway(t, Config{ClosedPortDelay: 200 * time.Millisecond})
	p := start(t, g, sshSpec("s", closedPort(t)))
	p.handshake("1.3.0.0")
	p.await("the agent to go", isType(frame.PausePublication))
	before := time.Now()
	p.send(frame.PayloadOutput, []byte("into the void"))
	for !p.gone {
		m, err := p.read(10 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if m.Type == frame.Acknowledge {
			t.Error("data was acknowledged")
		}
	}
	if d := time.Since(before); d < 100*time.Millisecond {
		t.Errorf("channel_closed after %v", d)
	}
	if !strings.Contains(p.closed, "process failed unexpectedly") {
		t.Errorf("channel_closed says %q", p.closed)
	}
}

func TestDeniedHost(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		host   string
		lookup []string
		denied bool
	}{
		"metadata":                      {"169.254.169.254", nil, true},
		"metadata by IPv6":              {"fd00:ec2::254", nil, true},
		"metadata by IPv6, written out": {"fd00:0ec2:0:0:0:0:0:0254", nil, true},
		"metadata, mapped":              {"::ffff:169.254.169.254", nil, true},
		"a name of it":                  {"innocent.example", []string{"10.0.0.1", "169.254.169.253"}, true},
		"another host":                  {"127.0.0.1", nil, false},
		"a name of another host":        {"db.example", []string{"127.0.0.1"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGateway(t, Config{LookupHost: func(context.Context, string) ([]string, error) { return c.lookup, nil }})
			spec := portSpec("s", serveTCP(t, echo))
			spec.Document, spec.Host = DocPortRemote, c.host
			p := start(t, g, spec)
			p.handshake("1.0.0.0")
			if c.denied {
				if out := p.end(); out != "Forwarding to IP address "+c.host+" is forbidden." {
					t.Errorf("channel_closed says %q", out)
				}
				return
			}
			waitFor(t, "the dial", func() bool { return handlerReady(g, "s") })
			p.send(frame.PayloadOutput, []byte("x"))
			p.output(1)
		})
	}
}

func TestRemoteHostTriesAllAddresses(t *testing.T) {
	var tried []string
	g := newGateway(t, Config{LookupHost: func(context.Context, string) ([]string, error) {
		return []string{"127.0.0.2", "127.0.0.3"}, nil
	}})
	spec := portSpec("s", 5432)
	spec.Document, spec.Host = DocPortRemote, "db.example"
	done := make(chan struct{})
	spec.Dial = func(_ context.Context, network, addr string) (net.Conn, error) {
		tried = append(tried, network+" "+addr)
		if len(tried) == 2 {
			close(done)
		}
		return nil, errors.New("refused")
	}
	p := start(t, g, spec)
	p.handshake("1.0.0.0")
	<-done
	if got := strings.Join(tried, ", "); got != "tcp 127.0.0.2:5432, tcp 127.0.0.3:5432" {
		t.Errorf("dialed %s", got)
	}
}

// Data that comes before the agent has dialed is not acknowledged, or acknowledged and lost.
func TestUnsafeFirstBytes(t *testing.T) {
	t.Parallel()
	for _, discard := range []float64{0, 1} {
		g := newGateway(t, Config{})
		if err := g.SetFaults(Faults{DialDelayMS: 300, Discard: discard}); err != nil {
			t.Fatal(err)
		}
		p := start(t, g, sshSpec("s", serveTCP(t, echo)))
		p.handshake("1.3.0.0")
		first := p.seq
		p.send(frame.PayloadOutput, []byte("first"))
		if discard == 1 {
			p.await("the ack", isAck(first))
		}
		if handlerReady(g, "s") {
			t.Fatal("dialed already")
		}
		waitFor(t, "the dial", func() bool { return handlerReady(g, "s") })
		if discard == 0 {
			for _, m := range p.frames {
				if isAck(first)(&m) {
					t.Error("acknowledged before the dial")
				}
			}
			p.seq = first
			p.send(frame.PayloadOutput, []byte("first")) // a resend
			if got := p.output(5); string(got) != "first" {
				t.Errorf("got %q", got)
			}
			continue
		}
		p.send(frame.PayloadOutput, []byte("second"))
		if got := p.output(6); string(got) != "second" {
			t.Errorf("got %q", got)
		}
	}
}

func TestNoDial(t *testing.T) {
	g := newGateway(t, Config{})
	if err := g.SetFaults(Faults{NoDial: true}); err != nil {
		t.Fatal(err)
	}
	spec := sshSpec("s", 22)
	spec.Dial = func(context.Context, string, string) (net.Conn, error) {
		t.Error("dialed")
		return nil, errors.New("no")
	}
	p := start(t, g, spec)
	p.handshake("1.3.0.0")
	_ = g.Terminate("s")
	p.end()
}

// muxClient runs smux over the data channel of p, as the plugin does. It returns when p's websocket ends.
func muxClient(t *testing.T, p *peer) *smux.Session {
	inner, outer := duplex()
	session, err := smux.Client(outer, smux.DefaultConfig())
	if err != nil {
		t.Fatal(err)
	}
	read, wrote := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(read)
		for {
			if _, err := p.read(time.Minute); err != nil || p.gone {
				_ = inner.Close()
				return
			}
			var out bytes.Buffer
			p.deliver(&out)
			_, _ = inner.Write(out.Bytes())
		}
	}()
	go func() {
		defer close(wrote)
		buf := make([]byte, 1024)
		for {
			n, err := inner.Read(buf)
			if err != nil {
				return
			}
			p.send(frame.PayloadOutput, append([]byte(nil), buf[:n]...))
		}
	}()
	t.Cleanup(func() {
		_ = p.ws.CloseNow()
		<-read
		<-wrote
		_ = session.Close()
	})
	return session
}

func TestMux(t *testing.T) {
	t.Parallel()
	g := newGateway(t, Config{})
	if err := g.SetFaults(Faults{PumpIntervalUS: -1}); err != nil {
		t.Fatal(err)
	}
	p := start(t, g, portSpec("s", serveTCP(t, echo)))
	p.handshake("1.1.70.0")
	waitFor(t, "the plugin", func() bool { return handlerReady(g, "s") })
	session := muxClient(t, p)
	for i := range 3 {
		stream, err := session.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		want := noise(uint32(i), 50_000)
		go func() { _, _ = stream.Write(want) }()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(stream, got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("stream %d: the echo has changed", i)
		}
		t.Cleanup(func() { _ = stream.Close() })
	}
}

// A connection that cannot be dialed is told by a flag; the session lives on.
func TestMuxClosedPort(t *testing.T) {
	g := newGateway(t, Config{})
	p := start(t, g, portSpec("s", closedPort(t)))
	p.handshake("1.3.0.0")
	waitFor(t, "the plugin", func() bool { return handlerReady(g, "s") })
	p.send(frame.PayloadOutput, []byte{1, 0, 0, 0, 3, 0, 0, 0}) // smux: open stream 3
	m := p.await("the flag", isPayload(frame.PayloadFlag))
	if flagOf(&m) != frame.ConnectToPortError {
		t.Errorf("flag %v", m.Payload)
	}
	if got := p.output(8); !bytes.Equal(got, []byte{1, 1, 0, 0, 3, 0, 0, 0}) { // stream 3 is closed
		t.Errorf("smux says % x", got)
	}
	if len(g.Sessions()) != 1 {
		t.Error("the session has ended")
	}
}

func TestHandshakeRefusedByClient(t *testing.T) {
	g := newGateway(t, Config{})
	p := start(t, g, sshSpec("s", 22))
	p.await("handshake request", isPayload(frame.PayloadHandshakeRequest))
	answer, err := json.Marshal(map[string]any{
		"ClientVersion": "1.3.0.0",
		"ProcessedClientActions": []map[string]any{
			{"ActionType": "SessionType", "ActionStatus": 2, "Error": "Unknown session type Port"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.send(frame.PayloadHandshakeResponse, answer)
	if out := p.end(); !strings.Contains(out, "SessionType failed on client with status 2 error: Unknown session type Port") {
		t.Errorf("channel_closed says %q", out)
	}
}

func TestCompleteFirst(t *testing.T) {
	for probability := range 2 {
		g := newGateway(t, Config{})
		if err := g.SetFaults(Faults{CompleteFirst: float64(probability)}); err != nil {
			t.Fatal(err)
		}
		p := start(t, g, sshSpec("s", serveTCP(t, echo)))
		p.handshake("1.3.0.0")
		acked := slices.ContainsFunc(p.frames, func(m frame.Message) bool { return isAck(0)(&m) })
		if acked == (probability == 1) {
			t.Errorf("probability %d: the answer was acknowledged before HandshakeComplete: %v", probability, acked)
		}
		waitFor(t, "the dial", func() bool { return handlerReady(g, "s") })
		p.send(frame.PayloadOutput, []byte("x"))
		p.output(1)
	}
}
