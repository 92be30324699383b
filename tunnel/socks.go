package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/things-go/go-socks5"
	"github.com/things-go/go-socks5/statute"
	"golang.org/x/crypto/ssh"
)

// SOCKSConfig is the configuration of [ServeSOCKS]. The zero value is ready for use.
type SOCKSConfig struct {
	Logger           *slog.Logger  // nil: no log
	MaxConns         int           // connections at a time; more wait in the listener's backlog. 0: 1024
	Stats            *Stats        // counts the connections; nil: nobody wants to know
	HandshakeTimeout time.Duration // for the client's request. 0: 10 s
}

// ServeSOCKS is a SOCKS5 proxy (RFC 1928) on ln whose connections go through d, until ctx is done; then it closes ln and
// all connections, waits for them, and returns nil. Names are resolved by the bastion. Only CONNECT is supported, and no
// authentication: ln should be on a loopback address, see [Listen].
//
// The protocol is go-socks5's; the resolver, the dialing with its reply codes, and the copying are ours, because the
// library resolves names on this machine, derives reply codes from error texts, ties dials to no context, and does not
// wait for its goroutines.
func ServeSOCKS(ctx context.Context, ln net.Listener, d Dialer, cfg SOCKSConfig) error {
	setDefault(&cfg.HandshakeTimeout, 10*time.Second)
	a := newAcceptor(ln, cfg.MaxConns, cfg.Logger, cfg.Stats)
	return a.serve(ctx, func(ctx context.Context, local net.Conn) {
		s := &socksConn{ctx: ctx, acceptor: a, dialer: d, local: local}
		server := socks5.NewServer(
			socks5.WithResolver(bastionResolves{}),
			socks5.WithConnectHandle(s.connect),
			socks5.WithBindHandle(notSupported),
			socks5.WithAssociateHandle(notSupported),
		)
		_ = local.SetDeadline(time.Now().Add(cfg.HandshakeTimeout))
		stop := context.AfterFunc(ctx, func() { _ = local.SetDeadline(time.Unix(1, 0)) }) // ends the handshake
		s.handshakeEnds = stop
		err := server.ServeConn(local) // it closes local
		stop()
		if err != nil && ctx.Err() == nil {
			a.log.Debug("SOCKS request failed", "client", local.RemoteAddr().String(), "err", err)
		}
	})
}

// socksConn is one client's connection.
type socksConn struct {
	ctx           context.Context // the listener's, which the library does not pass on
	acceptor      *acceptor
	dialer        Dialer
	local         net.Conn
	handshakeEnds func() bool
}

// connect serves one CONNECT request. The reader of the request may have read ahead.
func (s *socksConn) connect(_ context.Context, _ io.Writer, request *socks5.Request) error {
	if !s.handshakeEnds() {
		return context.Cause(s.ctx)
	}
	if err := s.local.SetDeadline(time.Time{}); err != nil {
		return err
	}
	dest := socksDest(request.DestAddr)
	remote, err := s.dialer.Dial(s.ctx, "tcp", dest)
	if err != nil {
		s.acceptor.refuse(s.ctx, dest, err)
		return socks5.SendReply(s.local, replyCode(err), nil)
	}
	// The address that the bastion dialed from is not known, and clients do not use it for CONNECT.
	if err := socks5.SendReply(s.local, statute.RepSuccess, &net.TCPAddr{IP: net.IPv4zero}); err != nil {
		_ = remote.Close()
		return fmt.Errorf("reply to the client: %w", err)
	}
	s.acceptor.splice(s.ctx, &readAhead{asDuplex(s.local), request.Reader}, asDuplex(remote), dest)
	return nil
}

// socksDest returns the destination as the client named it.
func socksDest(a *statute.AddrSpec) string {
	host := a.FQDN
	if host == "" && len(a.IP) > 0 { // a name may be empty on the wire
		host = a.IP.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(a.Port))
}

// replyCode returns the reply of RFC 1928, section 6, for a failed dial. SSH tells a refusal by policy from a failed
// connection by a code; why a connection failed is only in the bastion's words.
func replyCode(err error) uint8 {
	var r *RefusedError
	if !errors.As(err, &r) {
		return statute.RepServerFailure
	}
	switch r.Reason {
	case ssh.Prohibited:
		return statute.RepRuleFailure
	case ssh.ConnectionFailed:
		text := strings.ToLower(r.Message)
		switch {
		case strings.Contains(text, "refused"):
			return statute.RepConnectionRefused
		case strings.Contains(text, "network is unreachable"):
			return statute.RepNetworkUnreachable
		}
		return statute.RepHostUnreachable
	}
	return statute.RepServerFailure
}

// bastionResolves leaves names as they are.
type bastionResolves struct{}

func (bastionResolves) Resolve(ctx context.Context, _ string) (context.Context, net.IP, error) {
	return ctx, nil, nil
}

// notSupported refuses the commands that SSH cannot carry.
func notSupported(_ context.Context, w io.Writer, _ *socks5.Request) error {
	return socks5.SendReply(w, statute.RepCommandNotSupported, nil)
}

// readAhead is a connection whose first bytes a buffered reader has taken.
type readAhead struct {
	Duplex
	r io.Reader
}

func (c *readAhead) Read(p []byte) (int, error) { return c.r.Read(p) }

// SetLinger passes on what makes Close a reset.
func (c *readAhead) SetLinger(sec int) error {
	if l, ok := c.Duplex.(interface{ SetLinger(int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}
