package rediscluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/tunnel"
)

// handshakeTimeout bounds the TLS handshake with a node, not the wait for the link.
const handshakeTimeout = 30 * time.Second

// maxKept is the most that an empty buffer keeps.
const maxKept = 64 << 10

// dialer opens connections to one node.
type dialer struct {
	cluster *Cluster
	node    *node
}

// Dial connects to the node, whatever addr says: the name by which the node is dialed can become a better one.
func (d dialer) Dial(ctx context.Context, network, _ string) (net.Conn, error) {
	c := d.cluster
	dest := c.dialAddr(d.node)
	raw, err := c.dialer.Dial(ctx, network, dest)
	if err != nil {
		return nil, err
	}
	stream := raw
	if c.cfg.TLS != nil {
		if stream, err = c.handshake(ctx, raw, dest); err != nil {
			_ = raw.Close()
			return nil, err
		}
	}
	d.node.conns.Add(1)
	t := new(tracker)
	out := &conn{Conn: stream, raw: raw, node: d.node, tracker: t, log: c.log.With("node", dest)}
	out.replies = replies{t: t, tls: c.cfg.TLS != nil, tr: func(a announced) (string, int, bool) {
		return c.translate(d.node, a)
	}}
	if g, ok := raw.(goner); ok {
		return goneConn{out, g}, nil
	}
	return out, nil
}

func (c *Cluster) handshake(ctx context.Context, raw net.Conn, dest string) (net.Conn, error) {
	cfg := c.cfg.TLS.Clone()
	if cfg.ServerName == "" {
		host, _, err := net.SplitHostPort(dest)
		if err != nil {
			return nil, err
		}
		cfg.ServerName = host
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	client := tls.Client(raw, cfg)
	err := client.HandshakeContext(ctx)
	var unverified *tls.CertificateVerificationError
	switch {
	case err == nil:
		return client, nil
	case errors.As(err, &unverified):
		return nil, fail.New(fail.Denied, "verify the certificate of "+dest, err,
			"check that the cluster announces host names (cluster-preferred-endpoint-type hostname) that are in its certificate")
	default:
		return nil, fail.New(fail.Lost, "speak TLS with "+dest, err,
			"if the cluster has no in-transit encryption, leave the setting for it away")
	}
}

// goner is a connection that knows when nobody listens any more, as *[tunnel.Conn] does.
type goner interface{ Gone() <-chan struct{} }

// goneConn is a conn over a goner.
type goneConn struct {
	*conn
	goner
}

// conn is a connection to a node, as a client of the forward sees it.
type conn struct {
	net.Conn          // to the node; TLS on it if the cluster has that
	raw      net.Conn // below TLS
	node     *node
	tracker  *tracker
	log      *slog.Logger
	closed   atomic.Bool

	// Of Read alone.
	replies replies
	buf     []byte // what out is a part of
	out     []byte // rewritten, not yet read
	err     error  // of the node's direction, once out has been read
	told    bool   // why replies are not rewritten any more
}

// Read reads what the node sends, rewritten. It is for one goroutine.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(c.out) == 0 {
		if c.err != nil {
			return 0, c.err
		}
		if limit := c.replies.passes(); limit > 0 {
			n, err := c.Conn.Read(p[:min(int64(len(p)), limit)])
			c.replies.passed(n)
			return n, err
		}
		n, err := c.Conn.Read(p)
		if cap(c.buf) > maxKept {
			c.buf = nil
		}
		c.buf = c.replies.feed(c.buf[:0], p[:n])
		if c.err = err; err != nil {
			c.buf = c.replies.flush(c.buf)
		}
		c.out = c.buf
		c.tell()
	}
	n := copy(p, c.out)
	c.out = c.out[n:]
	return n, nil
}

// tell logs, once, that the connection's CLUSTER replies stay as they are.
func (c *conn) tell() {
	if c.told {
		return
	}
	c.tracker.mu.Lock()
	why := c.tracker.lost
	c.tracker.mu.Unlock()
	if why != "" {
		c.told = true
		c.log.Debug("replies to CLUSTER commands are not rewritten on a connection any more", "reason", why)
	}
}

// Write sends p to the node. It is for one goroutine.
func (c *conn) Write(p []byte) (int, error) {
	c.tracker.sent(p) // before the node can answer
	return c.Conn.Write(p)
}

// CloseWrite ends the client's direction.
func (c *conn) CloseWrite() error {
	if w, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return w.CloseWrite()
	}
	return c.Close()
}

// SetLinger passes on what makes Close a reset.
func (c *conn) SetLinger(sec int) error {
	if l, ok := c.raw.(interface{ SetLinger(int) error }); ok {
		return l.SetLinger(sec)
	}
	return fmt.Errorf("linger: %w", errors.ErrUnsupported)
}

// Close ends both directions.
func (c *conn) Close() error {
	if !c.closed.Swap(true) {
		c.node.conns.Add(-1)
	}
	if c.Conn != c.raw {
		_ = c.raw.SetDeadline(time.Unix(1, 0)) // TLS says farewell, which must not wait for a peer that does not read
	}
	return c.Conn.Close()
}

var _ tunnel.Duplex = (*conn)(nil)
