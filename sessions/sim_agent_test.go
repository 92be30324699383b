package sessions

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"

	"github.com/mmmorris1975/ssm-session-client/datachannel"

	"github.com/bastion-ssm/bastion/sessions/frame"
	"github.com/bastion-ssm/bastion/sessions/reliable"
)

// simAgent is the far end of a simulated session. It follows AWS's agent: a number for each message and an ack for each, and 1024
// bytes a message. Every 100 ms it resends the oldest unacknowledged message, and no other. It does not bound the messages out of
// order. It is silent while the service says that the client is away. Or, with peer, it numbers and acknowledges as this package
// does, as a node of our own would.
type simAgent struct {
	w         *sim
	exec, kms bool
	peer      *reliable.End

	away     bool // not connected to the service
	paused   bool // the service says that the client is away
	complete bool // the handshake
	cipher   *payloadCipher
	ended    bool

	expected int64
	early    map[int64]frame.Message
	next     int64
	unacked  []simSent

	goal    int // bytes to write
	written int // bytes that were put in messages
	read    int // bytes that came
	buf     reliable.Batch
}

type simSent struct {
	seq  int64
	msg  []byte
	sent time.Time
}

// begin has the agent come, and start the session.
func (a *simAgent) begin() {
	a.away = true
	a.w.after(a.w.upTo(time.Second), func() {
		a.comeBack()
		action := map[string]any{"ActionType": "SessionType", "ActionParameters": map[string]any{"SessionType": "Port"}}
		actions := []any{action}
		if a.kms {
			action["ActionParameters"] = map[string]any{"SessionType": "InteractiveCommands"}
			actions = append(actions, map[string]any{
				"ActionType": "KMSEncryption", "ActionParameters": map[string]any{"KMSKeyId": "key-1", "Challenge": "c"},
			})
		}
		if a.exec && !a.kms {
			a.complete = true
		} else {
			req, err := json.Marshal(map[string]any{"AgentVersion": "3.3.0.0", "RequestedClientActions": actions})
			a.must(err)
			a.push(frame.PayloadHandshakeRequest, req)
		}
		a.work()
		a.tick()
	})
}

func (a *simAgent) must(err error) {
	if err != nil {
		a.w.fail("the agent: %v", err)
	}
}

func (a *simAgent) outstanding() int {
	if a.peer != nil {
		return a.peer.Outstanding()
	}
	return len(a.unacked)
}

// leave is that the agent loses its websocket.
func (a *simAgent) leave() {
	a.away = true
	if a.peer != nil {
		a.peer.Disconnected()
	}
}

func (a *simAgent) comeBack() {
	a.away = false
	if a.w.toldAway && a.outstanding() == 0 || a.w.rng.IntN(2) == 0 { // else what it sends tells
		a.w.announce()
	}
	a.flush()
}

// peerPresent is what the service says of the client.
func (a *simAgent) peerPresent(present bool) {
	a.paused = !present
	if a.peer != nil {
		a.peer.SetPaused(!present)
		a.flush()
	}
}

// emit puts a message on its way to the client.
func (a *simAgent) emit(msg []byte) {
	l := a.w.link
	if l == nil || l.cut || a.away {
		return
	}
	a.w.afflict(func(late time.Duration) { a.w.arrive(l, msg, late) })
}

// push sends the next message of the agent's stream.
func (a *simAgent) push(typ frame.PayloadType, payload []byte) {
	n := len(payload)
	if a.cipher != nil && typ == frame.PayloadOutput {
		payload = a.cipher.seal(nil, payload)
	}
	if a.peer != nil {
		a.peer.Push(&a.buf, typ, frame.FlagData, payload, n, a.w.now)
		a.flush()
		return
	}
	m := frame.Message{
		Type: frame.OutputStreamData, Created: a.w.now, Seq: a.next, ID: a.w.m.end.NewID(), PayloadType: typ, Payload: payload,
	}
	a.next++
	msg := m.Append(nil)
	a.unacked = append(a.unacked, simSent{m.Seq, msg, a.w.now})
	if !a.paused {
		a.emit(msg)
	}
}

// flush sends what peer has to send.
func (a *simAgent) flush() {
	if a.peer == nil || a.away {
		return
	}
	if a.peer.Pending() {
		a.peer.AppendAcks(&a.buf, a.w.now)
		a.peer.AppendResends(&a.buf, len(a.buf.Buf)+batchBytes, a.w.now)
	}
	start := 0
	for _, end := range a.buf.Ends {
		a.emit(bytes.Clone(a.buf.Buf[start:end]))
		start = end
	}
	a.buf.Reset()
}

// tick is what the agent does again and again.
func (a *simAgent) tick() {
	if a.ended || a.w.m.err != nil {
		return
	}
	pause := 100 * time.Millisecond
	switch {
	case a.peer != nil:
		pause = 10 * time.Millisecond
		if !a.away {
			a.peer.OnTimer(a.w.now)
			a.flush()
		}
	case !a.paused && len(a.unacked) > 0 && a.w.now.Sub(a.unacked[0].sent) > 200*time.Millisecond:
		a.unacked[0].sent = a.w.now
		a.emit(a.unacked[0].msg)
	}
	if a.w.ending == simFarEnds && a.complete && a.written == a.goal && a.outstanding() == 0 {
		a.end()
		return
	}
	a.w.after(pause, a.tick)
}

// work is the pump from the far connection.
func (a *simAgent) work() {
	if a.ended || a.w.m.err != nil || a.written == a.goal {
		return
	}
	l := a.w.link
	blocked := l != nil && l.unread > simSocket || a.peer != nil && a.peer.Room(1024) == 0
	if n := min(a.goal-a.written, 1+a.w.rng.IntN(1024)); a.complete && n > 0 && !blocked {
		b := a.w.bytes(true, a.written, n)
		a.written += n
		a.push(frame.PayloadOutput, b)
	}
	pause := time.Millisecond
	if a.w.rng.IntN(50) == 0 {
		pause = a.w.upTo(time.Second)
	}
	a.w.after(pause, a.work)
}

// end ends the session.
func (a *simAgent) end() {
	a.w.logf("the agent ends")
	a.ended = true
	payload, err := json.Marshal(datachannel.ChannelClosedPayload{SessionID: "s-1"})
	a.must(err)
	m := frame.Message{Type: frame.ChannelClosed, Created: a.w.now, Flags: frame.FlagAck, ID: a.w.m.end.NewID(), Payload: payload}
	a.w.over = m.Append(nil)
	if l := a.w.link; l != nil && !l.cut {
		a.w.arrive(l, a.w.over, 0)
	}
}

// receive takes a message of the client's.
func (a *simAgent) receive(m *frame.Message, msg []byte) {
	switch {
	case m.Type == frame.Acknowledge:
		a.receiveAck(m)
	case m.Type != frame.InputStreamData:
		a.w.fail("the agent got a message of type %q", m.Type)
	case a.peer != nil:
		if a.peer.Receive(m, &reliable.Inbound{B: msg}, true, a.w.now) == reliable.Consume {
			a.process(m)
			for next, ok := a.peer.Next(); ok; next, ok = a.peer.Next() {
				a.process(&frame.Message{PayloadType: next.Type, Payload: next.Payload})
			}
		}
		a.flush()
	default:
		a.paused = false
		ack := frame.Message{
			Type: frame.Acknowledge, Created: a.w.now, Flags: frame.FlagAck, ID: a.w.m.end.NewID(), Payload: frame.AppendAck(nil, m),
		}
		if m.Seq >= a.expected {
			a.early[m.Seq] = *m
		}
		for next, ok := a.early[a.expected]; ok; next, ok = a.early[a.expected] {
			delete(a.early, a.expected)
			a.expected++
			a.process(&next)
		}
		a.emit(ack.Append(nil))
	}
}

// receiveAck takes an ack, which must be of a message that the client has.
func (a *simAgent) receiveAck(m *frame.Message) {
	ack, err := frame.ParseAck(m.Payload)
	a.must(err)
	if !a.w.m.end.Has(ack.Seq) {
		a.w.fail("the client acknowledged message %d, which it does not have", ack.Seq)
	}
	if a.peer != nil {
		a.must(a.peer.ReceiveAck(m.Payload, a.w.now))
		a.flush()
		return
	}
	a.paused = false
	for i, u := range a.unacked {
		if u.seq == ack.Seq {
			a.unacked = append(a.unacked[:i:i], a.unacked[i+1:]...)
			break
		}
	}
}

// process takes the client's next message in order.
func (a *simAgent) process(m *frame.Message) {
	payload := m.Payload
	switch m.PayloadType {
	case frame.PayloadHandshakeResponse:
		if !a.kms {
			a.finishHandshake()
			return
		}
		key := noise(1, dataKeySize)
		var err error
		a.cipher, err = newPayloadCipher(append(bytes.Clone(key[dataKeySize/2:]), key[:dataKeySize/2]...))
		a.must(err)
		a.push(frame.PayloadChallengeRequest, fmt.Appendf(nil, `{"Challenge":%q}`,
			base64.StdEncoding.EncodeToString(a.cipher.seal(nil, noise(2, 64)))))
	case frame.PayloadChallengeResponse:
		var c struct{ Challenge []byte }
		a.must(json.Unmarshal(payload, &c))
		if plain, err := a.cipher.open(c.Challenge); err != nil || !bytes.Equal(plain, noise(2, 64)) {
			a.w.fail("the challenge came back as other bytes: %v", err)
		}
		a.finishHandshake()
	case frame.PayloadOutput:
		if a.cipher != nil {
			var err error
			payload, err = a.cipher.open(payload)
			a.must(err)
		}
		if !a.complete || a.read+len(payload) > a.w.written || !bytes.Equal(payload, a.w.bytes(false, a.read, len(payload))) {
			a.w.fail("the far end read other bytes than were written, from %d on: %s", a.read, a.w.describe())
		}
		a.read += len(payload)
	case frame.PayloadFlag:
		if len(payload) != 4 || binary.BigEndian.Uint32(payload) != uint32(frame.TerminateSession) || a.read != a.w.written {
			a.w.fail("the end of the session comes after %d bytes of %d: %x", a.read, a.w.written, payload)
		}
	case frame.PayloadSize:
		if !a.exec {
			a.w.fail("a port has got the size of a terminal")
		}
	default:
		a.w.fail("the agent got a payload of type %d", m.PayloadType)
	}
}

func (a *simAgent) finishHandshake() {
	a.complete = true
	a.push(frame.PayloadHandshakeComplete, []byte(`{"HandshakeTimeToComplete":1,"CustomerMessage":""}`))
}
