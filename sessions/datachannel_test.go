package sessions

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
	"github.com/mmmorris1975/ssm-session-client/datachannel"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// The tests in this file are the evidence of docs/adr/0002-ssm-session-client.md. They show how ssm-session-client's datachannel
// (v0.404.3) treats network input, beside this package. Should a version of it mend something, the test says so, and the ADR is to
// be looked at again.

// outcome is what a codec did with a message.
type outcome struct {
	panicked  bool
	err       error
	payload   string
	overwrote bool // bytes of the caller's buffer
}

func (o outcome) String() string {
	switch {
	case o.panicked:
		return "panics"
	case o.err != nil:
		return "refuses"
	case o.overwrote:
		return fmt.Sprintf("takes %q and overwrites the caller's bytes", o.payload)
	}
	return fmt.Sprintf("takes %q", o.payload)
}

func theirDecode(b []byte) (o outcome) {
	defer func() { o.panicked = recover() != nil }()
	before := bytes.Clone(b)
	var m datachannel.AgentMessage
	o.err = m.UnmarshalBinary(b)
	o.payload = string(m.Payload)
	o.overwrote = !bytes.Equal(b, before)
	return o
}

func ourDecode(b []byte) (o outcome) {
	defer func() { o.panicked = recover() != nil }()
	before := bytes.Clone(b)
	m, err := frame.Decode(b)
	o.err, o.payload = err, string(m.Payload)
	o.overwrote = !bytes.Equal(b, before)
	return o
}

func TestDatachannelCodec(t *testing.T) {
	m := frame.Message{
		Type: frame.OutputStreamData, Created: time.Now(), Seq: 1, ID: uuid.New(), PayloadType: frame.PayloadOutput,
		Payload: []byte("payload"),
	}
	good := m.Append(nil)
	change := func(at int, b ...byte) []byte {
		bad := bytes.Clone(good)
		copy(bad[at:], b)
		return bad
	}
	for _, tc := range []struct {
		name         string
		msg          []byte
		theirs, ours string
	}{
		{"a good message", good, `takes "payload" and overwrites the caller's bytes`, `takes "payload"`},
		{"two bytes", good[:2], "panics", "refuses"},
		{"a header cut short", good[:100], "panics", "refuses"},
		{"a payload cut short", good[:len(good)-1], "panics", "refuses"},
		{"header length 2^31", change(0, 0x80, 0, 0, 0), "panics", "refuses"},
		{"payload length 2^31", change(116, 0x80, 0, 0, 0), "panics", "refuses"},
		{"a payload tampered with", change(120, 'P'), `takes "Payload" and overwrites the caller's bytes`, "refuses"},
		{"a digest tampered with", change(80, 0, 0, 0, 0), `takes "payload" and overwrites the caller's bytes`, "refuses"},
		{"bytes after the payload", append(bytes.Clone(good), "more"...), `takes "payload" and overwrites the caller's bytes`, "refuses"},
	} {
		if got := theirDecode(exactly(tc.msg)).String(); got != tc.theirs {
			t.Errorf("%s: datachannel %s; it used to be that it %s", tc.name, got, tc.theirs)
		}
		if got := ourDecode(exactly(tc.msg)).String(); got != tc.ours {
			t.Errorf("%s: frame.Decode %s, want that it %s", tc.name, got, tc.ours)
		}
	}
}

// exactly returns a copy without room behind it. In a larger buffer datachannel takes the bytes behind the message for the missing
// ones; with an exact copy it panics.
func exactly(b []byte) []byte {
	c := make([]byte, len(b))
	copy(c, b)
	return c[:len(c):len(c)]
}

// roughGateway is the far side of one session on a real websocket: it completes the handshake, and then treats each direction as a
// network does. Its agent follows the rules of AWS's: it resends unacknowledged messages, and delivers the client's messages in
// order, once each.
type roughGateway struct {
	srv *httptest.Server

	mu       sync.Mutex
	received []byte // what reached the far end, in order
	dropped  bool
	arrived  chan struct{} // one for each delivery to the far end
}

// The three messages that the agent sends, and how they get through: the first twice, the third before the second.
var roughOutput = []string{"one ", "two ", "three"}

func newRoughGateway(t *testing.T) *roughGateway {
	g := &roughGateway{arrived: make(chan struct{}, 100)}
	g.srv = httptest.NewServer(http.HandlerFunc(g.serve))
	t.Cleanup(g.srv.Close)
	return g
}

func (g *roughGateway) url() string { return "ws" + strings.TrimPrefix(g.srv.URL, "http") }

func (g *roughGateway) serve(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = conn.CloseNow() }() // the client may have closed it
	ctx := r.Context()
	send := func(seq int64, typ frame.PayloadType, payload string) {
		m := frame.Message{
			Type: frame.OutputStreamData, Created: time.Now(), Seq: seq, ID: uuid.New(), PayloadType: typ, Payload: []byte(payload),
		}
		_ = conn.Write(ctx, websocket.MessageBinary, m.Append(nil))
	}
	if _, _, err := conn.Read(ctx); err != nil { // the token
		return
	}
	send(0, frame.PayloadHandshakeRequest, `{"AgentVersion":"3.3.0.0","RequestedClientActions":[{"ActionType":"SessionType",`+
		`"ActionParameters":{"SessionType":"Port","Properties":{}}}]}`)
	expected := int64(0)
	early := map[int64][]byte{}
	for {
		_, b, err := conn.Read(ctx)
		if err != nil {
			return
		}
		m, err := frame.Decode(b)
		if err != nil || m.Type != frame.InputStreamData {
			continue
		}
		if m.PayloadType == frame.PayloadOutput && !g.dropped {
			g.dropped = true // the first data message of the client is lost
			continue
		}
		ack := frame.Message{
			Type: frame.Acknowledge, Created: time.Now(), Flags: frame.FlagAck, ID: uuid.New(), Payload: frame.AppendAck(nil, &m),
		}
		_ = conn.Write(ctx, websocket.MessageBinary, ack.Append(nil))
		if m.PayloadType == frame.PayloadHandshakeResponse && m.Seq == expected {
			expected++
			send(1, frame.PayloadHandshakeComplete, `{"HandshakeTimeToComplete":1,"CustomerMessage":""}`)
			send(2, frame.PayloadOutput, roughOutput[0])
			send(2, frame.PayloadOutput, roughOutput[0])
			send(4, frame.PayloadOutput, roughOutput[2])
			send(3, frame.PayloadOutput, roughOutput[1])
			continue
		}
		if m.Seq >= expected && m.PayloadType == frame.PayloadOutput {
			early[m.Seq] = bytes.Clone(m.Payload)
		}
		for p, ok := early[expected]; ok; p, ok = early[expected] {
			delete(early, expected)
			expected++
			g.mu.Lock()
			g.received = append(g.received, p...)
			g.mu.Unlock()
			g.arrived <- struct{}{}
		}
	}
}

// far returns the bytes that the far end has received after n messages, or after a while.
func (g *roughGateway) far(n int, atMost time.Duration) string {
	timeout := time.NewTimer(atMost)
	defer timeout.Stop()
waiting:
	for range n {
		select {
		case <-g.arrived:
		case <-timeout.C:
			break waiting
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return string(g.received)
}

var (
	roughUp   = []string{"alpha ", "beta ", "gamma"}
	wantUp    = strings.Join(roughUp, "")
	wantDown  = strings.Join(roughOutput, "")
	theirDown = "one one threetwo " // doubled, and in the wrong order
)

// After the handshake datachannel delivers duplicates, does not restore the order, and does not resend lost messages.
func TestDatachannelStream(t *testing.T) {
	g := newRoughGateway(t)
	var c datachannel.SsmDataChannel
	if err := c.StartSessionFromDataChannelURL(g.url(), "token"); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// Open would start more than the stream, and call AWS; the buffers that it makes are dropped after the handshake anyway.
	var down []byte
	complete := false
	buf := make([]byte, 4096)
	for len(down) < len(theirDown) {
		n, err := c.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		p, err := c.HandleMsg(slices.Clone(buf[:n]))
		if err != nil {
			t.Fatal(err)
		}
		down = append(down, p...)
		if !complete && len(down) > 0 {
			complete = true
			for _, s := range roughUp {
				if _, err := c.Write([]byte(s)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if string(down) != theirDown {
		t.Errorf("datachannel reads %q; it used to be %q", down, theirDown)
	}
	if got := g.far(len(roughUp), time.Second); got != "" {
		t.Errorf("with datachannel %q reached the far end; it used to be nothing, for want of the first message", got)
	}
}

// The same with ours.
func TestStreamOnARoughNetwork(t *testing.T) {
	g := newRoughGateway(t)
	cfg := New(Config{SSM: &fakeService{}}).streamConfig("s-1", grant{g.url(), "token"}, false)
	cfg.terminate = func() {}
	s := newStream("s-1", "i-1", cfg, New(Config{}).log)
	defer s.abandon()
	got := make([]byte, len(wantDown))
	if _, err := io.ReadFull(s, got); err != nil || string(got) != wantDown {
		t.Errorf("read %q: %v", got, err)
	}
	for _, p := range roughUp {
		if _, err := s.Write([]byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	// Short writes may share a message.
	deadline := time.Now().Add(10 * time.Second)
	up := ""
	for up != wantUp && time.Now().Before(deadline) {
		up = g.far(1, time.Second)
	}
	if up != wantUp {
		t.Errorf("%q reached the far end, want %q", up, wantUp)
	}
}

// A Read of datachannel's cannot be interrupted but by closing the websocket; ours has deadlines and ends with Close.
func TestReadIsInterruptible(t *testing.T) {
	near, far := net.Pipe()
	f := newFakeService(t, fakeOptions{}, func(int) (net.Conn, error) { return near, nil })
	s, err := f.client(Config{}).OpenPort(t.Context(), somePort)
	if err != nil {
		t.Fatal(err)
	}
	unhook := context.AfterFunc(t.Context(), s.abandon)
	defer unhook()
	if err := s.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var ne net.Error
	if _, err := s.Read(make([]byte, 1)); !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("Read: %v", err)
	}
	shut(s, far, f)
}
