package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// Settings of the real agent.
const (
	agentVersion     = "3.3.0.0"
	resendInterval   = 100 * time.Millisecond // between looks at the oldest unacknowledged message
	firstRTO         = 200 * time.Millisecond
	maxRTO           = time.Second
	firstRTT         = 100 * time.Millisecond
	rttGranularity   = 10 * time.Millisecond
	handshakeTimeout = 15 * time.Second
	closeWait        = 2 * time.Second // for the acknowledgement of the last messages
	bufferMessages   = 100_000         // unacknowledged, and received out of order
	bufferBytes      = 64 << 20        // received out of order (the lab's bound: the real agent only counts messages)
)

const typeInput, typeOutput = frame.InputStreamData, frame.OutputStreamData

var (
	errNotReady = errors.New("not ready for data") // such data is not acknowledged, so it comes again
	errDone     = errors.New("session ended")
	errStale    = errors.New("consumer replaced")
	errAway     = errors.New("websocket lost") // before the message could be acknowledged
)

// agent is the agent's side of one session's data channel: numbering, acknowledgements, resends, the handshake.
//
// It has two goroutines. receive owns all state of incoming messages; resend looks at the unacknowledged ones. Plugins (a port, a
// command) call send from their own goroutines. All of them end when done is closed, and run waits for them.
type agent struct {
	cfg    *Config
	spec   *Spec
	log    *slog.Logger
	up     *lane // from the client
	down   *lane // to the client
	faults *atomic.Pointer[Faults]
	ctx    context.Context // of the session; after its end all waits end
	done   <-chan struct{} // ctx.Done()

	// sendMu keeps the numbers in the order of the messages. It is held while the lane is full, that is, while the client does not
	// read.
	sendMu  sync.Mutex
	nextSeq int64

	mu      sync.Mutex
	out     []sent // unacknowledged, oldest first; acknowledged ones in the middle have no frame
	outLen  int    // those with a frame
	rtt     float64
	rttVar  float64
	rto     time.Duration
	away    atomic.Bool // its websocket is lost, and so is every message that it sends
	paused  bool
	active  chan struct{} // closed unless paused
	drained chan struct{} // capacity 1: out has become empty
	unacked chan struct{} // capacity 1: out is no longer empty

	// Owned by receive.
	expect   int64
	early    map[int64][]byte // frames received out of order
	earlyLen int
	answer   func() // passes the client's answer to the handshake
	draws    draws
	written  []byte // bytes recently written to the port, for the fault that repeats them
	unsure   int64  // the number of a message that was written to the port but not counted; -1: none

	handlerMu sync.Mutex
	handler   func(*frame.Message) error // the plugin's; nil: not ready
	shaken    bool                       // the handshake is complete or skipped: the agent no longer acknowledges and ignores data

	crypt     *sessionCipher // nil: no encryption; set by receive before it sends to response
	response  chan response
	challenge chan []byte // decrypted answer to the encryption challenge

	discards      bool          // the agent acknowledges and discards data that comes before the dial
	completeFirst bool          // HandshakeComplete overtakes the ack of the client's answer
	completed     chan struct{} // closed when the handshake is over

	port atomic.Pointer[basicPort] // the plugin, if it is a basicPort

	lose  func() bool // cuts its websocket
	count func(func(*Counters))

	input, output process // the thread that receives and the one that pumps

	// kmsChallenge is set by the handshake before it asks for encryption, and read by receive at the client's answer.
	kmsChallenge string
}

// sent is an unacknowledged message.
type sent struct {
	seq  int64
	b    []byte
	last time.Time
}

// response is the handshake's part of the client's HandshakeResponse.
type response struct {
	clientVersion string
	err           error
}

func newAgent(s *session) *agent {
	a := &agent{
		cfg: &s.gw.cfg, spec: &s.spec, log: s.log, up: s.up, down: s.down, faults: &s.gw.faults, ctx: s.ctx, done: s.ctx.Done(),
		rtt: float64(firstRTT), rto: firstRTO,
		active: make(chan struct{}), drained: make(chan struct{}, 1), unacked: make(chan struct{}, 1),
		early:    map[int64][]byte{},
		response: make(chan response, 1), challenge: make(chan []byte, 1),
		completed: make(chan struct{}),
		draws:     draws{salt: s.up.draws.salt}, unsure: -1,
		lose: func() bool { return s.cutAgent(CutClose) }, count: s.gw.count,
	}
	close(a.active)
	a.input.machine, a.output.machine = s.spec.Machine, s.spec.Machine
	return a
}

// work makes one of the agent's threads work for d, unless a fault has set another pace. It returns false if done ended the wait.
func (a *agent) work(p *process, d time.Duration) bool {
	if a.faults.Load().PumpIntervalUS != 0 {
		return true
	}
	return p.work(a.done, d)
}

// sleep waits for d and reports whether done is still open.
func sleep(done <-chan struct{}, d time.Duration) bool {
	if d <= 0 {
		select {
		case <-done:
			return false
		default:
			return true
		}
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-done:
		return false
	}
}

// setPaused records that the client is absent, or present again. Any message from the client also shows its presence.
func (a *agent) setPaused(paused bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if paused == a.paused {
		return
	}
	a.paused = paused
	if paused {
		a.active = make(chan struct{})
	} else {
		close(a.active)
	}
}

// waitActive waits while the agent is paused and reports whether done is still open.
func (a *agent) waitActive(done <-chan struct{}) bool {
	a.mu.Lock()
	active := a.active
	a.mu.Unlock()
	select {
	case <-active:
		return true
	case <-done:
		return false
	}
}

// send numbers a message, sends it unless the agent is paused, and keeps it until the client acknowledges it. It does not send an
// empty payload. It returns errDone when the session is over.
func (a *agent) send(typ frame.PayloadType, payload []byte) error {
	if len(payload) == 0 {
		return nil
	}
	if a.crypt != nil && encrypted(typ) {
		payload = a.crypt.seal(payload)
	}
	a.sendMu.Lock()
	defer a.sendMu.Unlock()
	m := frame.Message{
		Type: typeOutput, Created: time.Now(), Seq: a.nextSeq, ID: uuid.New(), PayloadType: typ, Payload: payload,
	}
	if m.Seq == 0 {
		m.Flags = frame.FlagSYN
	}
	b := m.Append(make([]byte, 0, frame.Overhead+len(payload)))
	a.nextSeq++

	a.mu.Lock()
	paused := a.paused
	if a.outLen < bufferMessages { // beyond that, a message is sent once and never again
		if a.outLen == 0 {
			wake(a.unacked)
		}
		a.out = append(a.out, sent{seq: m.Seq, b: b, last: m.Created})
		a.outLen++
	}
	a.mu.Unlock()
	if !paused && !a.push(b) {
		return errDone
	}
	return nil
}

// push sends a message. Without a websocket the message is lost. push returns false when the session is over.
func (a *agent) push(b []byte) bool {
	if a.faults.Load().closes(b) {
		a.lose()
	}
	return a.away.Load() || a.down.push(a.done, b)
}

// sendJSON sends v, which is one of our own types, as JSON.
func (a *agent) sendJSON(typ frame.PayloadType, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %T: %w", v, err)
	}
	return a.send(typ, b)
}

// resend sends the oldest unacknowledged message again when it is overdue. It looks every 100 ms while there is one.
func (a *agent) resend() {
	for {
		select {
		case <-a.unacked:
		case <-a.done:
			return
		}
		for sleep(a.done, resendInterval) && a.waitActive(a.done) {
			b, left := a.overdue(time.Now())
			if !left {
				break
			}
			if b != nil && !a.push(b) {
				return
			}
		}
	}
}

// overdue returns the oldest unacknowledged message if its time has come, and whether any message is unacknowledged.
func (a *agent) overdue(now time.Time) (b []byte, left bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.outLen == 0 {
		return nil, false
	}
	if oldest := &a.out[0]; now.Sub(oldest.last) > a.rto {
		oldest.last = now
		return oldest.b, true
	}
	return nil, true
}

// acknowledged takes in the client's acknowledgement of the message seq.
func (a *agent) acknowledged(seq int64, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	// The numbers have gaps only if the buffer was full, so this guess is nearly always right.
	i := -1
	if len(a.out) > 0 {
		i = int(max(-1, min(seq-a.out[0].seq, int64(len(a.out)-1))))
	}
	for i >= 0 && a.out[i].seq > seq {
		i--
	}
	if i < 0 || a.out[i].seq != seq || a.out[i].b == nil {
		return
	}
	rtt := float64(now.Sub(a.out[i].last))
	a.rttVar += (math.Abs(a.rtt-rtt) - a.rttVar) / 4
	a.rtt += (rtt - a.rtt) / 8
	a.rto = min(maxRTO, time.Duration(a.rtt+max(float64(rttGranularity), 4*a.rttVar)))

	a.out[i].b = nil
	a.outLen--
	n := 0
	for n < len(a.out) && a.out[n].b == nil {
		n++
	}
	a.out = a.out[n:]
	if a.outLen == 0 {
		a.out = nil
		wake(a.drained)
	}
}

func (a *agent) unackedMessages() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.outLen
}

// flush waits until the client has acknowledged everything, but no longer than the real agent does before it closes.
func (a *agent) flush() {
	t := time.NewTimer(closeWait)
	defer t.Stop()
	for {
		if a.unackedMessages() == 0 {
			return
		}
		select {
		case <-a.drained:
		case <-t.C:
			return
		case <-a.done:
			return
		}
	}
}
