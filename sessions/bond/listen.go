package bond

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/ring"
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
	// maxHandshakes bounds the streams that have not proven anything yet. More of them wait to be accepted.
	maxHandshakes = 64
	// leastBuffer is the smallest window and the smallest send buffer that a connection is worth having with.
	leastBuffer = 256 << 10
	// subflowMemory is what a subflow takes besides: the buffers of its reader and of its writer.
	subflowMemory = 128 << 10
	// refuseTime bounds the wait for a refused client to read why, and to go.
	refuseTime = 2 * time.Second
	// acceptPause is the wait after an accept that failed: most likely the process has no descriptor left.
	acceptPause = 100 * time.Millisecond
)

// ListenerConfig is what a Listener can be told. Zero fields get the default of the same name.
type ListenerConfig struct {
	Config // of each connection; its window and send buffer are halved, maybe more than once, when Memory runs short

	MaxConns         int
	MaxSubflows      int           // of one connection
	MaxStreams       int           // subflows of all connections together; 0: no bound but the others
	Spare            int           // of these, how many are kept for the first subflows of new connections
	HandshakeTimeout time.Duration // for each subflow

	// Memory bounds the bytes that all connections together may have buffered. A connection's share is set aside for it
	// when it begins, used or not, so that no client can use up what another was promised.
	Memory int

	// OnEvent is told what happens, in the order in which it happens to a connection; nil: nobody is. It is called by
	// several goroutines, and what it is told about waits for it.
	OnEvent func(Event)
}

func (c *ListenerConfig) setDefaults() {
	c.Config = c.withDefaults()
	for _, field := range []struct {
		value *int
		or    int
	}{
		{&c.MaxConns, DefaultMaxConns},
		{&c.MaxSubflows, DefaultMaxSubflows},
		{&c.Memory, DefaultMemory},
	} {
		if *field.value == 0 {
			*field.value = field.or
		}
	}
	if c.HandshakeTimeout == 0 {
		c.HandshakeTimeout = DefaultHandshakeTimeout
	}
	if c.OnEvent == nil {
		c.OnEvent = func(Event) {}
	}
}

// EventType says what an Event is about.
type EventType string

// The events of a Listener.
const (
	EventOpened  EventType = "opened"  // a connection, with its subflow 0
	EventJoined  EventType = "joined"  // a subflow, to an open connection
	EventRefused EventType = "refused" // a subflow; whether it was to be a new connection's or to join one
	EventLost    EventType = "lost"    // a subflow ended, in whatever way
	EventClosed  EventType = "closed"  // a connection ended; all its subflows were lost before
)

// Event is something that happened to a connection or a subflow.
type Event struct {
	Type    EventType
	Conn    string   // the connection's RemoteAddr; empty if the subflow was refused before it named one
	Subflow uint32   // not of EventClosed
	Remote  net.Addr // of the subflow's stream; not of EventClosed
	Reason  string   // of EventRefused, EventLost and EventClosed

	Duration       time.Duration // EventLost, EventClosed: how long it was there
	Sent, Received uint64        // EventClosed: bytes of the connection's streams
}

// A Listener accepts connections over many subflows. It is a net.Listener whose connections are of type *Conn.
type Listener struct {
	cfg       ListenerConfig
	listeners []net.Listener
	slots     chan struct{}      // one for each handshake under way
	accepted  chan *Conn         // never full: see unaccepted
	ctx       context.Context    // done when Close was called
	cancel    context.CancelFunc // of ctx
	work      sync.WaitGroup     // every goroutine of the listener

	// No method of a Conn is called with mu held: a Conn may hold its own lock when it closes a stream, and that takes mu.
	mu         sync.Mutex
	closed     bool
	draining   bool
	memory     int // bytes that are not set aside
	streams    int // subflows that hold a place, of all connections
	conns      map[connID]*served
	unaccepted int // connections that Accept has not returned yet, ended or not; at most cfg.MaxConns
	ended      tombstones
}

// served is a connection of a Listener.
type served struct {
	identity

	conn   *Conn
	began  time.Time
	memory int           // set aside for its buffers
	wake   chan struct{} // of capacity 1: lost has grown

	// Guarded by the listener's mu.
	subflows int // that hold a place: being accepted, or attached
	used     idWindow
	lost     []Event // that have not been told of
}

// Listen accepts subflows from listeners, which it takes over, and connections made of them.
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

// Addr returns the address of the first of the listeners.
func (l *Listener) Addr() net.Addr { return l.listeners[0].Addr() }

// Drain refuses new connections from now on. Subflows can still join those that there are.
func (l *Listener) Drain() {
	l.mu.Lock()
	l.draining = true
	l.mu.Unlock()
}

// Close stops listening, ends all connections and waits until everything has ended.
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

// acceptStreams accepts from one of the listeners until it is closed.
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

// awaitEnd waits, for a bounded time, until the peer has read all and goes. To close a socket while something of the
// peer's is unread would reset it, and take the refusal from the peer.
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

// addConn gives a new connection its place and memory.
func (l *Listener) addConn(who identity) (*served, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, exists := l.conns[who.id]
	_, existed := l.ended.find(who.id, time.Now())
	switch {
	case l.closed || l.draining:
		return nil, &RefusedError{Code: RefuseDraining}
	case exists || existed:
		return nil, &RefusedError{Code: RefuseUsed, Reason: "the connection id was used before"}
	case max(len(l.conns), l.unaccepted) >= l.cfg.MaxConns:
		return nil, &RefusedError{
			Code: RefuseConns, Reason: fmt.Sprintf("there are %d, as many as there may be", l.cfg.MaxConns),
		}
	}
	if l.cfg.MaxStreams > 0 && l.streams >= l.cfg.MaxStreams {
		return nil, l.noRoom()
	}
	cfg := l.cfg.Config
	var size int
	if cfg.Window, cfg.SendBuffer, size = share(cfg.Window, cfg.SendBuffer, l.memory-subflowMemory); size == 0 {
		return nil, l.noMemory()
	}
	s := &served{
		identity: who, began: time.Now(), memory: size, wake: make(chan struct{}, 1), subflows: 1,
		conn: newConn(who, cfg, false),
	}
	s.used.take(0)
	l.memory -= size + subflowMemory
	l.streams++
	l.conns[who.id] = s
	l.unaccepted++
	return s, nil
}

// noRoom is for callers that hold l.mu.
func (l *Listener) noRoom() error {
	return &RefusedError{
		Code: RefuseMemory, Reason: fmt.Sprintf("the machine's memory has room for %d sessions", l.cfg.MaxStreams),
	}
}

// Streams is how many subflows all connections have together.
func (l *Listener) Streams() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.streams
}

// noMemory is for callers that hold l.mu.
func (l *Listener) noMemory() error {
	return &RefusedError{
		Code: RefuseMemory, Reason: fmt.Sprintf("%d connections have what there is, %d MiB", len(l.conns), l.cfg.Memory>>20),
	}
}

// share is what a connection gets out of the memory that is left: what it should have, halved until at least as much
// remains for others, but not below leastBuffer. The size is zero if that is too much.
func share(window, buffer, left int) (w, b, size int) {
	for {
		if size = storage(window) + storage(buffer); size <= left/2 {
			return window, buffer, size
		}
		if window <= leastBuffer && buffer <= leastBuffer {
			break
		}
		window = max(window/2, min(window, leastBuffer))
		buffer = max(buffer/2, min(buffer, leastBuffer))
	}
	if size > left {
		return 0, 0, 0
	}
	return window, buffer, size
}

// storage is what a buffer of n bytes takes: the buffers of a connection double as they grow.
func storage(n int) int { return 1 << bits.Len(uint(max(n, 1)-1)) }

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
		// A client that was away has given it up, without being able to say so.
		err = l.addSubflow(s, o.subflow)
	}
	switch {
	case errors.Is(err, errEnded):
		return refusalBy(s.conn)
	case err != nil:
		return err
	}
	l.cfg.OnEvent(Event{Type: EventJoined, Conn: short(s.id), Subflow: o.subflow, Remote: stream.RemoteAddr()})
	_ = l.attach(s, stream, o.subflow, h) // told as the loss of the subflow
	return nil
}

// find returns a connection, or the refusal of one that has ended or never was: who is nil for the latter.
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

// addSubflow gives a subflow of s its place and memory.
func (l *Listener) addSubflow(s *served, id uint32) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return &RefusedError{Code: RefuseDraining}
	case l.conns[s.id] != s:
		return errEnded
	case s.subflows >= l.cfg.MaxSubflows:
		return &RefusedError{
			Code: RefuseSubflows, Reason: fmt.Sprintf("the connection has %d, as many as it may", l.cfg.MaxSubflows),
		}
	case l.memory < subflowMemory:
		return l.noMemory()
	case l.cfg.MaxStreams > 0 && l.streams >= l.cfg.MaxStreams-l.cfg.Spare:
		return l.noRoom()
	case !s.used.take(id):
		return &RefusedError{Code: RefuseUsed}
	}
	s.subflows++
	l.streams++
	l.memory -= subflowMemory
	return nil
}

// attach accepts a subflow that has its place, and hands its stream over to the connection, which closes it in the end. If
// that fails the subflow is lost.
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
		s.notify()
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

// watch tells of the subflows that s loses, and of its end, and gives back what it had.
func (l *Listener) watch(s *served) {
	done := s.conn.Done()
	for done != nil || l.held(s) {
		select {
		case <-s.wake:
		case <-done:
			done = nil
			refusal := refusalBy(s.conn)
			l.mu.Lock()
			delete(l.conns, s.id) // it gets no more subflows; see addSubflow
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

// held says whether s has subflows, or some to tell of.
func (l *Listener) held(s *served) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return s.subflows > 0 || len(s.lost) > 0
}

func (s *served) notify() {
	select {
	case s.wake <- struct{}{}:
	default: // watch will look anyway
	}
}

func hasEnded(c *Conn) bool {
	select {
	case <-c.Done():
		return true
	default:
		return false
	}
}

// short is what RemoteAddr says of the connection with this id.
func short(id connID) string { return id.String()[:8] }

// refusalBy is what a subflow is told that would join a connection which has ended. That it ended in good order is more than
// a reason: the client takes it for the acknowledgement of all that it sent.
func refusalBy(c *Conn) *RefusedError {
	refusal := &RefusedError{Code: RefuseUnknown, Reason: whyEnded(c)}
	if c.delivered() {
		refusal.Code = RefuseClosed
	}
	return refusal
}

// whyEnded is for connections that have ended.
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

// cause is err without the addresses that the network's errors have, where they are known anyway.
func cause(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Err != nil {
		err = op.Err
	}
	return err.Error()
}

// watchedStream tells why a subflow's stream ended, and that it was closed.
type watchedStream struct {
	net.Conn
	closed func(reason string) // called once

	mu   sync.Mutex
	done bool
	err  error // of the first Read or Write that failed
}

func (w *watchedStream) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.note(err)
	return n, err
}

func (w *watchedStream) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	w.note(err)
	return n, err
}

func (w *watchedStream) note(err error) {
	if err == nil {
		return
	}
	w.mu.Lock()
	if w.err == nil && !w.done {
		w.err = err
	}
	w.mu.Unlock()
}

// Close may be called more than once.
func (w *watchedStream) Close() error {
	w.mu.Lock()
	again, reason := w.done, w.err
	w.done = true
	w.mu.Unlock()
	if again {
		return nil
	}
	err := w.Conn.Close()
	switch {
	case reason == nil:
		w.closed("closed by this end")
	case errors.Is(reason, io.EOF):
		w.closed("ended by the far end")
	default:
		w.closed(cause(reason))
	}
	return err
}

// idWindow remembers which subflow ids were used, in bounded memory: of those far below the highest it takes none. Ids
// count up, and those whose handshakes are under way at a time are close to each other.
type idWindow struct {
	next uint64 // after the highest that was used
	seen uint64 // bit i: next-1-i was used
}

func (w *idWindow) take(id uint32) bool {
	n := uint64(id)
	if n >= w.next {
		w.seen = w.seen<<(n+1-w.next) | 1
		w.next = n + 1
		return true
	}
	bit := uint64(1) << (w.next - 1 - n) // zero if that is 64 or more
	if bit == 0 || w.seen&bit != 0 {
		return false
	}
	w.seen |= bit
	return true
}

const (
	tombstoneTime = 10 * time.Minute
	maxTombstones = 1024
)

// tombstones remember connections that ended, so that a client that comes back can be told.
type tombstones struct {
	byID  map[connID]tombstone
	order ring.Ring[connID] // by the time of the end
}

type tombstone struct {
	identity

	ended   time.Time
	refusal *RefusedError
}

func (t *tombstones) add(who identity, refusal *RefusedError, now time.Time) {
	if t.byID == nil {
		t.byID = make(map[connID]tombstone)
	}
	t.expire(now)
	if t.order.Len() == maxTombstones {
		delete(t.byID, t.order.Pop())
	}
	t.byID[who.id] = tombstone{identity: who, ended: now, refusal: refusal}
	t.order.Push(who.id)
}

func (t *tombstones) find(id connID, now time.Time) (stone tombstone, ok bool) {
	t.expire(now)
	stone, ok = t.byID[id]
	return stone, ok
}

func (t *tombstones) expire(now time.Time) {
	for t.order.Len() > 0 && now.Sub(t.byID[*t.order.At(0)].ended) >= tombstoneTime {
		delete(t.byID, t.order.Pop())
	}
}
