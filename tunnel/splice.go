package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// Duplex is a connection whose two directions end separately, such as *net.TCPConn, *net.UnixConn and *Conn.
type Duplex interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Splice copies between a and b, both ways, until both directions have ended, and closes both. It passes the end of one direction
// on by CloseWrite while the other goes on. An error in either direction, or the end of ctx, ends both at once; TCP peers then see
// a reset, not an end. One error waits: a side that refuses more data may have said why before, so Splice first passes its last
// words on. If the far side of one is gone for good (see [Conn.Gone]), Splice does not wait for the other.
//
// Splice waits for its goroutines: Close of both a and b must end their Reads and Writes.
func Splice(ctx context.Context, a, b Duplex) error {
	var ab, ba atomic.Int64
	return splice(ctx, a, b, &ab, &ba)
}

// SpliceCounted is Splice between a client's connection and one to dest. stats count it while it lasts, and report its end.
func SpliceCounted(ctx context.Context, local Duplex, remote net.Conn, dest string, stats *Stats) {
	c := stats.begin(local, dest)
	stats.end(c, splice(ctx, local, asDuplex(remote), &c.up, &c.down))
}

// splice is Splice that counts the bytes from a to b and from b to a.
func splice(ctx context.Context, a, b Duplex, ab, ba *atomic.Int64) error {
	ended := make(chan ending, 2)
	go func() { ended <- copyHalf(b, a, ab) }()
	go func() { ended <- copyHalf(a, b, ba) }()

	var result error
	closeBoth := func() {
		_ = a.Close()
		_ = b.Close()
	}
	stop := func(err error) {
		if result == nil {
			result = err
			reset(a)
			reset(b)
			closeBoth()
		}
	}
	cancelled := ctx.Done()
	var gone <-chan struct{}
	var refusal error
	var late <-chan time.Time
	for running := 2; running > 0; {
		select {
		case e := <-ended:
			running--
			g, ok := e.src.(interface{ Gone() <-chan struct{} })
			switch {
			case e.err != nil && e.refused && running > 0 && result == nil:
				refusal = e.err
				late = time.After(lastWords)
			case e.err != nil:
				stop(e.err)
			case ok:
				gone = g.Gone() // all that src sent has been passed on
			}
		case <-gone:
			gone = nil
			if running > 0 && result == nil {
				closeBoth()
				<-ended // its error says only that it was closed
				running--
			}
		case <-late:
			stop(refusal)
		case <-cancelled:
			cancelled = nil
			stop(context.Cause(ctx))
		}
	}
	closeBoth()
	if result == nil {
		return refusal
	}
	return result
}

// lastWords bounds the wait for the last words of a side that refused more data.
const lastWords = 5 * time.Second

// ending is the end of one direction.
type ending struct {
	err     error
	src     Duplex
	refused bool // err comes from a connection that took no more data
}

// copyHalf copies from src to dst until src ends, and passes the end on.
func copyHalf(dst, src Duplex, n *atomic.Int64) ending {
	w := &countingWriter{w: dst, n: n}
	var err error
	if c, ok := src.(*Conn); ok {
		_, err = c.WriteTo(w)
	} else {
		buf := chunks.Get().(*[chunk]byte)
		_, err = io.CopyBuffer(w, onlyReader{src}, buf[:]) // onlyReader: a WriterTo would not use buf
		chunks.Put(buf)
	}
	if err == nil {
		_ = dst.CloseWrite() // if it fails, dst is broken, and the other direction notices if it matters
	}
	_, files := dst.(*stdio) // two files say nothing about each other
	return ending{err, src, w.failed && !files}
}

type onlyReader struct{ io.Reader }

type countingWriter struct {
	w      io.Writer
	n      *atomic.Int64
	failed bool
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n.Add(int64(n))
	c.failed = err != nil
	return n, err
}

// reset makes the Close of a TCP connection a reset.
func reset(d io.Closer) {
	if r, ok := d.(interface{ SetLinger(int) error }); ok {
		_ = r.SetLinger(0)
	}
}

// asDuplex makes a Duplex of any connection. One without CloseWrite ends both directions when the other side ends one.
func asDuplex(c net.Conn) Duplex {
	if d, ok := c.(Duplex); ok {
		return d
	}
	return simplex{c}
}

type simplex struct{ net.Conn }

func (s simplex) CloseWrite() error { return s.Close() }

// isShutdown reports whether err only says that this end closed the connection.
func isShutdown(err error) bool {
	return errors.Is(err, net.ErrClosed) || errors.Is(err, context.Canceled)
}
