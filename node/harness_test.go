package node

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/sessions/frame"
	"github.com/bastion-ssm/bastion/sessions/reliable"
	"github.com/bastion-ssm/bastion/sessions/transport"
)

// faults are the shares of the messages that the gateway drops, sends twice, or delays so that later ones overtake them.
type faults struct{ drop, dup, late float64 }

// The sides of a gateway.
const (
	atNode = iota
	atClient
)

// gateway is the service between a client and a node, in memory. It passes on messages, and tells each side of the other's absence.
type gateway struct {
	mu      sync.Mutex
	rng     *rand.Rand
	faults  faults
	sock    [2]*memSocket
	dials   [2]int
	refused [2]error // of further dials
	every   int      // messages, after which one of the websockets is cut; 0: never
	passed  int
	seen    func(side int, m *frame.Message) // of each message that a side sends; may be nil
}

// dial returns the dial function of a side.
func (g *gateway) dial(side int) func(context.Context) (transport.Socket, error) {
	return func(context.Context) (transport.Socket, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if err := g.refused[side]; err != nil {
			return nil, err
		}
		g.dials[side]++
		s := newMemSocket(nil)
		s.out = func(b []byte) { g.pass(side, s, b) }
		g.sock[side] = s
		other := g.sock[1-side]
		for _, present := range []*memSocket{s, other} {
			if other == nil {
				s.deliver(note(frame.PausePublication))
			} else {
				present.deliver(note(frame.StartPublication))
			}
		}
		return s, nil
	}
}

// note is a message of the service's own.
func note(typ frame.MessageType) []byte {
	m := frame.Message{Type: typ, Created: time.Now(), Flags: frame.FlagAck, ID: uuid.New(), Payload: []byte("{}")}
	return m.Append(nil)
}

// cut closes the websocket of a side.
func (g *gateway) cut(side int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cutLocked(side)
}

func (g *gateway) cutLocked(side int) {
	if s := g.sock[side]; s != nil {
		s.Close()
		g.sock[side] = nil
		if other := g.sock[1-side]; other != nil {
			other.deliver(note(frame.PausePublication))
		}
	}
}

// pass passes on a message that side has sent on s.
func (g *gateway) pass(side int, s *memSocket, b []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sock[side] != s {
		return
	}
	if m, err := frame.Decode(b); g.seen != nil && err == nil {
		g.seen(side, &m)
	}
	if g.passed++; g.every > 0 && g.passed%g.every == 0 {
		g.cutLocked(g.passed / g.every % 3 % 2)
		return
	}
	to := g.sock[1-side]
	if to == nil || g.rng.Float64() < g.faults.drop {
		return
	}
	to.deliver(b)
	if g.rng.Float64() < g.faults.dup {
		to.deliver(b)
	}
	if g.rng.Float64() < g.faults.late {
		time.AfterFunc(time.Duration(g.rng.Int64N(int64(50*time.Millisecond))), func() { to.deliver(b) })
	}
}

// tell sends a side a message of the service's.
func (g *gateway) tell(side int, b []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sock[side].deliver(b)
}

// client is a client of a session: a machine with a driver, as package sessions has one, but of the version that a test needs.
type client struct {
	t        testing.TB
	version  string
	status   int // of the handshake's action
	run      *transport.Driver
	end      *reliable.End
	link     *reliable.Upkeep
	wants    transport.Requests
	in, out  reliable.ByteRing
	replies  []control
	ready    bool
	over     bool
	flags    []frame.StreamFlag
	request  handshakeRequest
	changed  sync.Cond
	finished chan struct{}
}

func newClient(t testing.TB, g *gateway, version string) *client {
	now := time.Now()
	rng := rand.New(rand.NewPCG(7, 7))
	c := &client{
		t: t, version: version, status: actionSuccess, finished: make(chan struct{}),
		end: reliable.NewEnd(reliable.Config{
			Sends: frame.InputStreamData, Takes: frame.OutputStreamData, SendWindow: 256 << 10, MaxPayload: 4096,
			HeldBytes: 8 << 20, HeldSpan: 1 << 14, Rand: rng,
		}),
		link: reliable.NewUpkeep(reliable.UpkeepConfig{
			ResumeTimeout: time.Hour, PingInterval: time.Minute, PingTimeout: time.Minute, Rand: rng,
		}, now),
	}
	c.run = transport.NewDriver(transport.Config{
		Machine: c, Dial: g.dial(atClient), Log: slog.New(slog.DiscardHandler),
		Changed:  func() { c.changed.Broadcast() },
		Ended:    func() { c.changed.Broadcast() },
		Finished: func() { close(c.finished) },
	})
	c.changed.L = c.run
	c.run.Start(now)
	return c
}

func (c *client) Connected(now time.Time)               { c.link.Connected(now); c.end.Wake() }
func (c *client) NotConnected(err error, now time.Time) { c.link.NotConnected(err, now) }
func (c *client) Disconnected(err error, now time.Time) {
	c.link.Disconnected(err, now)
	c.end.Disconnected()
}

func (c *client) Pinged(err error, silent bool, now time.Time) bool {
	return c.link.Pinged(err, silent, false, now)
}

func (c *client) Throttled(now time.Time) bool {
	return c.end.Throttled(c.in.Len() > 64<<10, c.out.Len() > 0, now)
}
func (c *client) Throttling() bool { return c.end.Throttling() }
func (c *client) Malformed()       { c.t.Error("the client got a malformed message") }
func (c *client) Ended() bool      { return c.over }

func (c *client) Requested() transport.Requests {
	r := c.wants
	c.wants = transport.Requests{}
	return r
}

func (c *client) Receive(m *frame.Message, in *reliable.Inbound, now time.Time) (kept bool, err error) {
	c.link.Heard()
	switch m.Type {
	case frame.OutputStreamData:
		verdict := c.end.Receive(m, in, true, now)
		if verdict != reliable.Consume {
			return verdict == reliable.Keep, nil
		}
		c.consume(m.PayloadType, m.Payload)
		for next, ok := c.end.Next(); ok; next, ok = c.end.Next() {
			c.consume(next.Type, next.Payload)
		}
	case frame.Acknowledge:
		return false, c.end.ReceiveAck(m.Payload, now)
	case frame.PausePublication:
		c.end.SetPaused(true)
	case frame.StartPublication:
		c.end.SetPaused(false)
	case frame.ChannelClosed:
		c.over = true
	}
	return false, nil
}

func (c *client) consume(typ frame.PayloadType, payload []byte) {
	switch typ {
	case frame.PayloadHandshakeRequest:
		if err := json.Unmarshal(payload, &c.request); err != nil {
			c.t.Errorf("handshake request %q: %v", payload, err)
		}
		answer := fmt.Appendf(nil, `{"ClientVersion":%q,"ProcessedClientActions":[{"ActionType":"SessionType","ActionStatus":%d,`+
			`"ActionResult":null,"Error":"no"}],"Errors":null}`, c.version, c.status)
		c.replies = append(c.replies, control{payloadType: frame.PayloadHandshakeResponse, payload: answer})
	case frame.PayloadHandshakeComplete:
		c.ready = true
	case frame.PayloadOutput:
		c.in.Write(payload)
	case frame.PayloadFlag:
		c.flags = append(c.flags, frame.StreamFlag(binary.BigEndian.Uint32(payload)))
	}
}

func (c *client) Pending() bool {
	return c.link.Up() && (c.end.Pending() || len(c.replies) > 0 || c.ready && c.out.Len() > 0 && c.end.Room(c.out.Len()) > 0)
}

func (c *client) Fill(b *reliable.Batch, now time.Time) {
	c.end.AppendAcks(b, now)
	c.end.AppendResends(b, len(b.Buf)+batchBytes, now)
	for _, r := range c.replies {
		c.end.Push(b, r.payloadType, frame.FlagData, r.payload, len(r.payload), now)
	}
	c.replies = nil
	for c.ready && c.out.Len() > 0 {
		n := min(c.out.Len(), c.end.Room(c.out.Len()))
		if n == 0 {
			break
		}
		p := make([]byte, n)
		c.out.Read(p)
		c.end.Push(b, frame.PayloadOutput, frame.FlagData, p, n, now)
	}
}

func (c *client) Deadline() time.Time {
	if !c.link.Up() {
		return c.link.Deadline()
	}
	return reliable.Earliest(c.link.Deadline(), c.end.Deadline())
}

func (c *client) OnTimer(now time.Time) {
	if c.link.Up() && c.end.OnTimer(now) {
		c.link.Probe(now)
	}
	connect, ping := c.link.OnTimer(now)
	c.wants.Connect = c.wants.Connect || connect
	c.wants.Ping += ping
}

// Read and Write are the client's end of the session's bytes.
func (c *client) Read(p []byte) (int, error) {
	c.run.Lock()
	defer c.run.Unlock()
	for c.in.Len() == 0 {
		if c.over {
			return 0, io.EOF
		}
		c.changed.Wait()
	}
	n := c.in.Read(p)
	c.run.Moved()
	return n, nil
}

func (c *client) Write(p []byte) (int, error) {
	for n := 0; n < len(p); {
		c.run.Lock()
		for c.out.Len() >= 64<<10 && !c.over {
			c.changed.Wait()
		}
		if c.over {
			c.run.Unlock()
			return n, net.ErrClosed
		}
		k := min(len(p)-n, 16<<10)
		c.out.Write(p[n : n+k])
		n += k
		c.run.Moved()
		c.run.Unlock()
	}
	return len(p), nil
}

// flag sends a flag after all bytes written.
func (c *client) flag(f frame.StreamFlag) {
	c.await("room for a flag", func() bool { return c.ready && c.out.Len() == 0 })
	c.run.Lock()
	defer c.run.Unlock()
	c.replies = append(c.replies, control{payloadType: frame.PayloadFlag, payload: binary.BigEndian.AppendUint32(nil, uint32(f))})
	c.run.Settle(time.Now())
}

// await waits until a condition of the client holds.
func (c *client) await(what string, holds func() bool) {
	c.t.Helper()
	limit := time.AfterFunc(time.Minute, func() {
		c.run.Lock()
		defer c.run.Unlock()
		c.over = true
		c.changed.Broadcast()
	})
	defer limit.Stop()
	c.run.Lock()
	defer c.run.Unlock()
	for !holds() {
		if c.over {
			c.t.Errorf("waited for %s in vain", what)
			return
		}
		c.changed.Wait()
	}
}

// Close ends the client. It tells the node nothing.
func (c *client) Close() error {
	c.run.Lock()
	c.over = true
	c.run.Settle(time.Now())
	c.run.Unlock()
	<-c.finished
	return nil
}

// rig is a session with both ends.
type rig struct {
	g       *gateway
	c       *client
	results chan Result
	cancel  context.CancelFunc
}

// start starts a session of a task, and its client.
func start(t testing.TB, task Task, version string, cfg Config, f faults) *rig {
	ctx, cancel := context.WithCancel(context.Background())
	r := &rig{
		g:       &gateway{rng: rand.New(rand.NewPCG(1, 2)), faults: f},
		results: make(chan Result, 1), cancel: cancel,
	}
	cfg.Dial = r.g.dial(atNode)
	go func() { r.results <- Serve(ctx, task, cfg) }()
	r.c = newClient(t, r.g, version)
	return r
}

// end ends the session and the client. It returns the session's outcome.
func (r *rig) end() Result {
	result := <-r.results
	r.cancel()
	_ = r.c.Close()
	return result
}

// echo sends back what comes.
func echo(_ context.Context, _ Task, c net.Conn) { _, _ = io.Copy(c, c) }

var errGone = errors.New("gone")
