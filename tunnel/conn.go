package tunnel

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// chunk bounds one read or write, in bytes: the payload of one SSH packet.
const chunk = 32 << 10

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// Conn is a connection through the bastion, one SSH channel. It is a complete net.Conn, unlike x/crypto/ssh's own. That one lacks
// deadlines, and its Close does not end a Read or Write that waits for a silent peer. So Conn makes the channel's blocking calls in
// goroutines of their own, at most one for each direction. They belong to the link's connection and end with the channel at the
// latest.
//
// All methods may be called concurrently. The count that a Write returns is exact: SSH has sent this much data, or will unless the
// connection ends, and never sends more.
type Conn struct {
	ch     ssh.Channel
	client *client
	dest   string

	closed    chan struct{} // closed by Close
	closeOnce sync.Once
	gone      chan struct{} // closed once the peer has closed the channel, or the connection under it has ended

	mu       sync.Mutex
	finished bool           // calls on ch can no longer block
	calls    sync.WaitGroup // goroutines in a call on ch; grows only while finished is false

	readMu   sync.Mutex      // guards the five below
	readDone chan readResult // capacity 1: the result of the call that reading announces
	reading  bool
	buf      *[chunk]byte // holds unread
	unread   []byte
	readErr  error // sticky

	writeMu   sync.Mutex // guards the five below
	writeDone chan writeResult
	writing   bool
	taken     *take // of the call that writing announces; nil for one without data
	writeErr  error // sticky
	eofSent   bool

	readDeadline, writeDeadline *deadline
}

type readResult struct {
	buf *[chunk]byte
	n   int
	err error
}

type writeResult struct {
	n   int
	err error
}

// take is data on its way to the channel, which takes either all of it or nothing. Write must know which as soon as it ends: after
// a failed write of 0 bytes, net/http sends a request again on another connection.
type take struct {
	n       int
	settled atomic.Bool // by the first one: either the channel takes the data, or the Write gives it up
}

func newConn(ch ssh.Channel, c *client, dest string) *Conn {
	return &Conn{
		ch: ch, client: c, dest: dest,
		closed:        make(chan struct{}),
		gone:          make(chan struct{}),
		readDone:      make(chan readResult, 1),
		writeDone:     make(chan writeResult, 1),
		readDeadline:  newDeadline(),
		writeDeadline: newDeadline(),
	}
}

// serve answers the channel's requests until the channel has ended, then waits for the calls on it. The link's connection runs it.
func (c *Conn) serve(reqs <-chan *ssh.Request) {
	for r := range reqs {
		if r.Type == endedRequest {
			c.client.log.Info("a connection was ended by the bastion", "destination", c.dest, "reason", farText(string(r.Payload)))
		}
		if r.WantReply {
			_ = r.Reply(false, nil) // fails with the channel
		}
	}
	close(c.gone)
	c.mu.Lock()
	c.finished = true
	c.mu.Unlock()
	c.calls.Wait()
}

// call runs f, which calls the channel, in a goroutine. After the channel's end, when f cannot block, it runs f directly.
func (c *Conn) call(f func()) {
	c.mu.Lock()
	if c.finished {
		c.mu.Unlock()
		f()
		return
	}
	c.calls.Add(1)
	c.mu.Unlock()
	go func() {
		defer c.calls.Done()
		f()
	}()
}

// Read reads from the destination. It returns io.EOF only if the destination, or the bastion for it, ended the stream.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if err := c.fill(); err != nil {
		return 0, err
	}
	n := copy(p, c.unread)
	if c.unread = c.unread[n:]; len(c.unread) == 0 {
		chunks.Put(c.buf)
		c.buf = nil
	}
	return n, nil
}

// WriteTo implements io.WriterTo. It saves Read's copy.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		c.readMu.Lock()
		err := c.fill()
		buf, data := c.buf, c.unread
		if err == nil {
			c.buf, c.unread = nil, nil
			c.startRead() // while this chunk is written
		}
		c.readMu.Unlock()
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := w.Write(data)
		chunks.Put(buf)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// fill waits for unread data, or returns why none will come. Callers hold readMu.
func (c *Conn) fill() error {
	passed := c.readDeadline.wait()
	switch {
	case isClosed(c.closed):
		return c.opError("read", net.ErrClosed)
	case isClosed(passed):
		return c.opError("read", os.ErrDeadlineExceeded)
	case len(c.unread) > 0:
		return nil
	case c.readErr != nil:
		return c.readErr
	}
	c.startRead()
	select {
	case r := <-c.readDone:
		c.reading = false
		c.readErr = r.err
		if r.n == 0 {
			chunks.Put(r.buf)
			return r.err
		}
		c.buf, c.unread = r.buf, r.buf[:r.n]
		return nil
	case <-c.closed:
		return c.opError("read", net.ErrClosed)
	case <-passed:
		return c.opError("read", os.ErrDeadlineExceeded)
	}
}

// startRead starts a read, unless one is running or the stream has ended. Callers hold readMu.
func (c *Conn) startRead() {
	if !c.reading && c.readErr == nil {
		c.reading = true
		c.call(c.readChannel)
	}
}

// readChannel makes one read and leaves its result in readDone, which has room, because only one call runs.
func (c *Conn) readChannel() {
	buf := chunks.Get().(*[chunk]byte)
	n, err := c.ch.Read(buf[:])
	switch {
	case errors.Is(err, io.EOF) && !c.client.wire.watch.Alive():
		err = c.opError("read", c.client.lost())
	case err != nil && !errors.Is(err, io.EOF):
		err = c.opError("read", err)
	}
	c.readDone <- readResult{buf, n, err}
}

// Write writes to the destination. It returns once SSH has taken all of p.
func (c *Conn) Write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	written := 0
	for {
		if err := c.writable(); err != nil {
			return written, err
		}
		if len(p) == 0 {
			return written, nil
		}
		buf := chunks.Get().(*[chunk]byte) // a copy, because p belongs to the caller again if Write gives up
		m := copy(buf[:], p)
		t := &take{n: m}
		n, err := c.send(t, func() writeResult {
			defer chunks.Put(buf)
			c.client.wire.out.turn(c.gone)
			if t.settled.Swap(true) {
				return writeResult{} // Write has given it up
			}
			n, err := c.ch.Write(buf[:m])
			return writeResult{n, err}
		})
		written += n
		if err != nil {
			return written, err
		}
		p = p[m:]
	}
}

// CloseWrite tells the destination that no more data comes; reads continue. It waits for a running Write.
func (c *Conn) CloseWrite() error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if err := c.writable(); err != nil {
		return err
	}
	c.eofSent = true
	_, err := c.send(nil, func() writeResult { return writeResult{err: c.ch.CloseWrite()} })
	return err
}

// writable waits for the rest of a Write that missed its deadline. Callers hold writeMu.
func (c *Conn) writable() error {
	if c.writing {
		if _, err := c.sent(); err != nil {
			return err
		}
	}
	switch {
	case isClosed(c.closed):
		return c.opError("write", net.ErrClosed)
	case isClosed(c.writeDeadline.wait()):
		return c.opError("write", os.ErrDeadlineExceeded)
	case c.eofSent:
		return c.opError("write", io.ErrClosedPipe)
	}
	return c.writeErr
}

// send starts a call that writes t to the channel, and waits for it. Callers hold writeMu.
func (c *Conn) send(t *take, f func() writeResult) (int, error) {
	c.writing, c.taken = true, t
	c.call(func() { c.writeDone <- f() }) // it has room: only one call runs
	return c.sent()
}

// sent waits for the running call. Callers hold writeMu.
func (c *Conn) sent() (int, error) {
	select {
	case r := <-c.writeDone:
		c.writing = false
		switch {
		case r.err == nil:
		case !errors.Is(r.err, io.EOF):
			c.writeErr = c.opError("write", c.client.lost()) // the transport's end
		case c.client.wire.watch.Alive():
			c.writeErr = c.opError("write", io.ErrClosedPipe) // the peer has closed the channel
		default:
			c.writeErr = c.opError("write", c.client.lost())
		}
		return r.n, c.writeErr
	case <-c.closed:
		return c.leave(), c.opError("write", net.ErrClosed)
	case <-c.writeDeadline.wait():
		return c.leave(), c.opError("write", os.ErrDeadlineExceeded)
	}
}

// leave gives up waiting for the running call, and returns how much data the channel has taken of it. Callers hold writeMu.
func (c *Conn) leave() int {
	t := c.taken
	c.taken = nil // count it only once
	if t == nil || !t.settled.Swap(true) {
		return 0
	}
	return t.n
}

// Close ends both directions, and every Read and Write. It does not wait for the far end.
func (c *Conn) Close() error {
	err := net.ErrClosed
	c.closeOnce.Do(func() {
		err = nil
		close(c.closed)
		c.call(func() {
			_ = c.ch.Close() // an error means that the channel has ended already
			c.client.release()
		})
	})
	return err
}

// Gone returns a channel that is closed when this end can send nothing more. Then the far end has closed both directions, or the
// link was lost. Read still returns the data that arrived before.
func (c *Conn) Gone() <-chan struct{} { return c.gone }

// LocalAddr returns an unspecified address: the local end is inside the SSH connection.
func (c *Conn) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4zero} }

// RemoteAddr returns the destination as it was dialed, names unresolved.
func (c *Conn) RemoteAddr() net.Addr { return destAddr(c.dest) }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline bounds reads, including a waiting one; the zero time means no bound.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadline(c.readDeadline, t) }

// SetWriteDeadline bounds writes, including a waiting one; the zero time means no bound.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadline(c.writeDeadline, t) }

func (c *Conn) setDeadline(d *deadline, t time.Time) error {
	if isClosed(c.closed) {
		return c.opError("set", net.ErrClosed)
	}
	d.set(t)
	return nil
}

func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: "ssh", Addr: destAddr(c.dest), Err: err}
}

// destAddr is an address behind the bastion.
type destAddr string

func (destAddr) Network() string  { return "tcp" }
func (a destAddr) String() string { return string(a) }
