package sessions

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/deadline"
)

// Stream is the byte stream of one session. It is a net.Conn: several goroutines may read and several may write at the same time,
// and Close ends all these calls. They do not notice the loss of a websocket. When the session ends, Read first returns the bytes
// that came. Then it returns io.EOF if the far end closed in good order, and otherwise the error that Err returns.
//
// Write returns when the bytes are in a bounded buffer, not when they have arrived.
type Stream struct {
	cfg     streamConfig
	started time.Time
	log     *slog.Logger

	mu        sync.Mutex
	m         *machine
	link      *link     // nil without a websocket
	first     *grant    // nil after its use
	readable  sync.Cond // signals data, an end, or an expired deadline
	writable  sync.Cond
	readDead  deadline.Deadline
	writeDead deadline.Deadline
	timer     *time.Timer // calls tick; it runs at armed or before
	armed     time.Time
	isReady   bool  // ready is closed
	hasSpoken bool  // spoken is closed
	ended     bool  // done is closed
	closeErr  error // what Close returns

	ctx      context.Context // for all calls on the stream's behalf; done at its end
	cancel   context.CancelFunc
	work     sync.WaitGroup
	ready    chan struct{} // closed when the handshake is complete
	spoken   chan struct{} // closed when the first bytes have come
	done     chan struct{} // closed when the stream has ended
	finished chan struct{} // closed when the session is terminated and all goroutines have ended
}

// newStream makes the stream of a started session. From here on the stream is responsible for ending the session.
func newStream(id, target string, cfg streamConfig, log *slog.Logger) *Stream {
	now := time.Now()
	cfg.sessionID, cfg.targetID = id, target
	s := &Stream{
		cfg: cfg, started: now, log: log.With("session", id), first: &cfg.first,
		m:     newMachine(cfg.machineConfig, rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())), now),
		ready: make(chan struct{}), spoken: make(chan struct{}), done: make(chan struct{}), finished: make(chan struct{}),
	}
	s.readable.L, s.writable.L = &s.mu, &s.mu
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.armed = now.Add(time.Hour)
	s.timer = time.AfterFunc(time.Hour, s.tick)
	s.m.onTimer(now)
	s.settle(now)
	return s
}

// Stats are a stream's figures so far.
type Stats struct {
	RTT        time.Duration // smoothed round trip of a message and its ack; 0: not measured yet
	Sent       uint64        // bytes taken from writers and sent at least once
	Received   uint64        // bytes that came in order
	Resends    uint64        // messages sent again
	Duplicates uint64        // messages that came again
	Dropped    uint64        // messages refused for lack of memory, or malformed
	Resumes    uint64        // websockets replaced
	Window     int           // bytes that may be in flight
	Payload    int           // bytes that a message carries
	Age        time.Duration
}

// Stats returns the stream's figures.
func (s *Stream) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.m
	return Stats{
		RTT:        m.send.rtt.srtt,
		Sent:       m.sent,
		Received:   m.received,
		Resends:    m.resends,
		Duplicates: m.duplicates,
		Dropped:    m.dropped,
		Resumes:    m.link.resumes(),
		Window:     m.send.window,
		Payload:    m.send.payload,
		Age:        time.Since(s.started),
	}
}

// SessionID returns the session's id in the service and its audit logs.
func (s *Stream) SessionID() string { return s.cfg.sessionID }

// Target returns the session's target, as the call that started it named it.
func (s *Stream) Target() string { return s.cfg.targetID }

// Probe checks now whether the websocket still works, instead of at the next ping. Callers use it after the machine has slept or
// changed its network. Probe does not wait for the outcome.
func (s *Stream) Probe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.m.link.probe(now)
	s.settle(now)
}

// Done returns a channel that is closed when the stream has ended.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Err returns why the stream ended, or nil while it is open. The error is net.ErrClosed after Close, a *ClosedError when the
// service closed the session, or the reason why the session could not be resumed.
func (s *Stream) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m.err
}

// Read implements net.Conn.
func (s *Stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.m.closed:
			return 0, s.opError("read", net.ErrClosed)
		case s.readDead.Passed():
			return 0, s.opError("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case s.m.in.len() > 0:
			n := s.m.in.read(p)
			s.moved()
			return n, nil
		case s.m.err != nil:
			if closed, ok := errors.AsType[*ClosedError](s.m.err); ok && errors.Is(closed, io.EOF) {
				return 0, io.EOF
			}
			return 0, s.opError("read", s.m.err)
		}
		s.readable.Wait()
	}
}

// Write implements net.Conn.
func (s *Stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var n int
	for {
		switch {
		case s.m.closed:
			return n, s.opError("write", net.ErrClosed)
		case s.writeDead.Passed():
			return n, s.opError("write", os.ErrDeadlineExceeded)
		case s.m.err != nil:
			return n, s.opError("write", s.m.err)
		case n == len(p):
			return n, nil
		}
		if wrote := s.m.write(p[n:]); wrote > 0 {
			s.moved()
			if n += wrote; n == len(p) {
				return n, nil // all bytes are taken, even if the deadline has passed meanwhile
			}
			continue
		}
		s.writable.Wait()
	}
}

// opError wraps an error in the form of net.Conn's errors.
func (s *Stream) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "ssm", Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: err}
}

// Close ends the session. It first sends the written bytes, for a bounded time, then closes the far end's connection and terminates
// the session. It returns when all that is done, with an error if the agent has not acknowledged all written bytes.
func (s *Stream) Close() error { return s.close(false) }

// abandon ends the session without waiting for written bytes.
func (s *Stream) abandon() { _ = s.close(true) }

func (s *Stream) close(abandon bool) error {
	s.mu.Lock()
	now := time.Now()
	s.m.close(abandon, now)
	s.readable.Broadcast()
	s.writable.Broadcast()
	s.readDead.Set(time.Time{}, nil)
	s.writeDead.Set(time.Time{}, nil)
	s.settle(now)
	s.mu.Unlock()
	<-s.finished
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closeErr
}

// LocalAddr implements net.Conn. The address is the session's id.
func (s *Stream) LocalAddr() net.Addr { return addr(s.cfg.sessionID) }

// RemoteAddr implements net.Conn. The address is the target.
func (s *Stream) RemoteAddr() net.Addr { return addr(s.cfg.targetID) }

// addr names one end of a session.
type addr string

func (addr) Network() string  { return "ssm" }
func (a addr) String() string { return string(a) }

// SetDeadline implements net.Conn.
func (s *Stream) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (s *Stream) SetReadDeadline(t time.Time) error {
	return s.setDeadline(&s.readDead, &s.readable, t)
}

// SetWriteDeadline implements net.Conn. It bounds the wait for space in the buffer, not the arrival.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	return s.setDeadline(&s.writeDead, &s.writable, t)
}

func (s *Stream) setDeadline(d *deadline.Deadline, c *sync.Cond, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m.closed {
		return s.opError("set", net.ErrClosed)
	}
	d.SetFor(c, t)
	return nil
}

// streamConfig has a stream's settings and the calls that it makes.
type streamConfig struct {
	machineConfig

	// first is the grant from the session's start.
	first grant
	// resume gets another grant. An error that wraps errNoResume is final.
	resume func(context.Context) (grant, error)
	dial   func(context.Context, grant) (socket, error)
	// dataKey makes a KMS data key, plain and encrypted for the agent.
	dataKey func(context.Context, *keyRequest) (plain, encrypted []byte, err error)
	// terminate ends the session with the service. The stream calls it at most once; it bounds its own time.
	terminate func()
	// tooLong receives the longest payload that got through when a longer one did not.
	tooLong func(limit int)
}

// The methods of Stream below serve its machine. Their callers hold the lock.

// tick is the timer's callback. It takes the lock.
func (s *Stream) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.m.onTimer(now)
	s.settle(now)
}

// settle acts on the machine's state after a call of any of its methods.
func (s *Stream) settle(now time.Time) {
	if s.ended {
		return
	}
	s.tell()
	if s.m.err != nil {
		s.end()
		return
	}
	s.serve(s.m.requested())
	s.admit(now)
	s.send()
	s.arm(now)
}

// tell wakes callers that wait for the stream.
func (s *Stream) tell() {
	if s.m.open && !s.isReady {
		s.isReady = true
		s.log.Debug("session open", "agent", s.m.hs.agent, "message", s.m.hs.customer)
		close(s.ready)
	}
	if s.m.received > 0 && !s.hasSpoken {
		s.hasSpoken = true
		close(s.spoken)
	}
	if s.m.in.len() > 0 {
		s.readable.Broadcast()
	}
	if s.m.writable() > 0 {
		s.writable.Broadcast()
	}
}

// serve starts the calls that the machine requests.
func (s *Stream) serve(r requests) {
	if r.connect {
		first := s.first
		s.first = nil
		s.work.Go(func() { s.connect(first) })
	}
	if l := s.link; r.ping > 0 && l != nil {
		s.work.Go(func() { s.ping(l, r.ping) })
	}
	if r.key != nil {
		s.work.Go(func() { s.requestKey(r.key) })
	}
}

// moved is settle for a Read or a Write, which change less.
func (s *Stream) moved() {
	if s.m.throttling {
		s.admit(time.Now())
	}
	s.send()
}

// admit lets the link's reader go on if the machine allows it.
func (s *Stream) admit(now time.Time) {
	if s.link != nil && s.m.throttling && !s.m.throttled(now) {
		s.link.room.Signal()
	}
}

// send wakes the link's writer if the machine has messages to send.
func (s *Stream) send() {
	if s.link != nil && s.m.pending() {
		s.link.work.Signal()
	}
}

// arm sets the timer for the machine's deadline. It leaves a timer that fires too early: a spurious wake-up costs less than a reset
// for each message.
func (s *Stream) arm(now time.Time) {
	at := s.m.deadline()
	if at.IsZero() || s.armed.After(now) && !at.Before(s.armed) {
		return
	}
	s.armed = at
	s.timer.Reset(max(soon, at.Sub(now)))
}

// soon stands for a timer that is due now. A timer due when it is set runs in the goroutine that looks at it. Under the race
// detector two of these in one testing/synctest bubble crash the program (go.dev/issue/78156).
const soon = time.Nanosecond

// end records the machine's end and starts finish.
func (s *Stream) end() {
	s.ended = true
	s.closeErr = s.m.closeError()
	if s.m.tooLong > 0 {
		s.cfg.tooLong(s.m.tooLong)
	}
	s.m.out.clear()
	s.timer.Stop()
	s.readable.Broadcast()
	s.writable.Broadcast()
	close(s.done)
	l := s.link
	if l != nil {
		s.drop()
	}
	s.log.Debug("session ended", "err", s.m.err)
	go s.finish(l)
}

// finish ends the stream's goroutines and its link, which may be nil, and then the session. It runs without the lock.
func (s *Stream) finish(l *link) {
	s.cancel()
	if l != nil {
		_ = l.sock.Close() // it may be closed already
	}
	s.work.Wait()
	s.mu.Lock()
	_, closed := errors.AsType[*ClosedError](s.m.err)
	s.mu.Unlock()
	if !s.cfg.exec || !closed { // IAM may count an exec session, which ECS began, as nobody's: ask only while it lives
		s.cfg.terminate()
	}
	close(s.finished)
}

func (s *Stream) unread() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m.in.len()
}

// absentFor returns how long the service has reported the agent absent.
func (s *Stream) absentFor() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.m.absentSince.IsZero() {
		return 0
	}
	return time.Since(s.m.absentSince)
}
