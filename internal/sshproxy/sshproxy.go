// Package sshproxy is bastion's side of OpenSSH's ProxyCommand contract. It connects ssh's standard streams to the host (Pipe), or
// passes the connection's file descriptor to ssh (PassConn). ssh ends its proxy when the stream ends, so the package reports the
// reason of a loss before that.
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

// ErrLost says that a connection was lost, and that Pipe has already reported why through tell.
var ErrLost = errors.New("the connection was lost")

// Pipe connects in and out to conn, which leads to dest, until either side ends. It calls tell with the reason of a loss before out
// ends, because ssh ends its proxy as soon as it sees that end.
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

// Conn is a proxy's connection that knows why it ended.
type Conn struct {
	net.Conn
	Why  func(error) error // returns why it ended, from Read's error; nil: in good order
	tell func(error)       // receives that reason, once, before any reader learns of the end
	once sync.Once
	err  error

	closed atomic.Bool // by Close: this end was wanted
}

// UnlessEnd returns err, except that io.EOF is nil.
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

// CloseWrite ends the direction to the far end, or both if conn has no half-close.
func (c *Conn) CloseWrite() error {
	if d, ok := c.Conn.(tunnel.Duplex); ok {
		return d.CloseWrite()
	}
	return c.Close()
}

// Gone returns the channel of a connection that reports its end, else nil.
func (c *Conn) Gone() <-chan struct{} {
	if g, ok := c.Conn.(interface{ Gone() <-chan struct{} }); ok {
		return g.Gone()
	}
	return nil
}

// clientGone reports whether a pipe ended because ssh did. A session has no half-close, so the end of standard input ends both
// directions.
func clientGone(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, syscall.EPIPE)
}

// writeCloser returns w with a Close method.
func writeCloser(w io.Writer) io.WriteCloser {
	if c, ok := w.(io.WriteCloser); ok {
		return c
	}
	return nopCloser{w}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
