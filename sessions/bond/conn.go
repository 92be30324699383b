package bond

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bastion-ssm/bastion/internal/deadline"
)

// Defaults of Config.
const (
	DefaultWindow     = 4 << 20
	DefaultSendBuffer = 4 << 20
	DefaultLinger     = 30 * time.Minute
)

// Config is what both ends of a connection can set. Zero fields get their defaults.
type Config struct {
	Window     int           // bytes that may come before they are read
	SendBuffer int           // bytes that wait for their acknowledgement
	Linger     time.Duration // how long the connection waits without any path
	Logger     *slog.Logger  // nil: no log

	highest uint8 // version that this end speaks; 0: maxVersion. Tests set it to be an older end
}

func (c Config) withDefaults() Config {
	if c.Window == 0 {
		c.Window = DefaultWindow
	}
	if c.SendBuffer == 0 {
		c.SendBuffer = DefaultSendBuffer
	}
	if c.Linger == 0 {
		c.Linger = DefaultLinger
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.highest == 0 {
		c.highest = maxVersion
	}
	return c
}

const (
	// closeTimeout is how long Close waits for the acknowledgement of what was written.
	closeTimeout = 2 * time.Second
	// tellTimeout is how long the end of a connection waits until its last frames are on their way.
	tellTimeout = time.Second
	// partTimeout is how long the server waits for the client to close the subflows of a connection that is over.
	partTimeout = 5 * time.Second
)

// Conn is one connection over many subflows. It is a net.Conn: reads and writes may run at the same time, in several
// goroutines each, and Close ends them all; writes of several at once may mix. It outlives its subflows: while there is
// none, reads and writes wait.
//
// Write returns when the bytes are in a bounded buffer, not when they have arrived.
type Conn struct {
	who    atomic.Pointer[identity] // changed by the client's manager only, while the server may not have the connection
	client bool
	log    *slog.Logger

	// lostHook, if not nil, gets the reason of each lost subflow, without the lock; set before the first attach.
	lostHook func(id uint32, err error)
	manager  *manager // the client's, which Dial sets; nil at the server

	mu          sync.Mutex
	m           *machine
	subflows    map[*path]*subflow
	readable    sync.Cond // data, an end, or a deadline that passed
	writable    sync.Cond
	readDead    deadline.Deadline
	writeDead   deadline.Deadline
	closed      bool // Close was called
	writeClosed bool // CloseWrite or Close was called
	err         error
	timer       *time.Timer // calls tick; it runs at armed or before
	armed       time.Time
	damaged     int // subflows lost because a frame did not verify
	ending      bool
	goodbye     chan struct{} // closed once the peer knows everything; made when the end begins

	notify   chan struct{} // capacity 1; for the path manager
	ended    chan struct{} // closed when the connection has ended: err is set
	finished chan struct{} // closed when nothing of it is left
	work     sync.WaitGroup
}

func newConn(who identity, cfg Config, client bool) *Conn {
	cfg = cfg.withDefaults()
	now := time.Now()
	c := &Conn{
		client: client, log: cfg.Logger.With("bond", short(who.id)),
		m:        newMachine(client, cfg.Window, cfg.SendBuffer, cfg.Linger, now),
		subflows: map[*path]*subflow{},
		notify:   make(chan struct{}, 1),
		ended:    make(chan struct{}), finished: make(chan struct{}),
	}
	c.who.Store(&who)
	c.readable.L, c.writable.L = &c.mu, &c.mu
	c.armed = now.Add(cfg.Linger)
	c.timer = time.AfterFunc(cfg.Linger, c.tick)
	return c
}

// tick is the timer's function.
func (c *Conn) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for _, p := range c.m.onTimer(now) {
		c.log.Debug("subflow expired", "subflow", p.id, "name", p.name)
		c.remove(c.subflows[p])
	}
	c.settle(now)
}

// settle does what the machine asks for. Callers hold the lock, and call it after each of the machine's methods.
func (c *Conn) settle(now time.Time) {
	for p, s := range c.subflows {
		switch {
		case c.m.pending(p):
			nudge(s.wake)
		case c.client && p.over():
			c.remove(s)
		}
	}
	if c.m.changed {
		c.m.changed = false
		nudge(c.notify) // the path manager looks
	}
	if !c.ending && (c.m.err != nil || c.m.through()) {
		c.end()
	}
	if c.ending {
		if c.goodbye != nil && c.m.told() && !c.writing() {
			close(c.goodbye)
			c.goodbye = nil
		}
		return
	}
	if c.m.in.readable() > 0 || c.m.in.complete() {
		c.readable.Broadcast()
	}
	if c.m.writable() > 0 || c.m.finAcked {
		c.writable.Broadcast()
	}
	c.arm(now)
}

// writing says whether a writer is in a write on a subflow that is not stalled.
func (c *Conn) writing() bool {
	for p, s := range c.subflows {
		if s.writing && !p.stalled {
			return true
		}
	}
	return false
}

// arm makes the timer run when the machine needs it. It leaves a timer that runs too early: that costs less than a reset for each frame.
func (c *Conn) arm(now time.Time) {
	at := c.m.deadline()
	if at.IsZero() || !c.armed.IsZero() && c.armed.After(now) && !at.Before(c.armed) {
		return
	}
	c.armed = at
	c.timer.Reset(max(0, at.Sub(now)))
}

// end latches the connection's end. Callers hold the lock.
func (c *Conn) end() {
	c.ending = true
	switch {
	case c.closed:
		c.err = net.ErrClosed
	case c.m.err != nil:
		c.err = c.m.err
	default:
		c.err = io.EOF
	}
	c.log.Debug("connection ended", "err", c.err)
	c.timer.Stop()
	c.readable.Broadcast()
	c.writable.Broadcast()
	nudge(c.notify) // the path manager looks
	c.goodbye = make(chan struct{})
	close(c.ended)
	go c.finish(c.goodbye, c.m.err == nil)
}

// finish ends what is left of the connection. regular says that both streams were through.
func (c *Conn) finish(goodbye <-chan struct{}, regular bool) {
	telling, cancel := context.WithTimeout(context.Background(), tellTimeout)
	select {
	case <-goodbye:
	case <-telling.Done():
	}
	cancel()
	if regular && !c.client {
		c.awaitParting()
	}
	c.mu.Lock()
	for _, s := range c.subflows {
		c.remove(s)
	}
	c.mu.Unlock()
	c.work.Wait()
	c.timer.Stop()
	close(c.finished)
}

// awaitParting gives the client time to close the subflows, so that the last frames reach it.
func (c *Conn) awaitParting() {
	parting, cancel := context.WithTimeout(context.Background(), partTimeout)
	defer cancel()
	for {
		c.mu.Lock()
		left := len(c.subflows)
		c.mu.Unlock()
		if left == 0 {
			return
		}
		select {
		case <-c.notify: // a subflow is lost
		case <-parting.Done():
			return
		}
	}
}

// fail cuts the connection short.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m.fail(err)
	c.settle(time.Now())
}

// Read implements net.Conn. At the end of the peer's stream it returns io.EOF, and after the connection was cut short
// what came in order, then the error.
func (c *Conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, c.opError("read", net.ErrClosed)
		case c.readDead.Passed():
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		}
		n, err := c.m.read(p)
		if n > 0 {
			c.settle(time.Now())
			return n, nil
		}
		if err != nil {
			return 0, err
		}
		if c.m.err != nil {
			return 0, c.opError("read", c.m.err)
		}
		c.readable.Wait()
	}
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	written := 0
	for {
		switch {
		case c.writeClosed:
			return written, c.opError("write", net.ErrClosed)
		case c.writeDead.Passed():
			return written, c.opError("write", os.ErrDeadlineExceeded)
		case c.m.err != nil:
			return written, c.opError("write", c.m.err)
		case written == len(p):
			return written, nil
		}
		now := time.Now()
		n := c.m.write(p[written:], now)
		written += n
		if n > 0 {
			if n <= directBytes {
				c.writeDirectly()
			}
			c.settle(now)
			if written == len(p) {
				return written, nil
			}
			continue
		}
		c.writable.Wait()
	}
}

// CloseWrite ends the stream that this end writes. The peer reads what was written, then io.EOF.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("close", net.ErrClosed)
	}
	c.finishWriting()
	return nil
}

func (c *Conn) finishWriting() {
	c.writeClosed = true
	c.writable.Broadcast()
	now := time.Now()
	c.m.closeWrite(now)
	c.settle(now)
}

// Close ends the connection. It first sends what was written, for a bounded time. It returns when nothing of the connection is left,
// with an error if the peer has not acknowledged everything.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		<-c.finished
		return c.opError("close", net.ErrClosed)
	}
	c.closed = true
	c.m.discard()
	c.readDead.Set(time.Time{}, nil)
	c.writeDead.Set(time.Time{}, nil)
	c.readable.Broadcast()
	c.finishWriting()
	c.awaitAcknowledged()
	unacknowledged := c.m.written - c.m.acked
	cut := c.m.err
	c.m.fail(&ResetError{Code: ResetAborted, Reason: "closed"}) // unless both streams are through
	c.settle(time.Now())
	c.mu.Unlock()
	<-c.finished
	if unacknowledged > 0 && cut == nil {
		return c.opError("close", fmt.Errorf("%d bytes were not acknowledged", unacknowledged))
	}
	return nil
}

// awaitAcknowledged waits, for a bounded time, until the peer has all that was written. Callers hold the lock.
func (c *Conn) awaitAcknowledged() {
	expired := false
	timer := time.AfterFunc(closeTimeout, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		expired = true
		c.writable.Broadcast()
	})
	defer timer.Stop()
	for !c.m.finAcked && !c.ending && !expired {
		c.writable.Wait()
	}
}

// opError gives an error the form of net.Conn's errors.
func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "bond", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// LocalAddr implements net.Conn: the connection's id.
func (c *Conn) LocalAddr() net.Addr { return addr(short(c.who.Load().id)) }

// RemoteAddr implements net.Conn: the connection's id.
func (c *Conn) RemoteAddr() net.Addr { return addr(short(c.who.Load().id)) }

// addr is the beginning of a connection's id.
type addr string

func (addr) Network() string  { return "bond" }
func (a addr) String() string { return string(a) }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.setDeadline(&c.readDead, &c.readable, t)
}

// SetWriteDeadline implements net.Conn. It bounds the wait for the buffer, not the arrival.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(&c.writeDead, &c.writable, t)
}

func (c *Conn) setDeadline(d *deadline.Deadline, cond *sync.Cond, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return c.opError("set", net.ErrClosed)
	}
	d.SetFor(cond, t)
	return nil
}

// Done is closed when the connection has ended, for whatever reason.
func (c *Conn) Done() <-chan struct{} { return c.ended }

// Err returns why the connection ended, nil while it has not: net.ErrClosed after Close, io.EOF when both streams have
// ended, a *ResetError or a *RefusedError when it was cut short.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// delivered says that both streams have ended, and all of both arrived.
func (c *Conn) delivered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m.through()
}

// changed wakes the path manager when something happened that it should look at.
func (c *Conn) changed() <-chan struct{} { return c.notify }
