// Package sshproxy is what OpenSSH wants of a ProxyCommand: its standard streams lead to the host, or it hands the connection over and ends.
package sshproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/tunnel"
)

// ErrLost is that a connection was lost, which the function Pipe was given has told.
var ErrLost = errors.New("the connection was lost")

// Pipe connects in and out to conn, which leads to dest, until either has ended. tell is told why conn was lost before the end of out: ssh
// ends its proxy as soon as it sees that.
func Pipe(ctx context.Context, in *os.File, out io.Writer, dest string, conn *Conn, tell func(error)) error {
	lost := false
	conn.tell = func(err error) {
		if lost = ctx.Err() == nil; lost {
			tell(err)
		}
	}
	err := tunnel.Pipe(ctx, in, writeCloser(out), conn)
	switch {
	case lost:
		return ErrLost
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil && !clientGone(err):
		return fail.New(fail.Lost, "the connection to "+dest+" was lost", err, "")
	}
	return nil
}

// Conn is a proxy's connection whose end is asked about.
type Conn struct {
	net.Conn
	Why  func(error) error // why it has ended, by the error of Read; nil: as it should
	tell func(error)       // is told that, once, before anything else learns of the end
	once sync.Once
	err  error

	closed atomic.Bool // by Close: its end is no news
}

// UnlessEnd takes an error for what it is.
func UnlessEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == nil || c.closed.Load() || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
		return n, err
	}
	c.once.Do(func() {
		if c.err = c.Why(err); c.err != nil {
			c.tell(c.err)
		}
	})
	if c.err != nil {
		return n, c.err
	}
	return n, err
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	c.closed.Store(true)
	return c.Conn.Close()
}

// CloseWrite ends the direction to the far end; where there is no such thing, both.
func (c *Conn) CloseWrite() error {
	if d, ok := c.Conn.(tunnel.Duplex); ok {
		return d.CloseWrite()
	}
	return c.Close()
}

// Gone is that of a connection which can tell, else nil.
func (c *Conn) Gone() <-chan struct{} {
	if g, ok := c.Conn.(interface{ Gone() <-chan struct{} }); ok {
		return g.Gone()
	}
	return nil
}

// clientGone reports whether a pipe ended because ssh did: a session has no half-close, so that the end of standard input
// ends both directions.
func clientGone(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, syscall.EPIPE)
}

// writeCloser makes w closable.
func writeCloser(w io.Writer) io.WriteCloser {
	if c, ok := w.(io.WriteCloser); ok {
		return c
	}
	return nopCloser{w}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
