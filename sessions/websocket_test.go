package sessions

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/coder/websocket"
	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// wsAgent is the far side of sessions on a real websocket, for benchmarks and for the network's part. It is lean and loses nothing.
// Its port discards the client's bytes, or sends without end.
type wsAgent struct {
	srv   *httptest.Server
	delay time.Duration // each way
	send  bool
	chunk int
	limit int // of messages to send; 0 is none

	wg         sync.WaitGroup
	mu         sync.Mutex
	hello      []map[string]string
	conn       *websocket.Conn // the present one
	got        int             // bytes
	terminated int
}

func newWSAgent(tb testing.TB, a *wsAgent) *Client {
	tb.Helper()
	a.srv = httptest.NewServer(http.HandlerFunc(a.serve))
	tb.Cleanup(func() { a.srv.Close(); a.wg.Wait() })
	return New(Config{SSM: a})
}

func (a *wsAgent) StartSession(
	context.Context, *ssm.StartSessionInput, ...func(*ssm.Options),
) (*ssm.StartSessionOutput, error) {
	id, token := "ws-session", "first"
	url := "ws" + strings.TrimPrefix(a.srv.URL, "http")
	return &ssm.StartSessionOutput{SessionId: &id, StreamUrl: &url, TokenValue: &token}, nil
}

func (a *wsAgent) ResumeSession(
	context.Context, *ssm.ResumeSessionInput, ...func(*ssm.Options),
) (*ssm.ResumeSessionOutput, error) {
	return nil, accessDenied()
}

func (a *wsAgent) TerminateSession(
	context.Context, *ssm.TerminateSessionInput, ...func(*ssm.Options),
) (*ssm.TerminateSessionOutput, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.terminated++
	return &ssm.TerminateSessionOutput{}, nil
}

func (a *wsAgent) serve(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = conn.CloseNow() }() // the client may have closed it
	conn.SetReadLimit(frame.MaxPayload + frame.Overhead)
	ctx := context.Background()
	_, b, err := conn.Read(ctx)
	if err != nil {
		return
	}
	var hello map[string]string
	if err := json.Unmarshal(b, &hello); err != nil {
		return
	}
	a.mu.Lock()
	a.hello = append(a.hello, hello)
	a.conn = conn
	a.mu.Unlock()

	// With a delay replies go out late, by the delay of both ways; the queue then holds the messages on their way.
	late := make(chan timedMessage, 1<<16)
	stop := make(chan struct{})
	defer close(stop)
	if a.delay > 0 {
		a.wg.Go(func() { a.sendLate(conn, late, stop) })
	}
	var out []byte
	reply := func(m *frame.Message) {
		m.Created, m.ID = time.Now(), uuid.New()
		if a.delay > 0 {
			late <- timedMessage{time.Now().Add(2 * a.delay), m.Append(nil)}
			return
		}
		out = m.Append(out[:0])
		_ = conn.Write(ctx, websocket.MessageBinary, out) // the reader sees that the client is gone
	}
	if conn.Write(ctx, websocket.MessageText, []byte("not for a client")) != nil {
		return
	}
	reply(&frame.Message{
		Type: frame.OutputStreamData, Flags: frame.FlagSYN, PayloadType: frame.PayloadHandshakeRequest,
		Payload: []byte(`{"AgentVersion":"3.3.0.0","RequestedClientActions":[{"ActionType":"SessionType",` +
			`"ActionParameters":{"SessionType":"Port","Properties":{"portNumber":"1"}}}]}`),
	})
	var buf bytes.Buffer
	var ack []byte
	next := int64(0)
	for {
		buf.Reset()
		_, r, err := conn.Reader(ctx)
		if err == nil {
			_, err = buf.ReadFrom(r)
		}
		if err != nil {
			return
		}
		m, err := frame.Decode(buf.Bytes())
		if err != nil {
			return
		}
		if m.Type != frame.InputStreamData {
			continue
		}
		ack = frame.AppendAck(ack[:0], &m)
		reply(&frame.Message{Type: frame.Acknowledge, Flags: frame.FlagAck, Payload: ack})
		if m.Seq != next {
			continue // again: nothing is lost here, or changes places
		}
		next++
		switch m.PayloadType {
		case frame.PayloadOutput:
			a.mu.Lock()
			a.got += len(m.Payload)
			a.mu.Unlock()
		case frame.PayloadHandshakeResponse:
			reply(&frame.Message{
				Type: frame.OutputStreamData, Seq: 1, PayloadType: frame.PayloadHandshakeComplete,
				Payload: []byte(`{"HandshakeTimeToComplete":1,"CustomerMessage":""}`),
			})
			if a.send {
				a.wg.Go(func() { a.pump(conn) })
			}
		}
	}
}

func (a *wsAgent) sendLate(conn *websocket.Conn, late <-chan timedMessage, stop <-chan struct{}) {
	for {
		var t timedMessage
		select {
		case t = <-late:
		case <-stop:
			return
		}
		timer := time.NewTimer(time.Until(t.at))
		select {
		case <-timer.C:
		case <-stop:
			timer.Stop()
			return
		}
		if conn.Write(context.Background(), websocket.MessageBinary, t.msg) != nil {
			return
		}
	}
}

// pump sends without end, as fast as the websocket takes it: no agent is so fast.
func (a *wsAgent) pump(conn *websocket.Conn) {
	m := frame.Message{
		Type: frame.OutputStreamData, Created: time.Now(), ID: uuid.New(), PayloadType: frame.PayloadOutput,
		Payload: make([]byte, a.chunk),
	}
	var msg []byte
	for m.Seq = 2; a.limit == 0 || m.Seq < int64(2+a.limit); m.Seq++ {
		msg = m.Append(msg[:0])
		if conn.Write(context.Background(), websocket.MessageBinary, msg) != nil {
			return
		}
	}
}

// What goes over a real websocket: the token first, in a text message; then messages; a close that reaches the other end.
func TestWebsocket(t *testing.T) {
	a := &wsAgent{send: true, chunk: 1024, limit: 1000}
	c := newWSAgent(t, a)
	s, err := c.OpenPort(t.Context(), somePort)
	if err != nil {
		t.Fatal(err)
	}
	var reader sync.WaitGroup
	reader.Go(func() {
		if n, err := io.Copy(io.Discard, s); n != 1000*1024 || !errors.Is(err, net.ErrClosed) {
			t.Errorf("read %d bytes: %v", n, err)
		}
	})
	const up = 1 << 20
	if _, err := s.Write(make([]byte, up)); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	reader.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	hello := a.hello[0]
	if len(a.hello) != 1 || hello["TokenValue"] != "first" || hello["MessageSchemaVersion"] != "1.0" ||
		hello["ClientVersion"] != clientVersion || hello["RequestId"] == "" || hello["ClientId"] == "" {
		t.Errorf("hello %v", a.hello)
	}
	if a.got != up || a.terminated != 1 {
		t.Errorf("%d bytes arrived, want %d; terminated %d times", a.got, up, a.terminated)
	}
}

// The other end closes the websocket: the session is resumed, here in vain.
func TestWebsocketClosed(t *testing.T) {
	for _, how := range []string{"close", "reset"} {
		t.Run(how, func(t *testing.T) {
			a := &wsAgent{}
			c := newWSAgent(t, a)
			s, err := c.OpenPort(t.Context(), somePort)
			if err != nil {
				t.Fatal(err)
			}
			a.mu.Lock()
			conn := a.conn
			a.mu.Unlock()
			if how == "close" {
				_ = conn.Close(websocket.StatusNormalClosure, "Bye")
			} else {
				_ = conn.CloseNow()
			}
			if _, err := s.Read(make([]byte, 1)); !errors.Is(err, errNoResume) {
				t.Errorf("Read: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
		})
	}
}

// A redirect is not followed: the stream URL was checked, and where it leads was not.
func TestWebsocketRedirected(t *testing.T) {
	var reached atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached.Add(1)
		if conn, err := websocket.Accept(w, r, nil); err == nil {
			_ = conn.CloseNow()
		}
	}))
	defer elsewhere.Close()
	srv := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer srv.Close()
	url := "ws" + strings.TrimPrefix(srv.URL, "http")
	for _, client := range []*http.Client{nil, {Transport: http.DefaultTransport}} {
		if sock, err := dialWebsocket(t.Context(), client, grant{url, "token"}); err == nil {
			_ = sock.Close()
			t.Error("no error from a redirect")
		}
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("the other server was asked %d times", n)
	}
}

// A dial that is refused, or does not lead to a websocket, is an error in time.
func TestWebsocketRefused(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	defer srv.Close()
	url := "ws" + strings.TrimPrefix(srv.URL, "http")
	if _, err := dialWebsocket(t.Context(), nil, grant{url, "token"}); err == nil {
		t.Error("no error from a server that knows no websockets")
	}
	if _, err := dialWebsocket(t.Context(), nil, grant{"ws://192.0.2.1/", "token"}); err == nil {
		t.Error("dialed an unencrypted URL elsewhere")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := dialWebsocket(ctx, nil, grant{url, "token"}); !errors.Is(err, context.Canceled) {
		t.Errorf("with a cancelled context: %v", err)
	}
}
