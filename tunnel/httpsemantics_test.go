package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// semantics is one row of the table: what a client does with a site, directly and through the proxy, has the same result.
type semantics struct {
	handler http.HandlerFunc              // the site as net/http serves it
	raw     func(*bufio.Reader, net.Conn) // or the site as it reads and writes the connection itself, which is closed then

	// request is the head of the request, with the path as its target and "\n" for the end of a line; Host is added.
	request string
	// talk goes on after the head. Nil: the client has nothing more to send.
	talk func(c *talker)
	// times is how often it is tried, where a race would have it go well now and then.
	times int
}

// talker is a client that has sent the head of a request.
type talker struct {
	net.Conn
	t      *testing.T
	method string
	read   *bufio.Reader
	got    []answered
}

// answered is an answer, interim or final, as far as it is the site's.
type answered struct {
	Status  int
	Header  http.Header
	Body    string
	Trailer http.Header
	Cut     bool // the body has not come to its end
}

// receipt is a request as the site has received it.
type receipt struct {
	Method, Target, Host, Body string
	Header, Trailer            http.Header
}

func (c *talker) send(text string) { _, _ = io.WriteString(c, strings.ReplaceAll(text, "\n", "\r\n")) }

// next reads one answer; it reports whether that was a final one or the end.
func (c *talker) next() bool {
	resp, err := http.ReadResponse(c.read, &http.Request{Method: c.method})
	if isTimeout(err) {
		c.t.Errorf("no answer, after %+v", c.got)
	}
	if err != nil {
		return true
	}
	a := answered{Status: resp.StatusCode, Header: ofTheSite(resp.Header)}
	if resp.StatusCode >= 200 {
		body, err := io.ReadAll(resp.Body)
		a.Body, a.Cut, a.Trailer = string(body), err != nil, resp.Trailer
	}
	c.got = append(c.got, a)
	return a.Status >= 200 || a.Status == http.StatusSwitchingProtocols
}

// ofTheSite leaves out the headers of one hop, and Date, which a proxy adds.
func ofTheSite(h http.Header) http.Header {
	h = h.Clone()
	for _, name := range []string{"Connection", "Keep-Alive", "Date", "Te"} {
		h.Del(name)
	}
	return h
}

// site serves the row's side behind the bastion and keeps the received bytes.
type site struct {
	addr     string
	mu       sync.Mutex
	receipts []receipt
}

func (s *site) note(r receipt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.receipts = append(s.receipts, r)
}

func newSite(t *testing.T, row semantics) *site {
	t.Helper()
	s := &site{}
	if row.raw != nil {
		s.addr = serveTCP(t, func(c *net.TCPConn) {
			_ = c.SetDeadline(time.Now().Add(30 * time.Second))
			row.raw(bufio.NewReader(c), c)
		})
		return s
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		handled := r.WithContext(r.Context()) // the server looks at r's own Body
		handled.Body = struct {
			io.Reader
			io.Closer
		}{io.TeeReader(r.Body, &body), r.Body}
		row.handler(w, handled)
		s.note(receipt{r.Method, r.RequestURI, r.Host, body.String(), ofTheSite(r.Header), r.Trailer})
	}))
	t.Cleanup(server.Close)
	s.addr = server.Listener.Addr().String()
	return s
}

// play has the client do its part, at addr, with a target that begins with prefix.
func (row semantics) play(t *testing.T, addr, prefix string) []answered {
	t.Helper()
	c := &talker{Conn: dialTCP(t, addr), t: t}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	c.read = bufio.NewReader(c)
	line, rest, _ := strings.Cut(row.request, "\n")
	method, target, _ := strings.Cut(line, " ")
	c.method = method
	c.send(method + " " + prefix + target + "\nHost: site.example\n" + rest + "\n")
	if row.talk == nil {
		row.talk = func(*talker) {}
	}
	row.talk(c)
	for !c.next() {
	}
	return c.got
}

// hear reads the head of a request.
func hear(r *bufio.Reader) {
	for line := ""; line != "\r\n"; {
		var err error
		if line, err = r.ReadString('\n'); err != nil {
			return
		}
	}
}

// tell is a site that writes text once it has the head of a request.
func tell(text string) func(*bufio.Reader, net.Conn) {
	return func(r *bufio.Reader, c net.Conn) {
		hear(r)
		_, _ = io.WriteString(c, strings.ReplaceAll(text, "\n", "\r\n"))
	}
}

// flood sends a large body while the answer is read.
func flood(c *talker) {
	go func() { _, _ = c.Write(make([]byte, 8<<20)) }() // ends with the connection
}

func readAll(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	_, _ = fmt.Fprintf(w, "%d bytes", len(body))
}

var httpSemantics = map[string]semantics{
	"413 before the body, and close": {
		raw:     tell("HTTP/1.1 413 Too Large\nContent-Length: 9\nX-Limit: 1\n\ntoo large"),
		request: "POST / HTTP/1.1\nContent-Length: 8388608\n", talk: flood, times: 20,
	},
	"413 before the body, chunked": {
		raw:     tell("HTTP/1.1 413 Too Large\nTransfer-Encoding: chunked\n\n3\ntoo\n6\n large\n0\n\n"),
		request: "POST / HTTP/1.1\nTransfer-Encoding: chunked\n", talk: func(c *talker) { c.send("5\nhello\n") },
	},
	"413 before the body, and the connection stays": {
		raw: func(r *bufio.Reader, c net.Conn) {
			tell("HTTP/1.1 413 Too Large\nContent-Length: 0\n\n")(r, c)
			_, _ = io.Copy(io.Discard, r)
		},
		request: "POST / HTTP/1.1\nContent-Length: 8388608\n", talk: func(c *talker) { c.send("half") },
	},
	"413 of net/http": {
		handler: func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		},
		request: "POST / HTTP/1.1\nContent-Length: 8388608\n", talk: flood, times: 10,
	},
	"an answer while the body comes": {
		handler: func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			_ = rc.EnableFullDuplex()
			for lines := bufio.NewReader(r.Body); ; {
				line, err := lines.ReadString('\n')
				if err != nil {
					return
				}
				_, _ = io.WriteString(w, "you said "+line)
				_ = rc.Flush()
			}
		},
		request: "POST / HTTP/1.1\nTransfer-Encoding: chunked\n",
		talk: func(c *talker) {
			c.send("5\none\n\n")  // the CR LF of the line, and that of the chunk
			_, _ = c.read.Peek(1) // the answer has begun
			c.send("0\n\n")
		},
	},
	"a body bit by bit": {
		raw: func(r *bufio.Reader, c net.Conn) {
			hear(r)
			b, _ := r.ReadByte()
			_, _ = fmt.Fprintf(c, "HTTP/1.1 102 Processing\r\n\r\n")
			rest := make([]byte, 2)
			_, _ = io.ReadFull(r, rest)
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n%c%s", b, rest)
		},
		request: "PUT / HTTP/1.1\nContent-Length: 3\n",
		talk:    func(c *talker) { c.send("a"); c.next(); c.send("bc") },
	},

	"417 in place of 100": {
		raw:     tell("HTTP/1.1 417 Expectation Failed\nContent-Length: 2\n\nno"),
		request: "POST / HTTP/1.1\nExpect: 100-continue\nContent-Length: 5\n",
	},
	"401 in place of 100, by net/http": {
		handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
		},
		request: "POST / HTTP/1.1\nExpect: 100-continue\nContent-Length: 5\n",
	},
	"100, then the body": {
		handler: readAll, request: "POST / HTTP/1.1\nExpect: 100-continue\nContent-Length: 5\n",
		talk: func(c *talker) { c.next(); c.send("hello") },
	},
	"100, then 403": {
		raw:     tell("HTTP/1.1 100 Continue\n\nHTTP/1.1 403 Forbidden\nContent-Length: 0\n\n"),
		request: "POST / HTTP/1.1\nExpect: 100-continue\nContent-Length: 5\n", talk: func(c *talker) { c.next() },
	},
	"no 100, and the client does not wait": {
		raw: func(r *bufio.Reader, c net.Conn) {
			hear(r)
			body := make([]byte, 5)
			_, _ = io.ReadFull(r, body)
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n%s", body)
		},
		request: "POST / HTTP/1.1\nExpect: 100-continue\nContent-Length: 5\n", talk: func(c *talker) { c.send("hello") },
	},
	"Expect without a body": {handler: readAll, request: "GET / HTTP/1.1\nExpect: 100-continue\n"},

	"103, twice": {
		raw:     tell("HTTP/1.1 103 Early Hints\nLink: </a>\n\nHTTP/1.1 103 Early Hints\nLink: </b>\n\nHTTP/1.1 204 No Content\n\n"),
		request: "GET / HTTP/1.1\n",
	},
	"no Content-Type":         {raw: tell("HTTP/1.1 200 OK\nContent-Length: 13\n\n<html></html>"), request: "GET / HTTP/1.1\n"},
	"no Content-Type, to 404": {raw: tell("HTTP/1.1 404 No\nContent-Length: 2\n\nno"), request: "GET / HTTP/1.1\n"},
	"an empty answer":         {raw: tell("HTTP/1.1 200 OK\nContent-Length: 0\n\n"), request: "GET / HTTP/1.1\n"},
	"204":                     {raw: tell("HTTP/1.1 204 No Content\nETag: \"a\"\n\n"), request: "DELETE /x HTTP/1.1\n"},
	"205":                     {raw: tell("HTTP/1.1 205 Reset Content\nContent-Length: 0\n\n"), request: "GET / HTTP/1.1\n"},
	"304 with a length":       {raw: tell("HTTP/1.1 304 Not Modified\nContent-Length: 500\nETag: \"a\"\n\n"), request: "GET / HTTP/1.1\n"},
	"HEAD":                    {raw: tell("HTTP/1.1 200 OK\nContent-Length: 500\nContent-Type: a/b\n\n"), request: "HEAD / HTTP/1.1\n"},
	"HEAD, chunked":           {raw: tell("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n"), request: "HEAD / HTTP/1.1\n"},
	"a status of one's own":   {raw: tell("HTTP/1.1 799 Mine\nContent-Length: 2\n\nok"), request: "GET / HTTP/1.1\n"},
	"until the end":           {raw: tell("HTTP/1.1 200 OK\nContent-Type: a/b\n\nall of it"), request: "GET / HTTP/1.1\n"},
	"HTTP/1.0 site":           {raw: tell("HTTP/1.0 200 OK\nContent-Type: a/b\n\nall of it"), request: "GET / HTTP/1.1\n"},
	"HTTP/1.0 client":         {handler: readAll, request: "GET / HTTP/1.0\n"},
	"cut by length":           {raw: tell("HTTP/1.1 200 OK\nContent-Length: 50\n\nhalf"), request: "GET / HTTP/1.1\n"},
	"cut in a chunk":          {raw: tell("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n9\nhalf"), request: "GET / HTTP/1.1\n"},
	"cookies": {
		raw:     tell("HTTP/1.1 200 OK\nSet-Cookie: a=1; Path=/\nSet-Cookie: b=2\nContent-Length: 0\n\n"),
		request: "GET / HTTP/1.1\n",
	},
	"a part":         {raw: tell("HTTP/1.1 206 Part\nContent-Range: bytes 1-2/9\nContent-Length: 2\n\nab"), request: "GET / HTTP/1.1\nRange: bytes=1-2\n"},
	"what is packed": {raw: tell("HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: 3\n\nabc"), request: "GET / HTTP/1.1\nAccept-Encoding: gzip\n"},
	"trailers": {
		raw:     tell("HTTP/1.1 200 OK\nTrailer: X-Sum\nTransfer-Encoding: chunked\n\n2\nok\n0\nX-Sum: 42\n\n"),
		request: "GET / HTTP/1.1\nTE: trailers\nConnection: TE\n",
	},
	"trailers that were not announced": {
		raw:     tell("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\nX-Sum: 42\n\n"),
		request: "GET / HTTP/1.1\nTE: trailers\nConnection: TE\n",
	},
	"426": {
		raw:     tell("HTTP/1.1 426 Upgrade Required\nUpgrade: websocket\nConnection: Upgrade\nContent-Length: 0\n\n"),
		request: "GET / HTTP/1.1\n",
	},

	"a POST without a body":   {handler: readAll, request: "POST / HTTP/1.1\nContent-Length: 0\n"},
	"a GET with a body":       {handler: readAll, request: "GET / HTTP/1.1\nContent-Length: 2\n", talk: func(c *talker) { c.send("ok") }},
	"a DELETE with chunks":    {handler: readAll, request: "DELETE / HTTP/1.1\nTransfer-Encoding: chunked\n", talk: func(c *talker) { c.send("2;x=y\nok\n0\n\n") }},
	"a method of one's own":   {handler: readAll, request: "PROPFIND /x HTTP/1.1\nDepth: 1\n"},
	"a body that is no chunk": {handler: badBody, request: "POST / HTTP/1.1\nTransfer-Encoding: chunked\n", talk: func(c *talker) { c.send("zz\n") }},
	"request trailers": {
		handler: readAll, request: "POST / HTTP/1.1\nTransfer-Encoding: chunked\nTrailer: X-Sum, X-More\n",
		talk: func(c *talker) { c.send("2\nok\n0\nX-Sum: 42\nX-More: 1\n\n") },
	},
	"request trailers that were not announced": {
		handler: readAll, request: "POST / HTTP/1.1\nTransfer-Encoding: chunked\n",
		talk: func(c *talker) { c.send("2\nok\n0\nX-Sum: 42\n\n") },
	},
	"headers": {
		handler: readAll, request: "GET / HTTP/1.1\nX-A: 1\nX-A: 2\nX-Empty:\nUser-Agent: mine\nCache-Control: no-cache\nPragma: no-cache\n" +
			"Accept: a/b\nAuthorization: Basic eDp5\nX-Forwarded-For: 1.2.3.4\n",
	},
	"OPTIONS":            {handler: readAll, request: "OPTIONS /x HTTP/1.1\n"},
	"a path as it is":    {handler: readAll, request: "GET /a%2Fb/./../c;d|e^{f}'%7e?x=1;y=2&z=%zz&&\"q\" HTTP/1.1\n"},
	"an empty query":     {handler: readAll, request: "GET /a? HTTP/1.1\n"},
	"two slashes":        {handler: readAll, request: "GET //a//b HTTP/1.1\n"},
	"a path of two dots": {handler: readAll, request: "GET /.. HTTP/1.1\n"},
}

// badBody answers as a site does that the body is malformed to.
func badBody(w http.ResponseWriter, r *http.Request) {
	if _, err := io.ReadAll(r.Body); err != nil {
		w.WriteHeader(http.StatusBadRequest)
	}
}

// What a client and a site say to each other is the same with the proxy between them as without it.
func TestHTTPProxySemantics(t *testing.T) {
	for name, row := range httpSemantics {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, row)
			b := newBastion(t)
			b.vpcNames(map[string]string{"site.example:80": s.addr})
			proxy := startSOCKS(t, readyLink(t, b, LinkConfig{}), ProxyConfig{})
			for range max(1, row.times) {
				want := row.play(t, s.addr, "")
				got := row.play(t, proxy, "http://site.example")
				if name == "a body that is no chunk" { // the proxy has found out, and says so
					got[0].Body, got[0].Header = want[0].Body, want[0].Header
				}
				if diff := cmp.Diff(want, got); diff != "" || len(want) == 0 {
					t.Fatalf("without the proxy (-) and through it (+):\n%s", diff)
				}
			}
			if row.raw != nil || name == "a body that is no chunk" || row.times > 0 {
				return
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if len(s.receipts) != 2 {
				t.Fatalf("the site has received %+v", s.receipts)
			}
			if diff := cmp.Diff(s.receipts[0], s.receipts[1]); diff != "" {
				t.Errorf("the site has received, without the proxy (-) and through it (+):\n%s", diff)
			}
		})
	}
}

// Where a proxy has a part of its own (RFC 9110 and 9112), it plays that.
func TestHTTPProxyOwnPart(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	site := serveTCP(t, func(c *net.TCPConn) {
		r := bufio.NewReader(c)
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		mu.Lock()
		seen = append(seen, strings.Join([]string{req.Method, req.RequestURI, req.Host, req.Header.Get("Max-Forwards"), req.Header.Get("Expect")}, " "))
		mu.Unlock()
		_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	})
	odd := serveTCP(t, func(c *net.TCPConn) {
		hear(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n")
	})
	b := newBastion(t)
	b.vpcNames(map[string]string{"site.example:80": site, "odd.example:80": odd})
	addr := startSOCKS(t, readyLink(t, b, LinkConfig{}), ProxyConfig{})
	for _, tc := range []struct{ send, want, sees string }{
		// The whole server is meant, and a path is never empty.
		{"OPTIONS http://site.example HTTP/1.1\nHost: x\nConnection: close\n\n", "HTTP/1.1 103 ", "OPTIONS * site.example  "},
		{"GET http://site.example?a HTTP/1.1\nHost: x\nConnection: close\n\n", "HTTP/1.1 103 ", "GET /?a site.example  "},
		{"OPTIONS http://site.example/ HTTP/1.1\nHost: x\nMax-Forwards: 3\nConnection: close\n\n", "HTTP/1.1 103 ", "OPTIONS / site.example 2 "},
		{"GET http://site.example/ HTTP/1.1\nHost: x\nMax-Forwards: 0\nConnection: close\n\n", "HTTP/1.1 103 ", "GET / site.example 0 "},
		{"OPTIONS http://site.example/ HTTP/1.1\nHost: x\nMax-Forwards: 0\nConnection: close\n\n", "HTTP/1.1 200 ", ""},
		{"TRACE http://site.example/ HTTP/1.1\nHost: x\nMax-Forwards: 0\nCookie: a\nX-B: c\nConnection: close\n\n", "HTTP/1.1 200 ", ""},
		// HTTP/1.0 knows neither interim answers nor that they can be waited for.
		{"POST http://site.example/ HTTP/1.0\nHost: x\nExpect: 100-continue\nContent-Length: 2\n\nok", "HTTP/1.0 200 ", "POST / site.example  "},
		{"GET http://odd.example/ HTTP/1.1\nHost: x\nConnection: close\n\n", "HTTP/1.1 502 ", ""},
	} {
		mu.Lock()
		seen = nil
		mu.Unlock()
		answer := raw(t, addr, strings.ReplaceAll(tc.send, "\n", "\r\n"))
		mu.Lock()
		got := slices.Clone(seen)
		mu.Unlock()
		if !strings.HasPrefix(answer, tc.want) || strings.Join(got, ",") != tc.sees || strings.Contains(answer, "Cookie") {
			t.Errorf("%q: the answer is %q, want %q; the site saw %q, want %q", tc.send, answer, tc.want, got, tc.sees)
		}
	}
}

// Fields that frame or route a message, or that are for the proxy, reach no site as trailers, announced or not.
func TestHTTPProxyTrailers(t *testing.T) {
	received := make(chan http.Header, 1)
	site := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		received <- r.Trailer
	}))
	t.Cleanup(site.Close)
	b := newBastion(t)
	b.vpcNames(map[string]string{"site.example:80": site.Listener.Addr().String()})
	addr := startSOCKS(t, readyLink(t, b, LinkConfig{}), ProxyConfig{})
	for _, announce := range []string{"", "Trailer: X-Sum, Proxy-Authorization, Host\r\n"} {
		answer := raw(t, addr, "POST http://site.example/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"+announce+
			"\r\n2\r\nok\r\n0\r\nX-Sum: 42\r\nProxy-Authorization: Basic eDp5\r\nHost: other\r\nContent-Length: 7\r\nConnection: X\r\n\r\n")
		if !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
			t.Fatalf("%q: %q", announce, answer)
		}
		if diff := cmp.Diff(http.Header{"X-Sum": {"42"}}, <-received); diff != "" {
			t.Errorf("%q: expected (-) and received (+):\n%s", announce, diff)
		}
	}
}

// A site may close a kept connection whenever it likes. The client gets no answer of ours in its place, but the same end: it
// alone knows whether the request may be sent again.
func TestHTTPProxyKeptConnectionEnds(t *testing.T) {
	row := semantics{
		raw: func(r *bufio.Reader, c net.Conn) {
			tell("HTTP/1.1 200 OK\nContent-Length: 2\n\nok")(r, c)
			hear(r) // and close
		},
		request: "GET / HTTP/1.1\n",
	}
	s := newSite(t, row)
	b := newBastion(t)
	b.vpcNames(map[string]string{"site.example:80": s.addr})
	proxy := startSOCKS(t, readyLink(t, b, LinkConfig{}), ProxyConfig{})
	for addr, prefix := range map[string]string{s.addr: "", proxy: "http://site.example"} {
		row.talk = func(c *talker) {
			c.next()
			c.send("POST " + prefix + "/again HTTP/1.1\nHost: site.example\nContent-Length: 0\n\n")
		}
		if got := row.play(t, addr, prefix); len(got) != 1 || got[0].Body != "ok" {
			t.Errorf("%q: %+v", prefix, got)
		}
	}
}

// A client that sends all of its body before it reads still gets the answer that came early: the proxy reads on meanwhile.
func TestHTTPProxyLingers(t *testing.T) {
	row := semantics{raw: tell("HTTP/1.1 413 Too Large\nContent-Length: 9\n\ntoo large")}
	s := newSite(t, row)
	b := newBastion(t)
	b.vpcNames(map[string]string{"site.example:80": s.addr})
	proxy := startSOCKS(t, readyLink(t, b, LinkConfig{}), ProxyConfig{User: "ann", Password: "secret"})
	for _, tc := range []struct{ auth, want string }{
		{"Proxy-Authorization: Basic YW5uOnNlY3JldA==\r\n", "HTTP/1.1 413 "}, {"", "HTTP/1.1 407 "},
	} {
		c := dialTCP(t, proxy)
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		const size = 16 << 20
		_, _ = fmt.Fprintf(c, "POST http://site.example/ HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n", tc.auth, size)
		if n, err := c.Write(make([]byte, size)); err != nil {
			t.Errorf("%s: %d bytes of the body sent: %v", tc.want, n, err)
		}
		_ = c.CloseWrite()
		if answer, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(answer), tc.want) {
			t.Errorf("%q, %v; want %s", answer, err, tc.want)
		}
	}
}

// An answer that is cut short never looks complete. Where its end is that of the connection, an HTTP/1.0 client sees a reset, whether
// its request had a body or not.
func TestHTTPProxyCutAnswerIsReset(t *testing.T) {
	for _, cut := range []string{
		"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n9\nhalf", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n4\nhalf\n",
	} {
		s := newSite(t, semantics{raw: tell(cut)})
		b := newBastion(t)
		b.vpcNames(map[string]string{"site.example:80": s.addr})
		proxy := startSOCKS(t, readyLink(t, b, LinkConfig{}), ProxyConfig{})
		for _, request := range []string{
			"GET http://site.example/ HTTP/1.0\r\nHost: x\r\n\r\n",
			"POST http://site.example/ HTTP/1.0\r\nHost: x\r\nContent-Length: 2\r\n\r\nok",
		} {
			c := dialTCP(t, proxy)
			_ = c.SetDeadline(time.Now().Add(60 * time.Second))
			if _, err := io.WriteString(c, request); err != nil {
				t.Fatal(err)
			}
			if answer, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%.20q: %q ends with %v, want a reset", request, answer, err)
			}
		}
	}
}

// earlyConn is a connection to a site that answers when it has the head of a request, and takes no more from then on. What it
// said comes after the write that failed.
type earlyConn struct {
	net.Conn // nil: nothing below is called
	answer   io.Reader
	refused  chan struct{}
	closed   chan struct{}
	once     [2]sync.Once
	head     bool
}

func (c *earlyConn) Write(p []byte) (int, error) {
	if !c.head {
		c.head = true
		return len(p), nil
	}
	c.once[0].Do(func() { close(c.refused) })
	return 0, io.ErrClosedPipe
}

func (c *earlyConn) Read(p []byte) (int, error) {
	select {
	case <-c.refused:
		return c.answer.Read(p)
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *earlyConn) Close() error {
	c.once[1].Do(func() { close(c.closed) })
	return nil
}

// A failed write does not mean that no answer came.
func TestHTTPProxyAnswerAfterFailedWrite(t *testing.T) {
	addr := startSOCKS(t, dialFunc(func(context.Context) (net.Conn, error) {
		return &earlyConn{
			answer:  strings.NewReader("HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\n\r\ntoo large"),
			refused: make(chan struct{}), closed: make(chan struct{}),
		}, nil
	}), ProxyConfig{})
	row := semantics{request: "POST / HTTP/1.1\nContent-Length: 8388608\n", talk: flood}
	for range 20 {
		if got := row.play(t, addr, "http://site.example"); len(got) != 1 || got[0].Status != 413 || got[0].Body != "too large" {
			t.Fatalf("%+v", got)
		}
	}
}
