package server

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/audit"
	"github.com/bastion-ssm/bastion/internal/sleep"
	"github.com/bastion-ssm/bastion/sessions/bond"
)

const (
	maxAuthTries = 6
	// acceptPause is the wait after a failed accept. Most likely the process has no free file descriptor.
	acceptPause = 100 * time.Millisecond
	// overdueAfter is how long after its maximum life a server that has not ended says so.
	overdueAfter = time.Minute
)

// Server is bastiond's SSH server. It listens from New on; Run serves.
type Server struct {
	config    Config
	ssh       *ssh.ServerConfig
	hostKey   ssh.PublicKey
	resolver  *net.Resolver
	resolvers []netip.Addr // the servers that resolver asks; refused as destinations unless an entry names them
	listeners []net.Listener
	bonds     []net.Listener                // of the bond port; Run makes bond from them. None: no bond port
	bond      atomic.Pointer[bond.Listener] // nil: none, or Run has not begun
	control   net.Listener                  // nil: none
	sshd      *sshdFront                    // nil: this server speaks SSH itself
	private   ed25519.PrivateKey            // of hostKey; nil: Config has it
	port      int
	bondPort  int           // 0: none
	expiresAt time.Time     // when the server stops at the latest
	grace     time.Duration // after expiresAt, until the log says that the server still runs
	audit     auditor

	resources  *resources
	taskMemory int64 // bytes; 0: unknown
	memory     sync.Mutex
	heapLimit  int64 // as last set; guarded by memory

	halt     context.CancelFunc // ends everything at once
	halted   context.Context    // done after halt
	finished chan struct{}      // closed when Run has returned
	work     sync.WaitGroup     // every goroutine that Run started
	wake     chan struct{}      // capacity 1: wakes the loop in watch or drain

	mu       sync.Mutex
	running  bool
	draining bool
	conns    int                  // SSH connections, authenticated or not
	plain    int                  // of these, those of the SSH port
	clients  map[*client]struct{} // authenticated
	slots    map[*slot]struct{}
	open     int           // channels, open or opening
	number   uint64        // of the last connection
	channels uint64        // number of the last channel
	active   time.Time     // when a client was last connected, or a grant came
	failure  error         // why the server must stop
	granted  chan struct{} // closed and set to nil when a grant is added; nil: no waiter
}

// New checks the configuration, which may fail with a *ConfigError, and listens. The caller must call Run or Close.
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
	if config.SSHD != nil {
		if err = s.startSSHD(); err != nil {
			s.closeListeners()
			return nil, err
		}
	}
	return s, nil
}

// newServer is New without the listeners.
func newServer(config Config) (*Server, error) {
	config.setDefaults()
	if err := config.validate(); err != nil {
		return nil, &ConfigError{err}
	}
	var private ed25519.PrivateKey
	if config.HostKey == nil {
		var err error
		if _, private, err = ed25519.GenerateKey(rand.Reader); err != nil {
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
		config: config, hostKey: config.HostKey.PublicKey(), private: private, resolver: resolver, resolvers: resolvers,
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
	s.expiresAt, s.grace = s.active.Add(config.MaxLife), overdueAfter
	return s, nil
}

// ciphers are those with built-in authentication, fastest first.
var ciphers = []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM, ssh.CipherChaCha20Poly1305}

// Port returns the SSH port.
func (s *Server) Port() int { return s.port }

// HostKey returns the public host key.
func (s *Server) HostKey() ssh.PublicKey { return s.hostKey }

func (s *Server) hostKeyLine() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(s.hostKey)))
}

// Run serves until the server has been idle for too long, has reached its maximum life, or ctx is done. Then it drains: it tells
// its clients, takes no new connections or channels, and waits until all channels are closed, or until the drain's deadline. It
// returns after every connection has ended. The error is nil unless the server had to stop. Call Run once.
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
	overdue := time.AfterFunc(time.Until(s.expiresAt)+s.grace, func() {
		s.audit.write(audit.Record{Event: audit.Overdue, NotAfter: stamp(s.expiresAt), DurationMS: since(began)})
	})
	defer overdue.Stop()
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
	if s.sshd != nil {
		s.work.Go(func() { s.serveNames(s.sshd.names) })
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
	s.audit.write(audit.Record{Event: audit.Stop, Reason: reason, DurationMS: since(began)})
	return err
}

// Close ends everything at once, and waits for a running Run to return.
func (s *Server) Close() error {
	s.mu.Lock()
	running := s.running
	s.mu.Unlock()
	s.halt()
	if running {
		<-s.finished
	} else {
		s.closeListeners()
	}
	return nil
}

func (s *Server) closeListeners() {
	for _, l := range slices.Concat(s.listeners, s.bonds) {
		_ = l.Close()
	}
	if s.control != nil {
		_ = s.control.Close()
	}
	if s.sshd != nil {
		_ = s.sshd.names.Close()
	}
}

// fail ends everything at once because of err. It does not block.
func (s *Server) fail(err error) {
	s.config.Logger.Error("bastiond must stop", "error", err)
	s.mu.Lock()
	s.failure = cmp.Or(s.failure, err)
	s.mu.Unlock()
	s.halt()
}

// notify wakes the loop.
func (s *Server) notify() {
	select {
	case s.wake <- struct{}{}:
	default: // it will look anyway
	}
}

// watch returns the reason to stop once there is one. Until then it ends connections whose grants end.
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

// idleUntil returns when the server will have been idle for too long if nothing happens. It returns false if the server must not
// stop for that.
func (s *Server) idleUntil() (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active.Add(s.config.IdleStop), s.config.IdleStop > 0 && len(s.clients) == 0
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
			r := audit.Record{Event: audit.AuthRefused, Result: audit.Refused, Reason: err.Error(), Conn: number}
			from(&r, conn)
			s.audit.write(r)
			s.work.Go(func() { _ = conn.Close() }) // closing a bond connection takes its time
			continue
		}
		s.work.Go(func() {
			defer s.dismiss()
			if _, bonded := conn.(*bond.Conn); !bonded {
				defer s.countPlain()()
			}
			if s.sshd != nil {
				s.serveBySSHD(s.halted, conn, number)
				return
			}
			s.serveConn(s.halted, conn, number)
		})
	}
}

// admit counts a new connection, if the limits allow one more.
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

// countPlain counts a connection that is a session by itself. The caller calls out at its end.
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
	r := audit.Record{
		Event: audit.Start, Version: s.config.Version, HostKey: ssh.FingerprintSHA256(s.hostKey),
		LifeS: int64(s.config.MaxLife.Seconds()), NotAfter: stamp(s.expiresAt),
		VCPU: s.resources.cpu, MemoryMiB: s.resources.memory / mib,
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
