package lab_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

// The control plane may hide a node whose control channel is there, or lose the message that starts a session.
func TestNodeNotConnected(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	_, exec := run(t, l)
	n := portNode(t, l, echoServer(t, hello))
	if err := l.SetAPIFaults(lab.APIFaults{NodeNotConnected: true}); err != nil {
		t.Fatal(err)
	}
	_, err := startSession(t, l, n.target)
	wantCode(t, err, "TargetNotConnected", n.target+" is not connected.")
	if !l.Gateway().HasNode(n.target) {
		t.Error("the control channel has ended")
	}
	for _, task := range l.Tasks() {
		if task.ARN != *exec.TaskArn {
			continue
		}
		if _, err := startSession(t, l, task.Target); err != nil {
			t.Error("a task with the agent of ECS Exec:", err)
		}
	}
	if err := l.SetAPIFaults(lab.APIFaults{Documents: map[string]string{"AWS-StartSSHSession": lab.OverSilent}}); err != nil {
		t.Fatal(err)
	}
	silent, err := startSession(t, l, n.target)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.SetAPIFaults(lab.APIFaults{}); err != nil {
		t.Fatal(err)
	}
	out, err := startSession(t, l, n.target)
	if err != nil {
		t.Fatal(err)
	}
	if task := await(t, n.tasks); task.SessionID != *out.SessionId {
		t.Errorf("the task of session %s, not of %s; the silent one is %s", task.SessionID, *out.SessionId, *silent.SessionId)
	}
}

// A node loses its control channel, and later its gateway: sessions live on, and new ones start when the node is back.
func TestNodeOutages(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	n := portNode(t, l, echoServer(t, hello))
	s := openPort(t, l, n)
	n.hangUp() // the first control channel, before the node keeps one
	eventually(t, "the node has gone", func() bool { return !l.Gateway().HasNode(n.target) })
	n.stay()
	back := func() {
		t.Helper()
		eventually(t, "the node is back", func() bool { return l.Gateway().HasNode(n.target) })
	}
	for _, how := range []string{gateway.CutClose, gateway.CutReset} {
		back()
		since := l.State().Nodes[0].Since
		var cut struct{ Cut int }
		body := `{"target":"` + n.target + `","how":"` + how + `"}`
		if status := adminCall(t, l, "POST", "cut-control", body, &cut); status != 200 || cut.Cut != 1 {
			t.Fatalf("%s: %d, %+v", how, status, cut)
		}
		eventually(t, "the node is back", func() bool {
			nodes := l.State().Nodes
			return len(nodes) == 1 && nodes[0].Since.After(since)
		})
		exchange(t, s, 1, func(int) {})
	}
	const down = 300 * time.Millisecond
	began := time.Now()
	if status := adminCall(t, l, "POST", "restart-gateway", `{"down_ms":300}`, nil); status != 200 {
		t.Fatal(status)
	}
	if _, err := startSession(t, l, n.target); err == nil && time.Since(began) < down {
		t.Error("a session starts while the gateway is down")
	}
	if _, err := n.create("control-channel/" + n.target); err == nil && time.Since(began) < down {
		t.Error("a node gets a token while the gateway is down")
	} else if err != nil && !strings.Contains(err.Error(), "gateway is restarting") {
		t.Error(err)
	}
	exchange(t, s, 2, func(int) {})
	if took := time.Since(began); took < down {
		t.Errorf("the session went on after %v", took)
	}
	back()
	exchange(t, openPort(t, l, n), 1, func(int) {})
}

// A restart of the gateway costs the lab's own agent its websocket, too.
func TestGatewayRestarts(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.Instances = map[string]lab.Instance{"i-0123456789abcdef0": {Ports: map[int]string{22: echoServer(t, hello)}}}
	l := start(t, cfg)
	s := openPort(t, l, &labNode{target: "i-0123456789abcdef0", port: "22"})
	const down = 300 * time.Millisecond
	began := time.Now()
	l.Gateway().Restart(down)
	if info := l.Gateway().Sessions()[0]; info.Connected || info.AgentConnected {
		t.Errorf("session %+v", info)
	}
	_, err := startSession(t, l, "i-0123456789abcdef0")
	if time.Since(began) < down {
		wantCode(t, err, "TargetNotConnected", "i-0123456789abcdef0")
	}
	exchange(t, s, 2, func(int) {})
	if took := time.Since(began); took < down {
		t.Errorf("the session went on after %v", took)
	}
}

// The gateway loses long messages, or ends the websocket by which they come, from whatever side.
func TestMaxPayload(t *testing.T) {
	t.Parallel()
	for _, over := range []string{gateway.OverLose, gateway.OverClose} {
		t.Run(over, func(t *testing.T) {
			t.Parallel()
			l := start(t, quick(t))
			n := portNode(t, l, echoServer(t, hello))
			s := openPort(t, l, n)
			if err := l.Gateway().SetFaults(gateway.Faults{MaxPayload: 1024, OverPayload: over}); err != nil {
				t.Fatal(err)
			}
			exchange(t, s, 2, func(int) {}) // nobody sends longer ones, but for the client's attempts
			created := l.Calls()["ssmmessages:CreateDataChannel"]
			n.chunk.Store(2048)
			long := openPort(t, l, n)
			sent := make(chan error, 1)
			go func() { // 64 KiB in messages of 1024 come back in longer ones
				_, err := long.Write(make([]byte, 64<<10))
				sent <- err
			}()
			closes := func() bool { return l.Calls()["ssmmessages:CreateDataChannel"] > created+2 }
			if over == gateway.OverClose {
				eventually(t, "the node's websocket ends again and again", closes)
			}
			read := make(chan error, 1)
			go func() {
				_, err := io.ReadFull(long, make([]byte, 64<<10))
				read <- err
			}()
			select {
			case err := <-read:
				t.Errorf("long messages get through: %v", err)
			case <-time.After(500 * time.Millisecond):
			}
			if over == gateway.OverLose && closes() {
				t.Error("the node's websocket ends")
			}
			if err := l.Gateway().SetFaults(gateway.Faults{}); err != nil {
				t.Fatal(err)
			}
			if err := await(t, read); err != nil {
				t.Error("without the limit:", err)
			}
			if err := await(t, sent); err != nil {
				t.Error(err)
			}
		})
	}
}

// The gateway takes so many messages a second, and loses the others.
func TestMessageRate(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	n := portNode(t, l, echoServer(t, hello))
	s := openPort(t, l, n)
	const rate = 20
	if err := l.Gateway().SetFaults(gateway.Faults{MessageRate: rate}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	before := l.Gateway().Sessions()[0].BytesDown
	const size = 60 << 10 // 60 messages of the node: a burst, and two seconds
	sent := make(chan error, 1)
	go func() {
		_, err := s.Write(make([]byte, size))
		sent <- err
	}()
	if _, err := io.ReadFull(s, make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := await(t, sent); err != nil {
		t.Error(err)
	}
	took := time.Since(began)
	if most := int64((rate*took.Seconds() + rate + 1) * 1024); l.Gateway().Sessions()[0].BytesDown-before > most {
		t.Errorf("more than %d bytes in %v", most, took)
	}
	if least := 1900 * time.Millisecond; took < least {
		t.Errorf("%d bytes in %v", size, took)
	}
}
