package sessions

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/mmmorris1975/ssm-session-client/datachannel"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/sessions/frame"
)

const (
	// batchBytes is how much data the writer takes at once. Acks come on top.
	batchBytes = 64 << 10
	// ackDelay is how long an ack waits for others, or for data that goes out anyway: each write is a system call here and a
	// wake-up there, and a busy session has an ack to send every millisecond. An agent that misses an ack sends again after
	// 10 ms more than the acks take on average, at the earliest.
	ackDelay = 4 * time.Millisecond
	// ackBatch is how many acks wait at most.
	ackBatch = 16
	// spareBytes bounds the frames that are kept for reuse.
	spareBytes = 1 << 20
	// finPatience is how long to wait for the ack of the last message: the TerminateSession flag, or a refusal.
	finPatience = 500 * time.Millisecond
	// probeAfter is how many retransmission timeouts in a row are a reason to probe the path.
	probeAfter = 3
)

// closing is how far a stream that ends in good order has come.
type closing uint8

const (
	notClosing closing = iota
	flushing           // what was written goes out
	finishing          // the TerminateSession flag is out
)

// channel is the data channel of one stream. Three goroutines work for it, and each takes mu for one step at a time: the link's
// reader, which handles what comes; the link's writer, which takes what is to be sent; and the loop, run, which does what time
// and the rest ask for. They do not hold it while they wait. The one that connects and the one that asks for a key answer the
// loop by the channels below, which have room for what may be sent.
//
// mu comes before the stream's mutex. A method's comment says when it takes mu itself; the others are called with it held.
type channel struct {
	s   *Stream
	cfg *streamConfig
	log *slog.Logger

	mu   sync.Mutex
	ids  *rand.ChaCha8 // message ids: unique, not secret
	send *sendQueue
	recv *recvQueue[heldPayload]
	hs   *handshake
	open bool // the handshake is complete, and ready closed
	// starved says that the reader is slow, but that we need what comes.
	starved bool

	link      *link     // nil while there is none; only the loop changes it
	downSince time.Time // zero when messages have come on the present link

	filling *batch    // collects messages
	urgent  bool      // there is more in it than acks, which can wait
	acks    int       // in it
	ackBy   time.Time // when they go out
	spare   [][]byte
	spareN  int
	scratch []byte // payload on its way into a message

	timer *time.Timer // the loop's
	armed time.Time   // when it fires

	wrote     bool // data of the caller's
	state     closing
	closeBy   time.Time
	abandonAt time.Time // when a failed handshake ends, having told the agent
	abandon   error
	over      bool               // the loop has ended
	keyWork   context.CancelFunc // ends the goroutine that asks for a key; nil when there is none

	// The loop's alone.
	connected  chan connectResult
	connecting context.CancelFunc // ends the goroutine that connects; nil when there is none
	attempts   int                // to resume, since the last good link
	linkSince  time.Time
	resumed    bool  // the present link, or the next, is not the first
	lastErr    error // why the link was lost, or not made
	keys       chan keyResult
}

type keyResult struct {
	req              *keyRequest
	plain, encrypted []byte
	err              error
}

// newStream starts a stream of a session that has been started. From here on the stream sees to its end.
func newStream(id, target string, cfg streamConfig, log *slog.Logger) *Stream {
	s := &Stream{
		sessionID: id, target: target, started: time.Now(), cfg: cfg,
		wake: make(chan struct{}, 1), pending: make(chan struct{}, 1), room: make(chan struct{}, 1),
		probes: make(chan struct{}, 1),
		ready:  make(chan struct{}), spoken: make(chan struct{}),
		done: make(chan struct{}), finished: make(chan struct{}),
	}
	s.readable.L, s.writable.L = &s.mu, &s.mu
	var seed [32]byte
	for i := 0; i < len(seed); i += 8 {
		binary.LittleEndian.PutUint64(seed[i:], rand.Uint64())
	}
	c := &channel{
		s: s, cfg: &s.cfg, log: log.With("session", id), ids: rand.NewChaCha8(seed),
		recv:      newRecvQueue[heldPayload](cfg.heldBytes, cfg.heldSpan),
		hs:        &handshake{exec: cfg.exec, sessionID: id, targetID: target},
		connected: make(chan connectResult, 1),
		keys:      make(chan keyResult, 1),
		filling:   &batch{},
		downSince: s.started,
	}
	c.send = newSendQueue(cfg.sendWindow, cfg.maxPayload, c.keepFrame)
	go c.run()
	return s
}

// run is the loop. It returns when the session is terminated and every goroutine of the stream has ended.
func (c *channel) run() {
	defer close(c.s.finished)
	c.connect(&c.cfg.first)
	err := c.loop()
	c.mu.Lock()
	c.over = true
	closeErr := c.closeError()
	c.mu.Unlock()
	c.s.finish(err, closeErr)
	if c.link != nil {
		c.link.close()
	}
	if c.connecting != nil {
		c.connecting()
		if r := <-c.connected; r.sock != nil {
			_ = r.sock.Close() // never used
		}
	}
	if c.keyWork != nil {
		c.keyWork()
		<-c.keys
	}
	c.log.Debug("session ended", "err", err)
	c.cfg.terminate()
}

// closeError returns what Close is to return.
func (c *channel) closeError() error {
	closed, abandoned, backlog := c.s.closeState()
	if !closed || abandoned || c.state == finishing {
		return nil // the stream ended before Close, which Err tells; or all is well
	}
	if n := c.send.outstanding(); n > 0 && c.wrote || backlog > 0 {
		return fmt.Errorf("close session %s: %d messages were not acknowledged, %d bytes not sent", c.s.sessionID, n, backlog)
	}
	return nil
}

// loop runs until the stream ends, and returns why. It takes mu.
func (c *channel) loop() error {
	c.timer = time.NewTimer(time.Hour)
	defer c.timer.Stop()
	for {
		lost, err := c.step()
		if err != nil {
			return err
		}
		select {
		case cause := <-lost:
			err = c.onLost(cause)
		case r := <-c.connected:
			err = c.onConnected(r)
		case k := <-c.keys:
			err = c.onKey(k)
		case <-c.s.wake:
		case <-c.timer.C:
		}
		if err != nil {
			return err
		}
	}
}

// step does what is due, and sees to it that the others do their part. It returns where the link reports its end. It takes mu.
func (c *channel) step() (lost <-chan error, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if err := c.advance(now); err != nil {
		return nil, err
	}
	c.publish()
	c.armed = c.deadline(now)
	c.timer.Reset(max(soon, c.armed.Sub(now)))
	if c.link == nil {
		return nil, nil
	}
	c.flush()
	if c.link.waiting.Load() {
		nudge(c.s.room)
	}
	return c.link.lost, nil
}

// rearm makes the loop look at what is due earlier than it would. That it looks in vain when something is due later does not
// happen often: what is due in good times is a timeout that never comes.
func (c *channel) rearm(now time.Time) {
	if at := c.deadline(now); at.Before(c.armed) {
		c.armed = at
		c.timer.Reset(max(soon, at.Sub(now)))
	}
}

// flush wakes the writer if it has something to do.
func (c *channel) flush() {
	if c.urgent || c.acks >= ackBatch || c.send.lost > 0 || c.s.backlog() > 0 {
		nudge(c.s.pending)
	}
}

// takeBatch is called by the writer with an empty batch, which it gives for what is to be sent. When there is nothing, it gets an
// empty one back. It takes mu.
func (c *channel) takeBatch(l *link, empty *batch) *batch {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link != l {
		return empty // l is being closed
	}
	now := time.Now()
	c.fill(now)
	if !c.urgent && c.acks < ackBatch && (c.acks == 0 || now.Before(c.ackBy)) {
		return empty
	}
	if c.acks > 0 {
		l.acks.Stop()
	}
	full := c.filling
	c.filling = empty
	c.urgent, c.acks = false, 0
	c.rearm(now)
	if l.waiting.Load() {
		nudge(c.s.room)
	}
	return full
}

// dropBatch forgets what was to be sent.
func (c *channel) dropBatch() {
	c.filling.reset()
	c.urgent, c.acks = false, 0
}

// advance does what is due now.
func (c *channel) advance(now time.Time) error {
	if at := c.send.deadline(); !at.IsZero() && !now.Before(at) && c.link != nil {
		c.send.onTimer(now)
		if c.send.backoff == probeAfter {
			select {
			case c.link.probe <- struct{}{}:
			default: // one is under way
			}
		}
	}
	if limit, ok := c.send.oversize(now); ok {
		c.cfg.tooLong(limit)
		return fail.New(fail.Lost, "use session "+c.s.sessionID,
			fmt.Errorf("messages of more than %d bytes do not get through", limit), "open a new session: it keeps to shorter ones")
	}
	if c.link != nil {
		c.reply(c.hs.onTimer(now), now)
	}
	if !c.open && c.hs.complete() {
		c.open = true
		c.log.Debug("session open", "agent", c.hs.agent, "message", c.hs.customer)
		close(c.s.ready)
	}
	if c.abandon != nil && (!now.Before(c.abandonAt) || c.send.outstanding() == 0) {
		return c.abandon
	}
	if c.link == nil && now.Sub(c.downSince) >= c.cfg.resumeTimeout {
		return c.lostForGood("it could not be restored within "+c.cfg.resumeTimeout.String(), "check the network, then open a new session")
	}
	return c.advanceClose(now)
}

// advanceClose takes the next step of Close.
func (c *channel) advanceClose(now time.Time) error {
	closed, abandoned, backlog := c.s.closeState()
	switch {
	case !closed:
		return nil
	case abandoned, !c.hs.complete(), c.cfg.exec && !c.wrote && backlog == 0:
		return net.ErrClosed
	case c.state == notClosing:
		c.state, c.closeBy = flushing, now.Add(c.cfg.closeTimeout)
	}
	if !now.Before(c.closeBy) {
		return net.ErrClosed
	}
	switch idle := backlog == 0 && c.send.outstanding() == 0; {
	case c.state == flushing && idle && (c.cfg.exec || c.link == nil):
		return net.ErrClosed
	case c.state == flushing && idle:
		c.state = finishing
		flag := binary.BigEndian.AppendUint32(nil, uint32(datachannel.TerminateSession))
		c.pushMessage(datachannel.Flag, frame.FlagFIN, flag, now)
		if by := now.Add(finPatience); by.Before(c.closeBy) {
			c.closeBy = by
		}
	case c.state == finishing && idle:
		return net.ErrClosed
	}
	return nil
}

// deadline returns when advance is needed next.
func (c *channel) deadline(now time.Time) time.Time {
	at := now.Add(time.Hour)
	earlier := func(t time.Time) {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	if c.link != nil {
		earlier(c.send.deadline())
		earlier(c.hs.deadline())
	} else {
		earlier(c.downSince.Add(c.cfg.resumeTimeout))
	}
	if c.state != notClosing {
		earlier(c.closeBy)
	}
	if c.abandon != nil {
		earlier(c.abandonAt)
	}
	return at
}

// fill moves what may be sent into the batch.
func (c *channel) fill(now time.Time) {
	for len(c.filling.buf) < batchBytes {
		if msg, ok := c.send.resend(now); ok {
			c.s.counters.resends.Add(1)
			c.filling.add(msg)
			c.urgent = true
			continue
		}
		if !c.hs.complete() || c.state == finishing {
			return
		}
		backlog := c.s.backlog()
		if backlog == 0 {
			return
		}
		room := c.send.room(backlog)
		if room == 0 {
			return
		}
		c.scratch = c.s.take(c.scratch, room)
		c.s.counters.sent.Add(uint64(len(c.scratch)))
		c.wrote = true
		c.pushMessage(datachannel.Output, frame.FlagData, c.scratch, now)
	}
}

// reply sends messages of the handshake.
func (c *channel) reply(replies []reply, now time.Time) {
	for _, r := range replies {
		c.pushMessage(r.payloadType, frame.FlagData, r.payload, now)
	}
}

// pushMessage makes the next message of our stream and sends it for the first time.
func (c *channel) pushMessage(typ datachannel.PayloadType, flags uint64, payload []byte, now time.Time) {
	n := len(payload)
	if c.hs.cipher != nil && typ == datachannel.Output {
		payload = c.hs.cipher.seal(nil, payload)
	}
	m := frame.Message{
		Type: datachannel.InputStreamData, Created: now, Seq: c.send.nextSeq(), Flags: flags, ID: c.newID(),
		PayloadType: typ, Payload: payload,
	}
	if m.Seq == 0 {
		m.Flags = frame.FlagSYN
	}
	msg := m.Append(c.spareFrame(frame.Overhead + len(payload)))
	c.send.push(msg, n, now)
	if c.link == nil {
		c.send.loseInFlight() // it goes out on the next
		return
	}
	c.filling.add(msg)
	c.urgent = true
}

func (c *channel) newID() uuid.UUID {
	var id uuid.UUID
	binary.LittleEndian.PutUint64(id[:8], c.ids.Uint64())
	binary.LittleEndian.PutUint64(id[8:], c.ids.Uint64())
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// spareFrame returns an empty slice for n bytes.
func (c *channel) spareFrame(n int) []byte {
	if last := len(c.spare) - 1; last >= 0 {
		b := c.spare[last]
		c.spare = c.spare[:last]
		c.spareN -= cap(b)
		if cap(b) >= n {
			return b[:0]
		}
	}
	return make([]byte, 0, n)
}

// keepFrame takes back the frame of an acknowledged message. Batches hold copies, so that nobody else has it.
func (c *channel) keepFrame(b []byte) {
	if c.spareN+cap(b) <= spareBytes && cap(b) >= minPayload {
		c.spare = append(c.spare, b)
		c.spareN += cap(b)
	}
}

// requestKey asks for a data key, on which the others do not wait.
func (c *channel) requestKey(req *keyRequest) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	c.keyWork = cancel
	go func() {
		r := keyResult{req: req}
		r.plain, r.encrypted, r.err = c.cfg.dataKey(ctx, req)
		c.keys <- r
	}()
}

// onKey takes mu.
func (c *channel) onKey(k keyResult) error {
	c.keyWork()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keyWork = nil
	now := time.Now()
	var r received
	var err error
	if k.err != nil {
		c.abandon, c.abandonAt = k.err, now.Add(finPatience)
		r, err = c.hs.keyFailed(k.err)
	} else {
		r, err = c.hs.keyMade(k.req, k.plain, k.encrypted)
		clear(k.plain)
	}
	if err != nil {
		return err
	}
	return c.act(r, now)
}

// publish shows the figures to Stats.
func (c *channel) publish() {
	n := &c.s.counters
	n.rtt.Store(int64(c.send.rtt.srtt))
	n.window.Store(int64(c.send.window))
	n.payload.Store(int64(c.send.payload))
}
