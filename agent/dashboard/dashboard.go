package dashboard

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/netutil"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/private"
)

// Backend is the part of the agent that the dashboard uses.
type Backend interface {
	api.Opener
	// State returns the agent's state.
	State() api.State
	// Wait returns the state once its revision differs from after, or once ctx is done.
	Wait(ctx context.Context, after uint64) api.State
	// Stop ends and returns the forward with the given reference.
	Stop(name string) ([]api.Forward, error)
	// Bastions asks AWS for the bastions of all links.
	Bastions(ctx context.Context) []api.Account
}

// Options are the options of a Server.
type Options struct {
	Logger *slog.Logger // nil: discard the log
	// Dir is a directory that only the user can enter. Its pages lead browsers to the dashboard, so that the secret URL stays
	// off command lines, which all users can read. Empty: no pages.
	Dir string
}

// Bounds on the resources of clients.
const (
	maxConns   = 256
	maxStreams = 32
	maxHeader  = 16 << 10
	maxBody    = 64 << 10

	headerTimeout = 10 * time.Second
	bodyTimeout   = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	writeTimeout  = 15 * time.Second // for one message to a browser
)

// Server is a dashboard. It serves from New to Close.
type Server struct {
	backend Backend
	options Options
	log     *slog.Logger
	addr    string // the listener's address, the only accepted Host
	access  access
	http    *http.Server
	streams chan struct{} // one place for each stream of frames
	aws     lookup

	ctx    context.Context // context of all requests; ends at Close
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	tasks  sync.WaitGroup // grows only under mu, and not once closed
}

// Listen listens on a loopback address and port (0: any free port). It refuses other addresses.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	op := "serve the dashboard on " + addr
	const next = "give a loopback address and a port, such as 127.0.0.1:0"
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fail.New(fail.Usage, op, fmt.Errorf("%q is not an address with a port", addr), next)
	}
	if !ap.Addr().IsLoopback() || ap.Addr().Zone() != "" || ap.Addr().Is4In6() {
		return nil, fail.New(fail.Usage, op, errors.New("other machines could reach it"), next)
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, fail.New(fail.PortInUse, op, err, "choose another port, or 0 for any that is free")
	}
	return ln, nil
}

// New serves b's dashboard on ln until Close, which closes ln.
func New(b Backend, ln net.Listener, o Options) *Server {
	log := cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	s := &Server{backend: b, options: o, log: log, addr: ln.Addr().String(), streams: make(chan struct{}, maxStreams)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.http = &http.Server{
		Handler:           s.handler(),
		BaseContext:       func(net.Listener) context.Context { return s.ctx },
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       bodyTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	s.tasks.Go(func() {
		if err := s.http.Serve(&ownUsers{Listener: netutil.LimitListener(ln, maxConns), log: log}); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the dashboard has stopped", "err", err)
		}
	})
	return s
}

// Addr returns the address that the dashboard is served on.
func (s *Server) Addr() string { return s.addr }

// Close ends the dashboard, its sessions and all requests, and waits for them.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	err := s.http.Close()
	s.tasks.Wait()
	s.access.close()
	return err
}

// begin counts a task until the caller calls done; Close waits for it. It reports false once the Server is closed.
func (s *Server) begin() (done func(), ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false
	}
	s.tasks.Add(1)
	return s.tasks.Done, true
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // it never fails
	return b
}

// ownUsers is a listener that accepts connections of this process's user and of root only. It accepts all connections if the
// system does not tell their user.
type ownUsers struct {
	net.Listener
	log *slog.Logger
}

func (l *ownUsers) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if private.IsOwnTCP(conn.RemoteAddr(), conn.LocalAddr()) {
			return conn, nil
		}
		l.log.Warn("another user's connection to the dashboard is refused", "from", conn.RemoteAddr().String())
		_ = conn.Close()
	}
}
