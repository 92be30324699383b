package sessions

import (
	"encoding/json"
	"net"
	"time"

	"github.com/mmmorris1975/ssm-session-client/datachannel"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// This file is channel's receiving side.

const (
	// batchLimit stops the reader from taking more messages, each of which needs an ack, while the writer is stuck.
	batchLimit = 256 << 10
	// starvedPause is how long nothing must have been unacknowledged before a slow reader holds the agent back again.
	starvedPause = time.Second
)

// heldPayload is a message that waits for its turn.
type heldPayload struct {
	typ     datachannel.PayloadType
	payload []byte
	in      *inbound
}

// mayReceive reports whether more messages are to be taken from the websocket. When the reader is slow they stay there, as
// they do with AWS's own client, and the agent is held back. The acks for our own direction then stay there too: when they are
// missed, messages are taken after all, until we have had nothing to send for a while.
func (c *channel) mayReceive(l *link) bool {
	over := c.s.throttle()
	switch {
	case !over || c.send.outstanding() == 0 && time.Since(c.send.lastProgress) > starvedPause:
		c.starved = false
	case c.send.stalled():
		c.starved = true
	}
	wait := over && !c.starved || len(c.filling.buf) >= batchLimit
	l.waiting.Store(wait)
	return !wait
}

// awaitRoom is called by the reader, and returns when the next message is to be taken; false says that l is at its end. It
// takes mu.
func (c *channel) awaitRoom(l *link) bool {
	for {
		c.mu.Lock()
		ok := c.mayReceive(l)
		c.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-c.s.room:
		case <-l.stop:
			return false
		}
	}
}

// receive is called by the reader with a message from the websocket. kept says that it has to wait for others, and is freed
// when its turn has come. An error is why the stream ends. It takes mu.
func (c *channel) receive(l *link, in *inbound) (kept bool, err error) {
	now := time.Now()
	m, malformed := frame.Decode(in.b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over {
		return false, errLinkClosed
	}
	c.downSince = time.Time{}
	if malformed != nil {
		c.log.Warn("message ignored", "err", malformed)
		c.s.counters.dropped.Add(1)
		return false, nil
	}
	switch m.Type {
	case datachannel.OutputStreamData:
		kept, err = c.receiveData(l, &m, in, now)
	case datachannel.Acknowledge:
		c.receiveAck(m.Payload, now)
	case datachannel.PausePublication:
		c.send.setPaused(true)
		c.hs.absent()
		c.s.counters.absent.Store(max(1, int64(now.Sub(c.s.started))))
	case datachannel.StartPublication:
		c.send.setPaused(false)
		c.hs.present(now)
		c.s.counters.absent.Store(0)
	case datachannel.ChannelClosed:
		err = c.closedByService(m.Payload)
	default:
		c.log.Debug("message ignored", "type", m.Type)
	}
	c.flush()
	c.rearm(now)
	if !c.open || c.state != notClosing || c.abandon != nil {
		nudge(c.s.wake) // it may be what advance waits for
	}
	return kept, err
}

func (c *channel) receiveAck(payload []byte, now time.Time) {
	ack, err := frame.ParseAck(payload)
	if err != nil {
		c.log.Warn("ack ignored", "err", err)
		c.s.counters.dropped.Add(1)
		return
	}
	if ack.Type == datachannel.InputStreamData {
		c.send.wake()
		c.send.onAck(ack.Seq, now)
		c.publish()
	}
}

// receiveData takes a message of the agent's stream; held says that in is kept.
func (c *channel) receiveData(l *link, m *frame.Message, in *inbound, now time.Time) (held bool, err error) {
	c.send.wake()
	c.s.counters.absent.Store(0)
	consumable := m.PayloadType != datachannel.Output || c.s.unread() < c.cfg.readHard
	p := heldPayload{m.PayloadType, m.Payload, in}
	verdict := c.recv.push(m.Seq, p, cap(in.b), consumable)
	switch verdict {
	case recvDropped:
		c.s.counters.dropped.Add(1)
		return false, nil
	case recvDuplicate:
		c.s.counters.duplicates.Add(1)
	case recvNext:
		// Consumed before it is acknowledged: what cannot be consumed ends the stream.
		if err := c.consume(p, now); err != nil {
			return false, err
		}
	}
	c.ack(l, m, now)
	if verdict != recvNext {
		return verdict == recvHeld, nil
	}
	for {
		next, ok := c.recv.pop()
		if !ok {
			return false, nil
		}
		err := c.consume(next, now)
		next.in.free()
		if err != nil {
			return false, err
		}
	}
}

// ack acknowledges m, soon. A command may end at any time, and the session with it: its output is acknowledged at once.
func (c *channel) ack(l *link, m *frame.Message, now time.Time) {
	switch {
	case c.cfg.exec:
		c.urgent = true
	case c.acks == 0:
		c.ackBy = now.Add(ackDelay)
		l.acks.Reset(ackDelay)
	}
	c.acks++
	c.scratch = frame.AppendAck(c.scratch[:0], m)
	a := frame.Message{
		Type: datachannel.Acknowledge, Created: now, Flags: frame.FlagAck, ID: c.newID(), Payload: c.scratch,
	}
	c.filling.buf = a.Append(c.filling.buf)
	c.filling.end()
}

// consume takes the next message of the agent's stream.
func (c *channel) consume(p heldPayload, now time.Time) error {
	r, err := c.hs.receive(p.typ, p.payload)
	if err != nil {
		return err
	}
	return c.act(r, now)
}

// act does what the handshake asks for.
func (c *channel) act(r received, now time.Time) error {
	c.reply(r.replies, now)
	if r.key != nil {
		c.requestKey(r.key)
	}
	if len(r.data) > 0 {
		c.s.deliver(r.data)
	}
	if c.hs.state == hsAbandoned && c.abandon == nil {
		c.abandon = protocolError("the agent asks for what this client does not do: %s", r.replies[0].payload)
		c.abandonAt = now.Add(finPatience)
	}
	return nil
}

// closedByService takes the end of the session.
func (c *channel) closedByService(payload []byte) error {
	var closed datachannel.ChannelClosedPayload
	if err := json.Unmarshal(payload, &closed); err != nil {
		return protocolError("channel_closed: %w", err)
	}
	if c.state == finishing {
		return net.ErrClosed // as was asked for
	}
	e := &ClosedError{SessionID: c.s.sessionID, Output: closed.Output, Incomplete: c.recv.gap()}
	if c.abandon != nil {
		return c.abandon // that is why
	}
	return e
}
