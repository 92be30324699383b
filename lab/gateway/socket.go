package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/bastion-ssm/bastion/sessions/frame"
)

const (
	helloTimeout = 10 * time.Second // from the upgrade until the token
	helloBytes   = 16 << 10
	closeGrace   = 3 * time.Second  // for the client to hang up after channel_closed, or for its last words after it has gone
	writeTimeout = 60 * time.Second // for a client that does not read
	socketBuffer = 256 << 10        // the kernel's, each way; also of a batch of writes
)

// socket is a client's websocket. Its HTTP handler reads; a second goroutine, which the handler waits for, writes.
type socket struct {
	ws   *websocket.Conn
	conn *batchConn
	gen  uint64 // at the session's lane down

	cut     atomic.Bool    // discard further messages
	closing sync.WaitGroup // running close handshakes
	done    chan struct{}  // closed once the reader has returned
}

// shut ends the websocket with a close frame, without waiting for it. The gateway discards the client's further messages.
func (k *socket) shut(reason string) {
	k.cut.Store(true)
	k.closing.Go(func() { _ = k.ws.Close(websocket.StatusNormalClosure, reason) })
}

// reset ends the connection with a TCP RST.
func (k *socket) reset() {
	k.cut.Store(true)
	k.conn.reset()
}

// ServeHTTP serves the clients' websockets: GET /v1/data-channel/<session id>?role=publish_subscribe.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id, ok := sessionID(r)
	if !ok {
		http.NotFound(w, r)
		return
	}
	if !g.enter() {
		http.Error(w, "gateway is closed", http.StatusServiceUnavailable)
		return
	}
	defer g.wg.Done()
	hw := &hijackWriter{ResponseWriter: w}
	ws, err := websocket.Accept(hw, r, nil) // answers errors itself
	if err != nil {
		g.log.Debug("gateway: upgrade failed", "err", err)
		return
	}
	k := &socket{ws: ws, conn: hw.conn, done: make(chan struct{})}
	if !g.track(k) {
		_ = ws.CloseNow()
		return
	}
	err = g.serve(k, id)
	g.log.Debug("gateway: websocket ended", "session", id, "err", err)
	k.closing.Wait()
	_ = ws.CloseNow()
	g.untrack(k)
}

// serve authenticates the client and relays until the websocket ends.
func (g *Gateway) serve(k *socket, id string) error {
	token, err := k.hello()
	if err != nil {
		_ = k.ws.Close(websocket.StatusPolicyViolation, "no valid hello")
		return err
	}
	s := g.session(id)
	if s == nil || !s.attach(k, token) {
		_ = k.ws.Close(websocket.StatusPolicyViolation, "token is not valid")
		return errors.New("token is not valid")
	}
	defer s.detach(k)
	life := time.AfterFunc(g.cfg.SocketLife, func() { g.cutSocket(s, k, "close") })
	defer life.Stop()
	var wg sync.WaitGroup
	wg.Go(func() { k.write(s) })
	err = k.read(s)
	close(k.done)
	_ = k.conn.Close() // ends a write
	wg.Wait()
	return err
}

// hello reads the text message that opens a data channel.
func (k *socket) hello() (token string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), helloTimeout)
	defer cancel()
	k.ws.SetReadLimit(helloBytes)
	typ, b, err := k.ws.Read(ctx)
	if err != nil {
		return "", err
	}
	if typ != websocket.MessageText {
		return "", errors.New("first message is not text")
	}
	var h struct{ MessageSchemaVersion, TokenValue string }
	if err := json.Unmarshal(b, &h); err != nil {
		return "", fmt.Errorf("hello: %w", err)
	}
	if h.MessageSchemaVersion != "1.0" {
		return "", fmt.Errorf("hello: MessageSchemaVersion %q", h.MessageSchemaVersion)
	}
	return h.TokenValue, nil
}

// read relays the client's messages to the agent.
func (k *socket) read(s *session) error {
	k.ws.SetReadLimit(frame.MaxPayload + frame.Overhead)
	scratch := make([]byte, 4<<10)
	for {
		// Without a deadline or ctx, which would cost a timer per message. Closing the connection ends a read.
		typ, r, err := k.ws.Reader(context.Background())
		if err != nil {
			return err
		}
		n := 0
		for {
			m, err := r.Read(scratch[n:])
			n += m
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			if n == len(scratch) {
				scratch = slices.Grow(scratch, len(scratch))
				scratch = scratch[:cap(scratch)]
			}
		}
		if k.cut.Load() {
			continue
		}
		if typ != websocket.MessageBinary {
			s.log.Debug("gateway: text message ignored", "bytes", n)
			continue
		}
		if !s.up.push(k.conn.closed, bytes.Clone(scratch[:n])) {
			return errDone
		}
	}
}

// write relays messages to the client until the websocket or the session ends.
func (k *socket) write(s *session) {
	var batch [][]byte
	for {
		var err error
		batch, err = s.down.pop(k.gen, k.done, batch[:0])
		if errors.Is(err, io.EOF) {
			k.finish()
			return
		}
		if err != nil {
			return
		}
		k.conn.hold()
		for _, b := range batch {
			if err = k.ws.Write(context.Background(), websocket.MessageBinary, b); err != nil {
				break
			}
		}
		if e := k.conn.release(); err == nil {
			err = e
		}
		clear(batch)
		if err != nil {
			// Read the client's last words. A plugin that is told to end asks for the end of its session and exits while
			// acknowledgements are on their way to it.
			if sleep(k.done, closeGrace) {
				_ = k.conn.Close() // makes the reader detach
			}
			return
		}
	}
}

// finish waits for the client to hang up, and closes the websocket if it does not.
func (k *socket) finish() {
	if sleep(k.done, closeGrace) {
		k.shut("Bye")
	}
}

// hijackWriter gives the websocket library a connection that batches writes, and keeps a reference to it.
type hijackWriter struct {
	http.ResponseWriter
	conn *batchConn
}

func (h *hijackWriter) Unwrap() http.ResponseWriter { return h.ResponseWriter }

func (h *hijackWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, err := brw.Peek(brw.Reader.Buffered())
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	if c, ok := tcpOf(conn); ok {
		_ = c.SetReadBuffer(socketBuffer)
		_ = c.SetWriteBuffer(socketBuffer)
	}
	h.conn = &batchConn{Conn: conn, early: bytes.Clone(early), closed: make(chan struct{})}
	return h.conn, bufio.NewReadWriter(bufio.NewReaderSize(h.conn, 64<<10), bufio.NewWriter(h.conn)), nil
}

func tcpOf(conn net.Conn) (*net.TCPConn, bool) {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // tls.Conn
		conn = t.NetConn()
	}
	c, ok := conn.(*net.TCPConn)
	return c, ok
}

// batchConn is a connection that can hold back writes and merge them into one.
type batchConn struct {
	net.Conn
	early  []byte // read before the upgrade
	closed chan struct{}
	once   sync.Once

	mu       sync.Mutex
	holding  bool
	buf      []byte
	deadline time.Time // of writes
}

func (c *batchConn) Read(b []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(b, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.Conn.Read(b)
}

func (c *batchConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holding && len(b) < socketBuffer/4 {
		c.buf = append(c.buf, b...)
		if len(c.buf) < socketBuffer {
			return len(b), nil
		}
		return len(b), c.flush()
	}
	if err := c.flush(); err != nil {
		return 0, err
	}
	c.extend()
	return c.Conn.Write(b)
}

func (c *batchConn) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holding = true
}

func (c *batchConn) release() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holding = false
	return c.flush()
}

// flush writes the held bytes. Callers hold mu.
func (c *batchConn) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	c.extend()
	_, err := c.Conn.Write(c.buf)
	c.buf = c.buf[:0]
	return err
}

// extend gives the next write its full time, or most of it: setting the deadline for each would cost nearly as much as the write.
// Callers hold mu.
func (c *batchConn) extend() {
	if now := time.Now(); c.deadline.Sub(now) < writeTimeout*3/4 {
		c.deadline = now.Add(writeTimeout)
		_ = c.SetWriteDeadline(c.deadline)
	}
}

func (c *batchConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (c *batchConn) reset() {
	if t, ok := tcpOf(c.Conn); ok {
		_ = t.SetLinger(0)
		c.once.Do(func() { close(c.closed) })
		_ = t.Close()
		return
	}
	_ = c.Close()
}
