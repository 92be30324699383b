package gateway

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/bastion-ssm/bastion/e2e/vectors"
	"github.com/bastion-ssm/bastion/sessions/frame"
)

type startInfo struct {
	Document   string
	Parameters map[string][]string
	Target     string
}

// toClient reports whether the recorded client received the frame.
func toClient(e *vectors.Event) bool {
	return e.Event == "frame" && (e.From == "gateway" && e.Lane() == "down" ||
		e.From == "agent" && e.Message.Type != frame.AgentSessionState)
}

// shape is the part that must be the same in every run: everything except times, ids, random texts and encrypted bytes.
func shape(m *frame.Message, sealed bool) string {
	s := fmt.Sprintf("%s flags=%d payload=%d seq=%d", m.Type, m.Flags, m.PayloadType, m.Seq)
	if keys, ok := jsonKeys(m.Payload); ok {
		return s + " keys=" + strings.Join(keys, ",")
	}
	if sealed { // the text of a terminal, in which input is echoed as chance will have it
		return s
	}
	return s + " bytes=" + strconv.Itoa(len(m.Payload))
}

// jsonKeys are the keys of a JSON object and of those in it, in order.
func jsonKeys(b []byte) (keys []string, ok bool) {
	d := json.NewDecoder(bytes.NewReader(b))
	var nest []bool // whether an object, for each level
	key := true
	for {
		tok, err := d.Token()
		if err != nil {
			return keys, len(keys) > 0 && len(nest) == 0
		}
		if len(nest) == 0 && tok != json.Delim('{') {
			return nil, false
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			nest, key = append(nest, tok == json.Delim('{')), true
			continue
		case json.Delim('}'), json.Delim(']'):
			nest, key = nest[:len(nest)-1], true
			continue
		}
		if !nest[len(nest)-1] {
			continue
		}
		if key {
			keys = append(keys, strings.Repeat(".", len(nest)-1)+tok.(string))
		}
		key = !key
	}
}

// shapes are those of the frames of the given types, stream messages by number and once: losses and resends are a matter of luck.
func shapes(frames []frame.Message, sealed bool, types ...frame.MessageType) []string {
	var kept []frame.Message
	seen := map[int64]bool{}
	for _, m := range frames {
		stream := m.Type == frame.OutputStreamData
		if !slices.Contains(types, m.Type) || stream && seen[m.Seq] {
			continue
		}
		if stream {
			seen[m.Seq] = true
		}
		kept = append(kept, m)
	}
	slices.SortStableFunc(kept, func(a, b frame.Message) int { return cmp.Compare(a.Seq, b.Seq) })
	var out []string
	for i := range kept {
		out = append(out, shape(&kept[i], sealed))
	}
	return out
}

func startInfoOf(t *testing.T, e *vectors.Event) startInfo {
	t.Helper()
	var info startInfo
	if err := json.Unmarshal(e.Info, &info); err != nil {
		t.Fatal(err)
	}
	return info
}

func execReal(_ context.Context, argv []string) (Process, error) {
	return ExecProcess(exec.Command(argv[0], argv[1:]...))
}

// The gateway and its agent answer the recorded client with the messages that AWS's own agent did.
func TestVectors(t *testing.T) {
	for name, events := range vectors.All(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			replay(t, events)
		})
	}
}

// farEnd are the recorded sessions' far ends.
func farEnd(t *testing.T, events []*vectors.Event, document string) (port int) {
	for i := range events {
		m := &events[i].Message
		if m.Type != frame.InputStreamData || m.PayloadType != frame.PayloadOutput {
			continue
		}
		if len(m.Payload) == 9 && m.Payload[0] == 'G' || document == DocPort && bytes.Contains(m.Payload, []byte("G\x00\x00")) {
			return serveTCP(t, func(c net.Conn) { // "G" and a length: so many bytes
				var req [9]byte
				if _, err := c.Read(req[:]); err != nil {
					return
				}
				n := int(req[7])<<8 | int(req[8]) | int(req[6])<<16
				_, _ = c.Write(noise(1, n))
				_, _ = c.Read(req[:])
			})
		}
	}
	return serveTCP(t, echo)
}

func replay(t *testing.T, events []*vectors.Event) {
	info := startInfoOf(t, events[0])
	hold := make(chan struct{}) // the agent connects in the recorded order
	if agentFirst(events) {
		close(hold)
	}
	g := newGateway(t, Config{ExecDelay: 300 * time.Millisecond, agentHold: hold})
	spec := Spec{ID: "vector", Document: info.Document, Target: info.Target, Dial: dialer, Exec: execReal}
	if c := info.Parameters["command"]; len(c) > 0 {
		spec.Command = c[0]
	} else {
		spec.Port = farEnd(t, events, info.Document)
	}
	if h := info.Parameters["host"]; len(h) > 0 {
		spec.Host = h[0]
	}
	if l := info.Parameters["localPortNumber"]; len(l) > 0 {
		spec.Parameters = map[string]string{"localPortNumber": l[0]}
	}
	if strings.Contains(t.Name(), "closed-port") {
		spec.Port = closedPort(t)
	}
	var key []byte
	for i := range events {
		if events[i].Event != "data_key" {
			continue
		}
		var k struct {
			Context   map[string]string
			Plaintext []byte
		}
		if err := json.Unmarshal(events[i].Info, &k); err != nil {
			t.Fatal(err)
		}
		key = k.Plaintext
		spec.ID, spec.KMSKeyID = k.Context["aws:ssm:SessionId"], "11111111-2222-3333-4444-555555555555"
		spec.Decrypt = func(_ context.Context, _ []byte, got map[string]string) ([]byte, error) {
			if diff := gocmp.Diff(k.Context, got); diff != "" {
				return nil, fmt.Errorf("encryption context: %s", diff)
			}
			return key, nil
		}
	}
	token, err := g.Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, early: map[int64]frame.Message{}, noAcks: true}
	var want []frame.Message
	stream := 0 // stream messages expected so far
	have := func() (n int) {
		seen := map[int64]bool{}
		for _, m := range p.frames {
			if m.Type == frame.OutputStreamData && !seen[m.Seq] {
				seen[m.Seq] = true
				n++
			}
		}
		return n
	}
	streamSeen := map[int64]bool{}
	connected := false
	for i := range events {
		e := events[i]
		switch {
		case e.From == "client" && e.Event == "hello":
			if p.ws != nil {
				if token, err = g.Resume(spec.ID); err != nil {
					t.Fatal(err)
				}
				p.noAcks = false // the cut loses other messages than in the recording: acknowledge all that come
			} else if agentFirst(events) {
				waitFor(t, "the agent", func() bool { return agentOf(g, spec.ID) != nil })
			}
			first := p.ws == nil
			p.connect(g, spec.ID, token)
			if connected = true; first && !agentFirst(events) {
				waitFor(t, "the client", func() bool { return g.Sessions()[0].Connected })
				close(hold)
			}
		case e.From == "client" && e.Event == "gone":
			if connected = false; strings.Contains(string(e.Info), "1000") {
				_ = p.ws.Close(websocket.StatusNormalClosure, "")
			} else if strings.Contains(string(e.Info), "closed network connection") {
				_ = p.ws.CloseNow()
			}
		case toClient(e) && connected:
			want = append(want, e.Message)
			if e.Message.Type == frame.OutputStreamData && !streamSeen[e.Message.Seq] {
				streamSeen[e.Message.Seq] = true
				stream++
			}
		case e.From == "client" && e.Event == "frame":
			for have() < stream {
				if _, err := p.read(10 * time.Second); err != nil {
					t.Fatalf("event %d: after %d of %d stream messages: %v", i, have(), stream, err)
				}
			}
			m := e.Message
			if m.Type == frame.Acknowledge && !p.noAcks {
				continue
			}
			switch m.PayloadType {
			case frame.PayloadChallengeResponse:
				m.Payload = answerChallenge(t, key, p.frames)
			case frame.PayloadOutput: // not before the agent takes it: this client does not resend
				waitFor(t, "the plugin", func() bool { return handlerReady(g, spec.ID) })
			}
			p.write(m)
		}
	}
	want = untilClosed(want)
	closes := want[len(want)-1].Type == frame.ChannelClosed
	for _, types := range [][]frame.MessageType{
		{frame.OutputStreamData},
		{frame.Acknowledge},
		{frame.StartPublication, frame.PausePublication, frame.ChannelClosed},
	} {
		want := shapes(want, key != nil, types...)
		for len(shapes(p.frames, key != nil, types...)) < len(want) {
			if _, err := p.read(10 * time.Second); err != nil {
				t.Fatalf("%v: %v after %d of %d", types, err, len(shapes(p.frames, key != nil, types...)), len(want))
			}
		}
		got := shapes(untilClosed(p.frames), key != nil, types...)
		if !connected { // the recorded client did not wait for the rest
			got = got[:min(len(got), len(want))]
		}
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("%v, recorded (-) and ours (+):\n%s", types, diff)
		}
	}
	if closes {
		var recorded struct{ Output string }
		if err := json.Unmarshal(want[len(want)-1].Payload, &recorded); err != nil {
			t.Fatal(err)
		}
		if p.closed != recorded.Output {
			t.Errorf("channel_closed says %q, recorded %q", p.closed, recorded.Output)
		}
	}
}

// untilClosed returns the frames up to channel_closed; later ones race with the client's leaving.
func untilClosed(frames []frame.Message) []frame.Message {
	i := slices.IndexFunc(frames, func(m frame.Message) bool { return m.Type == frame.ChannelClosed })
	if i < 0 {
		return frames
	}
	return frames[:i+1]
}

// agentFirst reports whether the recorded agent connected before the client.
func agentFirst(events []*vectors.Event) bool {
	i := slices.IndexFunc(events, func(e *vectors.Event) bool { return e.Event == "hello" })
	return events[i].From == "agent"
}

func closedPort(t *testing.T) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// answerChallenge is a client's answer to the last encryption challenge.
func answerChallenge(t *testing.T, key []byte, frames []frame.Message) []byte {
	t.Helper()
	var c encryptionChallenge
	for _, m := range frames {
		if m.PayloadType == frame.PayloadChallengeRequest {
			if err := json.Unmarshal(m.Payload, &c); err != nil {
				t.Fatal(err)
			}
		}
	}
	agent, err := newSessionCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	client := &sessionCipher{out: agent.in, in: agent.out}
	secret, err := client.open(c.Challenge)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, `{"Challenge":%q}`, base64.StdEncoding.EncodeToString(client.seal(secret)))
}
