package tunnel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// These bound how long a connection lingers if its client got the answer while it was still sending. A close with unread bytes
// would be a reset, which can cost the client the answer.
const (
	lingerQuiet = 5 * time.Second  // without a byte from the client
	lingerTotal = 30 * time.Second // in all
)

// exchange is one request to a site and its answer. The client gets the same as from a direct connection: only the site's own
// interim answers, and no added header but Date. It gets the site's answer even before the end of the request's body. ServeHTTP's
// goroutine owns the exchange; the transport reads body in another.
type exchange struct {
	http.ResponseWriter
	client *http.Request // as the server made it; unannounced trailers appear only here
	conn   *clientConn
	body   *upload // nil: the request has none

	site     *siteConn // the latest connection of the request; nil: none yet
	reused   bool      // it had served another request of the client
	answered bool      // the site has sent a byte of an answer
	dropped  bool      // the site closed a kept connection instead of answering
	upgrade  []string  // the protocols that a 426 answer asks for
}

type exchangeKey struct{} // of a request's context: its *exchange

// newExchange prepares the exchange of r, whose body it replaces. original is the request as the server made it.
func newExchange(w http.ResponseWriter, r, original *http.Request, c *clientConn) *exchange {
	e := &exchange{ResponseWriter: w, client: original, conn: c}
	if r.ContentLength != 0 && r.Body != nil {
		e.body = &upload{ReadCloser: r.Body}
		r.Body = e.body
	}
	// The answer may come, and end, before the body does.
	_ = http.NewResponseController(w).EnableFullDuplex()
	if e.body != nil && expectsContinue(r) {
		// The server sends "100 Continue" once, before it first reads the body; but only the site may say that. So the server sends
		// it now, while the connection is mute.
		c.web.mute = true
		w.WriteHeader(http.StatusContinue)
		c.web.mute = false
	}
	return e
}

// expectsContinue reports whether the client waits for 100 Continue. An HTTP/1.0 client cannot.
func expectsContinue(r *http.Request) bool {
	return r.ProtoAtLeast(1, 1) && strings.EqualFold(strings.TrimSpace(r.Header.Get("Expect")), "100-continue")
}

// Unwrap serves http.ResponseController.
func (e *exchange) Unwrap() http.ResponseWriter { return e.ResponseWriter }

// WriteHeader passes on an interim answer, or the final one.
func (e *exchange) WriteHeader(status int) {
	h := e.Header()
	if status < 200 && status != http.StatusSwitchingProtocols {
		if e.client.ProtoAtLeast(1, 1) {
			e.ResponseWriter.WriteHeader(status)
		}
		return
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // keeps the server from guessing
	}
	if status == http.StatusNotModified {
		// These describe the unchanged answer. The server would remove them under their usual names.
		for _, name := range []string{"Content-Length", "Content-Type"} {
			if values := h[name]; len(values) > 0 {
				h[strings.ToLower(name)] = values
				delete(h, name)
			}
		}
	}
	if len(e.upgrade) > 0 {
		h["Upgrade"] = e.upgrade
		h.Set("Connection", "Upgrade")
	}
	if e.unread() {
		h.Set("Connection", "close")
	}
	e.ResponseWriter.WriteHeader(status)
}

// unread reports whether the client has yet to send part of its body.
func (e *exchange) unread() bool { return e.body != nil && !e.body.ended() }

// end runs after the answer. It gives a client that still sends time to read the answer.
func (e *exchange) end() {
	unread := e.unread()
	e.conn.web.linger.Store(unread)
	if unread { // the server flushes the answer, then waits for a running read of the body
		_ = e.conn.SetReadDeadline(time.Now().Add(lingerQuiet))
	}
}

// prepare makes the request to the site: the client's, without the parts for the proxy. ReverseProxy has removed the hop-by-hop
// headers, and headers that a reverse proxy distrusts in clients. The latter belong to the client here, so prepare restores them.
// It adds no Via, because that makes servers omit compression. Via protects against loops, which cannot occur: the connections
// leave from the bastion.
func prepare(r *httputil.ProxyRequest) {
	r.Out.URL.RawQuery = r.In.URL.RawQuery
	if target := exactTarget(r.In); target != "" {
		r.Out.URL.Opaque, r.Out.URL.RawQuery, r.Out.URL.ForceQuery = target, "", false
	}
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values, ok := r.In.Header[name]; ok {
			r.Out.Header[name] = values
		}
	}
	if !r.In.ProtoAtLeast(1, 1) {
		r.Out.Header.Del("Expect")
	}
	e := r.In.Context().Value(exchangeKey{}).(*exchange)
	if e.body != nil && len(r.In.TransferEncoding) > 0 {
		// Announce the trailers' names now; their values come at the body's end. Drop names that cannot be a trailer (RFC 9110,
		// 6.5.1). A site could take one for a header, and the proxy's password could be among them.
		r.Out.Trailer = http.Header{}
		for name := range r.In.Trailer {
			if httpguts.ValidTrailerHeader(name) {
				r.Out.Trailer[name] = nil
			}
		}
		e.body.atEnd(func() {
			for name, values := range e.client.Trailer {
				if httpguts.ValidTrailerHeader(name) {
					r.Out.Trailer[name] = values
				}
			}
		})
	}
}

// exactTarget returns the path and query that the client asked for, byte by byte, because a parsed and reassembled URL has other
// escapes. An OPTIONS request for a whole server has "*". For "" the transport decides.
func exactTarget(r *http.Request) string {
	_, rest, ok := strings.Cut(r.RequestURI, "://")
	if !ok {
		return ""
	}
	at := strings.IndexAny(rest, "/?")
	switch {
	case at < 0 && r.Method == http.MethodOptions:
		return "*"
	case at < 0:
		return "/"
	case rest[at] == '?':
		return "/" + rest[at:]
	case strings.HasPrefix(rest[at:], "//"): // net/url would take it for an authority
		return ""
	}
	return rest[at:]
}

// mayForward counts one hop down for TRACE and OPTIONS. If the client allows no further hop, it answers the request itself (RFC
// 9110, 7.6.2).
func mayForward(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodTrace && r.Method != http.MethodOptions {
		return true
	}
	left, err := strconv.ParseUint(r.Header.Get("Max-Forwards"), 10, 32)
	switch {
	case err != nil: // none, or not a number: then it is ignored
		return true
	case left > 0:
		r.Header.Set("Max-Forwards", strconv.FormatUint(left-1, 10))
		return true
	case r.Method == http.MethodOptions:
		w.Header().Set("Content-Length", "0")
		w.WriteHeader(http.StatusOK)
		return false
	}
	var echo bytes.Buffer
	fmt.Fprintf(&echo, "TRACE %s %s\r\nHost: %s\r\n", r.RequestURI, r.Proto, r.Host)
	shown := r.Header.Clone()
	for _, secret := range []string{"Proxy-Authorization", "Authorization", "Cookie"} {
		shown.Del(secret)
	}
	_ = shown.Write(&echo)
	echo.WriteString("\r\n")
	w.Header().Set("Content-Type", "message/http")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(echo.Bytes())
	return false
}

// Failures of an exchange that the network does not cause.
var (
	errDropped = errors.New("the site closed a kept connection")
	errStatus  = errors.New("the site answered with an impossible status")
)

// byClient sends a request by its client's transport.
type byClient struct{}

func (byClient) RoundTrip(r *http.Request) (*http.Response, error) {
	e := r.Context().Value(exchangeKey{}).(*exchange)
	var mu sync.Mutex // the transport calls from its own goroutines
	trace := &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			mu.Lock()
			defer mu.Unlock()
			e.site, _ = info.Conn.(*siteConn)
			e.reused, e.answered = info.Reused, false
			if e.site != nil {
				e.site.sending.Store(false)
			}
		},
		GotFirstResponseByte: func() {
			mu.Lock()
			defer mu.Unlock()
			e.answered = true
		},
	}
	resp, err := e.conn.web.transport.RoundTrip(r.WithContext(httptrace.WithClientTrace(r.Context(), trace)))
	mu.Lock()
	defer mu.Unlock()
	if err != nil {
		if e.reused && !e.answered && e.site != nil && e.site.ended.Load() {
			return nil, errDropped
		}
		if e.body != nil {
			if cause := e.body.failure(); cause != nil {
				return nil, fail.New(fail.Usage, "read the request", cause, "send the body as the request's header says")
			}
		}
		return nil, err
	}
	if resp.StatusCode < 100 {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("%w: %d", errStatus, resp.StatusCode)
	}
	if resp.StatusCode == http.StatusUpgradeRequired {
		e.upgrade = resp.Header["Upgrade"]
	}
	return resp, nil
}

// upload is a request's body, which one goroutine reads.
type upload struct {
	io.ReadCloser

	mu    sync.Mutex
	err   error // io.EOF: all was read
	onEnd func()
}

func (u *upload) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	u.mu.Lock()
	first, onEnd := u.err == nil, u.onEnd
	if first {
		u.err = err
	}
	u.mu.Unlock()
	if first && errors.Is(err, io.EOF) && onEnd != nil {
		onEnd()
	}
	return n, err
}

// atEnd makes the reader that reaches the body's end call f.
func (u *upload) atEnd(f func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.onEnd = f
}

func (u *upload) ended() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return errors.Is(u.err, io.EOF)
}

// failure returns why reading the client's body failed, or nil.
func (u *upload) failure() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.err == nil || u.err == io.EOF { //nolint:errorlint // io.ErrUnexpectedEOF is another
		return nil
	}
	return u.err
}
