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
	"github.com/mmmorris1975/ssm-session-client/datachannel"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// The end of a pause may be among the messages that a slow reader leaves on the websocket. The machine takes them while it has
// something to send.
func TestPauseBehindASlowReader(t *testing.T) {
	now := epoch
	m := newMachine(machineConfig{
		exec: true, resumeTimeout: time.Minute, pingInterval: time.Minute, writeBuffer: 100, readSoft: 1, readHard: 100,
		heldBytes: 1000, heldSpan: 10,
	}, rand.New(rand.NewPCG(1, 1)), now)
	m.onTimer(now)
	m.connected(now)
	receive := func(typ datachannel.MessageType, payload string) {
		msg := frame.Message{Type: typ, ID: uuid.New(), PayloadType: datachannel.Output, Payload: []byte(payload)}
		if _, err := m.receive(&msg, &inbound{}, now); err != nil {
			t.Fatal(err)
		}
	}
	receive(datachannel.OutputStreamData, "more than the reader takes")
	receive(datachannel.PausePublication, "{}")
	if !m.throttled(now) {
		t.Error("not throttled, with nothing to send")
	}
	m.write([]byte("x"))
	if m.throttled(now) {
		t.Error("throttled, with something to send")
	}
	var b batch
	m.fill(&b, now)
	if m.pending() || m.out.len() == 0 {
		t.Error("data is sent in a pause")
	}
	b.reset()
	receive(datachannel.StartPublication, "{}")
	m.fill(&b, now)
	last, err := frame.Decode(b.buf)
	if err != nil || string(last.Payload) != "x" {
		t.Fatalf("sent %q: %v", last.Payload, err)
	}
	receive(datachannel.Acknowledge, string(frame.AppendAck(nil, &last)))
	now = now.Add(2 * starvedPause)
	if !m.throttled(now) {
		t.Error("not throttled, with nothing to send any more")
	}
}

// upMachine returns a machine with a websocket, and the function that gives it a message of the agent's.
func upMachine(exec bool, now *time.Time) (m *machine, receive func(datachannel.MessageType, datachannel.PayloadType, string)) {
	m = newMachine(machineConfig{
		exec: exec, resumeTimeout: time.Minute, closeTimeout: 10 * time.Second, pingInterval: time.Minute, pingTimeout: 5 * time.Second,
		writeBuffer: 100, readSoft: 1 << 20, readHard: 1 << 24, heldBytes: 1000, heldSpan: 10,
	}, rand.New(rand.NewPCG(1, 1)), *now)
	m.onTimer(*now)
	m.requested()
	m.connected(*now)
	return m, func(typ datachannel.MessageType, payloadType datachannel.PayloadType, payload string) {
		msg := frame.Message{Type: typ, Seq: m.recv.next, ID: uuid.New(), PayloadType: payloadType, Payload: []byte(payload)}
		_, _ = m.receive(&msg, &inbound{}, *now) // no test here is about a malformed one
	}
}

// passTime runs the machine's timer for a while, and has a lost websocket made again at once.
func passTime(m *machine, now *time.Time, d time.Duration) {
	for end := now.Add(d); now.Before(end) && m.err == nil; {
		*now = now.Add(10 * time.Millisecond)
		m.onTimer(*now)
		if m.requested().connect {
			m.connected(*now)
		}
	}
}

// The reader of a lost websocket may have one more message in its hands. A pause among such says nothing about the next one.
func TestPauseOfALostWebsocket(t *testing.T) {
	now := epoch
	m, receive := upMachine(true, &now)
	receive(datachannel.OutputStreamData, datachannel.Output, "a")
	m.disconnected(errors.New("cut"), now)
	receive(datachannel.PausePublication, 0, "{}")
	passTime(m, &now, time.Second)
	m.write([]byte("x"))
	if !m.pending() {
		t.Error("nothing is sent on the next websocket")
	}
}

// A command that prints at once, and whose websocket is lost soon, gets its terminal's size on the next.
func TestSizeAfterALostWebsocket(t *testing.T) {
	now := epoch
	m, receive := upMachine(true, &now)
	receive(datachannel.OutputStreamData, datachannel.Output, "a")
	m.disconnected(errors.New("cut"), now)
	passTime(m, &now, 2*time.Second)
	if !m.hs.sized {
		t.Error("the size is never sent")
	}
}

func TestAcksAreBoundedWhileTheWriterIsStuck(t *testing.T) {
	now := epoch
	m, receive := upMachine(true, &now)
	for n := 0; !m.throttled(now); n++ {
		if n > mostAcks {
			t.Fatalf("%d acks wait", len(m.acks))
		}
		receive(datachannel.OutputStreamData, datachannel.Output, "a")
	}
	var b batch
	if m.fill(&b, now); m.throttled(now) || len(b.ends) < mostAcks {
		t.Errorf("%d acks sent; throttled %v", len(b.ends), m.throttled(now))
	}
}

// An agent that acknowledges nothing any more delays the end by finPatience only.
func TestFinPatience(t *testing.T) {
	const request = `{"RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{"SessionType":"%"}}]}`
	for kind, isRefused := range map[string]bool{"Port": false, "Standard_Stream": true} {
		now := epoch
		m, receive := upMachine(false, &now)
		receive(datachannel.OutputStreamData, datachannel.HandshakeRequest, strings.Replace(request, "%", kind, 1))
		var b batch
		m.fill(&b, now)
		if !isRefused {
			receive(datachannel.OutputStreamData, datachannel.HandshakeComplete, "{}")
			response, err := frame.Decode(b.buf[b.ends[len(b.ends)-2]:])
			if err != nil {
				t.Fatal(err)
			}
			receive(datachannel.Acknowledge, 0, string(frame.AppendAck(nil, &response)))
			m.close(false, now)
			m.fill(&b, now)
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
	m.link.probe(now)
	m.onTimer(now)
	m.link.probe(now)
	m.onTimer(now)
	if m.requested().ping == 0 || !m.pinged(nil, false, now) {
		t.Fatal("not asked to ping")
	}
	if m.onTimer(now); m.requested().ping == 0 {
		t.Error("the second probe is forgotten")
	}
}

// A write whose bytes are all taken succeeds, even if its deadline passes at that moment.
func TestWriteAtItsDeadline(t *testing.T) {
	s := newStream("s", "t", streamConfig{
		machineConfig: machineConfig{resumeTimeout: time.Minute, pingInterval: time.Minute, pingTimeout: time.Minute, writeBuffer: 1 << 30},
		dial: func(ctx context.Context, _ grant) (socket, error) {
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
