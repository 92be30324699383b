package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"golang.org/x/crypto/ssh"

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
	DefaultBondLinger         = 30 * time.Minute // a lunch break with a closed laptop
	DefaultBondMemory         = bond.DefaultMemory
	DefaultBondMaxConns       = bond.DefaultMaxConns
	DefaultBondMaxSubflows    = bond.DefaultMaxSubflows
)

// LeastIdleConn is the shortest Config.IdleConn. A shorter one would end connections that only wait for an answer.
const LeastIdleConn = 10 * time.Second

// Config configures a Server. Zero fields get the default of the same name.
type Config struct {
	Listen     string // see DefaultListen; a loopback address; port 0 picks a free one
	BondListen string // in the same form, for SSH connections over many subflows; empty: none
	Allow      Allow  // zero: permits nothing
	Limit      *Allow // nil: none; otherwise both lists must permit a destination
	Resolver   string // IP:PORT of a DNS server; empty: the system's, which a Limit with names requires

	// Socket is the path of the control socket; empty: none. The server makes its directory, or requires that it belongs to this
	// user.
	Socket string

	// SSHD, if not nil, serves the SSH port. It requires a Socket and no BondListen, and an Allow of single names, addresses and ports.
	SSHD *SSHD

	IdleStop time.Duration // without a connection; negative: never
	MaxLife  time.Duration // must be longer than Drain
	Drain    time.Duration // from the announcement to the end; negative: none

	// The server ends a forwarded connection that carries nothing for IdleConn, and a client without a connection for IdleConn. 0:
	// never.
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

	BondMemory      int // bytes that all connections of the bond port together may buffer; see bond.ListenerConfig
	BondMaxConns    int // connections of the bond port; MaxConns bounds the SSH connections among them
	BondMaxSubflows int // of one such connection

	Cgroup   string // where the kernel shows the container's control group
	Metadata string // URL of ECS's task metadata endpoint, version 4; empty: none
	// KeepMemoryLimit keeps the heap's limit. Otherwise the server sets it from the task's memory and its sessions.
	KeepMemoryLimit bool

	Version string     // of the program, for replies and the audit log
	HostKey ssh.Signer // nil: made in memory, for the life of the process

	// Audit receives one line of JSON per event. If a write fails, the server stops.
	Audit  io.Writer
	Logger *slog.Logger // nil: none

	// Dial connects to a checked address IP:PORT; nil: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

func (c *Config) setDefaults() {
	c.Listen = cmp.Or(c.Listen, DefaultListen)
	c.IdleStop = cmp.Or(c.IdleStop, DefaultIdleStop)
	c.MaxLife = cmp.Or(c.MaxLife, DefaultMaxLife)
	c.Drain = cmp.Or(c.Drain, DefaultDrain)
	c.ResolveTimeout = cmp.Or(c.ResolveTimeout, DefaultResolveTimeout)
	c.DialTimeout = cmp.Or(c.DialTimeout, DefaultDialTimeout)
	c.HandshakeTimeout = cmp.Or(c.HandshakeTimeout, DefaultHandshakeTimeout)
	c.ClientTimeout = cmp.Or(c.ClientTimeout, DefaultClientTimeout)
	c.BondLinger = cmp.Or(c.BondLinger, DefaultBondLinger)
	c.MaxConns = cmp.Or(c.MaxConns, DefaultMaxConns)
	c.MaxChannels = cmp.Or(c.MaxChannels, DefaultMaxChannels)
	c.MaxChannelsPerConn = cmp.Or(c.MaxChannelsPerConn, DefaultMaxChannelsPerConn)
	c.MaxGrants = cmp.Or(c.MaxGrants, DefaultMaxGrants)
	c.BondMemory = cmp.Or(c.BondMemory, DefaultBondMemory)
	c.BondMaxConns = cmp.Or(c.BondMaxConns, DefaultBondMaxConns)
	c.BondMaxSubflows = cmp.Or(c.BondMaxSubflows, DefaultBondMaxSubflows)
	c.Cgroup = cmp.Or(c.Cgroup, DefaultCgroup)
	c.Version = cmp.Or(c.Version, "unknown")
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	c.Audit = cmp.Or(c.Audit, io.Discard)
	if c.Dial == nil {
		c.Dial = new(net.Dialer).DialContext
	}
}

func (c *Config) validate() error {
	switch {
	case c.Limit != nil && c.Limit.hasNames() && c.Resolver != "":
		// Whoever chooses the resolver chooses the addresses, and so would choose the destinations that the limit permits.
		return fmt.Errorf("resolver %q is refused: the image's list has names, for which only the system's resolver answers",
			c.Resolver)
	case c.SSHD != nil && (c.Socket == "" || c.BondListen != "" || c.HostKey != nil):
		return errors.New("OpenSSH needs a control socket, and has neither a bond port nor another host key")
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

// ConfigError says that the server refuses a configuration, whatever the state of the machine.
type ConfigError struct{ Err error }

func (e *ConfigError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ConfigError) Unwrap() error { return e.Err }
