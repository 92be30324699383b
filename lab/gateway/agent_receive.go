package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// receive takes in the client's messages from one websocket until that is lost. over says that the session has ended.
func (a *agent) receive(gen uint64) (over bool) {
	var batch [][]byte
	for {
		var err error
		if batch, err = a.up.pop(gen, a.done, batch[:0]); err != nil {
			return !errors.Is(err, errStale) || !a.away.Load()
		}
		for _, b := range batch {
			if err := a.incoming(b); err != nil {
				if errors.Is(err, errDone) {
					return true
				}
				a.log.Debug("agent: message not processed", "err", err)
			}
		}
		clear(batch)
	}
}

func (a *agent) incoming(b []byte) error {
	m, err := frame.Decode(b)
	if err != nil {
		return err
	}
	if !a.work(&a.input, incomingCost(&m)) {
		return errDone
	}
	switch m.Type {
	case typeInput:
		a.setPaused(false)
		return a.incomingData(&m, b)
	case frame.Acknowledge:
		a.setPaused(false)
		typ, seq, err := acked(m.Payload)
		if err != nil {
			return err
		}
		// ssm-session-client also acknowledges the gateway's own messages, with number 0. They do not concern the agent.
		if (typ == typeOutput || typ == "") && !a.misses() {
			a.acknowledged(seq, time.Now())
		}
	case frame.PausePublication:
		a.setPaused(true)
	case frame.StartPublication:
		a.setPaused(false)
	default:
		return fmt.Errorf("unexpected message type %q", m.Type)
	}
	return nil
}

// incomingCost returns the processor time that a message from the client costs.
func incomingCost(m *frame.Message) time.Duration {
	switch m.Type {
	case typeInput:
		return inputCost(len(m.Payload))
	case frame.Acknowledge:
		return costAcked
	default:
		return costControl
	}
}

// acked returns the subject of an acknowledgement. Like the real agent it is lenient: it only needs the number.
func acked(payload []byte) (typ frame.MessageType, seq int64, err error) {
	if ack, err := frame.ParseAck(payload); err == nil {
		return ack.Type, ack.Seq, nil
	}
	var ack struct {
		Type frame.MessageType `json:"AcknowledgedMessageType"`
		Seq  *int64            `json:"AcknowledgedMessageSequenceNumber"`
	}
	if err := json.Unmarshal(payload, &ack); err != nil || ack.Seq == nil {
		return "", 0, fmt.Errorf("acknowledge message %q: %w", payload, err)
	}
	return ack.Type, *ack.Seq, nil
}

// misses draws whether the agent misses an acknowledgement. The real agent misses one that comes before it has recorded the message
// as sent.
func (a *agent) misses() bool {
	f := a.faults.Load()
	return a.draws.happens(f, f.MissAck)
}

// incomingData delivers messages that are in order, and keeps early ones. It acknowledges both, and duplicates. It does not
// acknowledge messages that it cannot deliver yet. It counts a delivered message only after sending the acknowledgement. So without
// a websocket it does not count the message, and delivers it again if it comes again, as the real agent does.
func (a *agent) incomingData(m *frame.Message, b []byte) error {
	switch {
	case m.Seq < a.expect:
		return a.ack(m)
	case m.Seq > a.expect:
		if _, have := a.early[m.Seq]; have {
			return a.ack(m)
		}
		if len(a.early) >= bufferMessages || a.earlyLen+len(b) > bufferBytes {
			return nil
		}
		if err := a.ack(m); err != nil {
			return err
		}
		a.early[m.Seq] = b
		a.earlyLen += len(b)
		return nil
	}
	if err := a.deliver(m); err != nil {
		if errors.Is(err, errNotReady) {
			return nil
		}
		return err
	}
	if a.completeFirst && m.PayloadType == frame.PayloadHandshakeResponse {
		a.passOn()
		select {
		case <-a.completed:
		case <-a.done:
		}
	}
	if f := a.faults.Load(); m.PayloadType == frame.PayloadOutput && a.isPort() && a.draws.happens(f, f.CutBeforeAck) {
		a.lose()
	}
	if err := a.ack(m); err != nil {
		a.unsure = m.Seq
		return err
	}
	a.passOn()
	a.expect++
	for {
		b, ok := a.early[a.expect]
		if !ok {
			return nil
		}
		m, err := frame.Decode(b)
		if err != nil {
			return err // not possible: it was decoded before
		}
		// The real agent stops here if the plugin is not ready, and goes on with the next message that is in order.
		if err := a.deliver(&m); err != nil {
			return err
		}
		a.passOn()
		delete(a.early, a.expect)
		a.earlyLen -= len(b)
		a.expect++
	}
}

// passOn wakes the handshake after the acknowledgement of the client's answer, which is then nearly always first on the wire.
func (a *agent) passOn() {
	if a.answer != nil {
		a.answer()
		a.answer = nil
	}
}

// ack sends the acknowledgement of m.
func (a *agent) ack(m *frame.Message) error {
	p := frame.AppendAck(make([]byte, 0, 192), m)
	ack := frame.Message{
		Type: frame.Acknowledge, Created: time.Now(), Flags: frame.FlagAck, ID: uuid.New(), Payload: p,
	}
	if a.away.Load() {
		return errAway
	}
	if !a.down.push(a.done, ack.Append(make([]byte, 0, frame.Overhead+len(p)))) {
		return errDone
	}
	return nil
}

// deliver passes m to the handshake or the plugin.
func (a *agent) deliver(m *frame.Message) error {
	switch m.PayloadType {
	case frame.PayloadHandshakeResponse:
		return a.handshakeResponse(m.Payload)
	case frame.PayloadChallengeResponse:
		return a.challengeResponse(m.Payload)
	}
	a.handlerMu.Lock()
	handler, shaken := a.handler, a.shaken
	a.handlerMu.Unlock()
	if !shaken {
		return nil // acknowledged and discarded: the client never learns of it
	}
	if handler == nil {
		return errNotReady
	}
	if m.Seq == a.unsure && m.PayloadType == frame.PayloadOutput && a.isPort() {
		a.count(func(c *Counters) { c.TwicePort++ })
	}
	if a.crypt != nil && m.PayloadType == frame.PayloadOutput {
		p, err := a.crypt.open(m.Payload)
		if err != nil {
			return err
		}
		m.Payload = p
	}
	return handler(m)
}

func (a *agent) isPort() bool { return a.spec.Port != 0 }

// writePort writes the port's data, altered by the faults. The receive loop calls it.
func (a *agent) writePort(w io.Writer, p []byte) error {
	f := a.faults.Load()
	p = a.draws.garbled(f, p)
	if _, err := w.Write(p); err != nil || f.Repeat == 0 {
		return err
	}
	const most = 4 << 10 // of a repeated stretch
	a.written = append(a.written, p...)
	a.written = a.written[max(0, len(a.written)-most):]
	if len(a.written) == 0 || !a.draws.happens(f, f.Repeat) {
		return nil
	}
	_, err := w.Write(a.written[a.draws.random(f).IntN(len(a.written)):])
	return err
}

// accept opens the way of data to the plugin; a nil handler means that the plugin is not ready.
func (a *agent) accept(handler func(*frame.Message) error) {
	a.handlerMu.Lock()
	defer a.handlerMu.Unlock()
	a.shaken, a.handler = true, handler
}
