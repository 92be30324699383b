package sessions

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/mmmorris1975/ssm-session-client/datachannel"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// In a pause, the word that it has ended may be among the messages that a slow reader leaves on the websocket: they are taken
// while something is to be sent.
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
	if m.throttled(now) || m.pending() != (len(m.acks) > 0) {
		t.Error("throttled, with something to send")
	}
	receive(datachannel.StartPublication, "{}")
	var b batch
	m.fill(&b, now)
	last, err := frame.Decode(b.buf[b.ends[len(b.ends)-2]:])
	if err != nil || string(last.Payload) != "x" {
		t.Fatalf("sent %q: %v", last.Payload, err)
	}
	receive(datachannel.Acknowledge, string(frame.AppendAck(nil, &last)))
	now = now.Add(2 * starvedPause)
	if !m.throttled(now) {
		t.Error("not throttled, with nothing to send any more")
	}
}
