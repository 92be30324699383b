package lab_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/google/uuid"
)

// nodeSession is a node's part in one port session. run owns it.
type nodeSession struct {
	n    *labNode
	task nodeTask
	in   chan nodeInput

	ws       *websocket.Conn
	seq      int64       // of the next message
	unacked  []nodeFrame // oldest first
	expect   int64       // the client's next message
	paused   bool
	port     net.Conn
	fromPort chan []byte // closed at the far end's end
	ending   bool        // once all is acknowledged
	over     bool

	end      sync.Once
	canceled chan struct{} // closed by channel_closed, on either channel
}

// nodeInput is a message from a websocket, or the error that ended it.
type nodeInput struct {
	ws  *websocket.Conn
	f   nodeFrame
	err error
}

const (
	payloadOutput            = 1
	payloadHandshakeRequest  = 5
	payloadHandshakeResponse = 6
	payloadHandshakeComplete = 7
	payloadFlag              = 10
)

func newNodeSession(n *labNode, task nodeTask) *nodeSession {
	return &nodeSession{n: n, task: task, in: make(chan nodeInput), canceled: make(chan struct{})}
}

// cancel ends the session: a channel_closed has come.
func (s *nodeSession) cancel() { s.end.Do(func() { close(s.canceled) }) }

// run serves the session until it ends, and reports that.
func (s *nodeSession) run() {
	if err := s.connect(); err != nil {
		s.n.report(s.task.SessionID, "Setting up data channel failed: "+err.Error())
		return
	}
	properties := make(map[string]any)
	for name, v := range s.task.DocumentContent.Properties {
		text, _ := v.(string)
		if parameter, ok := strings.CutPrefix(text, "{{ "); ok {
			text = s.task.Parameters[strings.TrimSuffix(parameter, " }}")]
		}
		properties[name] = text
	}
	s.write("agent_session_state", map[string]any{"SchemaVersion": 1, "SessionState": "Connected", "SessionId": s.task.SessionID})
	s.sendJSON(payloadHandshakeRequest, map[string]any{"AgentVersion": "3.3.0.0", "RequestedClientActions": []any{map[string]any{
		"ActionType":       "SessionType",
		"ActionParameters": map[string]any{"SessionType": s.task.DocumentContent.SessionType, "Properties": properties},
	}}})
	s.loop()
	if s.port != nil {
		_ = s.port.Close()
	}
	_ = s.ws.CloseNow()
	if s.n.ctx.Err() == nil {
		s.n.report(s.task.SessionID, "")
	}
}

func (s *nodeSession) loop() {
	resend := time.NewTicker(100 * time.Millisecond)
	defer resend.Stop()
	for !s.over {
		const window = 64
		var from chan []byte
		if !s.paused && len(s.unacked) < window {
			from = s.fromPort
		}
		select {
		case in := <-s.in:
			switch {
			case in.ws != s.ws: // of an earlier websocket
			case in.err != nil:
				s.reconnect()
			default:
				s.take(in.f)
			}
		case p, more := <-from:
			if more {
				s.send(payloadOutput, p)
			} else {
				s.fromPort, s.ending = nil, true
			}
		case <-resend.C:
			if len(s.unacked) > 0 && !s.paused {
				s.push(s.unacked[0])
			}
		case <-s.canceled:
			return
		case <-s.n.ctx.Done():
			return
		}
		s.over = s.over || s.ending && len(s.unacked) == 0
	}
}

// connect opens a data channel.
func (s *nodeSession) connect() error {
	token, err := s.n.create("data-channel/" + s.task.SessionID)
	if err != nil {
		return err
	}
	ws, err := s.n.dial("data-channel/" + s.task.SessionID + "?role=publish_subscribe")
	if err != nil {
		return err
	}
	if err := s.n.open(ws, token, map[string]string{"ClientId": "", "ClientInstanceId": s.n.target}); err != nil {
		return err
	}
	s.ws, s.paused = ws, false
	s.n.wg.Go(func() {
		for {
			in := nodeInput{ws: ws}
			var b []byte
			if _, b, in.err = ws.Read(s.n.ctx); in.err == nil {
				in.f, in.err = parseNodeFrame(b)
			}
			select {
			case s.in <- in:
			case <-s.n.ctx.Done():
				return
			}
			if in.err != nil {
				return
			}
		}
	})
	return nil
}

// reconnect tries a few times, as AWS's agent does.
func (s *nodeSession) reconnect() {
	_ = s.ws.CloseNow()
	var err error
	for i := range 5 {
		if err = s.connect(); err == nil || s.n.ctx.Err() != nil {
			for _, f := range s.unacked { // AWS's agent would take 100 ms for each
				s.push(f)
			}
			return
		}
		if strings.Contains(err.Error(), "Session is already terminated") {
			break
		}
		timer := time.NewTimer((100 * time.Millisecond) << i)
		select {
		case <-timer.C:
		case <-s.n.ctx.Done():
		}
	}
	s.over = true
}

// take takes a message of the data channel.
func (s *nodeSession) take(f nodeFrame) {
	switch f.typ {
	case "input_stream_data":
		s.paused = false
		s.takeData(f)
	case "acknowledge":
		s.paused = false
		var ack struct{ AcknowledgedMessageSequenceNumber int64 }
		if err := json.Unmarshal(f.payload, &ack); err != nil {
			s.n.t.Error(err)
		}
		for i := range s.unacked {
			if s.unacked[i].seq == ack.AcknowledgedMessageSequenceNumber {
				s.unacked = append(s.unacked[:i:i], s.unacked[i+1:]...)
				break
			}
		}
	case "pause_publication":
		s.paused = true
	case "start_publication":
		s.paused = false
	case "channel_closed":
		s.n.closed <- "data " + s.task.SessionID
		s.cancel()
	default:
		s.n.t.Errorf("on the data channel: message type %q", f.typ)
	}
}

// takeData takes the client's next message, and leaves early ones to its resends.
func (s *nodeSession) takeData(f nodeFrame) {
	if f.seq > s.expect || f.payloadType == payloadOutput && s.port == nil {
		return
	}
	s.write("acknowledge", map[string]any{
		"AcknowledgedMessageType": f.typ, "AcknowledgedMessageId": f.id.String(), "AcknowledgedMessageSequenceNumber": f.seq,
		"IsSequentialMessage": true,
	})
	if f.seq < s.expect {
		return
	}
	s.expect++
	switch f.payloadType {
	case payloadHandshakeResponse:
		s.sendJSON(payloadHandshakeComplete, map[string]any{"HandshakeTimeToComplete": time.Millisecond, "CustomerMessage": ""})
		s.dial()
	case payloadOutput:
		_, _ = s.port.Write(f.payload) // the end of the port shows when it is read
	case payloadFlag:
		if string(f.payload) == "\x00\x00\x00\x02" { // TerminateSession
			s.over = true
		}
	}
}

// dial connects to the port, and reads it.
func (s *nodeSession) dial() {
	conn, err := new(net.Dialer).DialContext(s.n.ctx, "tcp", net.JoinHostPort("127.0.0.1", s.n.port))
	if err != nil {
		s.over = true
		return
	}
	from := make(chan []byte)
	s.port, s.fromPort = conn, from
	stop := context.AfterFunc(s.n.ctx, func() { _ = conn.Close() })
	s.n.wg.Go(func() {
		defer stop()
		defer close(from)
		for {
			b := make([]byte, s.n.chunk.Load())
			n, err := conn.Read(b)
			if n > 0 {
				select {
				case from <- b[:n]:
				case <-s.n.ctx.Done():
					return
				}
			}
			if err != nil {
				return
			}
		}
	})
}

func (s *nodeSession) sendJSON(payloadType uint32, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		s.n.t.Error(err)
	}
	s.send(payloadType, b)
}

// send sends a numbered message, which it keeps until it is acknowledged.
func (s *nodeSession) send(payloadType uint32, payload []byte) {
	f := nodeFrame{typ: "output_stream_data", seq: s.seq, id: uuid.New(), payloadType: payloadType, payload: payload}
	if s.seq == 0 {
		f.flags = 1
	}
	s.seq++
	s.unacked = append(s.unacked, f)
	s.push(f)
}

// write sends a message without a number.
func (s *nodeSession) write(typ string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		s.n.t.Error(fmt.Errorf("%s: %w", typ, err))
	}
	s.push(nodeFrame{typ: typ, flags: 3, id: uuid.New(), payload: b})
}

// push writes to the websocket, whose end the reader notices.
func (s *nodeSession) push(f nodeFrame) {
	_ = s.ws.Write(s.n.ctx, websocket.MessageBinary, f.append(nil))
}
