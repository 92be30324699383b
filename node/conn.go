package node

import (
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/deadline"
)

// conn is a connection of a session's client, for the port's handler. Read returns io.EOF once the client has closed it, or the
// session has ended. Write returns when the bytes are in a bounded buffer, not when they have arrived. The session's lock guards its
// fields.
type conn struct {
	s         *session
	flow      *flow
	readDead  deadline.Deadline
	writeDead deadline.Deadline
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	c.s.run.Lock()
	defer c.s.run.Unlock()
	for {
		switch {
		case c.flow.closed:
			return 0, c.opError("read", net.ErrClosed)
		case c.readDead.Passed():
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case c.flow.in.Len() > 0:
			n := c.flow.in.Read(p)
			c.s.run.Moved()
			return n, nil
		case c.flow.eof:
			return 0, io.EOF
		}
		c.s.readable.Wait()
	}
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	c.s.run.Lock()
	defer c.s.run.Unlock()
	n := 0
	for {
		switch {
		case c.s.m.broken(c.flow):
			return n, c.opError("write", net.ErrClosed)
		case c.writeDead.Passed():
			return n, c.opError("write", os.ErrDeadlineExceeded)
		case n == len(p):
			return n, nil
		}
		if wrote := c.s.m.write(c.flow, p[n:]); wrote > 0 {
			c.s.run.Moved()
			if n += wrote; n == len(p) {
				return n, nil // all bytes are taken, even if the deadline has passed meanwhile
			}
			continue
		}
		c.s.writable.Wait()
	}
}

// Close implements net.Conn. What was written still goes to the client.
func (c *conn) Close() error {
	c.s.run.Lock()
	defer c.s.run.Unlock()
	c.readDead.Set(time.Time{}, nil)
	c.writeDead.Set(time.Time{}, nil)
	now := time.Now()
	c.s.m.close(c.flow, now)
	c.s.run.Settle(now)
	c.s.readable.Broadcast()
	c.s.writable.Broadcast()
	return nil
}

// opError wraps an error in the form of net.Conn's errors.
func (c *conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "ssm", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// LocalAddr implements net.Conn. The address is the session's id.
func (c *conn) LocalAddr() net.Addr { return addr(c.s.task.SessionID) }

// RemoteAddr implements net.Conn. The address is the session's owner.
func (c *conn) RemoteAddr() net.Addr { return addr(c.s.task.Owner) }

// addr names one end of a session.
type addr string

func (addr) Network() string  { return "ssm" }
func (a addr) String() string { return string(a) }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	if err := c.SetReadDeadline(t); err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	return c.setDeadline(&c.readDead, &c.s.readable, t)
}

// SetWriteDeadline implements net.Conn. It bounds the wait for space in the buffer, not the arrival.
func (c *conn) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(&c.writeDead, &c.s.writable, t)
}

func (c *conn) setDeadline(d *deadline.Deadline, cond *sync.Cond, t time.Time) error {
	c.s.run.Lock()
	defer c.s.run.Unlock()
	if c.flow.closed {
		return c.opError("set", net.ErrClosed)
	}
	d.SetFor(cond, t)
	return nil
}
