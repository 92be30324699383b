package node

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/sessions/frame"
	"github.com/bastion-ssm/bastion/sessions/reliable"
)

// upMachine returns a machine with a websocket, and a function that passes it a message of the client's or the service's.
func upMachine(task Task, now time.Time) (*machine, func(frame.MessageType, int64, frame.PayloadType, []byte)) {
	limits := Limits{SendWindow: 16 << 10, WriteBuffer: 8 << 10, ReadBuffer: 4 << 10, ReorderBuffer: 16 << 10}
	m := newMachine(machineConfig{
		task: task, served: true, limits: limits.withDefaults(),
		resumeTimeout: time.Minute, pingInterval: time.Hour, pingTimeout: time.Minute,
	}, rand.New(rand.NewPCG(1, 1)), now)
	m.OnTimer(now)
	m.Connected(now)
	return m, func(typ frame.MessageType, seq int64, payloadType frame.PayloadType, payload []byte) {
		msg := frame.Message{Type: typ, Seq: seq, ID: uuid.New(), PayloadType: payloadType, Payload: payload}
		_, _ = m.Receive(&msg, &reliable.Inbound{B: payload}, now) // no test here is about a malformed one
	}
}

const someResponse = `{"ClientVersion":"1.0.0.0","ProcessedClientActions":[{"ActionType":"SessionType","ActionStatus":1}]}`

// Bytes from before the end of the handshake are lost, as with the agent; later ones are not.
func TestDataBeforeTheHandshake(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m, receive := upMachine(someTask(t, docSSH), now)
	receive(frame.InputStreamData, 0, frame.PayloadOutput, []byte("early"))
	receive(frame.InputStreamData, 1, frame.PayloadHandshakeResponse, []byte(someResponse))
	receive(frame.InputStreamData, 2, frame.PayloadOutput, []byte("data"))
	receive(frame.InputStreamData, 2, frame.PayloadOutput, []byte("data")) // again
	receive(frame.InputStreamData, 3, frame.PayloadHandshakeResponse, []byte(someResponse))
	if m.state != connected || m.unread() != len("data") || m.flows != 1 || m.end.Stats().Acks != 5 {
		t.Errorf("state %d, %d bytes unread, %d connections, %d acks", m.state, m.unread(), m.flows, m.end.Stats().Acks)
	}
}

// An absent client is asked for the handshake once it is present. The service is told of the node at once.
func TestHandshakeAwaitsTheClient(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m, receive := upMachine(someTask(t, docSSH), now)
	receive(frame.PausePublication, 0, 0, nil)
	for _, want := range []frame.MessageType{frame.AgentSessionState, frame.OutputStreamData} {
		var b reliable.Batch
		m.Fill(&b, now)
		if msg, err := frame.Decode(b.Buf); err != nil || msg.Type != want || m.Pending() {
			t.Errorf("sent %q, %v; want %q", msg.Type, err, want)
		}
		receive(frame.StartPublication, 0, 0, nil)
	}
}

// What the far end wrote to a connection that the client has closed does not reach the client's next one.
func TestBytesOfAClosedConnection(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m, receive := upMachine(someTask(t, docForward), now)
	receive(frame.InputStreamData, 0, frame.PayloadHandshakeResponse, []byte(someResponse))
	m.write(m.takeFlow(), []byte("for the first"))
	receive(frame.InputStreamData, 1, frame.PayloadFlag, []byte{0, 0, 0, byte(frame.DisconnectToPort)})
	receive(frame.InputStreamData, 2, frame.PayloadOutput, []byte("second"))
	m.write(m.takeFlow(), []byte("answer"))
	var b reliable.Batch
	m.Fill(&b, now)
	last, err := frame.Decode(b.Buf[b.Ends[len(b.Ends)-2]:])
	if err != nil || string(last.Payload) != "answer" || m.out.Len() > 0 {
		t.Errorf("sent %q, %d bytes left: %v", last.Payload, m.out.Len(), err)
	}
}

// A far end that does not read, or does not close its connections, bounds what the machine takes. What it does not take comes again.
func TestWhatIsNotTaken(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	m, receive := upMachine(someTask(t, docForward), now)
	receive(frame.InputStreamData, 0, frame.PayloadHandshakeResponse, []byte(someResponse))
	first := m.takeFlow()
	full := readHardFactor * m.cfg.limits.ReadBuffer
	seq := int64(1)
	for range 2 * full / 1024 {
		before := m.end.Stats().Next
		receive(frame.InputStreamData, seq, frame.PayloadOutput, make([]byte, 1024))
		seq += m.end.Stats().Next - before
	}
	if first.in.Len() != full {
		t.Errorf("%d bytes unread, want %d", first.in.Len(), full)
	}
	for range 2 * mostFlows {
		receive(frame.InputStreamData, seq, frame.PayloadFlag, []byte{0, 0, 0, byte(frame.DisconnectToPort)})
		seq++
		before := m.end.Stats().Next
		receive(frame.InputStreamData, seq, frame.PayloadOutput, []byte("again"))
		seq += m.end.Stats().Next - before
	}
	if m.flows != mostFlows || m.state != connected {
		t.Errorf("%d connections, state %d", m.flows, m.state)
	}
	m.close(first, now)
	receive(frame.InputStreamData, seq, frame.PayloadOutput, []byte("again"))
	if m.flows != mostFlows || m.unread() != len("again") || m.state != connected {
		t.Errorf("%d connections after one has closed, %d bytes unread, state %d", m.flows, m.unread(), m.state)
	}
}

// FuzzHandshakeResponse gives a machine any answer to its request. It ends or begins the session, with bounded words.
func FuzzHandshakeResponse(f *testing.F) {
	f.Add([]byte(someResponse))
	f.Add([]byte(`{"ClientVersion":"1.3.0.0","ProcessedClientActions":[{"ActionType":"SessionType","ActionStatus":3,"Error":"no"}],"Errors":null}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		m, receive := upMachine(someTask(t, docForward), time.Unix(1_800_000_000, 0))
		receive(frame.InputStreamData, 0, frame.PayloadHandshakeResponse, payload)
		if m.state != connected && (m.state != leaving || m.result.Status != statusFailed || m.result.Output == "") {
			t.Errorf("state %d, result %+v", m.state, m.result)
		}
	})
}

// FuzzMachine turns bytes into events for a machine. Whatever the client and the service send, memory is bounded, time goes on, and the
// end is the end.
func FuzzMachine(f *testing.F) {
	f.Add([]byte{0, 0, 0, 1, 0, 20, 1, 0, 2, 0, 1, 0})
	f.Add([]byte{1, 0, 4, 3, 0, 1, 4, 0, 3, 0, 1, 0, 5, 5, 1, 1})
	tasks := []Task{someTask(f, docSSH), someTask(f, docForward)}
	f.Fuzz(func(t *testing.T, ops []byte) {
		now := time.Unix(1_800_000_000, 0)
		m, receive := upMachine(tasks[len(ops)%2], now)
		var b reliable.Batch
		var flows []*flow
		next := int64(0)
		payloads := [][]byte{
			[]byte(someResponse), []byte("{"),
			{0, 0, 0, 1},
			{0, 0, 0, 2},
			make([]byte, 1024),
			[]byte(`{"ClientVersion":"1.3.0.0","ProcessedClientActions":[]}`),
		}
		types := []frame.PayloadType{frame.PayloadHandshakeResponse, frame.PayloadFlag, frame.PayloadOutput, frame.PayloadSize}
		for len(ops) >= 2 {
			op, arg := ops[0]%10, int(ops[1])
			ops = ops[2:]
			switch op {
			case 0, 1, 2: // the next message, or one out of order
				if op < 2 && arg%8 != 7 {
					next++
				}
				seq := max(0, next-1+int64(arg%3*int(op/2)))
				receive(frame.InputStreamData, seq, types[arg/8%len(types)], payloads[arg%len(payloads)])
			case 3:
				receive(frame.Acknowledge, 0, 0, []byte(`{"AcknowledgedMessageType":"output_stream_data","AcknowledgedMessageSequenceNumber":0}`))
			case 4:
				receive([]frame.MessageType{frame.PausePublication, frame.StartPublication, "x"}[arg%3], 0, 0, nil)
			case 5:
				now = now.Add(time.Duration(arg*arg) * time.Millisecond)
				m.OnTimer(now)
			case 6:
				if m.link.Up() {
					m.Disconnected(errors.New("cut"), now)
				} else {
					m.Connected(now)
				}
			case 7:
				if len(flows) > 0 {
					m.close(flows[arg%len(flows)], now)
				}
			case 8:
				if len(flows) > 0 {
					m.write(flows[arg%len(flows)], make([]byte, arg*64))
				}
			case 9:
				b.Reset()
				m.Fill(&b, now)
				if m.Pending() && len(b.Ends) == 0 {
					t.Fatal("pending, and nothing to send")
				}
			}
			if f := m.takeFlow(); f != nil {
				flows = append(flows, f)
			}
			checkMachine(t, m, flows)
		}
		m.finish(Result{Status: statusFailed})
		if !m.Deadline().IsZero() || m.Pending() {
			t.Error("a machine that has ended asks for more")
		}
	})
}

func checkMachine(t *testing.T, m *machine, flows []*flow) {
	t.Helper()
	open, unread := 0, 0
	for _, f := range flows {
		unread += f.in.Len()
		if !f.closed {
			open++
		}
	}
	l := m.cfg.limits
	if open != m.flows || open > mostFlows {
		t.Fatalf("%d connections are open, counted as %d", open, m.flows)
	}
	if most := mostFlows*readHardFactor*l.ReadBuffer + l.ReorderBuffer + 1024; unread > most {
		t.Fatalf("%d bytes unread", unread)
	}
	if m.out.Len() > l.WriteBuffer || m.end.Stats().HeldBytes > l.ReorderBuffer || len(m.control) > 4 {
		t.Fatalf("%d bytes to send, %d held, %d messages of its own", m.out.Len(), m.end.Stats().HeldBytes, len(m.control))
	}
}
