package node

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/xtaci/smux"

	"github.com/bastion-ssm/bastion/sessions/transport"
)

// Handler serves one connection of a session's client to a port. It returns when the connection has ended; then the node closes conn.
// ctx is done at the session's end.
type Handler func(ctx context.Context, task Task, conn net.Conn)

// Limits bound a session's memory. A zero value means the default.
type Limits struct {
	// SendWindow bounds the bytes in flight. Default 1 MiB.
	SendWindow int
	// MaxPayload bounds the bytes of a message. Default 1024, which is what every client takes.
	MaxPayload int
	// WriteBuffer bounds the bytes written but not sent yet. Default 64 KiB.
	WriteBuffer int
	// ReadBuffer bounds the unread bytes, softly: above it messages stay on the websocket, and above four times as much the node
	// refuses them. Default 256 KiB.
	ReadBuffer int
	// ReorderBuffer bounds the bytes of messages that wait for missing ones. Default 4 MiB.
	ReorderBuffer int
}

const (
	defaultPingInterval, defaultPingTimeout = 20 * time.Second, 10 * time.Second

	readHardFactor = 4
	reorderSpan    = 1 << 14 // messages
	mostStreams    = 256     // connections of one client that multiplexes them
)

func (l Limits) withDefaults() Limits {
	return Limits{
		SendWindow: cmp.Or(l.SendWindow, 1<<20), MaxPayload: cmp.Or(l.MaxPayload, 1024), WriteBuffer: cmp.Or(l.WriteBuffer, 64<<10),
		ReadBuffer: cmp.Or(l.ReadBuffer, 256<<10), ReorderBuffer: cmp.Or(l.ReorderBuffer, 4<<20),
	}
}

// Config has the settings of a session's data channel.
type Config struct {
	// Dial makes a websocket of the data channel, the first and each that takes the place of a lost one.
	Dial func(context.Context) (transport.Socket, error)
	// Handler serves the session's port. Nil means that nobody does.
	Handler Handler
	Limits  Limits
	// ResumeTimeout is how long a websocket may be lost before the session ends. Default 5 min.
	ResumeTimeout time.Duration
	// PingInterval and PingTimeout apply to websocket pings. Default 20 s and 10 s.
	PingInterval, PingTimeout time.Duration
	Logger                    *slog.Logger // nil: none
}

// session is a running session. Its driver's lock guards the machine.
type session struct {
	task     Task
	cfg      Config
	log      *slog.Logger
	run      *transport.Driver
	m        *machine
	readable sync.Cond // signals data, an end, or an expired deadline
	writable sync.Cond
	finished chan struct{}
	ctx      context.Context // of the handlers; done at the session's end
	cancel   context.CancelFunc
	handlers sync.WaitGroup
}

// Serve serves a session until its end, and returns how it ended. It returns when all handlers have returned. When ctx is done, the
// session ends.
func Serve(ctx context.Context, task Task, cfg Config) Result {
	now := time.Now()
	s := &session{task: task, cfg: cfg, log: cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)).With("session", task.SessionID)}
	s.m = newMachine(machineConfig{
		task: task, served: cfg.Handler != nil, limits: cfg.Limits.withDefaults(),
		resumeTimeout: cmp.Or(cfg.ResumeTimeout, 5*time.Minute),
		pingInterval:  cmp.Or(cfg.PingInterval, defaultPingInterval), pingTimeout: cmp.Or(cfg.PingTimeout, defaultPingTimeout),
	}, rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())), now)
	s.finished = make(chan struct{})
	s.run = transport.NewDriver(transport.Config{
		Machine: s.m, Dial: s.dial, Changed: s.changed, Ended: s.ended, Finished: func() { close(s.finished) }, Log: s.log,
	})
	s.readable.L, s.writable.L = s.run, s.run
	s.ctx, s.cancel = context.WithCancel(ctx)
	defer s.cancel()
	stop := context.AfterFunc(ctx, s.abort)
	defer stop()
	s.run.Start(now)
	<-s.finished
	s.handlers.Wait()
	return s.m.result
}

// dialTimeout bounds the making of a websocket.
const dialTimeout = 15 * time.Second

func (s *session) dial(ctx context.Context) (transport.Socket, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	return s.cfg.Dial(ctx)
}

// abort ends the session: the node goes.
func (s *session) abort() {
	s.run.Lock()
	defer s.run.Unlock()
	s.m.finish(Result{statusFailed, "the node has stopped"})
	s.run.Settle(time.Now())
}

// changed serves the driver: it hands over connections, and wakes those who wait for them.
func (s *session) changed() {
	f := s.m.takeFlow()
	if f != nil {
		c := &conn{s: s, flow: f}
		if s.m.mux {
			s.handlers.Go(func() { s.serveMux(c, s.m.keepAlive) })
		} else {
			s.handlers.Go(func() { s.serve(c) })
		}
	}
	changed := f != nil || s.m.flow == nil
	if changed || s.m.unread() > 0 {
		s.readable.Broadcast()
	}
	if changed || s.m.writable(s.m.flow) > 0 {
		s.writable.Broadcast()
	}
}

// ended serves the driver: it tells all handlers that the session has ended.
func (s *session) ended() {
	s.log.Debug("session ended", "status", s.m.result.Status, "output", s.m.result.Output)
	s.readable.Broadcast()
	s.writable.Broadcast()
	s.cancel()
}

// serve hands a connection to the port's handler.
func (s *session) serve(c net.Conn) {
	defer func() { _ = c.Close() }() // the handler may have closed it
	s.cfg.Handler(s.ctx, s.task, c)
}

// serveMux serves the connections that a client multiplexes in one, until that ends.
func (s *session) serveMux(c *conn, keepAlive bool) {
	cfg := smux.DefaultConfig()
	cfg.KeepAliveDisabled = !keepAlive
	mux, err := smux.Server(c, cfg)
	if err != nil { // not with this configuration
		s.log.Warn("no multiplexer", "err", err)
		_ = c.Close()
		return
	}
	var streams sync.WaitGroup
	places := make(chan struct{}, mostStreams)
	for {
		stream, err := mux.AcceptStream()
		if err != nil {
			break
		}
		select {
		case places <- struct{}{}:
		default:
			s.refuse(stream)
			continue
		}
		if s.cfg.Handler == nil {
			<-places
			s.refuse(stream)
			continue
		}
		streams.Go(func() {
			defer func() { <-places }()
			s.serve(stream)
		})
	}
	_ = mux.Close() // it closes c too, and ends the streams
	streams.Wait()
}

// refuse tells the client that its connection to the port has failed.
func (s *session) refuse(stream net.Conn) {
	s.run.Lock()
	s.m.connectError()
	s.run.Settle(time.Now())
	s.run.Unlock()
	_ = stream.Close()
}
