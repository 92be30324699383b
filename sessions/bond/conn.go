package bond

import (
	"cmp"
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

// Config has the settings of both ends of a connection. Zero fields get their defaults.
type Config struct {
	Window     int           // bytes that the peer may send ahead of the reader
	SendBuffer int           // bytes that may wait for their acknowledgement
	Linger     time.Duration // how long the connection waits without a usable subflow
	Logger     *slog.Logger  // nil: no log

	highest uint8 // version that this end speaks; 0: maxVersion. Tests lower it to play an older end
}

func (c Config) withDefaults() Config {
	c.Window = cmp.Or(c.Window, DefaultWindow)
	c.SendBuffer = cmp.Or(c.SendBuffer, DefaultSendBuffer)
	c.Linger = cmp.Or(c.Linger, DefaultLinger)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	c.highest = cmp.Or(c.highest, maxVersion)
	return c
}

const (
	// closeTimeout bounds how long Close waits until the peer has acknowledged everything written.
	closeTimeout = 2 * time.Second
	// tellTimeout bounds how long an ending connection waits until its writers have sent the last frames.
	tellTimeout = time.Second
	// partTimeout bounds how long the server waits for the client to close the subflows of an ended connection.
	partTimeout = 5 * time.Second
)

// Conn is one connection over many subflows. It outlives them: without a subflow, reads and writes wait.
//
// Conn is a net.Conn. Several goroutines may read and several may write at the same time; the bytes of concurrent writes may mix.
// Close ends all these calls. Write returns when the bytes are in a bounded buffer, not when they have arrived.
type Conn struct {
	who    atomic.Pointer[identity] // only the client's manager changes it, while the server may not have the connection
	client bool
	log    *slog.Logger

	// lostHook, if not nil, receives the reason of each lost subflow, called without the lock. Set it before the first attach.
	lostHook func(id uint32, err error)
	manager  *manager // set by Dial; nil at the server

	mu          sync.Mutex
	m           *machine
	subflows    map[*path]*subflow
	readable    sync.Cond // signals data, an end, or an expired deadline
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
	finished chan struct{} // closed when all goroutines and subflows have ended
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

// tick is the timer's callback.
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

// settle acts on the machine's state. Callers hold the lock, and call settle after each of the machine's methods.
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
		nudge(c.notify) // wake the path manager
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

// writing reports whether a goroutine is in a write on a subflow that is not stalled.
func (c *Conn) writing() bool {
	for p, s := range c.subflows {
		if s.writing && !p.stalled {
			return true
		}
	}
	return false
}

// arm sets the timer for the machine's deadline. It leaves a timer that fires too early: a spurious wake-up costs less than a reset
// for each frame.
func (c *Conn) arm(now time.Time) {
	at := c.m.deadline()
	if at.IsZero() || !c.armed.IsZero() && c.armed.After(now) && !at.Before(c.armed) {
		return
	}
	c.armed = at
	c.timer.Reset(max(0, at.Sub(now)))
}

// end records why the connection ended, and starts finish. Callers hold the lock.
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
	nudge(c.notify) // wake the path manager
	c.goodbye = make(chan struct{})
	close(c.ended)
	go c.finish(c.goodbye, c.m.err == nil)
}

// finish sends the last frames and closes all subflows. regular says that both streams ended in good order.
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

// awaitParting gives the client time to close the subflows. A close by the server could destroy the last frames on their way.
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

// fail ends the connection with err, without waiting for its streams.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m.fail(err)
	c.settle(time.Now())
}

// Read implements net.Conn. It returns io.EOF at the end of the peer's stream. After the connection failed, Read returns the bytes
// that came in order, then the error.
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

// CloseWrite ends this end's stream. The peer reads the bytes written before, then io.EOF.
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

// Close ends the connection. For a bounded time it first waits until the peer has acknowledged all bytes written; if the peer does
// not, Close returns an error. When Close returns, all subflows are closed and all goroutines have ended.
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
	c.m.fail(&ResetError{Code: ResetAborted, Reason: "closed"}) // no effect if both streams have ended in good order
	c.settle(time.Now())
	c.mu.Unlock()
	<-c.finished
	if unacknowledged > 0 && cut == nil {
		return c.opError("close", fmt.Errorf("%d bytes were not acknowledged", unacknowledged))
	}
	return nil
}

// awaitAcknowledged waits, for a bounded time, until the peer has acknowledged all bytes written. Callers hold the lock.
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

// opError wraps an error in the form of net.Conn's errors.
func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "bond", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// LocalAddr implements net.Conn. The address is the beginning of the connection's id.
func (c *Conn) LocalAddr() net.Addr { return addr(short(c.who.Load().id)) }

// RemoteAddr implements net.Conn. The address is the beginning of the connection's id.
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

// SetWriteDeadline implements net.Conn. It bounds the wait for space in the buffer, not the arrival.
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

// Done returns a channel that is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.ended }

// Err returns why the connection ended, or nil while it is open. The error is net.ErrClosed after Close, and io.EOF when both
// streams have ended. It is a *ResetError or *RefusedError when one end failed the connection.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// delivered reports whether both streams have ended and arrived in full.
func (c *Conn) delivered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m.through()
}

// changed returns the channel that wakes the path manager.
func (c *Conn) changed() <-chan struct{} { return c.notify }
