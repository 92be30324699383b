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
	"github.com/bastion-ssm/bastion/sessions/transport"
)

// callTimeout bounds one ResumeSession, dial or GenerateDataKey.
const callTimeout = 15 * time.Second

// Stream is the byte stream of one session. It is a net.Conn: several goroutines may read and several may write at the same time,
// and Close ends all these calls. They do not notice the loss of a websocket. When the session ends, Read first returns the bytes
// that came. Then it returns io.EOF if the far end closed in good order, and otherwise the error that Err returns.
//
// Write returns when the bytes are in a bounded buffer, not when they have arrived.
type Stream struct {
	cfg     streamConfig
	started time.Time
	log     *slog.Logger
	run     *transport.Driver // its lock guards the fields below

	m         *machine
	first     *grant    // nil after its use
	readable  sync.Cond // signals data, an end, or an expired deadline
	writable  sync.Cond
	readDead  deadline.Deadline
	writeDead deadline.Deadline
	isReady   bool  // ready is closed
	hasSpoken bool  // spoken is closed
	closeErr  error // what Close returns

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
	s.run = transport.NewDriver(transport.Config{
		Machine: s.m, Dial: s.connect, Changed: s.changed, Ended: s.end, Finished: s.finish, Log: s.log,
	})
	s.readable.L, s.writable.L = s.run, s.run
	s.run.Start(now)
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
	s.run.Lock()
	defer s.run.Unlock()
	m, end := s.m, s.m.end.Stats()
	return Stats{
		RTT:        end.RTT,
		Sent:       m.sent,
		Received:   m.received,
		Resends:    end.Resends,
		Duplicates: end.Duplicates,
		Dropped:    end.Dropped,
		Resumes:    m.link.Resumes(),
		Window:     end.Window,
		Payload:    end.Payload,
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
	s.run.Lock()
	defer s.run.Unlock()
	now := time.Now()
	s.m.link.Probe(now)
	s.run.Settle(now)
}

// Done returns a channel that is closed when the stream has ended.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Err returns why the stream ended, or nil while it is open. The error is net.ErrClosed after Close, a *ClosedError when the
// service closed the session, or the reason why the session could not be resumed.
func (s *Stream) Err() error {
	s.run.Lock()
	defer s.run.Unlock()
	return s.m.err
}

// Read implements net.Conn.
func (s *Stream) Read(p []byte) (int, error) {
	s.run.Lock()
	defer s.run.Unlock()
	for {
		switch {
		case s.m.closed:
			return 0, s.opError("read", net.ErrClosed)
		case s.readDead.Passed():
			return 0, s.opError("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case s.m.in.Len() > 0:
			n := s.m.in.Read(p)
			s.run.Moved()
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
	s.run.Lock()
	defer s.run.Unlock()
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
			s.run.Moved()
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
	s.run.Lock()
	now := time.Now()
	s.m.close(abandon, now)
	s.readable.Broadcast()
	s.writable.Broadcast()
	s.readDead.Set(time.Time{}, nil)
	s.writeDead.Set(time.Time{}, nil)
	s.run.Settle(now)
	s.run.Unlock()
	<-s.finished
	s.run.Lock()
	defer s.run.Unlock()
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
	s.run.Lock()
	defer s.run.Unlock()
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
	dial   func(context.Context, grant) (transport.Socket, error)
	// dataKey makes a KMS data key, plain and encrypted for the agent.
	dataKey func(context.Context, *keyRequest) (plain, encrypted []byte, err error)
	// terminate ends the session with the service. The stream calls it at most once; it bounds its own time.
	terminate func()
	// tooLong receives the longest payload that got through when a longer one did not.
	tooLong func(limit int)
}

// The methods of Stream below serve its machine. Their callers hold the lock.

// changed serves the stream's driver: it wakes callers that wait for the stream, and makes the data key that the machine requests.
func (s *Stream) changed() {
	s.tell()
	if key := s.m.takeKey(); key != nil && s.m.err == nil {
		s.run.Go(func(ctx context.Context) { s.makeKey(ctx, key) })
	}
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
	if s.m.in.Len() > 0 {
		s.readable.Broadcast()
	}
	if s.m.writable() > 0 {
		s.writable.Broadcast()
	}
}

// end tells all callers that the machine has ended.
func (s *Stream) end() {
	s.closeErr = s.m.closeError()
	if s.m.tooLong > 0 {
		s.cfg.tooLong(s.m.tooLong)
	}
	s.m.out.Clear()
	s.readable.Broadcast()
	s.writable.Broadcast()
	close(s.done)
	s.log.Debug("session ended", "err", s.m.err)
}

// finish ends the session, once all goroutines have ended. It runs without the lock.
func (s *Stream) finish() {
	s.run.Lock()
	_, closed := errors.AsType[*ClosedError](s.m.err)
	s.run.Unlock()
	if !s.cfg.exec || !closed { // IAM may count an exec session, which ECS began, as nobody's: ask only while it lives
		s.cfg.terminate()
	}
	close(s.finished)
}

// connect makes a websocket: with the session's first grant, or by resuming the session.
func (s *Stream) connect(ctx context.Context) (transport.Socket, error) {
	s.run.Lock()
	first := s.first
	s.first = nil
	s.run.Unlock()
	return s.cfg.connect(ctx, first)
}

// connect makes a websocket with grant g, or, if g is nil, with a new one.
func (cfg *streamConfig) connect(ctx context.Context, g *grant) (transport.Socket, error) {
	if g == nil {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		resumed, err := cfg.resume(call)
		if err != nil {
			return nil, err
		}
		g = &resumed
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return cfg.dial(call, *g)
}

// makeKey makes a data key and passes it to the machine.
func (s *Stream) makeKey(ctx context.Context, req *keyRequest) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	plain, encrypted, err := s.cfg.dataKey(call, req)
	s.run.Lock()
	defer s.run.Unlock()
	if !s.run.Over() {
		now := time.Now()
		s.m.keyMade(req, plain, encrypted, err, now)
		s.run.Settle(now)
	}
	clear(plain)
}

func (s *Stream) unread() int {
	s.run.Lock()
	defer s.run.Unlock()
	return s.m.in.Len()
}

// absentFor returns how long the service has reported the agent absent.
func (s *Stream) absentFor() time.Duration {
	s.run.Lock()
	defer s.run.Unlock()
	if s.m.absentSince.IsZero() {
		return 0
	}
	return time.Since(s.m.absentSince)
}
