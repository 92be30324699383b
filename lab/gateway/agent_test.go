package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// agentRig is an agent in fake time, with the test in place of the gateway's websocket.
type agentRig struct {
	*agent
	t   *testing.T
	s   *session
	gen uint64
}

func newAgentRig(t *testing.T) *agentRig {
	g := New(Config{})
	s := newSession(g, Spec{ID: "rig", Document: DocSSH, Target: testTarget, Port: 22}, 1)
	t.Cleanup(s.cancel)
	a := newAgent(s)
	r := &agentRig{agent: a, t: t, s: s, gen: s.down.attach()}
	up := s.up.attach()
	go a.receive(up)
	go a.resend()
	return r
}

// got are the messages that the agent has sent since the last call.
func (r *agentRig) got() []frame.Message {
	r.t.Helper()
	synctest.Wait()
	var out []frame.Message
	r.s.down.mu.Lock()
	batch, _, _ := r.s.down.take(nil)
	r.s.down.mu.Unlock()
	for _, b := range batch {
		m, err := frame.Decode(b)
		if err != nil {
			r.t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

// sends describes the messages that the agent has sent: +seq for a stream message, ack seq for an acknowledgement.
func (r *agentRig) sends(want ...string) {
	r.t.Helper()
	var got []string
	for _, m := range r.got() {
		if m.Type == frame.OutputStreamData {
			got = append(got, fmt.Sprintf("+%d", m.Seq))
			continue
		}
		var a struct{ AcknowledgedMessageSequenceNumber int64 }
		if err := json.Unmarshal(m.Payload, &a); err != nil {
			r.t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("ack %d", a.AcknowledgedMessageSequenceNumber))
	}
	if !slices.Equal(got, want) {
		r.t.Errorf("the agent sent %q, not %q", got, want)
	}
}

func (r *agentRig) client(m frame.Message) {
	m.ID, m.Created = uuid.New(), time.Now()
	r.s.up.push(r.done, m.Append(nil))
}

func (r *agentRig) clientData(seq int64, payload string) {
	r.client(frame.Message{Type: frame.InputStreamData, Seq: seq, PayloadType: 1, Payload: []byte(payload)})
}

func (r *agentRig) clientAck(seq int64) {
	r.client(frame.Message{
		Type:    frame.Acknowledge,
		Payload: fmt.Appendf(nil, `{"AcknowledgedMessageSequenceNumber":%d}`, seq),
	})
}

func (r *agentRig) output(n int) {
	r.t.Helper()
	for range n {
		if err := r.sendOutput([]byte("x")); err != nil {
			r.t.Fatal(err)
		}
	}
}

// Only the oldest is resent, at most every 100 ms, after 200 ms at first.
func TestAgentResendsTheOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAgentRig(t)
		r.output(3)
		r.sends("+0", "+1", "+2")
		advance(200 * time.Millisecond)
		r.sends()
		advance(100 * time.Millisecond)
		r.sends("+0")
		r.clientAck(1) // not the oldest
		synctest.Wait()
		advance(2 * time.Second)
		got := r.got()
		if len(got) < 2 || len(got) > 6 {
			t.Errorf("%d resends in 2 s", len(got))
		}
		for _, m := range got {
			if m.Seq != 0 {
				t.Errorf("message %d was resent", m.Seq)
			}
		}
		r.clientAck(0)
		synctest.Wait()
		advance(1100 * time.Millisecond)
		for _, m := range r.got() {
			if m.Seq != 2 {
				t.Errorf("message %d was resent, not 2", m.Seq)
			}
		}
		r.clientAck(2)
		synctest.Wait()
		if n := r.unackedMessages(); n != 0 {
			t.Errorf("%d unacknowledged", n)
		}
		advance(5 * time.Second)
		r.sends()
		r.s.cancel()
		synctest.Wait()
	})
}

func TestAgentMissesAcks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAgentRig(t)
		f := Faults{MissAck: 1}
		r.faults.Store(&f)
		r.output(1)
		r.clientAck(0)
		synctest.Wait()
		advance(300 * time.Millisecond)
		r.sends("+0", "+0")
		r.faults.Store(&Faults{})
		r.clientAck(0)
		synctest.Wait()
		advance(time.Second)
		r.sends()
		r.s.cancel()
		synctest.Wait()
	})
}

func TestAgentRetransmissionTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAgentRig(t)
		r.output(1)
		advance(20 * time.Millisecond)
		r.clientAck(0)
		synctest.Wait()
		if want := 90*time.Millisecond + 4*20*time.Millisecond; r.rto != want { // round trip and variation after 100 ms and 20 ms
			t.Errorf("timeout %v after the first ack, not %v", r.rto, want)
		}
		for range 50 { // a steady 5 ms
			r.output(1)
			advance(5 * time.Millisecond)
			r.clientAck(r.nextSeq - 1)
			synctest.Wait()
		}
		if r.rto < 15*time.Millisecond || r.rto > 30*time.Millisecond {
			t.Errorf("timeout %v for a round trip of 5 ms", r.rto)
		}
		r.output(1)
		advance(3 * time.Second) // resent, but never answered
		r.clientAck(r.nextSeq - 1)
		synctest.Wait()
		if r.rto > maxRTO {
			t.Errorf("timeout %v", r.rto)
		}
		r.s.cancel()
		synctest.Wait()
	})
}

// Out of order: kept and acknowledged. Again: acknowledged again. Not taken by the plugin: not acknowledged.
func TestAgentReceives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAgentRig(t)
		var got string
		ready := false
		r.accept(func(m *frame.Message) error {
			if !ready {
				return errNotReady
			}
			got += string(m.Payload)
			return nil
		})
		r.clientData(0, "a")
		r.sends()
		ready = true
		r.clientData(2, "c")
		r.sends("ack 2")
		r.clientData(3, "d")
		r.clientData(2, "c")
		r.sends("ack 3", "ack 2")
		r.clientData(0, "a")
		r.clientData(1, "b")
		r.sends("ack 0", "ack 1")
		r.clientData(1, "b")
		r.sends("ack 1")
		if got != "abcd" {
			t.Errorf("delivered %q", got)
		}
		r.s.cancel()
		synctest.Wait()
	})
}

// The agent acknowledges and loses data from before the end of the handshake.
func TestAgentDiscardsBeforeTheHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAgentRig(t)
		r.clientData(0, "lost")
		r.sends("ack 0")
		got := ""
		r.accept(func(m *frame.Message) error {
			got += string(m.Payload)
			return nil
		})
		r.clientData(1, "kept")
		r.sends("ack 1")
		if got != "kept" {
			t.Errorf("delivered %q", got)
		}
		r.s.cancel()
		synctest.Wait()
	})
}

// A paused agent neither sends nor resends; any data or ack wakes it.
func TestAgentPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, wake := range map[string]func(*agentRig){
			"start": func(r *agentRig) { r.s.up.control(r.s.publication(frame.StartPublication)) },
			"ack":   func(r *agentRig) { r.clientAck(77) },
			"data":  func(r *agentRig) { r.clientData(9, "early") },
		} {
			r := newAgentRig(t)
			r.s.up.control(r.s.publication(frame.PausePublication))
			synctest.Wait()
			r.output(2)
			active := make(chan bool, 1)
			go func() { active <- r.waitActive(r.done) }()
			advance(10 * time.Second)
			if got := r.got(); len(got) > 0 || len(active) > 0 {
				t.Errorf("%s: a paused agent sent %d messages", name, len(got))
			}
			wake(r)
			synctest.Wait()
			if len(active) == 0 {
				t.Errorf("%s: still paused", name)
			}
			advance(resendInterval)
			got := r.got()
			if !slices.ContainsFunc(got, func(m frame.Message) bool {
				return m.Type == frame.OutputStreamData && m.Seq == 0
			}) {
				t.Errorf("%s: the oldest was not resent: %d messages", name, len(got))
			}
			r.s.cancel()
			synctest.Wait()
		}
	})
}

func TestAgentPumpsAtItsPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAgentRig(t)
		in, out := duplex()
		go func() { _, _ = out.Write(make([]byte, 10*1024)) }()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.pump(ctx, in, costOutput, r.sendOutput) }()
		advance(5*time.Millisecond - 1)
		synctest.Wait()
		got := r.got()
		if len(got) != 5 {
			t.Errorf("%d messages in 5 ms", len(got))
		}
		for _, m := range got {
			if len(m.Payload) != 1024 {
				t.Errorf("a message of %d bytes", len(m.Payload))
			}
		}
		cancel()
		_ = in.Close()
		if err := <-ended; err == nil {
			t.Error("the pump ended without an error")
		}
		r.s.cancel()
		synctest.Wait()
	})
}

func TestAgentHandshakeIsResentAndTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newAgentRig(t)
		began := time.Now()
		ended := make(chan error, 1)
		go func() {
			_, err := r.handshake(sessionTypePort, map[string]string{"portNumber": "22"})
			ended <- err
		}()
		r.sends("+0")
		advance(300 * time.Millisecond)
		r.sends("+0")
		if err := <-ended; err == nil || time.Since(began) != handshakeTimeout {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		r.s.cancel()
		synctest.Wait()
	})
}

func TestCompareVersions(t *testing.T) {
	for _, c := range []struct {
		a, b string
		sign int
	}{
		{"1.1.70", "1.1.70", 0},
		{"1.1.70.0", "1.1.70", 0},
		{"1.3.0.0", "1.1.70", 1},
		{"1.0.0.0", "1.1.70", -1},
		{"1.1.9", "1.1.70", -1},
		{"1.2.331.0", "1.2.331.0", 0},
		{"1.2.332.0", "1.2.331.0", 1},
		{"", "1.1.70", -1},
		{"2", "1.1.70", 1},
	} {
		if n := compareVersions(c.a, c.b); n > 0 != (c.sign > 0) || n < 0 != (c.sign < 0) {
			t.Errorf("compareVersions(%q, %q) = %d", c.a, c.b, n)
		}
	}
}
