package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/net/proxy"
)

// webBastion is a bastion by which http://site.example and https://site.example lead to handler. The certificate is of
// httptest: it is for example.com.
func webBastion(t *testing.T, handler http.Handler) *bastion {
	t.Helper()
	plain := httptest.NewServer(handler)
	t.Cleanup(plain.Close)
	secure := httptest.NewTLSServer(handler)
	t.Cleanup(secure.Close)
	b := newBastion(t)
	b.vpcNames(map[string]string{
		"site.example:80": plain.Listener.Addr().String(), "example.com:443": secure.Listener.Addr().String(),
	})
	return b
}

// clientOf returns an HTTP client of a proxy. It has connections of its own.
func clientOf(t *testing.T, addr string, user *url.Userinfo) *http.Client {
	t.Helper()
	transport := &http.Transport{
		Proxy:              http.ProxyURL(&url.URL{Scheme: "http", Host: addr, User: user}),
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, // #nosec G402 -- the certificate is not what is tested
		DisableCompression: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 30 * time.Second}
}

func get(t *testing.T, c *http.Client, url string) (int, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// raw sends text to the proxy and returns all that comes back until the proxy ends the connection.
func raw(t *testing.T, addr, text string) string {
	t.Helper()
	c := dialTCP(t, addr)
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	go func() { _, _ = io.WriteString(c, text) }()
	answer, err := io.ReadAll(c)
	if isTimeout(err) {
		t.Errorf("%.60q: the connection stays open", text)
	}
	return string(answer)
}

func hello(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprintf(w, "hello from %s", r.Host) }

// curl speaks every protocol of the port, with and without a password.
func TestProxyWithCurl(t *testing.T) {
	curl := tool(t, "curl")
	l := readyLink(t, webBastion(t, http.HandlerFunc(hello)), LinkConfig{})
	open := startSOCKS(t, l, ProxyConfig{})
	closed := startSOCKS(t, l, ProxyConfig{User: "ann", Password: "s3cret: &%"})
	run := func(args ...string) (int, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		defer cancel()
		// --noproxy: the user's environment may except the names from proxies.
		cmd := exec.CommandContext(ctx, curl, append([]string{"-sS", "-k", "--max-time", "50", "--noproxy", "", "-q"}, args...)...)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), string(out)
	}
	const plain, secure = "http://site.example/", "https://example.com/"
	const good, bad = "ann:s3cret: &%", "ann:s3cret"
	for _, tc := range []struct {
		addr string
		args []string
		user string
		code int
		out  string // part of it
	}{
		{open, []string{"-x", "http://" + open, plain}, "", 0, "hello from site.example"},
		{open, []string{"-x", "http://" + open, secure}, "", 0, "hello from example.com"},
		{open, []string{"-x", "http://" + open, "--proxytunnel", plain}, "", 0, "hello from site.example"},
		{open, []string{"--socks4a", open, plain}, "", 0, "hello from site.example"},
		{open, []string{"--socks5-hostname", open, secure}, "", 0, "hello from example.com"},
		{open, []string{"-x", "http://" + open, "--fail-with-body", "http://nowhere.example/"}, "", 22, "check the name and the port"},
		{open, []string{"-x", "http://" + open, "https://nowhere.example/"}, "", 56, "response 502"},
		{open, []string{"-x", "http://" + open, plain}, bad, 0, "hello"}, // a password too much

		{closed, []string{"-x", "http://" + closed, plain}, good, 0, "hello from site.example"},
		{closed, []string{"-x", "http://" + closed, secure}, good, 0, "hello from example.com"},
		{closed, []string{"--socks5-hostname", closed, plain}, good, 0, "hello from site.example"},
		{closed, []string{"-x", "http://" + closed, plain}, bad, 0, "proxy_auth_file"},
		{closed, []string{"-x", "http://" + closed, plain}, "", 0, "proxy_auth_file"},
		{closed, []string{"-x", "http://" + closed, secure}, bad, 56, "response 407"},
		{closed, []string{"--socks5-hostname", closed, plain}, bad, 97, "rejected"},
		{closed, []string{"--socks5-hostname", closed, plain}, "", 97, ""},
		{closed, []string{"--socks4a", closed, plain}, "", 97, ""},
	} {
		args := tc.args
		if tc.user != "" {
			args = append([]string{"--proxy-user", tc.user}, args...)
		}
		code, out := run(args...)
		if code != tc.code || !strings.Contains(out, tc.out) {
			t.Errorf("curl %q: exit code %d, %q; want %d, %q", args, code, out, tc.code, tc.out)
		}
	}
}

// Go's own client of SOCKS5 with a password.
func TestSOCKSPassword(t *testing.T) {
	b := newBastion(t)
	dest := serveTCP(t, echo)
	b.vpcNames(map[string]string{"db.example:5432": dest})
	addr := startSOCKS(t, readyLink(t, b, LinkConfig{}), ProxyConfig{User: "ann", Password: "secret"})
	for _, tc := range []struct {
		auth *proxy.Auth
		ok   bool
	}{
		{&proxy.Auth{User: "ann", Password: "secret"}, true},
		{&proxy.Auth{User: "ann", Password: "Secret"}, false},
		{&proxy.Auth{User: "ann", Password: "secret "}, false},
		{&proxy.Auth{User: "", Password: "secret"}, false},
		{&proxy.Auth{User: "bob", Password: "secret"}, false},
		{nil, false},
	} {
		d, err := proxy.SOCKS5("tcp", addr, tc.auth, nil)
		if err != nil {
			t.Fatal(err)
		}
		c, err := d.Dial("tcp", "db.example:5432")
		if (err == nil) != tc.ok {
			t.Errorf("%+v: %v", tc.auth, err)
		}
		if err == nil {
			mustEcho(t, c, "hello")
			_ = c.Close()
		}
	}
}

// The site gets the client's request, without the parts for the proxy.
func TestHTTPProxyRequests(t *testing.T) {
	type seen struct {
		method, uri, host, body string
		header                  http.Header
		addr                    string
	}
	var mu sync.Mutex
	var requests []seen
	site := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		requests = append(requests, seen{r.Method, r.RequestURI, r.Host, string(body), r.Header.Clone(), r.RemoteAddr})
		mu.Unlock()
		w.Header().Set("Connection", "X-Of-This-Hop")
		w.Header().Set("X-Of-This-Hop", "1")
		w.Header().Set("Keep-Alive", "timeout=5")
		w.Header().Set("X-Answer", "42")
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "answer")
	})
	l := readyLink(t, webBastion(t, site), LinkConfig{})
	var stats Stats
	addr := startSOCKS(t, l, ProxyConfig{User: "ann", Password: "secret", Stats: &stats})
	auth := "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:secret"))
	c := dialTCP(t, addr)
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	answers := bufio.NewReader(c)
	send := func(text string) *http.Response {
		t.Helper()
		if _, err := io.WriteString(c, strings.ReplaceAll(text, "\n", "\r\n")); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil || string(body) != "answer" {
			t.Fatalf("body %q, %v", body, err)
		}
		return resp
	}
	resp := send("PUT http://site.example/a%2Fb/c;d?x=1;y=2&z=%zz HTTP/1.1\nHost: other.example\nContent-Length: 4\n" +
		"Proxy-Authorization: " + auth + "\nProxy-Connection: keep-alive\nConnection: X-Mine\nX-Mine: 1\nTE: trailers\n" +
		"X-Forwarded-For: 1.2.3.4\nForwarded: for=1.2.3.4\nAuthorization: Basic eDp5\nCookie: a=b\nX-Yours: 2\n\nbody")
	if resp.StatusCode != http.StatusTeapot || resp.Header.Get("X-Answer") != "42" {
		t.Errorf("answer %v", resp)
	}
	for _, name := range []string{"X-Of-This-Hop", "Keep-Alive", "Via"} {
		if v := resp.Header.Get(name); v != "" {
			t.Errorf("the answer has %s: %s", name, v)
		}
	}
	send("POST http://site.example HTTP/1.1\nHost: site.example\nTransfer-Encoding: chunked\nProxy-Authorization: " + auth +
		"\n\n3\nabc\n2\nde\n0\n\n")
	send("GET http://site.example/ HTTP/1.1\nHost: site.example\nProxy-Authorization: " + auth + "\n\n")

	mu.Lock()
	defer mu.Unlock()
	if len(requests) != 3 {
		t.Fatalf("the site saw %+v", requests)
	}
	first := requests[0]
	if first.method != "PUT" || first.uri != "/a%2Fb/c;d?x=1;y=2&z=%zz" || first.host != "site.example" || first.body != "body" {
		t.Errorf("the site saw %+v", first)
	}
	want := map[string]string{
		"X-Forwarded-For": "1.2.3.4", "Forwarded": "for=1.2.3.4", "Authorization": "Basic eDp5", "Cookie": "a=b", "X-Yours": "2",
		"Proxy-Authorization": "", "Proxy-Connection": "", "Connection": "", "X-Mine": "", "Via": "", "User-Agent": "",
		"Accept-Encoding": "",
	}
	for name, v := range want {
		if got := first.header.Get(name); got != v {
			t.Errorf("the site saw %s: %q, want %q", name, got, v)
		}
	}
	if requests[1].body != "abcde" || requests[1].uri != "/" || requests[2].body != "" {
		t.Errorf("the site saw %+v", requests[1:])
	}
	if requests[0].addr != requests[2].addr {
		t.Error("the connection to the site was not kept")
	}
	// The connection to the site is one, with its bytes, while it is kept.
	if conns := stats.Conns(); len(conns) != 1 || conns[0].Dest != "site.example:80" || conns[0].Client != c.LocalAddr().String() ||
		conns[0].Up < 100 || conns[0].Down < 100 {
		t.Errorf("connections %+v", conns)
	}
}

// Upgrades, events without an end and answers cut short pass as they are.
func TestHTTPProxyStreams(t *testing.T) {
	finish := make(chan struct{})
	defer close(finish)
	mux := http.NewServeMux()
	mux.HandleFunc("/upgrade", func(w http.ResponseWriter, r *http.Request) {
		c, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n",
			r.Header.Get("Upgrade"))
		line, _ := rw.ReadString('\n')
		_, _ = io.WriteString(c, "you said "+line)
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = io.WriteString(w, "first\n")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-finish:
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
		_ = c.Close()
	})
	b := webBastion(t, mux)
	addr := startSOCKS(t, readyLink(t, b, LinkConfig{}), ProxyConfig{})

	c := dialTCP(t, addr)
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	_, _ = io.WriteString(c, "GET http://site.example/upgrade HTTP/1.1\r\nHost: site.example\r\n"+
		"Connection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Upgrade") != "echo" {
		t.Fatalf("%+v, %v", resp, err)
	}
	_, _ = io.WriteString(c, "hello\n")
	if line, err := r.ReadString('\n'); line != "you said hello\n" {
		t.Errorf("%q, %v", line, err)
	}

	events, err := clientOf(t, addr, nil).Get("http://site.example/events")
	if err != nil {
		t.Fatal(err)
	}
	defer events.Body.Close()
	if line, err := bufio.NewReader(events.Body).ReadString('\n'); line != "first\n" {
		t.Errorf("%q, %v", line, err)
	}

	// An HTTP/1.0 client knows the end of an answer only by that of the connection.
	old := dialTCP(t, addr)
	_ = old.SetDeadline(time.Now().Add(30 * time.Second))
	_, _ = io.WriteString(old, "GET http://site.example/cut HTTP/1.0\r\nHost: site.example\r\n\r\n")
	if answer, err := io.ReadAll(old); err == nil {
		t.Errorf("an answer cut short looks complete: %q", answer)
	}
}

func TestHTTPProxyErrors(t *testing.T) {
	b := newBastion(t)
	there := b.dial
	ssher := serveTCP(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 4096))
		_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n")
	})
	b.dial = func(ctx context.Context, addr string) (net.Conn, error) {
		host, _, _ := net.SplitHostPort(addr)
		switch host {
		case "denied.example":
			return nil, &ssh.OpenChannelError{Reason: ssh.Prohibited, Message: "not on the list"}
		case "slow.example":
			return nil, &ssh.OpenChannelError{Reason: ssh.ConnectionFailed, Message: "dial tcp 10.0.0.1:80: i/o timeout"}
		case "full.example":
			return nil, &ssh.OpenChannelError{Reason: ssh.ResourceShortage}
		case "rude.example":
			return there(ctx, ssher)
		}
		return nil, &ssh.OpenChannelError{Reason: ssh.ConnectionFailed, Message: "no such host\x1b[31m"}
	}
	addr := startSOCKS(t, readyLink(t, b, LinkConfig{}), ProxyConfig{})
	c := clientOf(t, addr, nil)
	for host, want := range map[string]struct {
		status int
		next   string
	}{
		"denied.example": {403, "ask the bastion's operator to allow denied.example:80"}, "slow.example": {504, "security group"},
		"full.example": {503, "try again later"}, "none.example": {502, "check the name and the port"},
		"rude.example": {502, "check that rude.example is a web server"},
	} {
		status, text := get(t, c, "http://"+host+"/")
		if status != want.status || !strings.HasPrefix(text, "bastion: ") || !strings.Contains(text, "hint: ") ||
			!strings.Contains(text, want.next) || strings.Contains(text, "\x1b") {
			t.Errorf("%s: %d %q; want %d, %q", host, status, text, want.status, want.next)
		}
		if host == "rude.example" {
			continue // it does accept connections
		}
		answer := raw(t, addr, "CONNECT "+host+":80 HTTP/1.1\r\nHost: "+host+":80\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(answer, fmt.Sprintf("HTTP/1.1 %d ", want.status)) || !strings.Contains(answer, want.next) {
			t.Errorf("CONNECT %s: %q; want %d, %q", host, answer, want.status, want.next)
		}
	}
}

// CONNECT makes a tunnel whose directions end separately, and loses nothing that came early.
func TestHTTPProxyConnect(t *testing.T) {
	b := newBastion(t)
	dest := serveTCP(t, func(c *net.TCPConn) {
		q, _ := io.ReadAll(c)
		_, _ = fmt.Fprintf(c, "answer to %s", q)
	})
	b.vpcNames(map[string]string{"db.example:5432": dest, "[fd00::5]:5432": dest})
	var stats Stats
	addr := startSOCKS(t, readyLink(t, b, LinkConfig{}), ProxyConfig{Stats: &stats})
	for _, target := range []string{"db.example:5432", "[fd00::5]:5432"} {
		c := dialTCP(t, addr)
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.WriteString(c, "CONNECT "+target+" HTTP/1.1\r\nHost: x\r\n\r\nearly ")
		r := bufio.NewReader(c)
		resp, err := http.ReadResponse(r, &http.Request{Method: http.MethodConnect})
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%+v, %v", resp, err)
		}
		_, _ = io.WriteString(c, "question")
		_ = c.CloseWrite()
		if got, err := io.ReadAll(r); string(got) != "answer to early question" || err != nil {
			t.Errorf("read %q, %v", got, err)
		}
		_ = c.Close()
	}
	if got := stats.Snapshot(); got.Total != 2 || got.BytesUp != 28 || got.BytesDown != 48 {
		t.Errorf("stats %+v", got)
	}
}

// Hostile and broken clients get an error or the end, and the site gets nothing of theirs.
func TestProxyHostile(t *testing.T) {
	var mu sync.Mutex
	var uris []string
	site := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		uris = append(uris, r.RequestURI)
		mu.Unlock()
		hello(w, r)
	})
	b := webBastion(t, site)
	l := readyLink(t, b, LinkConfig{})
	addr := startSOCKS(t, l, ProxyConfig{})
	closed := startSOCKS(t, l, ProxyConfig{User: "ann", Password: "secret"})
	long := strings.Repeat("a", 80<<10)
	// req returns a request with a host and more header lines, after which the client wants no more.
	req := func(line string, headers ...string) string {
		return line + " HTTP/1.1\r\nHost: a\r\n" + strings.Join(append(headers, "Connection: close", "", ""), "\r\n")
	}
	basic := func(s string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(s)) }
	for what, tc := range map[string]struct{ addr, send, want string }{
		"nothing known":     {addr, "\x00\x01\x02", ""},
		"TLS":               {addr, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", ""},
		"SOCKS6":            {addr, "\x06\x01\x00", ""},
		"no HTTP":           {addr, "HELP me\r\n\r\n", "HTTP/1.1 400"},
		"SSH":               {addr, "SSH-2.0-x\r\n\r\n", "HTTP/1.1 400"},
		"HTTP/2":            {addr, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 "},
		"giant header":      {addr, req("GET http://site.example/giant", "X: "+long), "HTTP/1.1 431"},
		"giant line":        {addr, req("GET http://site.example/" + long), "HTTP/1.1 431"},
		"two hosts":         {addr, req("GET http://site.example/two", "Host: b"), "HTTP/1.1 400"},
		"two lengths":       {addr, req("POST http://site.example/two", "Content-Length: 1", "Content-Length: 2") + "ab", "HTTP/1.1 400"},
		"bad length":        {addr, req("POST http://site.example/len", "Content-Length: +3") + "abc", "HTTP/1.1 400"},
		"bad encoding":      {addr, req("POST http://site.example/te", "Transfer-Encoding: xchunked"), "HTTP/1.1 501"},
		"space before ':'":  {addr, req("POST http://site.example/sp", "Transfer-Encoding : chunked"), "HTTP/1.1 400"},
		"folded header":     {addr, req("GET http://site.example/fold", " X: y"), "HTTP/1.1 400"},
		"zero in header":    {addr, req("GET http://site.example/zero", "X: a\x00b"), "HTTP/1.1 400"},
		"https URL":         {addr, req("GET https://example.com/"), "HTTP/1.1 400"},
		"file URL":          {addr, req("GET file:///etc/passwd"), "HTTP/1.1 400"},
		"no host":           {addr, req("GET http:///x"), "HTTP/1.1 400"},
		"no port":           {addr, req("CONNECT site.example"), "HTTP/1.1 400"},
		"port 0":            {addr, req("CONNECT site.example:0"), "HTTP/1.1 400"},
		"port 65536":        {addr, req("CONNECT site.example:65536"), "HTTP/1.1 400"},
		"only a port":       {addr, req("CONNECT :0"), "HTTP/1.1 400"},
		"long host":         {addr, req("CONNECT " + strings.Repeat("a", 300) + ":80"), "HTTP/1.1 400"},
		"CONNECT with body": {addr, req("CONNECT site.example:80", "Content-Length: 3") + "abc", "HTTP/1.1 400"},

		"no password":    {closed, req("GET http://site.example/no"), "HTTP/1.1 407"},
		"wrong password": {closed, req("GET http://site.example/no", "Proxy-Authorization: "+basic("ann:x")), "HTTP/1.1 407"},
		"no user":        {closed, req("GET http://site.example/no", "Proxy-Authorization: "+basic(":secret")), "HTTP/1.1 407"},
		"not Basic":      {closed, req("GET http://site.example/no", "Proxy-Authorization: Bearer YW5uOnNlY3JldA=="), "HTTP/1.1 407"},
		"site's header":  {closed, req("GET http://site.example/no", "Authorization: "+basic("ann:secret")), "HTTP/1.1 407"},
		"CONNECT":        {closed, req("CONNECT site.example:80") + "GET /no HTTP/1.0\r\n\r\n", "HTTP/1.1 407"},
		"SOCKS5 without": {closed, "\x05\x01\x00\x05\x01\x00\x03\x04site\x00\x50", "\x05\xff"},
		"SOCKS5 empty":   {closed, "\x05\x01\x02\x01\x00\x00\x05\x01\x00\x03\x04site\x00\x50", "\x05\x02\x01"},
	} {
		if got := raw(t, tc.addr, tc.send); !strings.HasPrefix(got, tc.want) || (tc.want == "" && got != "") {
			t.Errorf("%s: %.200q, want %q", what, got, tc.want)
		}
	}
	mu.Lock()
	if len(uris) > 0 {
		t.Errorf("the site saw %q", uris)
	}
	mu.Unlock()

	// Both framings: what the proxy takes for one request is one request to the site too, and the site never sees the other.
	raw(t, addr, "POST http://site.example/first HTTP/1.1\r\nHost: site.example\r\n"+
		"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n"+
		"0\r\n\r\nGET http://site.example/second HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\n\r\n")
	mu.Lock()
	defer mu.Unlock()
	for _, uri := range uris {
		if uri != "/first" && uri != "/second" {
			t.Errorf("the site saw %q", uris)
		}
	}
	if len(uris) > 2 {
		t.Errorf("the site saw %q", uris)
	}
}

// A client that is slow to say what it wants is not waited for.
func TestProxySlowClients(t *testing.T) {
	addr := startSOCKS(t, nil, ProxyConfig{HandshakeTimeout: 50 * time.Millisecond})
	for _, begin := range []string{"", "G", "GET http://site.example/ HTTP/1.1\r\nHost: a\r\n", "\x04\x01", "\x05\x01", "\x05\x01\x00\x05"} {
		c := dialTCP(t, addr)
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		// It goes on, a byte at a time, which must not help.
		stop := make(chan struct{})
		var drip sync.WaitGroup
		drip.Go(func() {
			_, _ = io.WriteString(c, begin)
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for begin != "" {
				select {
				case <-stop:
					return
				case <-tick.C:
					if _, err := c.Write([]byte("a")); err != nil {
						return
					}
				}
			}
		})
		if _, err := io.Copy(io.Discard, c); isTimeout(err) {
			t.Errorf("%q: still connected", begin)
		}
		close(stop)
		drip.Wait()
		_ = c.Close()
	}
}

// The end of the proxy interrupts HTTP clients in every state, and waits for them.
func TestHTTPProxyEndsWithContext(t *testing.T) {
	reached := make(chan struct{}, 3)
	site := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/quick" {
			return
		}
		_, _ = io.WriteString(w, "half")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	b := webBastion(t, site)
	there := b.dial
	b.dial = func(ctx context.Context, addr string) (net.Conn, error) {
		if strings.HasPrefix(addr, "never.") {
			reached <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return there(ctx, addr)
	}
	l := readyLink(t, b, LinkConfig{})
	ln := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	var stats Stats
	go func() { result <- ServeProxy(ctx, ln, l, ProxyConfig{HandshakeTimeout: time.Hour, Stats: &stats}) }()
	addr := ln.Addr().String()

	start := func(text, until string) *net.TCPConn {
		c := dialTCP(t, addr)
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = io.WriteString(c, text)
		got, r := "", bufio.NewReader(c)
		for until != "" && !strings.HasSuffix(got, until) {
			b, err := r.ReadByte()
			if err != nil {
				t.Fatalf("%q: %v after %q", text, err, got)
			}
			got += string(b)
		}
		return c
	}
	conns := []*net.TCPConn{
		start("", ""),
		start("GET http://si", ""),
		start("GET http://site.example/quick HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n\r\n"), // then idle
		start("GET http://site.example/slow HTTP/1.1\r\nHost: a\r\n\r\n", "half"),
		start("GET http://never.example/ HTTP/1.1\r\nHost: a\r\n\r\n", ""),
		start("POST http://never.example/ HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf", ""),
		start("CONNECT never.example:80 HTTP/1.1\r\nHost: a\r\n\r\n", ""),
		start("CONNECT example.com:443 HTTP/1.1\r\nHost: a\r\n\r\n", "\r\n\r\n"),
	}
	for range cap(reached) {
		<-reached
	}
	cancel()
	if err := <-result; err != nil {
		t.Error(err)
	}
	for i, c := range conns {
		if _, err := io.Copy(io.Discard, c); isTimeout(err) {
			t.Errorf("client %d is still connected", i)
		}
	}
	if got := stats.Snapshot(); got.Active != 0 || len(stats.Conns()) != 0 {
		t.Errorf("left over: %+v, %+v", got, stats.Conns())
	}
}

// A client that has gone is not dialed for any longer.
func TestHTTPProxyClientGivesUp(t *testing.T) {
	dialing := make(chan context.Context, 1)
	d := dialFunc(func(ctx context.Context) (net.Conn, error) {
		dialing <- ctx
		<-ctx.Done()
		return nil, ctx.Err()
	})
	addr := startSOCKS(t, d, ProxyConfig{})
	for _, text := range []string{"GET http://site.example/ HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT site.example:80 HTTP/1.1\r\nHost: a\r\n\r\n"} {
		c := dialTCP(t, addr)
		_, _ = io.WriteString(c, text)
		ctx := <-dialing
		_ = c.Close()
		select {
		case <-ctx.Done():
		case <-time.After(30 * time.Second):
			t.Errorf("%q: still dialing", text)
		}
	}
}

type dialFunc func(context.Context) (net.Conn, error)

func (f dialFunc) Dial(ctx context.Context, _, _ string) (net.Conn, error) { return f(ctx) }

func TestPACServed(t *testing.T) {
	addr := startSOCKS(t, nil, ProxyConfig{
		Domains: []string{"corp.internal"}, CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")},
		User: "ann", Password: "secret", // browsers fetch the file without
	})
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, path, host string, header ...string) *http.Response {
		t.Helper()
		c := dialTCP(t, addr)
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		text := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n%s\r\n", method, path, host, strings.Join(header, ""))
		_, _ = io.WriteString(c, text)
		resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
		return resp
	}
	for _, path := range []string{"/proxy.pac", "/wpad.dat"} {
		for _, host := range []string{addr, "127.0.0.1", "localhost:" + port, "LOCALHOST.", "[::1]:" + port, "127.1.2.3"} {
			resp := ask("GET", path, host)
			script, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/x-ns-proxy-autoconfig" ||
				resp.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Fatalf("%s of %s: %+v", path, host, resp)
			}
			find := pacFunc(t, string(script))
			if got := find("https://wiki.corp.internal/", "wiki.corp.internal") + find("", "10.1.2.3") + find("", "example.com"); got !=
				"PROXY "+addr+"PROXY "+addr+"DIRECT" {
				t.Errorf("%s of %s: %s", path, host, got)
			}
		}
	}
	for what, tc := range map[string]struct {
		status             int
		method, path, host string
		header             string
	}{
		"rebinding":     {421, "GET", "/proxy.pac", "evil.example", ""},
		"with our port": {421, "GET", "/proxy.pac", "evil.example:" + port, ""},
		"a trick":       {421, "GET", "/proxy.pac", "127.0.0.1.evil.example", ""},
		"localhost.x":   {421, "GET", "/proxy.pac", "localhost.evil.example", ""},
		"other address": {421, "GET", "/proxy.pac", "192.0.2.1", ""},
		"no host":       {421, "GET", "/proxy.pac", "", ""},
		"other site":    {403, "GET", "/proxy.pac", addr, "Sec-Fetch-Site: cross-site\r\n"},
		"same site":     {403, "GET", "/proxy.pac", addr, "Sec-Fetch-Site: same-site\r\n"},
		"fetch":         {403, "GET", "/proxy.pac", addr, "Origin: https://evil.example\r\n"},
		"own page":      {200, "GET", "/proxy.pac", addr, "Sec-Fetch-Site: none\r\n"},
		"other path":    {404, "GET", "/", addr, ""},
		"POST":          {405, "POST", "/proxy.pac", addr, "Content-Length: 0\r\n"},
		"HEAD":          {200, "HEAD", "/proxy.pac", addr, ""},
	} {
		resp := ask(tc.method, tc.path, tc.host, tc.header)
		body, _ := io.ReadAll(resp.Body)
		if resp.StatusCode != tc.status {
			t.Errorf("%s: %d, want %d", what, resp.StatusCode, tc.status)
		}
		if tc.status != 200 && (strings.Contains(string(body), "corp.internal") || !strings.Contains(string(body), "hint: ")) {
			t.Errorf("%s: %q", what, body)
		}
	}
}

func TestOwnHost(t *testing.T) {
	remote := &net.TCPAddr{IP: net.ParseIP("192.0.2.7"), Port: 1080}
	for host, want := range map[string]bool{
		"192.0.2.7": true, "192.0.2.7:1080": true, "[::ffff:192.0.2.7]:1080": true, "192.0.2.8:1080": false, "[::1]": true,
		"::1": true, "[2001:db8::1]:80": false, "": false, ":1080": false, "localhost": true, "xlocalhost": false,
	} {
		if got := ownHost(host, remote); got != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}
