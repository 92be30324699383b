package tunnel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/things-go/go-socks5"
	"github.com/things-go/go-socks5/statute"
	"golang.org/x/crypto/ssh"
)

// socks5 serves a SOCKS5 client: CONNECT, with a password if one is required.
//
// go-socks5 has the protocol. The resolver, the dialing with its reply codes, and the copying are this package's. The library
// resolves names on this machine, derives reply codes from error texts, ties dials to no context, and does not wait for its
// goroutines.
func (p *proxyServer) socks5(h *greeting) error {
	options := []socks5.Option{
		socks5.WithResolver(bastionResolves{}),
		socks5.WithConnectHandle(func(_ context.Context, _ io.Writer, r *socks5.Request) error { return p.socksConnect(h, r) }),
		socks5.WithBindHandle(notSupported),
		socks5.WithAssociateHandle(notSupported),
	}
	if p.auth != nil {
		options = append(options, socks5.WithCredential(p.auth))
	}
	return socks5.NewServer(options...).ServeConn(h.conn)
}

// socksConnect serves one CONNECT request. The reader of the request may have read ahead.
func (p *proxyServer) socksConnect(h *greeting, request *socks5.Request) error {
	if err := h.ended(); err != nil {
		return err
	}
	dest := socksDest(request.DestAddr)
	remote, err := p.dial(h.ctx, dest)
	if err != nil {
		return socks5.SendReply(h.conn, replyCode(err), nil)
	}
	// The bastion's local address is unknown, and clients do not use it for CONNECT.
	if err := socks5.SendReply(h.conn, statute.RepSuccess, &net.TCPAddr{IP: net.IPv4zero}); err != nil {
		_ = remote.Close()
		return fmt.Errorf("reply to the client: %w", err)
	}
	ahead, ok := request.Reader.(*bufio.Reader)
	if !ok {
		ahead = bufio.NewReader(request.Reader)
	}
	p.splice(h.ctx, &readAhead{h.conn, ahead}, asDuplex(remote), dest)
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

// replyCode returns the reply of RFC 1928, section 6, for a failed dial. SSH has different codes for a refusal by policy and a
// failed connection. Only the bastion's words tell why a connection failed.
func replyCode(err error) uint8 {
	r, ok := errors.AsType[*RefusedError](err)
	if !ok {
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

// bastionResolves leaves names unresolved: the bastion resolves them (server/resolve.go).
type bastionResolves struct{}

func (bastionResolves) Resolve(ctx context.Context, _ string) (context.Context, net.IP, error) {
	return ctx, nil, nil
}

// notSupported refuses commands that SSH cannot carry.
func notSupported(_ context.Context, w io.Writer, _ *socks5.Request) error {
	return socks5.SendReply(w, statute.RepCommandNotSupported, nil)
}
