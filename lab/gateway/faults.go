package gateway

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// Faults are disturbances of the data channel. The zero value disturbs nothing. Drop, Duplicate and Reorder are probabilities from
// 0 to 1 per data message (input_stream_data and output_stream_data), in both directions. Delay and rate apply to every message.
type Faults struct {
	DelayMS int   `json:"delay_ms,omitempty"` // added each way, order kept
	RateBps int64 `json:"rate_bps,omitempty"` // bytes per second each way, per session
	// SlowEvery and SlowBps give every n-th port session that starts (2: every second one) a rate of its own, for its life.
	SlowEvery int     `json:"slow_every,omitempty"`
	SlowBps   int64   `json:"slow_bps,omitempty"`
	Drop      float64 `json:"drop,omitempty"`
	Duplicate float64 `json:"duplicate,omitempty"`
	Reorder   float64 `json:"reorder,omitempty"` // swapped with the message after it
	// DialDelayMS is the time from HandshakeComplete until the agent dials the far port. The agent does not acknowledge data that
	// comes before.
	DialDelayMS int `json:"dial_delay_ms,omitempty"`
	// Discard is the probability, per port session, that the agent acknowledges and discards data that comes before the dial. The
	// dial then follows 20 ms after HandshakeComplete, unless DialDelayMS is set. The real agent does so in about one of eight
	// sessions whose client writes at once.
	Discard float64 `json:"discard,omitempty"`
	// CompleteFirst is the probability, per port session, that HandshakeComplete overtakes the acknowledgement of the client's
	// answer. The real agent allows that but seldom does it. It makes the session-manager-plugin deaf.
	CompleteFirst float64 `json:"complete_first,omitempty"`
	// MissAck is the probability, per acknowledgement of the client, that the agent misses it, and so resends without need.
	MissAck float64 `json:"miss_ack,omitempty"`
	// CutBeforeAck is the probability, per message of data for the port, that the agent loses its websocket after writing the
	// message and before acknowledging it. It does not count such a message as received. If the message comes again, the agent
	// writes it to the port again.
	CutBeforeAck float64 `json:"cut_before_ack,omitempty"`
	// Repeat and Garble are probabilities per message of data for the port. Repeat makes the agent write a stretch of the data a
	// second time, and Garble makes it alter some bytes. Garble also applies to data from the port.
	Repeat float64 `json:"repeat,omitempty"`
	Garble float64 `json:"garble,omitempty"`
	// CutEveryMS is the mean time after which each session again loses a websocket, by a close frame or a reset. CutSide says whose
	// ("client", the default, "agent", or "both" in turn).
	CutEveryMS int    `json:"cut_every_ms,omitempty"`
	CutSide    string `json:"cut_side,omitempty"`
	// MaxPayload is the longest payload in bytes that the gateway takes in a data message of either side; 0: any. OverPayload says what
	// happens to a longer one: it is lost ("lose", the default), or the gateway closes the websocket that it came by ("close").
	MaxPayload  int    `json:"max_payload,omitempty"`
	OverPayload string `json:"over_payload,omitempty"`
	// MessageRate is how many data messages a second the gateway takes of each side of a session, after a burst of a second; 0: any.
	// It loses the others.
	MessageRate int `json:"message_rate,omitempty"`
	// AgentAwayMS is how long the agent takes to reconnect after it has lost its websocket; 0 means 150.
	AgentAwayMS int `json:"agent_away_ms,omitempty"`
	// NoDial keeps the agent from connecting to the far port: it stays silent after the handshake.
	NoDial bool `json:"no_dial,omitempty"`
	// Pause stops all messages both ways while it is set.
	Pause bool  `json:"pause,omitempty"`
	Seed  int64 `json:"seed,omitempty"` // of the random choices; 0 is a seed like any other
	// PumpChunk and PumpIntervalUS override the pump's pace (bytes, microseconds). 0 is the faithful pace; a negative interval
	// means no sleep.
	PumpChunk      int `json:"pump_chunk,omitempty"`
	PumpIntervalUS int `json:"pump_interval_us,omitempty"`
}

// Sides of a session, whose websockets a fault can cut.
const (
	CutClient = "client"
	CutAgent  = "agent"
	CutBoth   = "both"
)

// What the gateway does to a payload longer than MaxPayload.
const (
	OverLose  = "lose"
	OverClose = "close"
)

// Ways to end a websocket.
const (
	CutClose = "close" // by a close frame 1000
	CutReset = "reset" // by a TCP RST
)

// defaultAway is about how long the real agent takes to reconnect.
const defaultAway = 150 * time.Millisecond

func (f *Faults) away() time.Duration {
	return cmp.Or(time.Duration(f.AgentAwayMS)*time.Millisecond, defaultAway)
}

// refuses reports whether the gateway refuses the message b because of its payload's length.
func (f *Faults) refuses(b []byte) bool {
	return f.MaxPayload > 0 && len(b)-frame.Overhead > f.MaxPayload && isData(b)
}

// closes reports whether the gateway closes the websocket by which the message b comes.
func (f *Faults) closes(b []byte) bool { return f.OverPayload == OverClose && f.refuses(b) }

// draws are the random choices of one goroutine. They begin again with each set of faults.
type draws struct {
	salt uint64 // makes these choices differ from others' with the same seed
	rng  *rand.Rand
	of   *Faults
}

// happens draws whether an event of this probability happens.
func (d *draws) happens(f *Faults, probability float64) bool {
	return probability > 0 && d.random(f).Float64() < probability
}

func (d *draws) random(f *Faults) *rand.Rand {
	if d.of != f {
		d.rng, d.of = rand.New(rand.NewPCG(uint64(f.Seed), d.salt)), f
	}
	return d.rng
}

// garbled returns p, with some bytes altered if the faults say so.
func (d *draws) garbled(f *Faults, p []byte) []byte {
	if len(p) == 0 || !d.happens(f, f.Garble) {
		return p
	}
	p = bytes.Clone(p)
	from := d.random(f).IntN(len(p))
	for i := from; i <= from+d.random(f).IntN(len(p)-from); i++ {
		p[i] ^= byte(1 + d.random(f).IntN(255))
	}
	return p
}

// validate names the first invalid field.
func (f *Faults) validate() error {
	for _, p := range []struct {
		name  string
		value float64
	}{
		{"drop", f.Drop},
		{"duplicate", f.Duplicate},
		{"reorder", f.Reorder},
		{"discard", f.Discard},
		{"complete_first", f.CompleteFirst},
		{"miss_ack", f.MissAck},
		{"cut_before_ack", f.CutBeforeAck},
		{"repeat", f.Repeat},
		{"garble", f.Garble},
	} {
		if !(p.value >= 0 && p.value <= 1) {
			return fmt.Errorf("fault %s: %v is not a probability from 0 to 1", p.name, p.value)
		}
	}
	const maxDelayMS = 60_000
	for _, d := range []struct {
		name  string
		value int
	}{{"delay_ms", f.DelayMS}, {"dial_delay_ms", f.DialDelayMS}, {"cut_every_ms", f.CutEveryMS}, {"agent_away_ms", f.AgentAwayMS}} {
		if d.value < 0 || d.value > maxDelayMS {
			return fmt.Errorf("fault %s: %d is not from 0 to %d", d.name, d.value, maxDelayMS)
		}
	}
	switch f.CutSide {
	case "", CutClient, CutAgent, CutBoth:
	default:
		return fmt.Errorf("fault cut_side: %q is not %s, %s or %s", f.CutSide, CutClient, CutAgent, CutBoth)
	}
	if f.RateBps < 0 {
		return fmt.Errorf("fault rate_bps: %d is negative", f.RateBps)
	}
	if f.SlowEvery < 0 || f.SlowBps < 0 || (f.SlowEvery > 0) != (f.SlowBps > 0) {
		return fmt.Errorf("faults slow_every and slow_bps: %d and %d are not both above 0", f.SlowEvery, f.SlowBps)
	}
	switch f.OverPayload {
	case "", OverLose, OverClose:
	default:
		return fmt.Errorf("fault over_payload: %q is not %s or %s", f.OverPayload, OverLose, OverClose)
	}
	for _, n := range []struct {
		name  string
		value int
	}{{"max_payload", f.MaxPayload}, {"message_rate", f.MessageRate}} {
		if n.value < 0 {
			return fmt.Errorf("fault %s: %d is negative", n.name, n.value)
		}
	}
	const maxChunk = 256 << 10
	if f.PumpChunk < 0 || f.PumpChunk > maxChunk {
		return fmt.Errorf("fault pump_chunk: %d is not from 0 to %d", f.PumpChunk, maxChunk)
	}
	return nil
}

// draw returns a random number from 0 to 1 that depends only on the seed and salt.
func draw(f *Faults, salt uint64) float64 {
	return rand.New(rand.NewPCG(uint64(f.Seed), ^salt)).Float64()
}
