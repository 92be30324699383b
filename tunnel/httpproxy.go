package tunnel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/internal/fail"
)

const (
	maxRequestHeader  = 64 << 10
	maxResponseHeader = 256 << 10
	webIdle           = 90 * time.Second // of a kept connection, on either side
)

// webServer serves clients that speak HTTP. net/http reads the requests, and net/http/httputil forwards them: framing, limits,
// hop-by-hop headers and upgrades have too many traps for a parser of our own.
type webServer struct {
	proxy   *proxyServer
	server  *http.Server
	reverse *httputil.ReverseProxy
	conns   chan *clientConn // to the server's Accept
	stop    chan struct{}    // closed to end Accept
	once    sync.Once
	running sync.WaitGroup
}

// webConn is the HTTP part of a client's connection.
type webConn struct {
	ctx   context.Context // the listener's
	ended chan struct{}   // closed after the last use of the connection
	once  sync.Once

	// hijacked says that the server has given up the connection, which ends with the request: a tunnel, or an upgrade. The
	// request's goroutine owns it.
	hijacked bool

	transport *http.Transport // of this connection alone: one client's proof to a site (NTLM) must not serve another client
	remotes   sync.WaitGroup  // dials of transport, and its connections

	mute   bool        // discards writes; the request's goroutine sets it around one call
	linger atomic.Bool // the client may still be sending a body although it has its answer: Close lets the body end
}

type clientKey struct{} // of a request's context: its *clientConn

func newWebServer(p *proxyServer) *webServer {
	s := &webServer{proxy: p, conns: make(chan *clientConn), stop: make(chan struct{})}
	errorLog := slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)
	s.server = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: p.timeout,
		IdleTimeout:       webIdle,
		MaxHeaderBytes:    maxRequestHeader,
		ErrorLog:          errorLog,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, clientKey{}, c)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			switch web := &c.(*clientConn).web; state {
			case http.StateClosed:
				web.end()
			case http.StateHijacked:
				web.hijacked = true
			}
		},
	}
	s.reverse = &httputil.ReverseProxy{
		Rewrite:       prepare,
		Transport:     byClient{},
		FlushInterval: -1, // forward events and progress at once
		ErrorHandler:  s.notForwarded,
		ErrorLog:      errorLog,
	}
	s.running.Go(func() { _ = s.server.Serve(s) })
	return s
}

// Accept, Close and Addr make a net.Listener of the connections that the proxy's own listener accepts.
func (s *webServer) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.stop:
		return nil, net.ErrClosed
	}
}

// Close ends Accept.
func (s *webServer) Close() error {
	s.once.Do(func() { close(s.stop) })
	return nil
}

// Addr returns the proxy's address.
func (s *webServer) Addr() net.Addr { return s.proxy.ln.Addr() }

// close ends the server, which has no more connections.
func (s *webServer) close() {
	_ = s.server.Close()
	s.running.Wait()
}

// serve serves one client until its connection has ended.
func (s *webServer) serve(ctx context.Context, c *clientConn) {
	c.web.begin(ctx, s.newTransport(c))
	stop := context.AfterFunc(ctx, func() {
		reset(c)
		_ = c.Conn.Close()
	})
	defer stop()
	select {
	case s.conns <- c:
		<-c.web.ended
	case <-ctx.Done():
	}
	c.web.transport.CloseIdleConnections()
	c.web.remotes.Wait()
}

func (w *webConn) begin(ctx context.Context, transport *http.Transport) {
	w.ctx, w.ended, w.transport = ctx, make(chan struct{}), transport
}

func (w *webConn) end() { w.once.Do(func() { close(w.ended) }) }

// ServeHTTP serves one request.
func (s *webServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(clientKey{}).(*clientConn)
	defer func() {
		if c.web.hijacked {
			c.web.end()
		}
	}()
	// A request ends when the proxy does.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(c.web.ctx, cancel)()
	original := r
	r = r.WithContext(ctx)
	c.web.linger.Store(r.Method != http.MethodConnect && r.ContentLength != 0) // this proxy's own answer leaves the body unread
	switch {
	case r.Method != http.MethodConnect && !r.URL.IsAbs():
		s.serveOwn(w, r, c)
	case !s.mayUse(r):
		w.Header().Set("Proxy-Authenticate", `Basic realm="bastion", charset="UTF-8"`)
		say(w, http.StatusProxyAuthRequired, errors.New("this proxy wants a user and a password"),
			"give the program those of proxy_auth_file")
	case r.Method == http.MethodConnect:
		s.connect(w, r, c)
	case r.URL.Scheme != "http" || r.URL.Host == "":
		say(w, http.StatusBadRequest, fmt.Errorf("this proxy does not fetch %s: URLs", farText(r.URL.Scheme)),
			"use CONNECT for https, as programs do with an HTTP proxy set for https")
	case !mayForward(w, r):
	default:
		s.forward(w, r, original, c)
	}
}

// forward sends a request to its site and the site's answer to the client.
func (s *webServer) forward(w http.ResponseWriter, r, original *http.Request, c *clientConn) {
	// A truncated answer must not look complete, even where the connection's end marks the answer's end.
	e := newExchange(w, r, original, c)
	defer func() {
		if v := recover(); v != nil {
			c.web.linger.Store(false) // no answer will come, and lingering would begin with an end in good order
			if !e.dropped {
				reset(c)
			}
			panic(v)
		}
	}()
	s.reverse.ServeHTTP(e, r.WithContext(context.WithValue(r.Context(), exchangeKey{}, e)))
	e.end()
}

// mayUse reports whether the client has given the password, if one is required.
func (s *webServer) mayUse(r *http.Request) bool {
	if s.proxy.auth == nil {
		return true
	}
	basic := http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}
	user, password, ok := basic.BasicAuth()
	return ok && s.proxy.auth.Valid(user, password, "")
}

// connect turns the client's connection into a tunnel.
func (s *webServer) connect(w http.ResponseWriter, r *http.Request, c *clientConn) {
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		say(w, http.StatusBadRequest, errors.New("a CONNECT request has no body"), "send the tunnel's bytes after the answer")
		return
	}
	dest := r.Host
	remote, err := s.proxy.dial(r.Context(), dest)
	if err != nil {
		say(w, httpStatus(err), err, fail.NextOf(err))
		return
	}
	local, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = remote.Close()
		say(w, http.StatusInternalServerError, err, "connect again")
		return
	}
	defer func() { _ = local.Close() }()
	if _, err := io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		_ = remote.Close()
		return
	}
	s.proxy.splice(c.web.ctx, &readAhead{c, buffered.Reader}, asDuplex(remote), dest)
}

// notForwarded answers a request whose site was unreachable, or did not answer in HTTP.
func (s *webServer) notForwarded(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // the client has gone, or the proxy is ending
	}
	if errors.Is(err, errDropped) {
		// Clients know that a kept connection may end this way, and repeat requests that may be repeated. An answer would come from
		// the proxy, not from the site.
		r.Context().Value(exchangeKey{}).(*exchange).dropped = true
		panic(http.ErrAbortHandler)
	}
	next := cmp.Or(fail.NextOf(err), "check that "+farText(r.URL.Host)+" is a web server; for https the URL must say so")
	say(w, httpStatus(err), err, next)
}

// say answers in plain text, which names the next step.
func say(w http.ResponseWriter, status int, err error, next string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	text := "bastion: " + farText(err.Error()) + "\n"
	if next != "" {
		text += "hint: " + farText(next) + "\n"
	}
	_, _ = io.WriteString(w, text) // #nosec G705 -- it is plain text, and browsers must treat it as such
}

// httpStatus returns the status for a failed dial or exchange.
func httpStatus(err error) int {
	var r *RefusedError
	switch {
	case errors.As(err, &r):
		switch {
		case r.Reason == ssh.Prohibited:
			return http.StatusForbidden
		case r.Reason == ssh.ResourceShortage:
			return http.StatusServiceUnavailable
		case strings.Contains(strings.ToLower(r.Message), "timed out"), strings.Contains(r.Message, "i/o timeout"):
			return http.StatusGatewayTimeout
		}
		return http.StatusBadGateway
	case errors.Is(err, context.DeadlineExceeded):
		return http.StatusGatewayTimeout
	}
	switch fail.KindOf(err) {
	case fail.Usage:
		return http.StatusBadRequest
	case fail.Denied:
		return http.StatusForbidden
	case fail.Timeout:
		return http.StatusGatewayTimeout
	}
	return http.StatusBadGateway
}

// newTransport returns the transport of a client. A client has one request at a time, so it keeps few connections.
func (s *webServer) newTransport(c *clientConn) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return s.dialFor(ctx, c, addr)
		},
		DisableCompression:     true,
		MaxIdleConns:           4,
		MaxIdleConnsPerHost:    1,
		IdleConnTimeout:        webIdle,
		MaxResponseHeaderBytes: maxResponseHeader,
	}
}

// dialFor dials for c's transport, which dials in goroutines of its own. These and the connections count as c's.
func (s *webServer) dialFor(ctx context.Context, c *clientConn, addr string) (net.Conn, error) {
	c.web.remotes.Add(1)
	remote, err := s.proxy.dial(ctx, addr)
	if err != nil {
		c.web.remotes.Done()
		return nil, err
	}
	return &siteConn{Conn: remote, stats: s.proxy.stats, figures: s.proxy.stats.begin(c, addr), done: c.web.remotes.Done}, nil
}

// siteConn is a connection of a transport. Its bytes count as a spliced connection's do.
type siteConn struct {
	net.Conn
	stats   *Stats
	figures *connStats
	done    func()

	sending atomic.Bool // a part of the present request has been written
	refused atomic.Bool // the site stopped reading while a request was being sent
	ended   atomic.Bool // the site has closed the connection
	closed  atomic.Bool

	mu   sync.Mutex
	err  error // the first error, other than an end
	once sync.Once
}

func (c *siteConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.figures.down.Add(int64(n))
	if errors.Is(err, io.EOF) {
		c.ended.Store(true)
	}
	c.note(err)
	return n, err
}

// Write sends a part of a request. A site may answer before it has read all of it, and close. The transport would then take the
// failed write for the request's failure, and not read the answer. So Write succeeds in that case, and leaves it to Read to find
// the site's answer, or none.
func (c *siteConn) Write(p []byte) (int, error) {
	if c.refused.Load() && !c.closed.Load() {
		return len(p), nil
	}
	n, err := c.Conn.Write(p)
	c.figures.up.Add(int64(n))
	c.note(err)
	if err != nil && c.sending.Load() && !c.closed.Load() {
		c.refused.Store(true)
		return len(p), nil
	}
	if n > 0 {
		c.sending.Store(true)
	}
	return n, err
}

// CloseWrite ends the direction to the site of an upgraded connection.
func (c *siteConn) CloseWrite() error { return asDuplex(c.Conn).CloseWrite() }

func (c *siteConn) note(err error) {
	if err == nil || errors.Is(err, io.EOF) || isShutdown(err) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = cmp.Or(c.err, err)
}

// Close ends the connection. The transport may call it more than once.
func (c *siteConn) Close() error {
	c.closed.Store(true)
	err := c.Conn.Close()
	c.once.Do(func() {
		c.mu.Lock()
		first := c.err
		c.mu.Unlock()
		c.stats.end(c.figures, first)
		c.done()
	})
	return err
}

// serveOwn answers a request to the proxy itself. Web pages can make browsers send such requests, from any site and under any name
// that resolves to this machine. So it answers only requests to the proxy's own address, and refuses other sites' pages.
func (s *webServer) serveOwn(w http.ResponseWriter, r *http.Request, c *clientConn) {
	const next = "set this address as an HTTP or SOCKS5 proxy, or http://ADDRESS/proxy.pac as the URL of the automatic configuration"
	site := r.Header.Get("Sec-Fetch-Site")
	switch {
	case !ownHost(r.Host, c.LocalAddr()):
		say(w, http.StatusMisdirectedRequest, errors.New("this is a proxy, and no site of the name that was asked for"), next)
	case r.Header.Get("Origin") != "" || (site != "" && site != "none" && site != "same-origin"):
		say(w, http.StatusForbidden, errors.New("this is not for the pages of other sites"), next)
	case r.URL.Path != "/proxy.pac" && r.URL.Path != "/wpad.dat":
		say(w, http.StatusNotFound, errors.New("this is a proxy"), next)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		say(w, http.StatusMethodNotAllowed, errors.New("the file can only be read"), next)
	default:
		h := w.Header()
		h.Set("Content-Type", "application/x-ns-proxy-autoconfig")
		h.Set("X-Content-Type-Options", "nosniff") // keeps pages from reading it as a script
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-cache")
		_, _ = io.WriteString(w, PAC(c.LocalAddr().String(), s.proxy.domains, s.proxy.cidrs))
	}
}

// ownHost reports whether a Host header names this machine's loopback or the address that the client is connected to.
func ownHost(header string, local net.Addr) bool {
	host := header
	if h, _, err := net.SplitHostPort(header); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") || strings.EqualFold(host, "localhost.") {
		return true
	}
	ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]"))
	if err != nil {
		return false
	}
	if ip.Unmap().IsLoopback() {
		return true
	}
	own, err := netip.ParseAddrPort(local.String())
	return err == nil && own.Addr().Unmap() == ip.Unmap()
}
