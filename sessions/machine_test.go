package sessions

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/sessions/frame"
	"github.com/bastion-ssm/bastion/sessions/reliable"
	"github.com/bastion-ssm/bastion/sessions/transport"
)

var epoch = time.Unix(1_800_000_000, 0)

// The end of a pause may be among the messages that a slow reader leaves on the websocket. The machine takes them while it has
// something to send.
func TestPauseBehindASlowReader(t *testing.T) {
	now := epoch
	m := newMachine(machineConfig{
		exec: true, resumeTimeout: time.Minute, pingInterval: time.Minute, writeBuffer: 100, readSoft: 1, readHard: 100,
		heldBytes: 1000, heldSpan: 10,
	}, rand.New(rand.NewPCG(1, 1)), now)
	m.OnTimer(now)
	m.Connected(now)
	receive := func(typ frame.MessageType, payload string) {
		msg := frame.Message{Type: typ, ID: uuid.New(), PayloadType: frame.PayloadOutput, Payload: []byte(payload)}
		if _, err := m.Receive(&msg, &reliable.Inbound{}, now); err != nil {
			t.Fatal(err)
		}
	}
	receive(frame.OutputStreamData, "more than the reader takes")
	receive(frame.PausePublication, "{}")
	if !m.Throttled(now) {
		t.Error("not throttled, with nothing to send")
	}
	m.write([]byte("x"))
	if m.Throttled(now) {
		t.Error("throttled, with something to send")
	}
	var b reliable.Batch
	m.Fill(&b, now)
	if m.Pending() || m.out.Len() == 0 {
		t.Error("data is sent in a pause")
	}
	b.Reset()
	receive(frame.StartPublication, "{}")
	m.Fill(&b, now)
	last, err := frame.Decode(b.Buf)
	if err != nil || string(last.Payload) != "x" {
		t.Fatalf("sent %q: %v", last.Payload, err)
	}
	receive(frame.Acknowledge, string(frame.AppendAck(nil, &last)))
	now = now.Add(2 * reliable.StarvedPause)
	if !m.Throttled(now) {
		t.Error("not throttled, with nothing to send any more")
	}
}

// upMachine returns a machine with a websocket, and the function that gives it a message of the agent's.
func upMachine(exec bool, now *time.Time) (m *machine, receive func(frame.MessageType, frame.PayloadType, string)) {
	m = newMachine(machineConfig{
		exec: exec, resumeTimeout: time.Minute, closeTimeout: 10 * time.Second, pingInterval: time.Minute, pingTimeout: 5 * time.Second,
		writeBuffer: 100, readSoft: 1 << 20, readHard: 1 << 24, heldBytes: 1000, heldSpan: 10,
	}, rand.New(rand.NewPCG(1, 1)), *now)
	m.OnTimer(*now)
	m.Requested()
	m.Connected(*now)
	return m, func(typ frame.MessageType, payloadType frame.PayloadType, payload string) {
		msg := frame.Message{Type: typ, Seq: m.end.Stats().Next, ID: uuid.New(), PayloadType: payloadType, Payload: []byte(payload)}
		_, _ = m.Receive(&msg, &reliable.Inbound{}, *now) // no test here is about a malformed one
	}
}

// passTime runs the machine's timer for a while, and has a lost websocket made again at once.
func passTime(m *machine, now *time.Time, d time.Duration) {
	for end := now.Add(d); now.Before(end) && m.err == nil; {
		*now = now.Add(10 * time.Millisecond)
		m.OnTimer(*now)
		if m.Requested().Connect {
			m.Connected(*now)
		}
	}
}

// The reader of a lost websocket may have one more message in its hands. A pause among such says nothing about the next one.
func TestPauseOfALostWebsocket(t *testing.T) {
	now := epoch
	m, receive := upMachine(true, &now)
	receive(frame.OutputStreamData, frame.PayloadOutput, "a")
	m.Disconnected(errors.New("cut"), now)
	receive(frame.PausePublication, 0, "{}")
	passTime(m, &now, time.Second)
	m.write([]byte("x"))
	if !m.Pending() {
		t.Error("nothing is sent on the next websocket")
	}
}

// A command that prints at once, and whose websocket is lost soon, gets its terminal's size on the next.
func TestSizeAfterALostWebsocket(t *testing.T) {
	now := epoch
	m, receive := upMachine(true, &now)
	receive(frame.OutputStreamData, frame.PayloadOutput, "a")
	m.Disconnected(errors.New("cut"), now)
	passTime(m, &now, 2*time.Second)
	if !m.hs.sized {
		t.Error("the size is never sent")
	}
}

func TestAcksAreBoundedWhileTheWriterIsStuck(t *testing.T) {
	now := epoch
	m, receive := upMachine(true, &now)
	for n := 0; !m.Throttled(now); n++ {
		if n > reliable.MostAcks {
			t.Fatalf("%d acks wait", m.end.Stats().Acks)
		}
		receive(frame.OutputStreamData, frame.PayloadOutput, "a")
	}
	var b reliable.Batch
	if m.Fill(&b, now); m.Throttled(now) || len(b.Ends) < reliable.MostAcks {
		t.Errorf("%d acks sent; throttled %v", len(b.Ends), m.Throttled(now))
	}
}

// An agent that acknowledges nothing any more delays the end by finPatience only.
func TestFinPatience(t *testing.T) {
	const request = `{"RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{"SessionType":"%"}}]}`
	for kind, isRefused := range map[string]bool{"Port": false, "Standard_Stream": true} {
		now := epoch
		m, receive := upMachine(false, &now)
		receive(frame.OutputStreamData, frame.PayloadHandshakeRequest, strings.Replace(request, "%", kind, 1))
		var b reliable.Batch
		m.Fill(&b, now)
		if !isRefused {
			receive(frame.OutputStreamData, frame.PayloadHandshakeComplete, "{}")
			response, err := frame.Decode(b.Buf[b.Ends[len(b.Ends)-2]:])
			if err != nil {
				t.Fatal(err)
			}
			receive(frame.Acknowledge, 0, string(frame.AppendAck(nil, &response)))
			m.close(false, now)
			m.Fill(&b, now)
		}
		passTime(m, &now, 2*finPatience)
		if took := now.Sub(epoch); m.err == nil || errors.Is(m.err, net.ErrClosed) == isRefused || took > finPatience+10*time.Millisecond {
			t.Errorf("%s: ended after %v: %v", kind, took, m.err)
		}
	}
}

// A probe during a ping is another ping after it: the first may have been answered before the network changed.
func TestProbeDuringAPing(t *testing.T) {
	now := epoch
	m, _ := upMachine(false, &now)
	m.link.Probe(now)
	m.OnTimer(now)
	m.link.Probe(now)
	m.OnTimer(now)
	if m.Requested().Ping == 0 || !m.Pinged(nil, false, now) {
		t.Fatal("not asked to ping")
	}
	if m.OnTimer(now); m.Requested().Ping == 0 {
		t.Error("the second probe is forgotten")
	}
}

// A write whose bytes are all taken succeeds, even if its deadline passes at that moment.
func TestWriteAtItsDeadline(t *testing.T) {
	s := newStream("s", "t", streamConfig{
		machineConfig: machineConfig{resumeTimeout: time.Minute, pingInterval: time.Minute, pingTimeout: time.Minute, writeBuffer: 1 << 30},
		dial: func(ctx context.Context, _ grant) (transport.Socket, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
		terminate: func() {},
	}, slog.New(slog.DiscardHandler))
	defer s.abandon()
	p := make([]byte, 64<<10)
	for i := range 500 {
		_ = s.SetWriteDeadline(time.Now().Add(time.Duration(i%25) * time.Microsecond))
		if n, err := s.Write(p); n == len(p) && err != nil {
			t.Fatalf("%d bytes of %d are taken: %v", n, len(p), err)
		}
	}
}
