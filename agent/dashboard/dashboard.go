package dashboard

import (
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

// Backend is the agent, as the dashboard needs it.
type Backend interface {
	api.Opener
	// State returns what there is.
	State() api.State
	// Wait returns the state once its revision is not after, and at the latest when ctx is done.
	Wait(ctx context.Context, after uint64) api.State
	// Stop ends the forward with the name and returns it.
	Stop(name string) ([]api.Forward, error)
	// Bastions asks AWS.
	Bastions(ctx context.Context) []api.Account
}

// Options are what a Server needs besides its Backend.
type Options struct {
	Logger *slog.Logger // nil: no log
	// Dir is a directory that only the user can enter, for the pages that lead browsers to the dashboard without its
	// address on a command line, which all users can read. Empty: there are none.
	Dir string
}

// Bounds of what those who connect can take.
const (
	maxConns   = 256
	maxStreams = 32
	maxHeader  = 16 << 10
	maxBody    = 64 << 10

	headerTimeout = 10 * time.Second
	bodyTimeout   = 30 * time.Second
	idleTimeout   = 2 * time.Minute
	writeTimeout  = 15 * time.Second // of one message to a browser
)

// Server is a dashboard. It serves from New to Close.
type Server struct {
	backend Backend
	options Options
	log     *slog.Logger
	addr    string // the listener's: the only Host
	access  access
	http    *http.Server
	streams chan struct{} // a place for each
	aws     lookup

	ctx    context.Context // of all that goes on; ends at Close
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	tasks  sync.WaitGroup // grows only under mu, and not once closed
}

// Listen listens on a loopback address and port (0: any that is free). It refuses every other address.
func Listen(ctx context.Context, addr string) (net.Listener, error) {
	op := "serve the dashboard on " + addr
	const next = "give a loopback address and a port, such as 127.0.0.1:0"
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, fail.New(fail.Usage, op, fmt.Errorf("%q is no address with a port", addr), next)
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

// New serves the dashboard of b on ln, which it closes, until Close.
func New(b Backend, ln net.Listener, o Options) *Server {
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
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
		if err := s.http.Serve(
			&ownUsers{Listener: netutil.LimitListener(ln, maxConns), log: log},
		); !errors.Is(
			err,
			http.ErrServerClosed,
		) {
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

// begin counts a task that Close waits for, until done is called. It reports false once the server is closed.
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

// ownUsers is a listener that takes the connections of this process's user, and root's, where the system tells whose
// one is.
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
