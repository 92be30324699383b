package node

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/e2e/vectors"
	"github.com/bastion-ssm/bastion/sessions/frame"
	"github.com/bastion-ssm/bastion/sessions/transport"
)

// The node differs from AWS's agent in these transcripts, for these reasons. docs/adr/0020-node.md has the same table.
var differences = map[string]string{
	"port-denied-host":     "refused before the handshake: the node forwards to no host, whatever it is",
	"port-ssh-closed-port": "the session ends with the reason, where the agent crashes and leaves the client waiting",
	"ecs-exec":             "refused: no commands",
	"ecs-exec-kms":         "refused: no commands",
	"ecs-exec-not-found":   "refused: no commands",
}

// TestReplay plays the client's and the service's part of each transcript to a node, at the recorded times. Its far end writes what
// the recorded one wrote. The node's messages are compared with those of AWS's agent.
func TestReplay(t *testing.T) {
	for name, events := range vectors.All(t) {
		t.Run(name, func(t *testing.T) {
			if newReplay(t, name, events).mux { // package smux shares channels between bubbles
				r := newReplay(t, name, events)
				r.pace, r.wait = func(float64) {}, r.catchUp
				r.run()
				return
			}
			synctest.Test(t, func(t *testing.T) {
				r := newReplay(t, name, events)
				begin := time.Now()
				r.pace = func(ms float64) { <-time.After(time.Duration(ms*float64(time.Millisecond)) - time.Since(begin)) }
				r.wait = func(int) { synctest.Wait() }
				r.run()
			})
		})
	}
}

// memSocket is a websocket in memory.
type memSocket struct {
	in     chan []byte
	closed chan struct{}
	once   sync.Once
	out    func([]byte) // takes each message that the node sends
}

func newMemSocket(out func([]byte)) *memSocket {
	return &memSocket{in: make(chan []byte, 1<<12), closed: make(chan struct{}), out: out}
}

func (s *memSocket) Read(buf []byte) ([]byte, error) {
	select {
	case b := <-s.in:
		return append(buf[:0], b...), nil
	case <-s.closed:
		return nil, io.ErrUnexpectedEOF
	}
}

func (s *memSocket) Write(p []byte, _ bool) error {
	s.out(bytes.Clone(p))
	return nil
}

func (s *memSocket) Ping(context.Context) error { return nil }

func (s *memSocket) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *memSocket) deliver(b []byte) {
	select {
	case s.in <- b:
	case <-s.closed:
	}
}

type replay struct {
	t      *testing.T
	name   string
	events []*vectors.Event
	task   Task
	refuse error
	mux    bool
	pace   func(ms float64) // waits for the time of an event
	wait   func(bytes int)  // waits until the node has done its part, and sent that many bytes

	sock    *memSocket
	mu      sync.Mutex
	more    sync.Cond       // the node has sent something
	out     int             // bytes that the node has sent
	written int             // ... and that it must send for what the far end has written
	away    bool            // the client is
	sent    []frame.Message // what the node sent, in its order, each number once
	seen    map[int64]bool
	acks    map[string]bool

	writes  chan []byte // for the far end
	got     [][]byte    // what each connection of the far end read
	results chan Result
	closed  *frame.Message // the transcript's channel_closed
}

func newReplay(t *testing.T, name string, events []*vectors.Event) *replay {
	r := &replay{
		t: t, name: name, events: events, seen: map[int64]bool{}, acks: map[string]bool{},
		writes: make(chan []byte, 1<<10), results: make(chan Result, 1),
	}
	r.more.L = &r.mu
	id, document, parameters := "s-1", "", "{}"
	for _, e := range events {
		switch {
		case e.Event == "start":
			var info struct {
				Document   string
				Parameters json.RawMessage
			}
			r.must(json.Unmarshal(e.Info, &info))
			document, parameters = info.Document, string(info.Parameters)
		case e.Message.Type == frame.AgentSessionState:
			var state sessionState
			r.must(json.Unmarshal(e.Message.Payload, &state))
			id = state.SessionID
		case e.Message.PayloadType == frame.PayloadHandshakeResponse:
			r.mux = document == docForward && !bytes.Contains(e.Message.Payload, []byte(`"ClientVersion":"1.0.`))
		case e.Message.Type == frame.ChannelClosed:
			r.closed = &e.Message
		}
	}
	content := documents[document]
	if content == "" {
		content, parameters = `{"schemaVersion":"1.0","sessionType":"InteractiveCommands"}`, "{}"
	}
	r.task, r.refuse = ParseTask(taskPayload(t, id, document, content, parameters))
	return r
}

func (r *replay) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// receive takes a message of the node's, and has the client acknowledge it.
func (r *replay) receive(raw []byte) {
	m, err := frame.Decode(raw)
	r.must(err)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch m.Type {
	case frame.Acknowledge:
		r.acks[string(m.Payload)] = true
		return
	case frame.OutputStreamData:
		if r.away {
			return
		}
		ack := frame.Message{
			Type: frame.Acknowledge, Created: time.Now(), Flags: frame.FlagAck, ID: uuid.New(), Payload: frame.AppendAck(nil, &m),
		}
		r.sock.deliver(ack.Append(nil))
		if r.seen[m.Seq] {
			return
		}
		r.seen[m.Seq] = true
		if m.PayloadType == frame.PayloadOutput {
			r.out += len(m.Payload)
			r.more.Broadcast()
		}
	}
	r.sent = append(r.sent, m)
}

// far is the far end's handler. It writes what the transcript's far end wrote.
func (r *replay) far(ctx context.Context, _ Task, c net.Conn) {
	r.mu.Lock()
	n := len(r.got)
	r.got = append(r.got, nil)
	r.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	done := make(chan struct{})
	defer func() { <-done }()
	defer func() { _ = c.Close() }()
	go func() {
		defer close(done)
		buf := make([]byte, 4<<10)
		for {
			k, err := c.Read(buf)
			r.mu.Lock()
			r.got[n] = append(r.got[n], buf[:k]...)
			r.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	for {
		select {
		case p := <-r.writes:
			if p == nil {
				<-done // the client has closed it
				return
			}
			if _, err := c.Write(p); err != nil {
				r.t.Error(err)
			}
		case <-ctx.Done():
			return
		}
	}
}

func (r *replay) run() {
	if r.refuse != nil {
		r.compareRefusal()
		return
	}
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	r.sock = newMemSocket(r.receive)
	var smux smuxReader
	for i, e := range r.events {
		r.pace(e.MS)
		switch {
		case e.Event == "hello" && e.From == "agent":
			cfg := Config{Dial: func(context.Context) (transport.Socket, error) { return r.sock, nil }, Handler: r.far}
			if r.name == "port-ssh-closed-port" {
				cfg.Handler = nil
			}
			go func() { r.results <- Serve(ctx, r.task, cfg) }()
		case e.Event == "hello" || e.Event == "gone" && e.From == "client":
			r.mu.Lock()
			r.away = e.Event == "gone"
			r.mu.Unlock()
		case e.Event != "frame":
		case e.From == "client" && e.Message.Type == frame.InputStreamData, e.From == "gateway" && strings.Contains(string(e.Info), `"up"`):
			r.sock.deliver(e.Raw)
		case e.From == "agent" && e.Message.PayloadType == frame.PayloadOutput && !r.repeated(i):
			r.farWrites(&smux, e.Message.Payload)
		}
		r.wait(r.written)
	}
	if r.closed == nil || r.name == "port-ssh-closed-port" {
		cancel()
	}
	result := <-r.results
	r.compare(result)
}

// catchUp waits until the node has sent that many bytes, unless the client is away.
func (r *replay) catchUp(bytes int) {
	late := false
	limit := time.AfterFunc(20*time.Second, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		late = true
		r.more.Broadcast()
	})
	defer limit.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.out < bytes && !r.away && !late {
		r.more.Wait()
	}
	if late {
		r.t.Fatalf("%d bytes sent, %d are missing", r.out, bytes-r.out)
	}
}

// repeated reports whether the event is a message that came before.
func (r *replay) repeated(i int) bool {
	for _, e := range r.events[:i] {
		if e.From == "agent" && e.Message.Type == frame.OutputStreamData && e.Message.Seq == r.events[i].Message.Seq {
			return true
		}
	}
	return false
}

// farWrites has the far end write what is in a message of the agent's.
func (r *replay) farWrites(smux *smuxReader, payload []byte) {
	if !r.mux {
		r.writes <- payload
		r.written += len(payload)
		return
	}
	before := smux.taken
	for _, p := range smux.add(payload) {
		r.writes <- p
	}
	r.written += smux.taken - before
}

// smuxReader takes smux v1 apart.
type smuxReader struct {
	buf   []byte
	taken int // bytes of complete frames
}

// add returns the data in complete frames, and nil for a FIN.
func (s *smuxReader) add(p []byte) (data [][]byte) {
	const header, fin, psh = 8, 1, 2
	s.buf = append(s.buf, p...)
	for len(s.buf) >= header {
		n := int(binary.LittleEndian.Uint16(s.buf[2:]))
		if len(s.buf) < header+n {
			break
		}
		switch s.buf[1] {
		case psh:
			data = append(data, bytes.Clone(s.buf[header:header+n]))
		case fin:
			data = append(data, nil)
		}
		s.buf = s.buf[header+n:]
		s.taken += header + n
	}
	return data
}

// compareRefusal compares the node's refusal with the agent's.
func (r *replay) compareRefusal() {
	if differences[r.name] == "" {
		r.t.Fatalf("refused: %v", r.refuse)
	}
	if r.name == "port-denied-host" && !strings.Contains(r.refuse.Error(), "not supported") {
		r.t.Errorf("refused: %v", r.refuse)
	}
}

// compare compares the node's messages and those of the transcript's agent.
func (r *replay) compare(result Result) {
	t := r.t
	var recorded, ours []byte // the bytes of the stream
	var theirs []frame.Message
	seen := map[int64]bool{}
	for _, e := range r.events {
		switch {
		case e.Event != "frame" || e.From != "agent":
		case e.Message.Type == frame.Acknowledge:
			if !r.acks[string(e.Message.Payload)] {
				t.Errorf("the agent's ack is missing: %s", e.Message.Payload)
			}
		case e.Message.Type == frame.OutputStreamData && seen[e.Message.Seq]:
		case e.Message.PayloadType == frame.PayloadOutput:
			recorded = append(recorded, e.Message.Payload...)
			seen[e.Message.Seq] = true
		default:
			theirs = append(theirs, e.Message)
			seen[e.Message.Seq] = e.Message.Type == frame.OutputStreamData
		}
	}
	next := int64(0)
	for _, m := range r.sent {
		if m.Type == frame.OutputStreamData {
			if m.Seq != next || (m.Flags == frame.FlagSYN) != (m.Seq == 0) {
				t.Errorf("number %d in place of %d, flags %d", m.Seq, next, m.Flags)
			}
			next++
		}
		if m.PayloadType == frame.PayloadOutput {
			if len(m.Payload) > 1024 {
				t.Errorf("a message of %d bytes", len(m.Payload))
			}
			ours = append(ours, m.Payload...)
			continue
		}
		if len(theirs) == 0 {
			t.Errorf("sent what the agent did not: %s %d %q", m.Type, m.PayloadType, m.Payload)
			continue
		}
		r.compareMessage(&theirs[0], &m)
		theirs = theirs[1:]
	}
	for _, m := range theirs {
		t.Errorf("the agent's message has no counterpart: %s %d %q", m.Type, m.PayloadType, m.Payload)
	}
	if !bytes.Equal(recorded, ours) {
		t.Errorf("sent %d bytes, the agent %d; or other ones", len(ours), len(recorded))
	}
	r.compareFarEnd()
	r.compareResult(result)
}

func (r *replay) compareMessage(theirs, ours *frame.Message) {
	if theirs.Type != ours.Type || theirs.PayloadType != ours.PayloadType || theirs.Flags != ours.Flags || theirs.Seq != ours.Seq {
		r.t.Errorf("%s %d, flags %d, number %d in place of %s %d, %d, %d", ours.Type, ours.PayloadType, ours.Flags, ours.Seq,
			theirs.Type, theirs.PayloadType, theirs.Flags, theirs.Seq)
	}
	if ours.PayloadType == frame.PayloadHandshakeComplete {
		var a, b handshakeComplete
		r.must(json.Unmarshal(theirs.Payload, &a))
		r.must(json.Unmarshal(ours.Payload, &b))
		a.HandshakeTimeToComplete = b.HandshakeTimeToComplete
		if b.HandshakeTimeToComplete < 0 || b.HandshakeTimeToComplete > time.Second || !bytes.Equal(mustJSON(a), ours.Payload) {
			r.t.Errorf("payload %s in place of %s", ours.Payload, theirs.Payload)
		}
		return
	}
	if !bytes.Equal(theirs.Payload, ours.Payload) {
		r.t.Errorf("payload %s in place of %s", ours.Payload, theirs.Payload)
	}
}

// compareFarEnd compares what the far end read with what the client sent.
func (r *replay) compareFarEnd() {
	var sent []byte
	for _, e := range r.events {
		if e.From == "client" && e.Message.PayloadType == frame.PayloadOutput && e.Message.Type == frame.InputStreamData {
			sent = append(sent, e.Message.Payload...)
		}
	}
	want := [][]byte{sent}
	if r.mux {
		var smux smuxReader
		want = smux.add(sent)
		for i := 0; i < len(want); i++ {
			if want[i] == nil {
				want = append(want[:i], want[i+1:]...)
				i--
			}
		}
	}
	if r.name == "port-ssh-closed-port" {
		want = nil
	}
	if len(want) != len(r.got) {
		r.t.Fatalf("%d connections, want %d", len(r.got), len(want))
	}
	for i := range want {
		if !bytes.Equal(want[i], r.got[i]) {
			r.t.Errorf("connection %d read %q, want %q", i, r.got[i], want[i])
		}
	}
}

func (r *replay) compareResult(result Result) {
	want := Result{Status: statusFailed, Output: "the node has stopped"} // the transcript ends before the session
	switch {
	case r.name == "port-ssh-closed-port":
		want.Output = "Unable to connect to specified port: port 18023 is not served"
	case r.closed != nil:
		var closed struct{ Output string }
		r.must(json.Unmarshal(r.closed.Payload, &closed))
		want = Result{Status: statusSuccess, Output: closed.Output}
	}
	if result != want {
		r.t.Errorf("result %+v, want %+v", result, want)
	}
}
