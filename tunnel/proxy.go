package tunnel

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// ProxyConfig is the configuration of [ServeProxy]. The zero value is ready for use.
type ProxyConfig struct {
	Logger           *slog.Logger  // nil: no log
	MaxConns         int           // connections at a time; further ones wait in the listener's backlog. 0: 1024
	Stats            *Stats        // counts the connections; nil: none
	HandshakeTimeout time.Duration // for the client's request, or an HTTP request's header. 0: 10 s

	// Clients must give User and Password, unless both are empty. The proxy then refuses SOCKS4, which has no password.
	User, Password string

	// The PAC file sends Domains and CIDRs through the proxy; see [PAC]. The proxy itself serves all destinations.
	Domains []string
	CIDRs   []netip.Prefix
}

// ServeProxy is a proxy on ln whose connections go through d. When ctx is done, it closes ln and all connections, waits for them,
// and returns nil. A client's first byte tells its protocol: SOCKS5 (RFC 1928, 1929), SOCKS4 and 4a, or HTTP (CONNECT, and requests
// for http:// URLs). The bastion resolves names.
//
// An HTTP client that asks the proxy itself for /proxy.pac or /wpad.dat gets the [PAC] file.
func ServeProxy(ctx context.Context, ln net.Listener, d Dialer, cfg ProxyConfig) error {
	cfg.HandshakeTimeout = cmp.Or(cfg.HandshakeTimeout, 10*time.Second)
	p := &proxyServer{
		acceptor: newAcceptor(ln, cfg.MaxConns, cfg.Logger, cfg.Stats),
		dialer:   d,
		timeout:  cfg.HandshakeTimeout,
		auth:     newProxyAuth(cfg.User, cfg.Password),
		domains:  cfg.Domains,
		cidrs:    cfg.CIDRs,
	}
	p.web = newWebServer(p)
	defer p.web.close() // after serve has waited for all of its connections
	return p.serve(ctx, p.handle)
}

// proxyServer is the state that a ServeProxy's connections share.
type proxyServer struct {
	*acceptor
	dialer  Dialer
	timeout time.Duration
	auth    *proxyAuth // nil: no password
	domains []string
	cidrs   []netip.Prefix
	web     *webServer
}

// handle serves one client. Its deadline covers the handshake; the protocol's handler calls ended before anything that may last.
func (p *proxyServer) handle(ctx context.Context, local net.Conn) {
	c := &clientConn{Conn: local}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(p.timeout))
	h := &greeting{ctx: ctx, conn: c}
	h.stop = context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer h.stop()

	first, err := c.peek()
	switch {
	case err != nil:
	case first == 5:
		err = p.socks5(h)
	case first == 4:
		err = p.socks4(h)
	case 'A' <= first && first <= 'Z', 'a' <= first && first <= 'z':
		if err = h.ended(); err == nil {
			p.web.serve(ctx, c)
		}
	case first == 0x16:
		err = errors.New("it speaks TLS to the proxy: its settings must say http:// or socks5h://, not https://")
	default:
		err = fmt.Errorf("the first byte %#02x begins an unknown protocol", first)
	}
	if err != nil && ctx.Err() == nil {
		p.log.Debug("proxy request failed", "client", c.RemoteAddr().String(), "err", err)
	}
}

// dial opens a connection for a client, and reports a failure.
func (p *proxyServer) dial(ctx context.Context, dest string) (net.Conn, error) {
	err := checkDest(dest)
	if err == nil {
		var remote net.Conn
		if remote, err = p.dialer.Dial(ctx, "tcp", dest); err == nil {
			return remote, nil
		}
	}
	p.refuse(ctx, farText(dest), err)
	return nil, err
}

// maxHost is the longest name in SOCKS5 and DNS.
const maxHost = 255

// checkDest refuses texts that cannot be a destination and would only spoil logs.
func checkDest(dest string) error {
	host, _, err := parseDest("tcp", dest)
	if err == nil && (len(host) > maxHost || !utf8.ValidString(host)) {
		err = errors.New("bad host")
	}
	for _, r := range host {
		if err == nil && (!unicode.IsPrint(r) || r == ' ') {
			err = errors.New("bad host")
		}
	}
	if err != nil {
		return fail.New(fail.Usage, "open a connection to "+farText(dest), err, "name a host and a port from 1 to 65535")
	}
	return nil
}

// greeting is the time until a client has sent its request.
type greeting struct {
	ctx  context.Context // the listener's, which the SOCKS library does not pass on
	conn *clientConn
	stop func() bool
}

// ended lifts the deadline. It fails if the proxy is ending.
func (h *greeting) ended() error {
	if !h.stop() {
		return context.Cause(h.ctx)
	}
	return h.conn.SetDeadline(time.Time{})
}

// clientConn is a client's connection. The proxy can look at its first byte before reading it.
type clientConn struct {
	net.Conn
	first  byte
	peeked bool // first has not been read yet

	web webConn // only for HTTP clients
}

// peek returns the first byte. Call it before Read.
func (c *clientConn) peek() (byte, error) {
	var b [1]byte
	for {
		n, err := c.Conn.Read(b[:])
		if n == 1 {
			c.first, c.peeked = b[0], true
			return c.first, nil
		}
		if err != nil {
			return 0, err
		}
	}
}

func (c *clientConn) Read(p []byte) (int, error) {
	if c.peeked && len(p) > 0 {
		c.peeked = false
		p[0] = c.first
		return 1, nil
	}
	return c.Conn.Read(p)
}

func (c *clientConn) Write(p []byte) (int, error) {
	if c.web.mute {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// Close ends the connection. A client that still sends first gets time to read its answer.
func (c *clientConn) Close() error {
	if c.web.linger.Swap(false) {
		c.drain()
	}
	return c.Conn.Close()
}

// drain ends the direction to the client, then reads until the client ends its own.
func (c *clientConn) drain() {
	_ = c.CloseWrite()
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	for end := time.Now().Add(lingerTotal); time.Now().Before(end); {
		_ = c.SetReadDeadline(time.Now().Add(min(lingerQuiet, time.Until(end))))
		if _, err := c.Conn.Read(buf[:]); err != nil {
			return
		}
	}
}

// CloseWrite ends the direction to the client.
func (c *clientConn) CloseWrite() error { return asDuplex(c.Conn).CloseWrite() }

// SetLinger passes on the setting that makes Close a reset.
func (c *clientConn) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return l.SetLinger(sec)
	}
	return nil
}

// readAhead is a client's connection whose buffered reader has read beyond the request.
type readAhead struct {
	*clientConn
	r *bufio.Reader
}

func (c *readAhead) Read(p []byte) (int, error) {
	if c.r.Buffered() > 0 {
		return c.r.Read(p)
	}
	return c.clientConn.Read(p)
}

// proxyAuth knows the required user and password. Its comparison takes the same time wherever they differ.
type proxyAuth struct{ user, password [sha256.Size]byte }

func newProxyAuth(user, password string) *proxyAuth {
	if user == "" && password == "" {
		return nil
	}
	return &proxyAuth{sha256.Sum256([]byte(user)), sha256.Sum256([]byte(password))}
}

// Valid implements the SOCKS library's CredentialStore.
func (a *proxyAuth) Valid(user, password, _ string) bool {
	u, p := sha256.Sum256([]byte(user)), sha256.Sum256([]byte(password))
	return subtle.ConstantTimeCompare(u[:], a.user[:])&subtle.ConstantTimeCompare(p[:], a.password[:]) == 1
}
