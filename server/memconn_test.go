package server

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// memListener accepts connections in memory, so that a server can run on synctest's clock.
type memListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	wrap   func(net.Conn) net.Conn // the server's ends of further connections; nil: as they are
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2222} }

// dial returns the client's end of a new connection.
func (l *memListener) dial() (net.Conn, error) {
	up, down := newMemHalf(), newMemHalf()
	server := net.Conn(memConn{in: up, out: down})
	if l.wrap != nil {
		server = l.wrap(server)
	}
	select {
	case l.conns <- server:
		return memConn{in: down, out: up}, nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	}
}

// memHalf is one direction. It is unbounded, since SSH bounds the bytes on their way.
type memHalf struct {
	mu       sync.Mutex
	change   sync.Cond
	data     []byte
	closed   bool
	deadline time.Time // of the reader
}

func newMemHalf() *memHalf {
	h := new(memHalf)
	h.change.L = &h.mu
	return h
}

type memConn struct{ in, out *memHalf }

func (c memConn) Read(p []byte) (int, error) {
	h := c.in
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case len(h.data) > 0:
			n := copy(p, h.data)
			h.data = h.data[n:]
			return n, nil
		case h.closed:
			return 0, io.EOF
		case !h.deadline.IsZero() && !time.Now().Before(h.deadline):
			return 0, os.ErrDeadlineExceeded
		}
		h.change.Wait()
	}
}

func (c memConn) Write(p []byte) (int, error) {
	h := c.out
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return 0, io.ErrClosedPipe
	}
	h.data = append(h.data, p...)
	h.change.Broadcast()
	return len(p), nil
}

func (c memConn) Close() error {
	for _, h := range []*memHalf{c.in, c.out} {
		h.mu.Lock()
		h.closed = true
		h.change.Broadcast()
		h.mu.Unlock()
	}
	return nil
}

func (c memConn) CloseWrite() error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	c.out.closed = true
	c.out.change.Broadcast()
	return nil
}

func (c memConn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

func (c memConn) SetReadDeadline(t time.Time) error {
	h := c.in
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deadline = t
	h.change.Broadcast()
	if !t.IsZero() {
		time.AfterFunc(time.Until(t), h.change.Broadcast)
	}
	return nil
}

func (memConn) SetWriteDeadline(time.Time) error { return nil }
func (memConn) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func (memConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2} }
