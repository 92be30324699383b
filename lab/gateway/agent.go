package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/mmmorris1975/ssm-session-client/datachannel"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

// What the real agent is set to.
const (
	agentVersion     = "3.3.0.0"
	resendInterval   = 100 * time.Millisecond // between looks at the oldest unacknowledged message
	firstRTO         = 200 * time.Millisecond
	maxRTO           = time.Second
	firstRTT         = 100 * time.Millisecond
	rttGranularity   = 10 * time.Millisecond
	handshakeTimeout = 15 * time.Second
	closeWait        = 2 * time.Second // for the last messages to be acknowledged
	bufferMessages   = 100_000         // unacknowledged, and received out of order
	bufferBytes      = 64 << 20        // received out of order (ours: the real one counts messages only)
)

const typeInput, typeOutput = datachannel.InputStreamData, datachannel.OutputStreamData

var (
	errNotReady = errors.New("not ready for data") // such data is not acknowledged, so it comes again
	errDone     = errors.New("session ended")
	errStale    = errors.New("consumer replaced")
	errAway     = errors.New("websocket lost") // before the message could be acknowledged
)

// agent is the agent's side of one session's data channel: numbering, acknowledgements, resends, the handshake.
//
// Two goroutines work for it: receive owns everything about what comes in; resend looks at the unacknowledged. Plugins (a port,
// a command) call send from their own. All of them end when done is closed, and run waits for them.
type agent struct {
	cfg    *Config
	spec   *Spec
	log    *slog.Logger
	up     *lane // from the client
	down   *lane // to the client
	faults *atomic.Pointer[Faults]
	ctx    context.Context // of the session; when it ends, nothing may wait any longer
	done   <-chan struct{} // ctx.Done()

	// sendMu orders the numbers as the messages go out. It is held while the lane is full, that is while the client does not read.
	sendMu  sync.Mutex
	nextSeq int64

	mu      sync.Mutex
	out     []sent // unacknowledged, oldest first; acknowledged ones in the middle have no frame
	outLen  int    // those with a frame
	rtt     float64
	rttVar  float64
	rto     time.Duration
	away    atomic.Bool // its websocket is lost: what it sends is lost, too
	paused  bool
	active  chan struct{} // closed unless paused
	drained chan struct{} // capacity 1: out has become empty
	unacked chan struct{} // capacity 1: out is no longer empty

	// Owned by receive.
	expect   int64
	early    map[int64][]byte // frames received out of order
	earlyLen int
	answer   func() // tells the handshake what the client has answered
	draws    draws
	written  []byte // of late to the port; kept for the fault that repeats it
	unsure   int64  // the number of a message that was written to the port and not counted; -1: none

	handlerMu sync.Mutex
	handler   func(*frame.Message) error // the plugin's; nil: not ready
	shaken    bool                       // the handshake is complete or skipped: data is no longer acknowledged and ignored

	crypt     *sessionCipher // nil: nothing is encrypted; set by receive before response is sent to
	response  chan response
	challenge chan []byte // decrypted answer to the encryption challenge

	discards      bool          // data that comes before the dial is acknowledged and discarded
	completeFirst bool          // HandshakeComplete overtakes the ack of the client's answer
	completed     chan struct{} // closed when the handshake is over

	port atomic.Pointer[basicPort] // the plugin, if it is one

	lose  func() bool // cuts its websocket
	count func(func(*Counters))

	input, output process // the threads that receive and that pump

	// kmsChallenge is set before the handshake asks for encryption, and read by receive when the client answers.
	kmsChallenge string
}

// sent is an unacknowledged message.
type sent struct {
	seq  int64
	b    []byte
	last time.Time
}

// response is what the handshake needs of the client's HandshakeResponse.
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
		draws:     draws{salt: s.up.salt}, unsure: -1,
		lose: s.cutAgent, count: s.gw.count,
	}
	close(a.active)
	a.input.machine, a.output.machine = s.spec.Machine, s.spec.Machine
	return a
}

// work has one of the agent's threads work, unless a fault has set another pace than the real one. It returns false if done ended
// the wait.
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

// setPaused notes that the client is absent, or present again. Any message from the client says the latter too.
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

// send numbers a message, sends it unless the agent is paused, and keeps it until it is acknowledged. An empty payload is not
// sent. It returns errDone when the session is over.
func (a *agent) send(typ datachannel.PayloadType, payload []byte) error {
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
	if a.outLen < bufferMessages { // else it is sent once and never again
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

// push sends a message, which is lost without a websocket. It returns false when the session is over.
func (a *agent) push(b []byte) bool { return a.away.Load() || a.down.push(a.done, b) }

// sendJSON sends v, which is one of our own types, as JSON.
func (a *agent) sendJSON(typ datachannel.PayloadType, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %T: %w", v, err)
	}
	return a.send(typ, b)
}

// resend sends the oldest unacknowledged message again when it is overdue, looking every 100 ms while there is any.
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

// acknowledged takes the client's acknowledgement of the message seq.
func (a *agent) acknowledged(seq int64, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	// Numbers are without gaps unless the buffer was full, so that this guess is nearly always right.
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

// flush waits until the client has acknowledged everything, as long as the agent does before it closes.
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

// receive takes the client's messages from one websocket, until it is lost. Over says that the session is.
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
	case datachannel.Acknowledge:
		a.setPaused(false)
		typ, seq, err := acked(m.Payload)
		if err != nil {
			return err
		}
		// ssm-session-client acknowledges the gateway's own messages, too, with number 0. That is none of the agent's business.
		if (typ == typeOutput || typ == "") && !a.misses() {
			a.acknowledged(seq, time.Now())
		}
	case datachannel.PausePublication:
		a.setPaused(true)
	case datachannel.StartPublication:
		a.setPaused(false)
	default:
		return fmt.Errorf("unexpected message type %q", m.Type)
	}
	return nil
}

// incomingCost is the processor time that a message from the client takes.
func incomingCost(m *frame.Message) time.Duration {
	switch m.Type {
	case typeInput:
		return inputCost(len(m.Payload))
	case datachannel.Acknowledge:
		return costAcked
	default:
		return costControl
	}
}

// acked says what an acknowledgement is for. The agent is lenient: it needs the number only.
func acked(payload []byte) (typ datachannel.MessageType, seq int64, err error) {
	if ack, err := frame.ParseAck(payload); err == nil {
		return ack.Type, ack.Seq, nil
	}
	var ack struct {
		Type datachannel.MessageType `json:"AcknowledgedMessageType"`
		Seq  *int64                  `json:"AcknowledgedMessageSequenceNumber"`
	}
	if err := json.Unmarshal(payload, &ack); err != nil || ack.Seq == nil {
		return "", 0, fmt.Errorf("acknowledge message %q: %w", payload, err)
	}
	return ack.Type, *ack.Seq, nil
}

// misses draws whether an acknowledgement is missed. The real agent misses one that comes before it has noted what it has sent.
func (a *agent) misses() bool {
	f := a.faults.Load()
	return a.draws.happens(f, f.MissAck)
}

// incomingData delivers what is in order, keeps what is early, and acknowledges both, and duplicates, too. What cannot be
// delivered yet is not acknowledged. What was delivered is counted only after its acknowledgement is out: without a websocket it is
// not, and is delivered again when it comes again. So does the real agent.
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
	if a.completeFirst && m.PayloadType == datachannel.HandshakeResponse {
		a.passOn()
		select {
		case <-a.completed:
		case <-a.done:
		}
	}
	if f := a.faults.Load(); m.PayloadType == datachannel.Output && a.isPort() && a.draws.happens(f, f.CutBeforeAck) {
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
			return err // it was decoded before: cannot be
		}
		// The real agent stops here when the plugin is not ready, and goes on with the next message that is in order.
		if err := a.deliver(&m); err != nil {
			return err
		}
		a.passOn()
		delete(a.early, a.expect)
		a.earlyLen -= len(b)
		a.expect++
	}
}

// passOn wakes the handshake, when its answer has been acknowledged: the ack nearly always is first on the wire.
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
		Type: datachannel.Acknowledge, Created: time.Now(), Flags: frame.FlagAck, ID: uuid.New(), Payload: p,
	}
	if a.away.Load() {
		return errAway
	}
	if !a.down.push(a.done, ack.Append(make([]byte, 0, frame.Overhead+len(p)))) {
		return errDone
	}
	return nil
}

// deliver hands m to the handshake or the plugin.
func (a *agent) deliver(m *frame.Message) error {
	switch m.PayloadType {
	case datachannel.HandshakeResponse:
		return a.handshakeResponse(m.Payload)
	case datachannel.EncChallengeResponse:
		return a.challengeResponse(m.Payload)
	}
	a.handlerMu.Lock()
	handler, shaken := a.handler, a.shaken
	a.handlerMu.Unlock()
	if !shaken {
		return nil // acknowledged, and discarded: nothing mends it
	}
	if handler == nil {
		return errNotReady
	}
	if m.Seq == a.unsure && m.PayloadType == datachannel.Output && a.isPort() {
		a.count(func(c *Counters) { c.TwicePort++ })
	}
	if a.crypt != nil && m.PayloadType == datachannel.Output {
		p, err := a.crypt.open(m.Payload)
		if err != nil {
			return err
		}
		m.Payload = p
	}
	return handler(m)
}

func (a *agent) isPort() bool { return a.spec.Port != 0 }

// writePort writes what came for the port, and what the faults make of it. The receive loop calls it.
func (a *agent) writePort(w io.Writer, p []byte) error {
	f := a.faults.Load()
	p = a.draws.garbled(f, p)
	if _, err := w.Write(p); err != nil || f.Repeat == 0 {
		return err
	}
	const most = 4 << 10 // of a stretch that is repeated
	a.written = append(a.written, p...)
	a.written = a.written[max(0, len(a.written)-most):]
	if len(a.written) == 0 || !a.draws.happens(f, f.Repeat) {
		return nil
	}
	_, err := w.Write(a.written[a.draws.random(f).IntN(len(a.written)):])
	return err
}

// accept opens the way of data to the plugin; a nil handler means that it is not ready.
func (a *agent) accept(handler func(*frame.Message) error) {
	a.handlerMu.Lock()
	defer a.handlerMu.Unlock()
	a.shaken, a.handler = true, handler
}

// The handshake's JSON, with the keys in the agent's order.
type (
	handshakeRequest struct {
		AgentVersion           string
		RequestedClientActions []clientAction
	}
	clientAction struct {
		ActionType       string
		ActionParameters any
	}
	sessionTypeParams struct {
		SessionType string
		Properties  any
	}
	kmsParams struct {
		KMSKeyID  string `json:"KMSKeyId"`
		Challenge string
	}
	handshakeComplete struct {
		HandshakeTimeToComplete time.Duration
		CustomerMessage         string
	}
	encryptionChallenge struct {
		Challenge []byte
	}
	handshakeAnswer struct {
		ClientVersion          string
		ProcessedClientActions []struct {
			ActionType   string
			ActionStatus int
			ActionResult json.RawMessage
			Error        string
		}
	}
	kmsAnswer struct {
		KMSCipherTextKey         []byte
		ChallengeAcknowledgement bool
	}
)

const actionSuccess = 1

// handshake asks the client for the session type, and for encryption if the session needs it. It returns the client's version.
// When it returns, the client believes that it may send; what it sends is not acknowledged until accept is called with a handler,
// or discarded, if discards is set.
func (a *agent) handshake(sessionType string, properties any) (clientVersion string, err error) {
	defer close(a.completed)
	started := time.Now()
	actions := []clientAction{{"SessionType", sessionTypeParams{sessionType, properties}}}
	encrypt := a.spec.KMSKeyID != "" && sessionType != sessionTypePort
	if encrypt {
		a.kmsChallenge = newChallenge()
		actions = append(actions, clientAction{"KMSEncryption", kmsParams{a.spec.KMSKeyID, a.kmsChallenge}})
	}
	if err := a.sendJSON(datachannel.HandshakeRequest, handshakeRequest{agentVersion, actions}); err != nil {
		return "", err
	}
	timeout := time.NewTimer(handshakeTimeout)
	defer timeout.Stop()
	var r response
	select {
	case r = <-a.response:
	case <-timeout.C:
		return "", agentError("Handshake timed out. " +
			"Please ensure that you have the latest version of the session manager plugin.")
	case <-a.done:
		return "", errDone
	}
	if r.err != nil {
		return "", r.err
	}
	message := ""
	if encrypt {
		if err := a.provoke(); err != nil {
			return "", err
		}
		message = "This session is encrypted using AWS KMS."
	}
	if !a.discards {
		a.accept(nil)
	}
	return r.clientVersion, a.sendJSON(datachannel.HandshakeComplete, handshakeComplete{time.Since(started), message})
}

// provoke makes the client prove that it has the data key.
func (a *agent) provoke() error {
	if a.crypt == nil {
		return errors.New("client did not process KMSEncryption")
	}
	secret := randomBytes(64)
	if err := a.sendJSON(datachannel.EncChallengeRequest, encryptionChallenge{a.crypt.seal(secret)}); err != nil {
		return err
	}
	timeout := time.NewTimer(handshakeTimeout)
	defer timeout.Stop()
	select {
	case got := <-a.challenge:
		if !equal(got, secret) {
			return agentError("Encryption challenge does not match!")
		}
		return nil
	case <-timeout.C:
		return agentError("Timed out waiting for encryption challenge.")
	case <-a.done:
		return errDone
	}
}

// handshakeResponse is called by receive.
func (a *agent) handshakeResponse(payload []byte) error {
	var h handshakeAnswer
	if err := json.Unmarshal(payload, &h); err != nil {
		return fmt.Errorf("handshake response: %w", err)
	}
	r := response{clientVersion: h.ClientVersion, err: a.process(&h)}
	a.answer = func() {
		select {
		case a.response <- r:
		default: // a second answer, or none was asked for
		}
	}
	return nil
}

// process returns what went wrong at the client, or with what it sent.
func (a *agent) process(h *handshakeAnswer) error {
	for _, action := range h.ProcessedClientActions {
		if action.ActionStatus != actionSuccess {
			return fmt.Errorf("%s failed on client with status %d error: %s",
				action.ActionType, action.ActionStatus, action.Error)
		}
		if action.ActionType == "KMSEncryption" && a.spec.KMSKeyID != "" {
			if err := a.unwrapKey(action.ActionResult); err != nil {
				return err
			}
		}
	}
	return nil
}

// unwrapKey has the client's data key decrypted. The receive loop waits for it, as the real one does.
func (a *agent) unwrapKey(result json.RawMessage) error {
	var k kmsAnswer
	if err := json.Unmarshal(result, &k); err != nil {
		return fmt.Errorf("KMSEncryption result: %w", err)
	}
	ctx, cancel := context.WithTimeout(a.ctx, handshakeTimeout)
	defer cancel()
	encryptionContext := map[string]string{"aws:ssm:SessionId": a.spec.ID, "aws:ssm:TargetId": a.spec.Target}
	if k.ChallengeAcknowledgement {
		encryptionContext["aws:ssm:RandomChallenge"] = a.kmsChallenge
	}
	key, err := a.spec.Decrypt(ctx, k.KMSCipherTextKey, encryptionContext)
	if err != nil {
		return agentError("Fetching data key failed: Unable to retrieve data key, Error when decrypting data key " + err.Error())
	}
	c, err := newSessionCipher(key)
	if err != nil {
		return agentError("Fetching data key failed: " + err.Error())
	}
	a.crypt = c
	return nil
}

// challengeResponse is called by receive.
func (a *agent) challengeResponse(payload []byte) error {
	var c encryptionChallenge
	if err := json.Unmarshal(payload, &c); err != nil {
		return fmt.Errorf("encryption challenge response: %w", err)
	}
	if a.crypt == nil {
		return errors.New("encryption challenge response without encryption")
	}
	secret, err := a.crypt.open(c.Challenge)
	if err != nil {
		return err
	}
	a.answer = func() {
		select {
		case a.challenge <- secret:
		default:
		}
	}
	return nil
}
