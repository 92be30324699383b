package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
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

// socket is a websocket of a client or of a node. Its HTTP handler reads; a second goroutine, which the handler waits for, writes.
type socket struct {
	ws   *websocket.Conn
	conn *batchConn
	out  *lane  // whose messages it writes
	gen  uint64 // at that lane

	cut     atomic.Bool    // discard further messages
	closing sync.WaitGroup // running close handshakes
	done    chan struct{}  // closed once the reader has returned
}

// shut ends the websocket with a close frame, without waiting for it. The gateway discards the further messages of its peer.
func (k *socket) shut(reason string) { k.shutBy(websocket.StatusNormalClosure, reason) }

func (k *socket) shutBy(status websocket.StatusCode, reason string) {
	k.cut.Store(true)
	k.closing.Go(func() { _ = k.ws.Close(status, reason) })
}

// reset ends the connection with a TCP RST.
func (k *socket) reset() {
	k.cut.Store(true)
	k.conn.reset()
}

// cutBy ends the websocket in the way of CutClose or CutReset.
func (k *socket) cutBy(how string) {
	if how == CutReset {
		k.reset()
	} else {
		k.shut("Bye")
	}
}

// ServeHTTP serves the websockets of both sides' data channels, GET /v1/data-channel/<session id>?role=publish_subscribe, and of the
// nodes' control channels, GET /v1/control-channel/<target>?role=subscribe&stream=input.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	serve, ok := g.channel(w, r)
	if !ok {
		return
	}
	if !g.enter() {
		http.Error(w, "gateway is down", http.StatusServiceUnavailable)
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
	err = k.open(serve)
	g.log.Debug("gateway: websocket ended", "path", r.URL.Path, "err", err)
	k.closing.Wait()
	_ = ws.CloseNow()
	g.untrack(k)
}

// channel returns what serves the websocket of a request, or answers the request itself.
func (g *Gateway) channel(w http.ResponseWriter, r *http.Request) (serve func(*socket, opening) error, ok bool) {
	if target, ok := controlID(r); ok {
		_, ok = g.admit(w, r, OpenControlChannel, target)
		return func(k *socket, h opening) error { return g.serveControl(k, h, target) }, ok
	}
	id, ok := sessionID(r)
	if !ok {
		http.NotFound(w, r)
		return nil, false
	}
	s := g.session(id)
	if s == nil || !s.spec.Node {
		return func(k *socket, h opening) error { return g.serveClient(k, h, s) }, true
	}
	isNode, ok := g.admit(w, r, OpenDataChannel, s.spec.Target)
	return func(k *socket, h opening) error {
		if isNode && h.ClientInstanceID != "" { // a client has none
			return g.serveNode(k, h, s)
		}
		return g.serveClient(k, h, s)
	}, ok
}

// open reads the hello and serves the websocket until it ends.
func (k *socket) open(serve func(*socket, opening) error) error {
	h, err := k.hello()
	if err != nil {
		_ = k.ws.Close(websocket.StatusPolicyViolation, "no valid hello")
		return err
	}
	return serve(k, h)
}

// relayData passes the data channel's message b to the other side, by its lane. It returns false if the websocket has ended.
func (k *socket) relayData(to *lane, b []byte) bool {
	if to.faults.Load().closes(b) {
		k.shutBy(websocket.StatusMessageTooBig, "message too big")
		return true // the rest is discarded
	}
	return to.push(k.conn.closed, b)
}

// refuse ends a websocket whose token is wrong.
func (k *socket) refuse() error {
	_ = k.ws.Close(websocket.StatusPolicyViolation, "token is not valid")
	return errors.New("token is not valid")
}

// serveClient relays a client's messages until the websocket ends. s is nil for an unknown session.
func (g *Gateway) serveClient(k *socket, h opening, s *session) error {
	if s == nil || !s.attach(k, h.TokenValue) {
		return k.refuse()
	}
	defer s.detach(k)
	life := time.AfterFunc(g.cfg.SocketLife, func() { s.cutSocket(k, CutClose) })
	defer life.Stop()
	return k.relay(s.log, func(b []byte) bool { return k.relayData(s.up, b) })
}

// relay writes the messages of k.out, and passes those that come to take, until the websocket ends or take returns false.
func (k *socket) relay(log *slog.Logger, take func([]byte) bool) error {
	var wg sync.WaitGroup
	wg.Go(k.write)
	err := k.read(log, take)
	close(k.done)
	_ = k.conn.Close() // ends a write
	wg.Wait()
	return err
}

// opening is the text message that opens a channel. A client's has the token alone of these, a control channel's the agent's version
// and platform, and a node's data channel the node's id.
type opening struct {
	MessageSchemaVersion, RequestID, TokenValue string
	AgentVersion, PlatformType                  string
	ClientInstanceID                            string
}

// hello reads the text message that opens a channel.
func (k *socket) hello() (h opening, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), helloTimeout)
	defer cancel()
	k.ws.SetReadLimit(helloBytes)
	typ, b, err := k.ws.Read(ctx)
	if err != nil {
		return h, err
	}
	if typ != websocket.MessageText {
		return h, errors.New("first message is not text")
	}
	if err := json.Unmarshal(b, &h); err != nil { // which ignores case
		return h, fmt.Errorf("hello: %w", err)
	}
	if h.MessageSchemaVersion != schemaVersion {
		return h, fmt.Errorf("hello: MessageSchemaVersion %q", h.MessageSchemaVersion)
	}
	return h, nil
}

// schemaVersion is that of all messages which open a channel.
const schemaVersion = "1.0"

// read passes the messages that come to take.
func (k *socket) read(log *slog.Logger, take func([]byte) bool) error {
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
			log.Debug("gateway: text message ignored", "bytes", n)
			continue
		}
		if !take(bytes.Clone(scratch[:n])) {
			return errDone
		}
	}
}

// write writes the lane's messages until the websocket or the lane ends.
func (k *socket) write() {
	var batch [][]byte
	for {
		var err error
		batch, err = k.out.pop(k.gen, k.done, batch[:0])
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
