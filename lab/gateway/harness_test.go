package gateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// newGateway serves a gateway on a loopback port. Sessions start at once unless cfg says otherwise.
func newGateway(t testing.TB, cfg Config) *Gateway {
	t.Helper()
	if cfg.AgentDelay == 0 {
		cfg.AgentDelay = -1
	}
	if cfg.ExecDelay == 0 {
		cfg.ExecDelay = -1
	}
	if os.Getenv("GATEWAY_TEST_LOG") != "" {
		cfg.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	var srv *httptest.Server
	cfg.BaseURL = func() string { return "ws" + strings.TrimPrefix(srv.URL, "http") }
	g := New(cfg)
	srv = httptest.NewServer(g)
	t.Cleanup(srv.Close)
	t.Cleanup(func() { _ = g.Close() })
	return g
}

// serveTCP serves each connection to a loopback port with f, and returns the port.
func serveTCP(t testing.TB, f func(net.Conn)) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			wg.Go(func() {
				f(c)
				_ = c.Close()
				mu.Lock()
				delete(conns, c)
				mu.Unlock()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().(*net.TCPAddr).Port
}

func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// generate is a far end that answers each request with as many bytes as it asks for.
func generate(c net.Conn) {
	for {
		var req [8]byte
		if _, err := io.ReadFull(c, req[:]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint32(req[4:]))
		if _, err := c.Write(noise(binary.BigEndian.Uint32(req[:]), n)); err != nil {
			return
		}
	}
}

// request asks generate for noise(seed, n).
func request(seed uint32, n int) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, seed), uint32(n))
}

// noise is n bytes that depend on the seed alone.
func noise(seed uint32, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)}).Read(b)
	return b
}

func dialer(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, network, addr)
}

// sshSpec is a raw session to port.
func sshSpec(id string, port int) Spec {
	return Spec{ID: id, Document: DocSSH, Target: testTarget, Port: port, Dial: dialer}
}

const testTarget = "ecs:demo_0123456789abcdef0123456789abcdef_0123456789abcdef0123456789abcdef-0000096801"

// peer is a minimal client of the data channel. It acknowledges what it receives, duplicates too.
type peer struct {
	t      testing.TB
	ws     *websocket.Conn
	seq    int64
	noAcks bool
	expect int64
	early  map[int64]frame.Message
	frames []frame.Message // everything received, in order
	closed string          // output of channel_closed
	gone   bool            // channel_closed was received
}

func start(t testing.TB, g *Gateway, spec Spec) *peer {
	t.Helper()
	token, err := g.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, early: map[int64]frame.Message{}}
	p.connect(g, spec.ID, token)
	return p
}

// connect opens the websocket; a later one takes the place of the one before.
func (p *peer) connect(g *Gateway, id, token string) {
	p.t.Helper()
	p.ws = dialWS(p.t, g, id)
	hello(p.t, p.ws, token)
}

func dialWS(t testing.TB, g *Gateway, id string) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, g.StreamURL(id), nil)
	if err != nil {
		t.Fatal(err)
	}
	ws.SetReadLimit(1 << 21)
	t.Cleanup(func() { _ = ws.CloseNow() })
	return ws
}

func hello(t testing.TB, ws *websocket.Conn, token string) {
	t.Helper()
	b, err := json.Marshal(map[string]string{
		"MessageSchemaVersion": "1.0", "RequestId": uuid.NewString(), "TokenValue": token,
		"ClientId": uuid.NewString(), "ClientVersion": "1.3.0.0",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := ws.Write(t.Context(), websocket.MessageText, b); err != nil {
		t.Fatal(err)
	}
}

var errQuiet = errors.New("nothing came")

// read returns the next message, acknowledged, or errQuiet after wait.
func (p *peer) read(wait time.Duration) (frame.Message, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), wait)
	defer cancel()
	_, b, err := p.ws.Read(ctx)
	if ctx.Err() != nil {
		return frame.Message{}, errQuiet // the websocket is unusable from here on
	}
	if err != nil {
		return frame.Message{}, err
	}
	m, err := frame.Decode(b)
	if err != nil {
		p.t.Fatalf("from the gateway: %v", err)
	}
	p.frames = append(p.frames, m)
	switch m.Type {
	case frame.OutputStreamData:
		if !p.noAcks {
			p.ack(&m)
		}
	case frame.ChannelClosed:
		var c struct{ Output string }
		if err := json.Unmarshal(m.Payload, &c); err != nil {
			p.t.Fatal(err)
		}
		p.closed, p.gone = c.Output, true
	}
	return m, nil
}

func (p *peer) ack(m *frame.Message) {
	payload := fmt.Sprintf(`{"AcknowledgedMessageType":"output_stream_data","AcknowledgedMessageId":"%s",`+
		`"AcknowledgedMessageSequenceNumber":%d,"IsSequentialMessage":true}`, m.ID, m.Seq)
	p.write(frame.Message{Type: frame.Acknowledge, Flags: frame.FlagAck, Payload: []byte(payload)})
}

func (p *peer) write(m frame.Message) {
	m.ID, m.Created = uuid.New(), time.Now()
	if err := p.ws.Write(p.t.Context(), websocket.MessageBinary, m.Append(nil)); err != nil {
		p.t.Logf("peer: write: %v", err)
	}
}

// send sends a stream message with the next number.
func (p *peer) send(typ frame.PayloadType, payload []byte) {
	p.write(frame.Message{Type: frame.InputStreamData, Seq: p.seq, PayloadType: typ, Payload: payload})
	p.seq++
}

func (p *peer) flag(f frame.StreamFlag) {
	p.send(frame.PayloadFlag, binary.BigEndian.AppendUint32(nil, uint32(f)))
}

// await reads until ok is true for a message.
func (p *peer) await(what string, ok func(*frame.Message) bool) frame.Message {
	p.t.Helper()
	for {
		m, err := p.read(10 * time.Second)
		if err != nil {
			p.t.Fatalf("waiting for %s: %v", what, err)
		}
		if ok(&m) {
			return m
		}
	}
}

func isPayload(typ frame.PayloadType) func(*frame.Message) bool {
	return func(m *frame.Message) bool { return m.Type == frame.OutputStreamData && m.PayloadType == typ }
}

func isType(typ frame.MessageType) func(*frame.Message) bool {
	return func(m *frame.Message) bool { return m.Type == typ }
}

// isAck accepts the acknowledgement of the client's message seq.
func isAck(seq int64) func(*frame.Message) bool {
	return func(m *frame.Message) bool {
		var a struct{ AcknowledgedMessageSequenceNumber int64 }
		return m.Type == frame.Acknowledge && json.Unmarshal(m.Payload, &a) == nil &&
			a.AcknowledgedMessageSequenceNumber == seq
	}
}

// handshake answers the agent as a client of the given version.
func (p *peer) handshake(version string) {
	p.t.Helper()
	p.await("handshake request", isPayload(frame.PayloadHandshakeRequest))
	p.send(frame.PayloadHandshakeResponse, []byte(`{"ClientVersion":"`+version+
		`","ProcessedClientActions":[{"ActionType":"SessionType","ActionStatus":1,"ActionResult":null,"Error":""}],"Errors":null}`))
	p.await("handshake complete", isPayload(frame.PayloadHandshakeComplete))
}

// output reads until n bytes of output have come, in order.
func (p *peer) output(n int) []byte {
	p.t.Helper()
	var out bytes.Buffer
	p.deliver(&out)
	for out.Len() < n {
		if _, err := p.read(10 * time.Second); err != nil {
			p.t.Fatalf("after %d of %d bytes: %v", out.Len(), n, err)
		}
		p.deliver(&out)
	}
	return out.Bytes()
}

// deliver moves output that is in order from the frames to out.
func (p *peer) deliver(out *bytes.Buffer) {
	for _, m := range p.frames {
		if m.Type == frame.OutputStreamData && m.Seq >= p.expect {
			p.early[m.Seq] = m
		}
	}
	p.frames = nil
	for {
		m, ok := p.early[p.expect]
		if !ok {
			return
		}
		delete(p.early, p.expect)
		p.expect++
		if m.PayloadType == frame.PayloadOutput {
			out.Write(m.Payload)
		}
	}
}

// end reads until channel_closed and returns its output.
func (p *peer) end() string {
	p.t.Helper()
	p.await("channel_closed", isType(frame.ChannelClosed))
	return p.closed
}

// waitFor looks at a condition that another process brings about until it holds.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("gave up waiting for %s", what)
		}
	}
}

// agentOf is the connected agent of a session, or nil.
func agentOf(g *Gateway, id string) *agent {
	s := g.session(id)
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.agent
}

// handlerReady reports whether the agent takes data for its plugin.
func handlerReady(g *Gateway, id string) bool {
	a := agentOf(g, id)
	if a == nil {
		return false
	}
	a.handlerMu.Lock()
	defer a.handlerMu.Unlock()
	return a.handler != nil
}
