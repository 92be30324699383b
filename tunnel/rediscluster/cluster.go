package rediscluster

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/tunnel"
)

const (
	defaultMaxNodes = 512 // ElastiCache's clusters have at most 500
	maxNames        = 8   // by which a node is known
	keepIdle        = 10 * time.Minute
)

// Config is the configuration of a Cluster. The zero value is ready for use.
type Config struct {
	// Forward is for each listener: Stats counts them all together, MaxConns is for each.
	Forward tunnel.ForwardConfig
	// TLS makes the forward speak TLS with the nodes; its clients speak without. A node's certificate must be for the host
	// by which the node was announced, or for TLS.ServerName if that is set. nil: no TLS.
	TLS *tls.Config
	// Host is the loopback address of the nodes' listeners. "": that of the first listener, 127.0.0.1 if it has none.
	Host string
	// MaxNodes bounds the listeners. 0: 512
	MaxNodes int
}

// Node is a listener and the node behind it.
type Node struct {
	Target string // host:port as the bastion sees it
	Listen string // local address
	Conns  int64  // now
}

// Cluster is a forward of a Redis or Valkey cluster.
type Cluster struct {
	dialer tunnel.Dialer
	dest   string
	cfg    Config
	log    *slog.Logger

	mu     sync.Mutex
	ctx    context.Context // of Serve; nil before it and after it
	host   string
	nodes  []*node // the first is that of the first listener
	byName map[string]*node
	full   bool // and said so
	serves sync.WaitGroup
}

// node is a listener. Its fields are the Cluster's, but for conns.
type node struct {
	dial  string // host:port; of the first one always the destination
	firm  bool   // dial is the name that the cluster prefers
	names []string
	local netip.AddrPort
	seen  time.Time // announced
	end   context.CancelFunc
	conns atomic.Int64
}

// New returns a forward of the cluster that dest, a host:port as the bastion sees it, is a node or the configuration
// endpoint of.
func New(d tunnel.Dialer, dest string, cfg Config) (*Cluster, error) {
	host, port, err := net.SplitHostPort(dest)
	if err == nil && !isHost(host) {
		err = fmt.Errorf("%q is no host", host)
	}
	if _, ok := parsePort(port); err == nil && !ok {
		err = fmt.Errorf("%q is no port", port)
	}
	if err != nil {
		return nil, fail.New(fail.Usage, "forward to "+dest, err, "give the destination as host:port")
	}
	if cfg.MaxNodes <= 0 {
		cfg.MaxNodes = defaultMaxNodes
	}
	log := cmp.Or(cfg.Forward.Logger, slog.New(slog.DiscardHandler))
	return &Cluster{dialer: d, dest: dest, cfg: cfg, log: log}, nil
}

// Serve accepts clients from ln, and from the listeners that it opens for the nodes. When ctx is done, it closes all listeners and
// connections, waits for them, and returns nil. It returns an error only if ln breaks. It may be called once.
func (c *Cluster) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first, err := c.begin(ctx, ln)
	if err != nil {
		_ = ln.Close()
		return err
	}
	err = tunnel.Forward(ctx, ln, dialer{c, first}, c.dest, c.cfg.Forward)
	c.mu.Lock()
	c.ctx = nil // no more nodes
	c.mu.Unlock()
	cancel()
	c.serves.Wait()
	return err
}

func (c *Cluster) begin(ctx context.Context, ln net.Listener) (*node, error) {
	local, err := netip.ParseAddrPort(ln.Addr().String())
	if err != nil {
		return nil, fmt.Errorf("listener of a cluster: %w", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.host = c.cfg.Host
	switch {
	case c.host != "":
	case local.Addr().IsUnspecified():
		c.host = "127.0.0.1"
	default:
		c.host = local.Addr().String()
	}
	if host, err := netip.ParseAddr(c.host); err == nil && local.Addr().IsUnspecified() {
		local = netip.AddrPortFrom(host, local.Port())
	}
	first := &node{dial: c.dest, local: local, end: func() {}}
	c.ctx, c.nodes, c.byName = ctx, []*node{first}, make(map[string]*node)
	c.call(first, c.dest)
	return first, nil
}

// Nodes returns the listeners, that of Serve first.
func (c *Cluster) Nodes() []Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Node, 0, len(c.nodes))
	for _, n := range c.nodes {
		out = append(out, Node{Target: n.dial, Listen: n.local.String(), Conns: n.conns.Load()})
	}
	if len(out) > 1 {
		slices.SortFunc(out[1:], func(a, b Node) int { return cmp.Compare(a.Target, b.Target) })
	}
	return out
}

func (c *Cluster) dialAddr(n *node) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return n.dial
}

// translate returns the address of the listener for a node that another one announced. It opens the listener if needed.
func (c *Cluster) translate(from *node, a announced) (string, int, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	host := a.host
	if host == "" {
		host, _, _ = net.SplitHostPort(from.dial)
	}
	if c.ctx == nil || c.ctx.Err() != nil || !isHost(host) || a.port < 1 {
		return "", 0, false
	}
	at := func(host string) string { return net.JoinHostPort(strings.ToLower(host), strconv.Itoa(a.port)) }
	primary := at(host)
	var also []string
	for _, name := range a.also {
		if isHost(name) && len(also) < maxNames/2 {
			also = append(also, at(name))
		}
	}
	n := c.byName[primary]
	for _, name := range also {
		if m := c.byName[name]; n == nil && m != nil && (a.weak || !m.firm) {
			n = m
		}
	}
	if n == nil {
		dial := primary
		if a.weak && c.cfg.TLS != nil && len(also) > 0 {
			dial = also[0] // a certificate is for a name
		}
		if n = c.open(dial); n == nil {
			return "", 0, false
		}
	}
	if !a.weak && !n.firm {
		n.firm = true
		if n != c.nodes[0] {
			n.dial = primary
		}
	}
	n.seen = time.Now()
	c.call(n, append(also, primary)...)
	return n.local.Addr().String(), int(n.local.Port()), true
}

// call makes names the names of n and no other node; the newest stay.
func (c *Cluster) call(n *node, names ...string) {
	for _, name := range names {
		if other := c.byName[name]; other != nil && other != n {
			other.names = slices.DeleteFunc(other.names, func(s string) bool { return s == name })
		}
		n.names = append(slices.DeleteFunc(n.names, func(s string) bool { return s == name }), name)
		c.byName[name] = n
	}
	for len(n.names) > maxNames {
		delete(c.byName, n.names[0])
		n.names = n.names[1:]
	}
}

// open starts a listener for a node. It returns nil if it cannot.
func (c *Cluster) open(dial string) *node {
	if len(c.nodes) > c.cfg.MaxNodes && !c.evict() {
		if !c.full {
			c.full = true
			c.log.Warn("the cluster names more nodes than there may be listeners: the others keep their own addresses",
				"max", c.cfg.MaxNodes)
		}
		return nil
	}
	var lc net.ListenConfig
	ln, err := lc.Listen(c.ctx, "tcp", net.JoinHostPort(c.host, "0"))
	if err != nil {
		c.log.Warn("cannot listen for a node, which keeps its own address", "node", dial, "err", err)
		return nil
	}
	local, err := netip.ParseAddrPort(ln.Addr().String())
	if err != nil {
		_ = ln.Close()
		return nil
	}
	ctx, end := context.WithCancel(c.ctx)
	n := &node{dial: dial, local: local, end: end}
	c.nodes = append(c.nodes, n)
	c.log.Info("a node of the cluster has a listener", "node", dial, "listen", local.String())
	// The counter of serves is not zero: whoever announces a node is a connection of a listener that is waited for.
	c.serves.Go(func() {
		defer end()
		if err := tunnel.Forward(ctx, ln, dialer{c, n}, dial, c.cfg.Forward); err != nil {
			c.log.Warn("the listener of a node is broken", "node", dial, "err", err)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.forget(n)
	})
	return n
}

// evict closes an unused listener: the one announced longest ago, if that is long enough.
func (c *Cluster) evict() bool {
	var oldest *node
	for _, n := range c.nodes[1:] {
		if n.conns.Load() == 0 && time.Since(n.seen) > keepIdle && (oldest == nil || n.seen.Before(oldest.seen)) {
			oldest = n
		}
	}
	if oldest == nil {
		return false
	}
	oldest.end()
	c.forget(oldest)
	return true
}

func (c *Cluster) forget(n *node) {
	for _, name := range n.names {
		delete(c.byName, name)
	}
	n.names = nil
	c.nodes = slices.DeleteFunc(c.nodes, func(m *node) bool { return m == n })
}
