package sessions

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/mmmorris1975/ssm-session-client/datachannel"

	"github.com/bastion-ssm/bastion/e2e/vectors"
	"github.com/bastion-ssm/bastion/sessions/frame"
	"github.com/bastion-ssm/bastion/sessions/transport"
)

// TestReplay plays the agent's and the gateway's part of each transcript to a Stream, at the recorded times. It compares the
// Stream's messages with those of AWS's client: every ack and every message, byte for byte, except for the client's own choices.
func TestReplay(t *testing.T) {
	for name, events := range vectors.All(t) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newReplay(t, events).run() })
		})
	}
}

// replaySocket is a websocket on which a transcript is played.
type replaySocket struct {
	in     chan []byte
	closed chan struct{}
	once   sync.Once

	mu  sync.Mutex
	out [][]byte
}

func newReplaySocket() *replaySocket {
	return &replaySocket{in: make(chan []byte, 1), closed: make(chan struct{})}
}

func (s *replaySocket) Read(buf []byte) ([]byte, error) {
	select {
	case b := <-s.in:
		return append(buf[:0], b...), nil
	case <-s.closed:
		return nil, io.ErrUnexpectedEOF
	}
}

func (s *replaySocket) Write(p []byte, _ bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out = append(s.out, bytes.Clone(p))
	return nil
}

func (s *replaySocket) Ping(context.Context) error { return nil }

func (s *replaySocket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *replaySocket) sent() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out
}

type replay struct {
	t      *testing.T
	events []*vectors.Event
	exec   bool
	id     string
	key    struct {
		Plaintext string
		Context   map[string]string
	}
	encrypted string // the data key as the recorded client passed it on
	peer      *payloadCipher

	stream  *Stream
	sockets []*replaySocket
	dialed  chan *replaySocket

	read    bytes.Buffer // what the reader got
	readErr error
	readEnd chan struct{}
	closing sync.WaitGroup
}

func newReplay(t *testing.T, events []*vectors.Event) *replay {
	r := &replay{t: t, events: events, dialed: make(chan *replaySocket, 4), readEnd: make(chan struct{})}
	for _, e := range events {
		switch {
		case e.Event == "start":
			r.exec = strings.Contains(string(e.Info), "ExecuteInteractiveCommand")
		case e.Event == "data_key":
			r.must(json.Unmarshal(e.Info, &r.key))
		case e.Message.PayloadType == frame.PayloadHandshakeResponse && e.From == "client" && r.exec:
			var res struct {
				ProcessedClientActions []struct {
					ActionResult struct{ KMSCipherTextKey string }
				}
			}
			r.must(json.Unmarshal(e.Message.Payload, &res))
			r.encrypted = res.ProcessedClientActions[1].ActionResult.KMSCipherTextKey
		case e.From == "gateway" && r.id == "":
			var body struct{ SessionId string }
			r.must(json.Unmarshal(e.Message.Payload, &body))
			r.id = body.SessionId
		}
	}
	if r.key.Plaintext != "" {
		plain, err := base64.StdEncoding.DecodeString(r.key.Plaintext)
		r.must(err)
		// The halves change places for the far side.
		r.peer, err = newPayloadCipher(append(plain[dataKeySize/2:len(plain):len(plain)], plain[:dataKeySize/2]...))
		r.must(err)
	}
	return r
}

func (r *replay) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// open starts the stream, as StartSession's answer would.
func (r *replay) open() {
	cfg := New(Config{SSM: &fakeService{}}).streamConfig(r.id, grant{"wss://recorded.invalid", "1"}, r.exec)
	cfg.dial = func(context.Context, grant) (transport.Socket, error) {
		s := newReplaySocket()
		r.dialed <- s
		return s, nil
	}
	cfg.resume = func(context.Context) (grant, error) { return grant{"wss://recorded.invalid", "2"}, nil }
	cfg.terminate = func() {}
	cfg.dataKey = func(_ context.Context, req *keyRequest) ([]byte, []byte, error) {
		got := req.encryptionContext()
		if got[contextChallenge] == "" {
			r.t.Error("the agent's challenge is not in the encryption context")
		}
		delete(got, contextChallenge) // the recorded client does not know it
		if diff := cmp.Diff(r.key.Context, got); diff != "" {
			r.t.Errorf("encryption context: %s", diff)
		}
		plain, err := base64.StdEncoding.DecodeString(r.key.Plaintext)
		r.must(err)
		encrypted, err := base64.StdEncoding.DecodeString(r.encrypted)
		return plain, encrypted, err
	}
	target := r.key.Context[contextTargetID]
	r.stream = newStream(r.id, target, cfg, slog.New(slog.DiscardHandler))
	go func() {
		defer close(r.readEnd)
		_, r.readErr = io.Copy(&r.read, r.stream)
	}()
}

func (r *replay) run() {
	begin := time.Now()
	for i, e := range r.events {
		if left := e.At() - time.Since(begin); left > 0 {
			<-time.After(left)
		}
		switch {
		case e.Event == "hello" && e.From == "client":
			if r.stream == nil {
				r.open()
			}
			r.sockets = append(r.sockets, <-r.dialed)
		case e.Event == "frame" && e.From == "client":
			r.clientSends(e)
		case e.Event == "gone" && e.From == "client":
			if r.comesBack(i) {
				r.sockets[len(r.sockets)-1].Close()
			} else {
				r.close()
			}
		case e.Event == "frame" && (e.From == "agent" || e.Lane() == "down") && e.Message.Type != frame.AgentSessionState:
			// agent_session_state is for the service; the recorder did not pass it on.
			s := r.sockets[len(r.sockets)-1]
			select {
			case s.in <- e.Raw:
			case <-s.closed:
			}
		}
		synctest.Wait()
	}
	r.close()
	r.closing.Wait()
	<-r.readEnd
	r.compare()
}

func (r *replay) comesBack(i int) bool {
	for _, e := range r.events[i:] {
		if e.Event == "hello" && e.From == "client" {
			return true
		}
	}
	return false
}

func (r *replay) close() { r.closing.Go(func() { r.stream.Close() }) }

// clientSends has the stream do what made the recorded client send e.
func (r *replay) clientSends(e *vectors.Event) {
	if e.Message.Type != frame.InputStreamData {
		return
	}
	switch e.Message.PayloadType {
	case frame.PayloadOutput:
		if _, err := r.stream.Write(r.plain(&e.Message)); err != nil {
			r.t.Errorf("at %v ms: %v", e.MS, err)
		}
	case frame.PayloadFlag:
		r.close()
	}
}

// plain returns a payload of the client's, decrypted.
func (r *replay) plain(m *frame.Message) []byte {
	if r.peer == nil || m.PayloadType != frame.PayloadOutput {
		return m.Payload
	}
	p, err := r.peer.open(m.Payload)
	r.must(err)
	return p
}

func (r *replay) compare() {
	t := r.t
	var sent []frame.Message
	acked := map[string]bool{}
	numbers := map[int64]bool{}
	for _, s := range r.sockets {
		for _, raw := range s.sent() {
			m, err := frame.Decode(raw)
			r.must(err)
			switch m.Type {
			case frame.Acknowledge:
				acked[string(m.Payload)] = true
				if m.Flags != frame.FlagAck || m.Seq != 0 {
					t.Errorf("ack with flags %d and number %d", m.Flags, m.Seq)
				}
			case frame.InputStreamData:
				if !numbers[m.Seq] {
					sent = append(sent, m)
				}
				numbers[m.Seq] = true
			default:
				t.Errorf("sent a message of type %q", m.Type)
			}
		}
	}
	for i, m := range sent {
		if m.Seq != int64(i) || (m.Flags == frame.FlagSYN) != (i == 0) {
			t.Errorf("message %d has number %d and flags %d", i, m.Seq, m.Flags)
		}
	}

	var want []byte // what the agent's stream carries
	next := int64(0)
	answers := 0
	for _, e := range r.events {
		switch {
		case e.Event != "frame":
		case e.From == "agent" && e.Message.Type == frame.OutputStreamData:
			if !acked[string(frame.AppendAck(nil, &e.Message))] {
				t.Errorf("message %d of the agent is not acknowledged", e.Message.Seq)
			}
			if e.Message.Seq == next {
				next++
				if e.Message.PayloadType == frame.PayloadOutput {
					want = append(want, r.agentPlain(&e.Message)...)
				}
			}
		case e.From == "client" && e.Message.Type == frame.Acknowledge:
			if !acked[string(e.Message.Payload)] {
				t.Errorf("the recorded client sent an ack that is missing: %s", e.Message.Payload)
			}
		case e.From == "client" && e.Message.Type == frame.InputStreamData:
			for answers < len(sent) && sent[answers].PayloadType == frame.PayloadSize {
				answers++ // ours alone: the recorded client had no terminal
			}
			if answers == len(sent) {
				t.Errorf("message %d of the recorded client has no counterpart", e.Message.Seq)
				continue
			}
			r.compareMessage(&e.Message, &sent[answers])
			answers++
		}
	}
	for _, m := range sent[answers:] {
		if m.PayloadType != frame.PayloadFlag && m.PayloadType != frame.PayloadSize {
			t.Errorf("sent what the recorded client did not: type %d, %q", m.PayloadType, m.Payload)
		}
	}
	if !bytes.Equal(r.read.Bytes(), want) {
		t.Errorf("the reader got %d bytes, want %d; or other ones", r.read.Len(), len(want))
	}
	r.compareEnd()
}

// agentPlain returns a payload of the agent's, decrypted.
func (r *replay) agentPlain(m *frame.Message) []byte {
	if r.key.Plaintext == "" {
		return m.Payload
	}
	plain, err := base64.StdEncoding.DecodeString(r.key.Plaintext)
	r.must(err)
	c, err := newPayloadCipher(plain)
	r.must(err)
	p, err := c.open(m.Payload)
	r.must(err)
	return p
}

// compareMessage compares a message of ours with the recorded client's.
func (r *replay) compareMessage(recorded, ours *frame.Message) {
	t := r.t
	if recorded.PayloadType != ours.PayloadType {
		t.Errorf("payload type %d in place of %d", ours.PayloadType, recorded.PayloadType)
		return
	}
	switch ours.PayloadType {
	case frame.PayloadHandshakeResponse:
		var a, b struct {
			ClientVersion          string
			ProcessedClientActions []map[string]any
			Errors                 []string
		}
		r.must(json.Unmarshal(recorded.Payload, &a))
		r.must(json.Unmarshal(ours.Payload, &b))
		if len(b.Errors) > 0 || b.ClientVersion != clientVersion {
			t.Errorf("handshake response %s", ours.Payload)
		}
		for _, action := range b.ProcessedClientActions {
			if result, ok := action["ActionResult"].(map[string]any); ok {
				if result["ChallengeAcknowledgement"] != true {
					t.Error("the agent is not told that its challenge is in the encryption context")
				}
				delete(result, "ChallengeAcknowledgement")
			}
		}
		if diff := cmp.Diff(a.ProcessedClientActions, b.ProcessedClientActions); diff != "" {
			t.Errorf("handshake response: %s", diff)
		}
	case frame.PayloadChallengeResponse:
		if a, b := r.challenge(recorded), r.challenge(ours); len(a) != 64 || !bytes.Equal(a, b) {
			t.Error("the challenge is answered with other bytes than it had")
		}
	default:
		if !bytes.Equal(r.plain(recorded), r.plain(ours)) {
			t.Errorf("payload %q, the recorded client sent %q", ours.Payload, recorded.Payload)
		}
	}
}

func (r *replay) challenge(m *frame.Message) []byte {
	var c struct{ Challenge []byte }
	r.must(json.Unmarshal(m.Payload, &c))
	p, err := r.peer.open(c.Challenge)
	r.must(err)
	return p
}

// compareEnd checks how the stream ended, if it was the service that ended it.
func (r *replay) compareEnd() {
	t := r.t
	for _, e := range r.events {
		if e.Event == "gone" && e.From == "client" && !r.comesBackAfter(e) {
			break // the recorded client left first
		}
		if e.Event != "frame" || e.Message.Type != frame.ChannelClosed {
			continue
		}
		var closed datachannel.ChannelClosedPayload
		r.must(json.Unmarshal(e.Message.Payload, &closed))
		var got *ClosedError
		if err := r.stream.Err(); !errors.As(err, &got) {
			if !errors.Is(err, net.ErrClosed) {
				t.Errorf("the stream ended with %v", err)
			}
			return // Close was first
		}
		if got.Output != closed.Output || got.Incomplete {
			t.Errorf("the stream ended with %+v, want output %q", got, closed.Output)
		}
		if regular := closed.Output == ""; regular != (r.readErr == nil) {
			t.Errorf("the reader ended with %v", r.readErr)
		}
		return
	}
}

func (r *replay) comesBackAfter(e *vectors.Event) bool {
	for i := range r.events {
		if r.events[i] == e {
			return r.comesBack(i)
		}
	}
	return false
}
