package sessions

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bastion-ssm/bastion/internal/deadline"
)

// Stream is the byte stream of one session. It is a net.Conn: reads and writes may run at the same time, in several
// goroutines each, and Close ends them all. A lost websocket is not seen by them; when the session ends, what has come is
// read first and then the reason: io.EOF when the far end closed regularly, otherwise the error that Err returns.
//
// Write returns when the bytes are in a bounded buffer, not when they have arrived.
type Stream struct {
	sessionID string
	target    string
	started   time.Time
	cfg       streamConfig

	mu        sync.Mutex
	readable  sync.Cond // data, an end, or a deadline that passed
	writable  sync.Cond
	in        byteRing
	out       byteRing
	writeOff  bool  // Close was called: nothing more may be read or written
	readErr   error // what Read returns once in is empty; set once
	writeErr  error
	throttled bool // nothing is received until the reader takes from in
	readDead  deadline.Deadline
	writeDead deadline.Deadline
	err       error // why the stream ended; set once, before done is closed
	closeErr  error // what Close returns
	abandoned bool  // close without regard to what was written

	// Each has room for one, see nudge.
	wake    chan struct{} // the loop looks at the fields above
	pending chan struct{} // the link's writer looks for what is to be sent
	room    chan struct{} // the link's reader looks whether it may read on
	probes  chan struct{} // the link pings

	ready    chan struct{} // closed when the handshake is complete
	spoken   chan struct{} // closed when the first bytes have come
	done     chan struct{} // closed when the stream has ended
	finished chan struct{} // closed when the session is terminated and no goroutine is left

	counters counters
}

// counters are written by the channel and read by Stats.
type counters struct {
	rtt, window, payload                                  atomic.Int64
	sent, received, resends, duplicates, dropped, resumes atomic.Uint64
	// absent is the time, in ns since the stream began, since when the agent is said to be absent; 0 when it is there.
	absent atomic.Int64
}

// Stats are a stream's figures so far.
type Stats struct {
	RTT        time.Duration // smoothed round trip of a message and its ack; 0 when not measured yet
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
	c := &s.counters
	return Stats{
		RTT:        time.Duration(c.rtt.Load()),
		Sent:       c.sent.Load(),
		Received:   c.received.Load(),
		Resends:    c.resends.Load(),
		Duplicates: c.duplicates.Load(),
		Dropped:    c.dropped.Load(),
		Resumes:    c.resumes.Load(),
		Window:     int(c.window.Load()),
		Payload:    int(c.payload.Load()),
		Age:        time.Since(s.started),
	}
}

// SessionID returns the session's id, by which the service and its audit logs know it.
func (s *Stream) SessionID() string { return s.sessionID }

// Target returns what the session leads to, as the call that started it named it.
func (s *Stream) Target() string { return s.target }

// Probe finds out now whether the websocket still works, instead of at the next ping, for a caller who knows that it may not: the
// machine slept, or its network is another one. It does not wait for the outcome.
func (s *Stream) Probe() { nudge(s.probes) }

// Done is closed when the stream has ended, for whatever reason.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Err returns why the stream ended, nil while it has not: net.ErrClosed after Close, a *ClosedError when the service closed
// the session, or why it could not be resumed.
func (s *Stream) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Read implements net.Conn.
func (s *Stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case s.writeOff:
			return 0, s.opError("read", net.ErrClosed)
		case s.readDead.Passed():
			return 0, s.opError("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case s.in.len() > 0:
			n := s.in.read(p)
			if s.throttled && s.in.len() < s.cfg.readSoft {
				s.throttled = false
				nudge(s.room)
			}
			return n, nil
		case errors.Is(s.readErr, io.EOF):
			return 0, io.EOF
		case s.readErr != nil:
			return 0, s.opError("read", s.readErr)
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
		case s.writeOff:
			return n, s.opError("write", net.ErrClosed)
		case s.writeDead.Passed():
			return n, s.opError("write", os.ErrDeadlineExceeded)
		case s.writeErr != nil:
			return n, s.opError("write", s.writeErr)
		case n == len(p):
			return n, nil
		}
		if room := min(s.cfg.writeBuffer-s.out.len(), len(p)-n); room > 0 {
			first := s.out.len() == 0
			s.out.write(p[n : n+room])
			if first {
				nudge(s.pending)
			}
			if n += room; n == len(p) {
				return n, nil
			}
			continue
		}
		s.writable.Wait()
	}
}

// opError gives an error the form that net.Conn's have.
func (s *Stream) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "ssm", Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: err}
}

// nudge makes the one that waits on c look again. c has room for one, so that no nudge is lost and none blocks.
func nudge(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Close ends the session. What was written is sent first, for a bounded time; then the far end's connection is closed and the
// session terminated. It returns when all that is done, with an error if written bytes were not acknowledged.
func (s *Stream) Close() error { return s.end(false) }

// abandon ends the session without regard to what was written.
func (s *Stream) abandon() { _ = s.end(true) }

func (s *Stream) end(abandon bool) error {
	s.mu.Lock()
	s.writeOff = true
	s.abandoned = s.abandoned || abandon
	s.in.clear()
	s.readable.Broadcast()
	s.writable.Broadcast()
	s.readDead.Set(time.Time{}, nil)
	s.writeDead.Set(time.Time{}, nil)
	s.mu.Unlock()
	nudge(s.wake)
	<-s.finished
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closeErr
}

// LocalAddr implements net.Conn: the session.
func (s *Stream) LocalAddr() net.Addr { return addr(s.sessionID) }

// RemoteAddr implements net.Conn: the target.
func (s *Stream) RemoteAddr() net.Addr { return addr(s.target) }

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

// SetWriteDeadline implements net.Conn. It bounds the wait for the buffer, not the arrival.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	return s.setDeadline(&s.writeDead, &s.writable, t)
}

func (s *Stream) setDeadline(d *deadline.Deadline, c *sync.Cond, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writeOff {
		return s.opError("set", net.ErrClosed)
	}
	d.SetFor(c, t)
	return nil
}

// streamConfig is what a stream is made of; see Config for the limits.
type streamConfig struct {
	exec          bool
	resumeTimeout time.Duration
	closeTimeout  time.Duration
	pingInterval  time.Duration
	pingTimeout   time.Duration
	sendWindow    int
	maxPayload    int
	writeBuffer   int
	readSoft      int // bytes unread from which on nothing more is taken from the websocket
	readHard      int // bytes unread from which on messages are refused
	heldBytes     int // of messages out of order
	heldSpan      int64

	// first is the grant that the session was started with.
	first grant
	// resume asks for another one. An error that wraps errNoResume is final.
	resume func(context.Context) (grant, error)
	dial   func(context.Context, grant) (socket, error)
	// dataKey makes a KMS data key: plain, and encrypted for the agent.
	dataKey func(context.Context, *keyRequest) (plain, encrypted []byte, err error)
	// terminate ends the session with the service; it is called exactly once, and bounds itself.
	terminate func()
	// tooLong is told the longest payload that got through when a longer one did not.
	tooLong func(limit int)
}

// The methods of Stream below are the channel's side of it.

// deliver gives the reader data that came in order.
func (s *Stream) deliver(p []byte) {
	select {
	case <-s.spoken:
	default:
		close(s.spoken)
	}
	s.counters.received.Add(uint64(len(p)))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.writeOff {
		return // nobody reads any more
	}
	s.in.write(p)
	s.readable.Broadcast()
}

func (s *Stream) unread() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.in.len()
}

// throttle reports whether the reader has enough to read; room is nudged when that changes.
func (s *Stream) throttle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.throttled = s.in.len() >= s.cfg.readSoft
	return s.throttled
}

func (s *Stream) backlog() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.len()
}

// take moves up to n written bytes into buf, which it overwrites.
func (s *Stream) take(buf []byte, n int) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	n = min(n, s.out.len())
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	s.out.read(buf)
	s.writable.Broadcast()
	return buf
}

func (s *Stream) closeState() (closed, abandoned bool, backlog int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writeOff, s.abandoned, s.out.len()
}

// finish latches why the stream ended.
func (s *Stream) finish(err, closeErr error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.closeErr = err, closeErr
	s.readErr, s.writeErr = err, err
	if closed, ok := errors.AsType[*ClosedError](err); ok && errors.Is(closed, io.EOF) {
		s.readErr = io.EOF
	}
	s.out.clear()
	s.readable.Broadcast()
	s.writable.Broadcast()
	close(s.done)
}
