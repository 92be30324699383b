package server

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/sleep"
	"github.com/bastion-ssm/bastion/sessions/bond"
)

// Defaults of Config.
const (
	DefaultListen             = "localhost:2222"
	DefaultBondListen         = "localhost:2223"
	DefaultSocket             = "/run/bastiond/control.sock"
	DefaultIdleStop           = 30 * time.Minute
	DefaultMaxLife            = 12 * time.Hour
	DefaultDrain              = 25 * time.Second // below the 30 s that ECS waits between SIGTERM and SIGKILL
	DefaultResolveTimeout     = 5 * time.Second
	DefaultDialTimeout        = 10 * time.Second
	DefaultHandshakeTimeout   = 30 * time.Second // a handshake through SSM takes seconds at worst
	DefaultClientTimeout      = 20 * time.Minute // as long as SSM keeps an idle session
	DefaultMaxConns           = 64
	DefaultMaxChannels        = 2048
	DefaultMaxChannelsPerConn = 1024
	DefaultMaxGrants          = 64
	DefaultBondLinger         = 30 * time.Minute // a laptop's lunch
	DefaultBondMemory         = bond.DefaultMemory
	DefaultBondMaxConns       = bond.DefaultMaxConns
	DefaultBondMaxSubflows    = bond.DefaultMaxSubflows
)

const (
	// LeastIdleConn is the shortest Config.IdleConn: less would end connections that only wait for an answer.
	LeastIdleConn = 10 * time.Second

	maxAuthTries = 6
	// acceptPause is the wait after an accept that failed: most likely the process has no descriptor left.
	acceptPause = 100 * time.Millisecond
)

// Config sets a server up. Zero fields get the default of the same name.
type Config struct {
	Listen     string // see DefaultListen; a loopback address; port 0 picks a free one
	BondListen string // in the same form, for SSH connections over many subflows; empty: none
	Allow      Allow  // zero: no destination is permitted
	Limit      *Allow // nil: none; else a destination must be permitted by both lists
	Resolver   string // IP:PORT of a DNS server; empty: the system's, which a Limit with names needs

	// Socket is the path of the control socket. Its directory is made, or must belong to this user. Empty: none.
	Socket string

	IdleStop time.Duration // without a connection; negative: never
	MaxLife  time.Duration // must be longer than Drain
	Drain    time.Duration // from the notice to the end; negative: none

	// IdleConn is how long a forwarded connection may carry nothing, and a client may have none, before it is ended; 0: for
	// ever.
	IdleConn time.Duration

	ResolveTimeout   time.Duration // for one name
	DialTimeout      time.Duration // for one destination, all its addresses
	HandshakeTimeout time.Duration // from the TCP connection to the end of authentication
	ClientTimeout    time.Duration // for the client's answer to a keepalive, while there is a path for it

	// BondLinger is how long a connection without any path to its client lives on, and counts as one.
	BondLinger time.Duration

	MaxConns           int // SSH connections, authenticated or not
	MaxChannels        int // forwarded connections; each holds at most about 2 MiB that its destination has not taken
	MaxChannelsPerConn int
	MaxGrants          int

	BondMemory      int // bytes that connections of the bond port may have buffered, all together; see bond.ListenerConfig
	BondMaxConns    int // connections of the bond port; SSH connections, of which MaxConns says how many there may be
	BondMaxSubflows int // of one of them

	Cgroup   string // where the kernel shows the container's control group
	Metadata string // URL of ECS's task metadata endpoint, version 4; empty: none
	// KeepMemoryLimit leaves the limit of the heap as it is. Otherwise it follows from the task's memory and its sessions.
	KeepMemoryLimit bool

	Version string     // of the program, for replies and the audit log
	HostKey ssh.Signer // nil: made in memory, and gone with the process

	// Audit gets a JSON line per event. When a write fails, the server stops.
	Audit  io.Writer
	Logger *slog.Logger // nil: none

	// Dial connects to an address IP:PORT that has been checked; nil: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

func (c *Config) setDefaults() {
	for _, field := range []struct {
		value *time.Duration
		or    time.Duration
	}{
		{&c.IdleStop, DefaultIdleStop},
		{&c.MaxLife, DefaultMaxLife},
		{&c.Drain, DefaultDrain},
		{&c.ResolveTimeout, DefaultResolveTimeout},
		{&c.DialTimeout, DefaultDialTimeout},
		{&c.HandshakeTimeout, DefaultHandshakeTimeout},
		{&c.ClientTimeout, DefaultClientTimeout},
		{&c.BondLinger, DefaultBondLinger},
	} {
		if *field.value == 0 {
			*field.value = field.or
		}
	}
	for _, field := range []struct {
		value *int
		or    int
	}{
		{&c.MaxConns, DefaultMaxConns},
		{&c.MaxChannels, DefaultMaxChannels},
		{&c.MaxChannelsPerConn, DefaultMaxChannelsPerConn},
		{&c.MaxGrants, DefaultMaxGrants},
		{&c.BondMemory, DefaultBondMemory},
		{&c.BondMaxConns, DefaultBondMaxConns},
		{&c.BondMaxSubflows, DefaultBondMaxSubflows},
	} {
		if *field.value == 0 {
			*field.value = field.or
		}
	}
	if c.Listen == "" {
		c.Listen = DefaultListen
	}
	if c.Cgroup == "" {
		c.Cgroup = DefaultCgroup
	}
	if c.Version == "" {
		c.Version = "unknown"
	}
	if c.Audit == nil {
		c.Audit = io.Discard
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
}

func (c *Config) validate() error {
	switch {
	case c.Limit != nil && c.Limit.hasNames() && c.Resolver != "":
		// Whoever chooses the resolver chooses the addresses, and would so choose what the limit permits.
		return fmt.Errorf("resolver %q is refused: the image's list has names, for which only the system's resolver answers",
			c.Resolver)
	case c.MaxLife <= max(c.Drain, 0):
		return fmt.Errorf("maximum life %v: want more than the drain time, %v", c.MaxLife, c.Drain)
	case c.IdleConn < 0 || c.IdleConn > 0 && c.IdleConn < LeastIdleConn:
		return fmt.Errorf("idle time of connections %v: want at least %v, or 0 for none", c.IdleConn, LeastIdleConn)
	case min(c.ResolveTimeout, c.DialTimeout, c.HandshakeTimeout, c.ClientTimeout, c.BondLinger) < 0:
		return errors.New("a time limit is negative")
	case min(c.MaxConns, c.MaxChannels, c.MaxChannelsPerConn, c.MaxGrants,
		c.BondMemory, c.BondMaxConns, c.BondMaxSubflows) < 0:
		return errors.New("a maximum is negative")
	}
	return nil
}

// A ConfigError says that a configuration is refused, whatever the state of the machine.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ConfigError) Unwrap() error { return e.Err }

// A Server is bastiond's SSH server. It listens from New on; Run serves.
type Server struct {
	config    Config
	ssh       *ssh.ServerConfig
	hostKey   ssh.PublicKey
	resolver  *net.Resolver
	resolvers []netip.Addr // that resolver asks; refused as destinations unless an entry names them
	listeners []net.Listener
	bonds     []net.Listener                // of the bond port; Run makes bond of them. None: no bond port
	bond      atomic.Pointer[bond.Listener] // nil: none, or Run has not begun
	control   net.Listener                  // nil: none
	port      int
	bondPort  int       // 0: none
	expiresAt time.Time // when the server stops at the latest
	audit     auditor

	resources  *resources
	taskMemory int64 // bytes; 0: not known
	memory     sync.Mutex
	heapLimit  int64 // as it was set last; guarded by memory

	halt     context.CancelFunc // ends everything at once
	halted   context.Context    // done when halt was called
	finished chan struct{}      // closed when Run has returned
	work     sync.WaitGroup     // every goroutine that Run started
	wake     chan struct{}      // of capacity 1: something changed that the loop in watch or drain looks at

	mu       sync.Mutex
	running  bool
	draining bool
	conns    int                  // SSH connections, authenticated or not
	plain    int                  // of these, the ones of the SSH port
	clients  map[*client]struct{} // authenticated
	slots    map[*slot]struct{}
	open     int           // channels, open or being opened
	number   uint64        // of the last connection
	channels uint64        // number of the last channel
	active   time.Time     // when a client was last connected, or a grant came
	failure  error         // why the server must stop
	granted  chan struct{} // closed and set to nil when a grant is added; nil: nobody waits for one
}

// New checks the configuration, which may give a *ConfigError, and listens. The caller must call Run or Close.
func New(config Config) (*Server, error) {
	s, err := newServer(config)
	if err != nil {
		return nil, err
	}
	if s.listeners, err = listen(s.config.Listen); err != nil {
		return nil, err
	}
	s.port = portOf(s.listeners[0])
	if config.BondListen != "" {
		if s.bonds, err = listen(config.BondListen); err != nil {
			s.closeListeners()
			return nil, fmt.Errorf("bond: %w", err)
		}
		s.bondPort = portOf(s.bonds[0])
	}
	if config.Socket != "" {
		if s.control, err = listenControl(config.Socket); err != nil {
			s.closeListeners()
			return nil, err
		}
	}
	return s, nil
}

// newServer is New without the listening.
func newServer(config Config) (*Server, error) {
	config.setDefaults()
	if err := config.validate(); err != nil {
		return nil, &ConfigError{err}
	}
	if config.HostKey == nil {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("host key: %w", err)
		}
		if config.HostKey, err = ssh.NewSignerFromSigner(private); err != nil {
			return nil, fmt.Errorf("host key: %w", err)
		}
	}
	resolver, resolvers, err := newResolver(config.Resolver)
	if err != nil {
		return nil, &ConfigError{err}
	}
	s := &Server{
		config: config, hostKey: config.HostKey.PublicKey(), resolver: resolver, resolvers: resolvers,
		finished: make(chan struct{}), wake: make(chan struct{}, 1),
		clients: map[*client]struct{}{}, slots: map[*slot]struct{}{},
	}
	s.audit = auditor{w: config.Audit, failed: func(err error) { s.fail(fmt.Errorf("write the audit log: %w", err)) }}
	s.halted, s.halt = context.WithCancel(context.Background())
	s.ssh = &ssh.ServerConfig{
		Config:                  ssh.Config{Ciphers: ciphers},
		PublicKeyAuthAlgorithms: []string{ssh.KeyAlgoED25519},
		MaxAuthTries:            maxAuthTries,
		ServerVersion:           "SSH-2.0-bastiond",
	}
	s.ssh.AddHostKey(config.HostKey)

	if s.resources, err = findResources(s.halted, config.Cgroup, config.Metadata); err != nil {
		config.Logger.Warn("the task's limits are not known from ECS; those of the kernel are used", "error", err)
	}
	s.taskMemory = s.resources.memoryLimit()
	s.adjustMemory()

	s.active = time.Now()
	s.expiresAt = s.active.Add(config.MaxLife)
	return s, nil
}

// ciphers are those with authentication built in, fastest first.
var ciphers = []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305}

// Port returns the SSH port.
func (s *Server) Port() int { return s.port }

// HostKey returns the public host key.
func (s *Server) HostKey() ssh.PublicKey { return s.hostKey }

func (s *Server) hostKeyLine() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.hostKey)))
}

// Run serves until the server has been idle or has lived for as long as it may, or ctx is done. Then it drains: it
// tells its clients, takes no new connections or channels, and returns once no channel is open, or at the drain's
// deadline. It returns after every connection has ended. The error is nil unless the server had to stop. Run is called
// once.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.running || s.halted.Err() != nil {
		s.mu.Unlock()
		return errors.New("the server has already run or been closed")
	}
	s.running = true
	s.mu.Unlock()
	defer close(s.finished)

	began := time.Now()
	s.auditStart()
	for _, l := range s.listeners {
		s.work.Go(func() { s.accept(l) })
	}
	if len(s.bonds) > 0 {
		l := s.listenBond()
		s.bond.Store(l)
		s.work.Go(func() { s.accept(l) })
	}
	if s.control != nil {
		s.work.Go(func() { s.serveControl(s.control) })
	}

	reason := s.watch(ctx)
	s.drain(reason)
	s.halt()
	s.closeListeners()
	if l := s.bond.Load(); l != nil {
		_ = l.Close() // waits
	}
	s.work.Wait()

	s.mu.Lock()
	err := s.failure
	s.mu.Unlock()
	s.audit.write(record{Event: eventStop, Reason: reason, DurationMS: since(began)})
	return err
}

// Close ends everything at once, and waits for Run to return if it is running.
func (s *Server) Close() error {
	s.mu.Lock()
	running := s.running
	s.mu.Unlock()
	s.halt()
	if running {
		<-s.finished
		return nil
	}
	s.closeListeners()
	return nil
}

func (s *Server) closeListeners() {
	for _, l := range slices.Concat(s.listeners, s.bonds) {
		_ = l.Close()
	}
	if s.control != nil {
		_ = s.control.Close()
	}
}

// fail ends everything at once because of err. It does not block.
func (s *Server) fail(err error) {
	s.config.Logger.Error("bastiond must stop", "error", err)
	s.mu.Lock()
	if s.failure == nil {
		s.failure = err
	}
	s.mu.Unlock()
	s.halt()
}

// notify makes the loop look again.
func (s *Server) notify() {
	select {
	case s.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// watch returns the reason to stop when there is one. Until then it ends connections whose grants end.
func (s *Server) watch(ctx context.Context) (reason string) {
	drainAt := s.expiresAt.Add(-max(0, s.config.Drain))
	for {
		now := time.Now()
		next := s.endExpired(now)
		if next.IsZero() || drainAt.Before(next) {
			next = drainAt
		}
		idleAt, idle := s.idleUntil()
		switch {
		case !now.Before(drainAt):
			return "maximum life"
		case idle && !now.Before(idleAt):
			return "idle"
		case idle && idleAt.Before(next):
			next = idleAt
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-timer.C:
		case <-s.wake:
		case <-ctx.Done():
			timer.Stop()
			return "told to stop"
		case <-s.halted.Done():
			timer.Stop()
			return "closed"
		}
		timer.Stop()
	}
}

// idleUntil returns when the server will have been idle for too long, if nothing happens and it may stop for that.
func (s *Server) idleUntil() (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active.Add(s.config.IdleStop), s.config.IdleStop > 0 && len(s.clients) == 0
}

// drain tells the clients to go and waits until no channel is open, at most until the deadline.
func (s *Server) drain(reason string) {
	now := time.Now()
	deadline := now.Add(max(0, s.config.Drain)) // by watch's doing not after expiresAt
	s.mu.Lock()
	s.draining = true
	clients := make([]*client, 0, len(s.clients))
	for c := range s.clients {
		clients = append(clients, c)
	}
	s.mu.Unlock()
	for _, l := range s.listeners {
		_ = l.Close()
	}
	if l := s.bond.Load(); l != nil {
		l.Drain() // clients that have lost their paths may come back, to be told and to finish
	}
	s.audit.write(record{Event: eventDrain, Reason: reason, Deadline: stamp(deadline)})
	var told sync.WaitGroup
	var notices sync.WaitGroup
	for _, c := range clients {
		notices.Go(func() { c.drain(deadline.Sub(now)) }) // a client that does not read blocks its own until it is ended
	}
	noticed := make(chan struct{})
	told.Go(func() {
		notices.Wait()
		close(noticed)
	})

	for {
		next := s.endExpired(time.Now())
		if next.IsZero() || deadline.Before(next) {
			next = deadline
		}
		s.mu.Lock()
		open := s.open
		s.mu.Unlock()
		if open == 0 || !time.Now().Before(deadline) || s.halted.Err() != nil {
			break
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-timer.C:
		case <-s.wake:
		case <-s.halted.Done():
		}
		timer.Stop()
	}
	awaitNotices(noticed, now.Add(noticeTime), s.halted.Done())
	for _, c := range clients {
		told.Go(func() { c.end("the bastion stopped: " + reason) })
	}
	told.Wait()
}

// noticeTime is how long the end of the clients' connections waits, from the begin of the drain, for the notices to them: the drain
// of a bastion without channels is over at once. A client that does not hear of the drain takes its bastion for lost.
const noticeTime = 2 * time.Second

// awaitNotices waits until the notices have been sent, until the given time at most.
func awaitNotices(sent <-chan struct{}, until time.Time, halted <-chan struct{}) {
	late := time.NewTimer(time.Until(until))
	defer late.Stop()
	select {
	case <-sent:
	case <-late.C:
	case <-halted:
	}
}

// accept takes connections until the listener is closed.
func (s *Server) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			s.config.Logger.Warn("accept failed", "error", err)
			if sleep.For(s.halted, acceptPause) != nil {
				return
			}
			continue
		}
		number, err := s.admit()
		if err != nil {
			r := record{Event: eventAuthRefused, Result: resultRefused, Reason: err.Error(), Conn: number}
			r.from(conn)
			s.audit.write(r)
			s.work.Go(func() { _ = conn.Close() }) // that of a bond connection takes its time
			continue
		}
		s.work.Go(func() {
			defer s.dismiss()
			if _, bonded := conn.(*bond.Conn); !bonded {
				defer s.countPlain()()
			}
			s.serveConn(s.halted, conn, number)
		})
	}
}

// admit counts a connection in, if there may be one more.
func (s *Server) admit() (number uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.number++
	switch {
	case s.draining:
		return s.number, errDraining
	case s.conns >= s.config.MaxConns:
		return s.number, fmt.Errorf("the bastion has %d connections, as many as it may", s.conns)
	}
	s.conns++
	return s.number, nil
}

func (s *Server) dismiss() {
	s.mu.Lock()
	s.conns--
	s.mu.Unlock()
}

// countPlain counts in a connection that is a session by itself. What it returns counts it out.
func (s *Server) countPlain() (out func()) {
	count := func(n int) {
		s.mu.Lock()
		s.plain += n
		s.mu.Unlock()
		s.adjustMemory()
	}
	count(1)
	return func() { count(-1) }
}

func (s *Server) auditStart() {
	r := record{
		Event: eventStart, Version: s.config.Version, HostKey: ssh.FingerprintSHA256(s.hostKey), NotAfter: stamp(s.expiresAt),
	}
	for _, l := range s.listeners {
		r.Listen = append(r.Listen, l.Addr().String())
	}
	for _, l := range s.bonds {
		r.BondListen = append(r.BondListen, l.Addr().String())
	}
	r.Allow = s.config.Allow.texts()
	if s.config.Limit != nil {
		r.Limit = s.config.Limit.texts()
	}
	s.audit.write(r)
	if s.config.Allow.Empty() {
		s.config.Logger.Warn("no destination is permitted: the allow-list is empty")
	}
	for _, l := range s.listeners {
		s.config.Logger.Info("listening", "address", l.Addr().String())
	}
	for _, l := range s.bonds {
		s.config.Logger.Info("listening for bond connections", "address", l.Addr().String())
	}
}
