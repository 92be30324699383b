package bond

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/sleep"
)

// Defaults of ListenerConfig.
const (
	DefaultMaxConns         = 16
	DefaultMaxSubflows      = 16
	DefaultMemory           = 64 << 20
	DefaultHandshakeTimeout = 10 * time.Second
)

const (
	// maxHandshakes bounds the streams that have not proven a key yet. Further ones wait in the system's accept queue.
	maxHandshakes = 64
	// refuseTime bounds the wait for a refused client to read the reason and to close its end.
	refuseTime = 2 * time.Second
	// acceptPause is the wait after a failed accept. Most likely the process has no free file descriptor.
	acceptPause = 100 * time.Millisecond
)

// ListenerConfig configures a Listener. Zero fields get the default of the same name.
type ListenerConfig struct {
	Config // of each connection; if Memory runs short, the Listener halves the window and send buffer, maybe repeatedly

	MaxConns         int
	MaxSubflows      int           // of one connection
	MaxStreams       int           // subflows of all connections together; 0: bounded only by the other limits
	Spare            int           // part of MaxStreams that is kept for the first subflows of new connections
	HandshakeTimeout time.Duration // for each subflow

	// Memory bounds the bytes that all connections together may buffer. The Listener reserves a connection's share when it begins,
	// so that one client cannot use up another's share.
	Memory int

	// OnEvent, if not nil, receives each connection's events in order. Several goroutines call it, and the connection waits until
	// it returns.
	OnEvent func(Event)
}

func (c *ListenerConfig) setDefaults() {
	c.Config = c.withDefaults()
	c.MaxConns = cmp.Or(c.MaxConns, DefaultMaxConns)
	c.MaxSubflows = cmp.Or(c.MaxSubflows, DefaultMaxSubflows)
	c.Memory = cmp.Or(c.Memory, DefaultMemory)
	c.HandshakeTimeout = cmp.Or(c.HandshakeTimeout, DefaultHandshakeTimeout)
	if c.OnEvent == nil {
		c.OnEvent = func(Event) {}
	}
}

// EventType is the kind of an Event.
type EventType string

// The events of a Listener.
const (
	EventOpened  EventType = "opened"  // a connection, with its subflow 0
	EventJoined  EventType = "joined"  // a subflow, to an open connection
	EventRefused EventType = "refused" // a subflow, of a new connection or of an open one
	EventLost    EventType = "lost"    // a subflow ended, for any reason
	EventClosed  EventType = "closed"  // a connection ended, after the loss of all its subflows
)

// Event is something that happened to a connection or a subflow.
type Event struct {
	Type    EventType
	Conn    string   // the connection's RemoteAddr; empty if the server refused the subflow before it named one
	Subflow uint32   // except for EventClosed
	Remote  net.Addr // of the subflow's stream; except for EventClosed
	Reason  string   // of EventRefused, EventLost and EventClosed

	Duration       time.Duration // EventLost, EventClosed: how long the subflow or connection lasted
	Sent, Received uint64        // EventClosed: bytes of the connection's streams
}

// A Listener accepts connections over many subflows. It is a net.Listener whose connections are of type *Conn.
type Listener struct {
	cfg       ListenerConfig
	listeners []net.Listener
	slots     chan struct{}      // one for each handshake under way
	accepted  chan *Conn         // never full: see unaccepted
	ctx       context.Context    // done after Close
	cancel    context.CancelFunc // of ctx
	work      sync.WaitGroup     // every goroutine of the listener

	// Call no method of a Conn while holding mu: a Conn may hold its own lock when it closes a stream, and that takes mu.
	mu         sync.Mutex
	closed     bool
	draining   bool
	memory     int // bytes not reserved yet
	streams    int // subflows of all connections that hold a place
	conns      map[connID]*served
	unaccepted int // connections that Accept has not returned yet, ended or not; at most cfg.MaxConns
	ended      tombstones
}

// served is a connection of a Listener.
type served struct {
	identity

	conn   *Conn
	began  time.Time
	memory int           // reserved for its buffers
	wake   chan struct{} // capacity 1: lost has grown

	// Guarded by the listener's mu.
	subflows int // subflows that hold a place: being accepted, or attached
	used     idWindow
	lost     []Event // not passed to OnEvent yet
}

// Listen takes over listeners, accepts subflows from them, and makes connections out of these.
func Listen(listeners []net.Listener, cfg ListenerConfig) *Listener {
	cfg.setDefaults()
	l := &Listener{
		cfg: cfg, listeners: listeners, slots: make(chan struct{}, maxHandshakes), accepted: make(chan *Conn, cfg.MaxConns),
		memory: cfg.Memory, conns: make(map[connID]*served),
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	for _, listener := range listeners {
		l.work.Go(func() { l.acceptStreams(listener) })
	}
	return l
}

// Accept returns the next connection, a *Conn. After Close its error is net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		select {
		case c := <-l.accepted:
			l.mu.Lock()
			l.unaccepted--
			l.mu.Unlock()
			if hasEnded(c) {
				continue
			}
			return c, nil
		case <-l.ctx.Done():
			return nil, &net.OpError{Op: "accept", Net: "bond", Addr: l.Addr(), Err: net.ErrClosed}
		}
	}
}

// Addr returns the address of the first listener.
func (l *Listener) Addr() net.Addr { return l.listeners[0].Addr() }

// Drain makes the Listener refuse new connections. Subflows can still join open ones.
func (l *Listener) Drain() {
	l.mu.Lock()
	l.draining = true
	l.mu.Unlock()
}

// Close stops listening, ends all connections, and returns when all their goroutines have ended.
func (l *Listener) Close() error {
	l.mu.Lock()
	l.closed = true
	conns := make([]*Conn, 0, len(l.conns))
	for _, s := range l.conns {
		conns = append(conns, s.conn)
	}
	l.mu.Unlock()

	l.cancel()
	var errs []error
	for _, listener := range l.listeners {
		if err := listener.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	for _, c := range conns {
		c.fail(&ResetError{Code: ResetDraining})
	}
	l.work.Wait()
	return errors.Join(errs...)
}

// acceptStreams accepts streams from one listener until it is closed.
func (l *Listener) acceptStreams(listener net.Listener) {
	for {
		select {
		case l.slots <- struct{}{}:
		case <-l.ctx.Done():
			return
		}
		stream, err := listener.Accept()
		if err != nil {
			<-l.slots
			if errors.Is(err, net.ErrClosed) {
				return
			}
			l.cfg.Logger.Warn("accept failed", "error", err)
			if sleep.For(l.ctx, acceptPause) != nil {
				return
			}
			continue
		}
		l.work.Go(func() {
			defer func() { <-l.slots }()
			l.handshake(stream)
		})
	}
}

// handshake makes stream a subflow or refuses it.
func (l *Listener) handshake(stream net.Conn) {
	stop := context.AfterFunc(l.ctx, func() { _ = stream.Close() })
	defer stop()
	_ = stream.SetDeadline(time.Now().Add(l.cfg.HandshakeTimeout)) // fails with the stream

	h, err := serverHello(stream, l.cfg.highest)
	var o open
	if err == nil {
		o, err = h.readOpen()
	}
	if err == nil {
		switch o.kind {
		case openNew:
			err = l.serveNew(stream, h, o)
		case openJoin:
			err = l.serveJoin(stream, h, o)
		}
	}
	if err == nil || l.ctx.Err() != nil {
		if err != nil {
			_ = stream.Close()
		}
		return
	}

	event := Event{Type: EventRefused, Subflow: o.subflow, Remote: stream.RemoteAddr(), Reason: "handshake: " + cause(err)}
	if o.id != (connID{}) {
		event.Conn = short(o.id)
	}
	var refused *RefusedError
	if errors.As(err, &refused) {
		event.Reason = refused.Code.String()
		if refused.Reason != "" {
			event.Reason += ": " + refused.Reason
		}
	}
	l.cfg.OnEvent(event)
	if refused != nil && h.refuse(refused.Code, refused.Reason) == nil {
		awaitEnd(stream)
	}
	_ = stream.Close()
}

// awaitEnd waits, for a bounded time, until the peer has read the refusal and closes its end. An earlier close with unread data
// would reset the socket, and the peer would lose the refusal.
func awaitEnd(stream net.Conn) {
	if half, ok := stream.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_ = stream.SetDeadline(time.Now().Add(refuseTime))
	_, _ = io.Copy(io.Discard, stream)
}

// serveNew makes a connection with stream as its first subflow.
func (l *Listener) serveNew(stream net.Conn, h *serverHandshake, o open) error {
	key, err := h.verifyNew()
	if err != nil {
		return err
	}
	s, err := l.addConn(identity{o.id, key, o.version})
	if err != nil {
		return err
	}
	l.cfg.OnEvent(Event{Type: EventOpened, Conn: short(o.id), Remote: stream.RemoteAddr()})
	l.work.Go(func() { l.watch(s) })
	if err := l.attach(s, stream, 0, h); err != nil {
		s.conn.fail(err)
	}
	l.accepted <- s.conn
	return nil
}

// Streams returns how many subflows all connections have together.
func (l *Listener) Streams() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.streams
}

// serveJoin makes stream another subflow of a connection.
func (l *Listener) serveJoin(stream net.Conn, h *serverHandshake, o open) error {
	who, s, refusal := l.find(o.id)
	if who == nil {
		return refusal
	}
	if err := h.verifyJoin(who.key); err != nil {
		return err
	}
	switch {
	case refusal != nil:
		return refusal
	case o.version != who.version:
		return &RefusedError{Code: RefuseMalformed, Reason: fmt.Sprintf("the connection speaks version %d", who.version)}
	}
	err := l.addSubflow(s, o.subflow)
	if full, ok := errors.AsType[*RefusedError](err); ok && full.Code == RefuseSubflows && s.conn.dropStalled() {
		// The client may have given up that subflow while it was away, and could not say so.
		err = l.addSubflow(s, o.subflow)
	}
	switch {
	case errors.Is(err, errEnded):
		return refusalBy(s.conn)
	case err != nil:
		return err
	}
	l.cfg.OnEvent(Event{Type: EventJoined, Conn: short(s.id), Subflow: o.subflow, Remote: stream.RemoteAddr()})
	_ = l.attach(s, stream, o.subflow, h) // the event of the lost subflow reports the error
	return nil
}

// find returns a connection, or the refusal of one that has ended or never existed. who is nil if it never existed.
func (l *Listener) find(id connID) (who *identity, s *served, refusal *RefusedError) {
	l.mu.Lock()
	s, open := l.conns[id]
	stone, existed := l.ended.find(id, time.Now())
	l.mu.Unlock()
	switch {
	case open && hasEnded(s.conn): // watch is about to find out
		return &s.identity, nil, refusalBy(s.conn)
	case open:
		return &s.identity, s, nil
	case existed:
		return &stone.identity, nil, stone.refusal
	}
	return nil, nil, &RefusedError{Code: RefuseUnknown}
}

// errEnded says that a connection has ended since it was found.
var errEnded = errors.New("the connection has ended")

// attach accepts a subflow that has its place, and hands its stream to the connection, which closes it at the end. If that fails,
// the subflow is lost.
func (l *Listener) attach(s *served, stream net.Conn, subflow uint32, h *serverHandshake) error {
	began := time.Now()
	w := &watchedStream{Conn: stream}
	w.closed = func(reason string) {
		l.mu.Lock()
		defer l.mu.Unlock()
		s.lost = append(s.lost, Event{
			Type: EventLost, Conn: short(s.id), Subflow: subflow, Remote: stream.RemoteAddr(), Reason: reason,
			Duration: time.Since(began),
		})
		s.subflows--
		l.streams--
		l.memory += subflowMemory
		nudge(s.wake)
	}
	err := h.accept()
	if err == nil {
		_ = stream.SetDeadline(time.Time{}) // fails with the stream
		err = s.conn.attach(subflow, w, newFrameReader(w), h.seals(), "", nil)
	}
	if err != nil {
		w.note(err)
		_ = w.Close()
	}
	return err
}

// watch reports the subflows that s loses, then the end of s, and releases its memory.
func (l *Listener) watch(s *served) {
	done := s.conn.Done()
	for done != nil || l.held(s) {
		select {
		case <-s.wake:
		case <-done:
			done = nil
			refusal := refusalBy(s.conn)
			l.mu.Lock()
			delete(l.conns, s.id) // s gets no more subflows: see addSubflow
			l.ended.add(s.identity, refusal, time.Now())
			l.mu.Unlock()
		}
		l.mu.Lock()
		lost := s.lost
		s.lost = nil
		l.mu.Unlock()
		for _, event := range lost {
			l.cfg.OnEvent(event)
		}
	}
	<-s.conn.finished
	l.mu.Lock()
	l.memory += s.memory
	l.mu.Unlock()
	stats := s.conn.Stats()
	l.cfg.OnEvent(Event{
		Type: EventClosed, Conn: short(s.id), Reason: whyEnded(s.conn), Duration: time.Since(s.began),
		Sent: stats.Sent, Received: stats.Received,
	})
}

// held reports whether s has subflows, or lost ones to report.
func (l *Listener) held(s *served) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.subflows > 0 || len(s.lost) > 0
}

func hasEnded(c *Conn) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}

// short returns the beginning of a connection's id, as RemoteAddr shows it.
func short(id connID) string { return id.String()[:8] }

// refusalBy returns the refusal of a subflow that would join an ended connection. RefuseClosed is more than a reason: the client
// takes it as the acknowledgement of all bytes that it sent.
func refusalBy(c *Conn) *RefusedError {
	refusal := &RefusedError{Code: RefuseUnknown, Reason: whyEnded(c)}
	if c.delivered() {
		refusal.Code = RefuseClosed
	}
	return refusal
}

// whyEnded returns the reason of a connection's end.
func whyEnded(c *Conn) string {
	switch err := c.Err(); {
	case errors.Is(err, io.EOF):
		return "both ends had finished"
	case errors.Is(err, net.ErrClosed):
		return "closed by this end"
	default:
		return cause(err)
	}
}

// cause strips the addresses of a network error, which the event has already.
func cause(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	return err.Error()
}
