package gateway

import (
	"bytes"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// collect is a far end that keeps its input, until it has size bytes.
func collect(size int) (serve func(net.Conn), got <-chan []byte) {
	whole := make(chan []byte, 1)
	return func(c net.Conn) {
		b := make([]byte, 0, size)
		for len(b) < size {
			n, err := c.Read(b[len(b):cap(b)])
			if b = b[:len(b)+n]; err != nil {
				break
			}
		}
		whole <- b
	}, whole
}

// An agent's websocket breaks after it has written a message to the port, and before the acknowledgement is out. It writes the
// message again when it comes again. It counts from there on.
func TestAgentCutBeforeAck(t *testing.T) {
	t.Parallel()
	g := newGateway(t, Config{})
	serve, got := collect(len("onetwotwothree"))
	p := start(t, g, sshSpec("s", serveTCP(t, serve)))
	p.handshake("1.3.0.0")
	waitFor(t, "the dial", func() bool { return handlerReady(g, "s") })
	first := p.seq
	p.send(frame.PayloadOutput, []byte("one"))
	p.await("its acknowledgement", isAck(first))
	if err := g.SetFaults(Faults{CutBeforeAck: 1, AgentAwayMS: 1}); err != nil {
		t.Fatal(err)
	}
	second := p.seq
	p.send(frame.PayloadOutput, []byte("two"))
	p.await("the agent's absence", isType(frame.PausePublication))
	if err := g.SetFaults(Faults{}); err != nil {
		t.Fatal(err)
	}
	p.await("the agent's return", isType(frame.StartPublication))
	for _, m := range p.frames {
		if isAck(second)(&m) {
			t.Error("it was acknowledged")
		}
	}
	p.seq = second
	p.send(frame.PayloadOutput, []byte("two"))
	p.await("its acknowledgement", isAck(second))
	p.seq = second
	p.send(frame.PayloadOutput, []byte("two")) // once more: now it counts
	p.send(frame.PayloadOutput, []byte("three"))
	if got := string(<-got); got != "onetwotwothree" {
		t.Errorf("the port got %q", got)
	}
	if c := g.Counters(); c.AgentCuts != 1 || c.TwicePort != 1 {
		t.Errorf("%+v", c)
	}
}

// After a cut of its websocket the agent goes on with its numbers, and sends again what the client has not acknowledged.
func TestAgentCut(t *testing.T) {
	t.Parallel()
	g := newGateway(t, Config{})
	p := start(t, g, sshSpec("s", serveTCP(t, generate)))
	p.handshake("1.3.0.0")
	waitFor(t, "the dial", func() bool { return handlerReady(g, "s") })
	if err := g.SetFaults(Faults{AgentAwayMS: 1}); err != nil {
		t.Fatal(err)
	}
	const size = 300_000
	p.send(frame.PayloadOutput, request(3, size))
	var out []byte
	for i := range 3 {
		out = append(out, p.output(min(size/4, size-len(out)))...)
		p.noAcks = true // of these, none: the agent must send them again
		if n := g.CutAgent("s", CutClose); n != 1 {
			t.Fatalf("cut %d: %d websockets", i, n)
		}
		waitFor(t, "the agent's return", func() bool { return g.Sessions()[0].AgentConnected })
		p.noAcks = false
	}
	if out = append(out, p.output(size-len(out))...); !bytes.Equal(out, noise(3, size)) {
		t.Error("the download has changed")
	}
	if n := g.CutAgent("unknown", CutClose); n != 0 {
		t.Errorf("%d websockets of no session", n)
	}
	if c := g.Counters(); c.AgentCuts != 3 || c.Resumes != 0 {
		t.Errorf("%+v", c)
	}
}

// The agent may lose its websocket at any time: before the session has begun, and while the client is away, too.
func TestAgentCutAtAnyTime(t *testing.T) {
	t.Parallel()
	g := newGateway(t, Config{})
	if err := g.SetFaults(Faults{AgentAwayMS: 1}); err != nil {
		t.Fatal(err)
	}
	serve, got := collect(len("hello"))
	p := start(t, g, sshSpec("s", serveTCP(t, serve)))
	waitFor(t, "the agent", func() bool { return g.CutAgent("s", CutClose) == 1 })
	waitFor(t, "the agent's return", func() bool { return g.Sessions()[0].AgentConnected }) // this client sends nothing again
	p.handshake("1.3.0.0")
	waitFor(t, "a cut of both sides", func() bool { return g.Cut("s", "close") == 1 && g.CutAgent("s", CutClose) == 1 })
	token, err := g.Resume("s")
	if err != nil {
		t.Fatal(err)
	}
	p.connect(g, "s", token)
	waitFor(t, "the dial", func() bool { return handlerReady(g, "s") && g.Sessions()[0].AgentConnected })
	p.send(frame.PayloadOutput, []byte("hello"))
	if got := string(<-got); got != "hello" {
		t.Errorf("the port got %q", got)
	}
}

// The agent damages the port's data as the faults say, and not at all without them.
func TestDamageTowardThePort(t *testing.T) {
	t.Parallel()
	const size = 200_000
	for _, tt := range []struct {
		name   string
		faults Faults
		same   bool
	}{
		{"none", Faults{}, true},
		{"repeated", Faults{Repeat: 0.2, Seed: 1}, false},
		{"garbled", Faults{Garble: 0.2, Seed: 1}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := newGateway(t, Config{})
			serve, got := collect(size)
			p := start(t, g, sshSpec("s", serveTCP(t, serve)))
			p.handshake("1.3.0.0")
			waitFor(t, "the dial", func() bool { return handlerReady(g, "s") })
			if err := g.SetFaults(tt.faults); err != nil {
				t.Fatal(err)
			}
			sent := noise(1, size)
			for b := sent; len(b) > 0; b = b[1000:] {
				p.send(frame.PayloadOutput, b[:1000])
			}
			if same := bytes.Equal(<-got, sent); same != tt.same {
				t.Errorf("the same bytes: %v", same)
			}
		})
	}
}

// Faults cut websockets by themselves, of the side that they name.
func TestCutEvery(t *testing.T) {
	t.Parallel()
	for _, side := range []string{CutClient, CutAgent, CutBoth} {
		t.Run(side, func(t *testing.T) {
			g := newGateway(t, Config{})
			p := start(t, g, sshSpec("s", serveTCP(t, echo)))
			p.handshake("1.3.0.0")
			if err := g.SetFaults(Faults{CutEveryMS: 5, CutSide: side, AgentAwayMS: 1}); err != nil {
				t.Fatal(err)
			}
			wantsAgent, wantsClient := side != CutClient, side != CutAgent
			waitFor(t, "cuts", func() bool {
				return (!wantsAgent || g.Counters().AgentCuts >= 3) && (!wantsClient || g.Counters().Sockets == 0)
			})
			if !wantsAgent && g.Counters().AgentCuts > 0 || !wantsClient && g.Counters().Sockets == 0 {
				t.Errorf("%+v", g.Counters())
			}
			if wantsClient && closeStatus(t, p.ws) == websocket.StatusPolicyViolation {
				t.Error("it was not a cut")
			}
		})
	}
	err := New(Config{}).SetFaults(Faults{CutSide: "left"})
	if err == nil || !strings.Contains(err.Error(), `"left"`) {
		t.Errorf("cut_side left: %v", err)
	}
}

// While the gateway is down, it takes no websocket, neither of clients nor of its own agents.
func TestRestart(t *testing.T) {
	t.Parallel()
	g := newGateway(t, Config{})
	p := start(t, g, sshSpec("s", serveTCP(t, echo)))
	p.handshake("1.3.0.0")
	if err := g.SetFaults(Faults{AgentAwayMS: 1}); err != nil {
		t.Fatal(err)
	}
	const down = 200 * time.Millisecond
	began := time.Now()
	g.Restart(down)
	if status := closeStatus(t, p.ws); status != -1 {
		t.Errorf("the client's websocket ends with %v", status)
	}
	if _, err := g.Start(sshSpec("other", 1)); !errors.Is(err, ErrDown) && time.Since(began) < down {
		t.Errorf("start: %v", err)
	}
	var clientBack, agentBack time.Duration
	waitFor(t, "the end of the restart", func() bool {
		if agentBack == 0 && g.Sessions()[0].AgentConnected {
			agentBack = time.Since(began)
		}
		ws, resp, err := websocket.Dial(t.Context(), g.StreamURL("s"), nil)
		switch {
		case err == nil:
			if clientBack == 0 {
				clientBack = time.Since(began)
			}
			_ = ws.CloseNow()
		case resp == nil || resp.StatusCode != http.StatusServiceUnavailable:
			t.Fatal(err)
		}
		return clientBack > 0 && agentBack > 0
	})
	if clientBack < down || agentBack < down {
		t.Errorf("the client was back after %v, the agent after %v", clientBack, agentBack)
	}
}
