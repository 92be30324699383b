package dashboard

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
)

func TestListen(t *testing.T) {
	for _, addr := range []string{
		"0.0.0.0:0", "[::]:0", "192.0.2.1:0", "localhost:0", "127.0.0.1", ":0", "", "[::ffff:127.0.0.1]:0", "[::1%lo]:0",
	} {
		ln, err := Listen(t.Context(), addr)
		if err == nil {
			_ = ln.Close()
		}
		if fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" {
			t.Errorf("%q: %v", addr, err)
		}
	}
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	if _, err := Listen(t.Context(), ln.Addr().String()); fail.KindOf(err) != fail.PortInUse {
		t.Errorf("a port that is taken: %v", err)
	}
}

func TestSession(t *testing.T) {
	f := newFake()
	s := serve(t, f, Options{})
	b := signIn(t, s)
	c := b.cookie
	if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || len(c.Value) != 43 ||
		len(b.key) != 43 {
		t.Errorf("cookie %+v, key of %d characters", c, len(b.key))
	}
	resp, data := b.request(http.MethodPost, "/api/close", `{"name":"orders"}`, nil)
	if resp.StatusCode != http.StatusOK || hasForward(f.State(), "orders") {
		t.Errorf("%s %s", resp.Status, data)
	}
	// A second session of the same browser leaves the first as it is.
	other := signIn(t, s)
	if other.cookie.Name == c.Name {
		t.Error("two sessions have a cookie of the same name")
	}
	for _, b := range []*browser{b, other} {
		if resp, data := b.request(http.MethodGet, "/api/events", "", nil); resp.StatusCode != http.StatusOK {
			t.Errorf("%s %s", resp.Status, data)
		}
	}
}

// What must not get in does not, and changes nothing.
func TestRefused(t *testing.T) {
	f := newFake()
	s := serve(t, f, Options{})
	in := signIn(t, s)
	elsewhere := signIn(t, serve(t, newFake(), Options{}))
	_, port, err := net.SplitHostPort(s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	const closeOrders = `{"name":"orders"}`
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) {
			if value == "" {
				r.Header.Del(name)
			} else {
				r.Header.Set(name, value)
			}
		}
	}
	host := func(value string) func(*http.Request) {
		return func(r *http.Request) { r.Host = value }
	}
	for _, tt := range []struct {
		name         string
		method, path string
		body         string
		change       func(*http.Request)
		code         int
	}{
		{"DNS rebinding", "POST", "/api/close", closeOrders, host("attacker.example:" + port), 421},
		{"DNS rebinding, with the page's origin", "POST", "/api/close", closeOrders, func(r *http.Request) {
			r.Host = "attacker.example:" + port
			r.Header.Set("Origin", "http://"+r.Host)
		}, 421},
		{"DNS rebinding, the page", "GET", "/", "", host("attacker.example"), 421},
		{"a name of this machine", "GET", "/", "", host("localhost:" + port), 421},
		{"the address without the port", "GET", "/", "", host("127.0.0.1"), 421},
		{"another address of this machine", "GET", "/api/events", "", host("127.0.0.2:" + port), 421},

		{"a foreign origin", "POST", "/api/close", closeOrders, header("Origin", "https://attacker.example"), 403},
		{"another port", "POST", "/api/close", closeOrders, header("Origin", "http://127.0.0.1:1"), 403},
		{"another scheme", "POST", "/api/close", closeOrders, header("Origin", "https://"+s.Addr()), 403},
		{"a file's origin", "POST", "/api/close", closeOrders, header("Origin", "null"), 403},
		{"no origin", "POST", "/api/close", closeOrders, header("Origin", ""), 403},
		{"a foreign site", "POST", "/api/close", closeOrders, header("Sec-Fetch-Site", "cross-site"), 403},
		{"another port of the same site", "POST", "/api/close", closeOrders, header("Sec-Fetch-Site", "same-site"), 403},
		{"an address bar that posts", "POST", "/api/close", closeOrders, header("Sec-Fetch-Site", "none"), 403},
		{"a foreign site reads", "GET", "/api/events", "", header("Sec-Fetch-Site", "cross-site"), 403},
		{"a foreign origin reads", "GET", "/api/events", "", header("Origin", "https://attacker.example"), 403},
		{"a foreign page includes the script", "GET", "/app.js", "", header("Sec-Fetch-Site", "same-site"), 403},
		{"a foreign page frames the page", "GET", "/", "", func(r *http.Request) {
			r.Header.Set("Sec-Fetch-Site", "cross-site")
			r.Header.Set("Sec-Fetch-Mode", "navigate")
			r.Header.Set("Sec-Fetch-Dest", "iframe")
		}, 403},

		{"no cookie", "POST", "/api/close", closeOrders, header("Cookie", ""), 401},
		{
			"a wrong cookie", "POST", "/api/close", closeOrders, header("Cookie", in.cookie.Name+"="+strings.Repeat("A", 43)),
			401,
		},
		{"no key (CSRF)", "POST", "/api/close", closeOrders, header(keyHeader, ""), 401},
		{"a wrong key", "POST", "/api/close", closeOrders, header(keyHeader, strings.Repeat("A", 43)), 401},
		{"the cookie as the key", "POST", "/api/close", closeOrders, header(keyHeader, in.cookie.Value), 401},
		{"another dashboard's session", "POST", "/api/close", closeOrders, func(r *http.Request) {
			r.Header.Set("Cookie", elsewhere.cookie.String())
			r.Header.Set(keyHeader, elsewhere.key)
		}, 401},
		{"another dashboard's secrets under this one's name", "POST", "/api/close", closeOrders, func(r *http.Request) {
			r.Header.Set("Cookie", in.cookie.Name+"="+elsewhere.cookie.Value)
			r.Header.Set(keyHeader, elsewhere.key)
		}, 401},
		{"no session reads", "GET", "/api/events", "", header("Cookie", ""), 401},
		{"no session opens", "POST", "/api/open", `{"target":"rds:orders"}`, header("Cookie", ""), 401},

		{"GET changes nothing", "GET", "/api/close?name=orders", "", nil, 405},
		{"GET opens nothing", "GET", "/api/open?target=rds", "", nil, 405},
		{"GET does not sign in", "GET", "/api/login", "", nil, 405},
		{"PUT", "PUT", "/api/close", closeOrders, header("Origin", "http://"+s.Addr()), 405},
		{"a preflight", "OPTIONS", "/api/close", "", header("Origin", "https://attacker.example"), 403},
		{"a form", "POST", "/api/close", "name=orders", header("Content-Type", "application/x-www-form-urlencoded"), 415},
		{"plain text", "POST", "/api/close", closeOrders, header("Content-Type", "text/plain"), 415},
		{"no type", "POST", "/api/close", closeOrders, header("Content-Type", ""), 415},
		{"more than JSON", "POST", "/api/close", closeOrders + closeOrders, nil, 400},
		{"unknown fields", "POST", "/api/close", `{"name":"orders","all":true}`, nil, 400},
		{"a body without end", "POST", "/api/close", `{"name":"` + strings.Repeat("a", maxBody) + `"}`, nil, 400},
		{"every forward", "POST", "/api/close", `{"name":"all"}`, nil, 404},
		{"a file of the package", "GET", "/index.html", "", nil, 404},
		{"a file of the assets by another path", "GET", "/assets/app.js", "", nil, 404},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := *in
			b.t = t
			resp, data := b.request(tt.method, tt.path, tt.body, tt.change)
			if resp.StatusCode != tt.code {
				t.Errorf("%s %s, want %d", resp.Status, data, tt.code)
			}
			for name := range headers {
				if resp.Header.Get(name) == "" {
					t.Errorf("no %s", name)
				}
			}
			if resp.Header.Get("Access-Control-Allow-Origin") != "" || resp.Header.Get("Set-Cookie") != "" {
				t.Errorf("headers %v", resp.Header)
			}
			if !hasForward(f.State(), "orders") || len(f.requests) > 0 {
				t.Fatal("it was done even so")
			}
		})
	}
	// The same without any of that is done: the session was good.
	if resp, data := in.request(http.MethodPost, "/api/close", closeOrders, nil); resp.StatusCode != http.StatusOK {
		t.Errorf("%s %s", resp.Status, data)
	}
}

// A link is good for one browser, for a minute.
func TestTokens(t *testing.T) {
	s := serve(t, newFake(), Options{})
	b := &browser{t: t, addr: s.Addr()}
	used := tokenOf(t, s)
	login := func(token string) int {
		data, err := json.Marshal(map[string]string{"token": token})
		if err != nil {
			t.Fatal(err)
		}
		resp, body := b.request(http.MethodPost, "/api/login", string(data), nil)
		if resp.StatusCode != http.StatusOK && (len(resp.Cookies()) > 0 || bytes.Contains(body, []byte("key"))) {
			t.Errorf("a refusal brings %v %s", resp.Cookies(), body)
		}
		return resp.StatusCode
	}
	if code := login(used); code != http.StatusOK {
		t.Errorf("the first time: %d", code)
	}
	for name, token := range map[string]string{
		"used": used, "missing": "", "wrong": strings.Repeat("A", 43),
		"of another dashboard": tokenOf(t, serve(t, newFake(), Options{})),
		"shortened":            used[:42],
	} {
		if code := login(token); code != http.StatusUnauthorized {
			t.Errorf("%s: %d", name, code)
		}
	}
	oldest := tokenOf(t, s)
	for range maxTokens {
		tokenOf(t, s)
	}
	if code := login(oldest); code != http.StatusUnauthorized {
		t.Errorf("%d links later: %d", maxTokens, code)
	}
	// A token is no name of a request: what a browser sends by itself, and what may be logged, never holds one.
	link, err := s.Link(api.DashboardRequest{})
	if err != nil || !regexp.MustCompile(`^http://127\.0\.0\.1:\d+/#[\w-]{43}$`).MatchString(link.URL) {
		t.Errorf("%q, %v", link.URL, err)
	}
}

// Tokens and sessions end by themselves.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		s := &Server{addr: "127.0.0.1:1", options: Options{Dir: dir}}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		late, early := tokenOf(t, s), tokenOf(t, s)
		<-time.After(tokenLife - time.Second)
		session, cookie, key := s.access.login(ctx, early)
		if session == nil {
			t.Fatal("refused within its time")
		}
		<-time.After(time.Second)
		synctest.Wait()
		if session, _, _ := s.access.login(ctx, late); session != nil {
			t.Error("accepted after its time")
		}
		if len(s.access.tokens) > 0 {
			t.Errorf("%d tokens are kept", len(s.access.tokens))
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("pages left: %v, %v", left, err)
		}
		r := &http.Request{Header: http.Header{keyHeader: {key}, "Cookie": {session.name + "=" + cookie}}}
		<-time.After(sessionLife - 2*time.Second)
		if s.access.session(r) == nil {
			t.Error("the session has ended before its time")
		}
		<-time.After(2 * time.Second)
		if s.access.session(r) != nil {
			t.Error("the session has not ended")
		}
		for range 2 * maxSessions {
			if session, _, _ := s.access.login(ctx, tokenOf(t, s)); session == nil {
				t.Fatal("refused")
			}
		}
		if n := len(s.access.sessions); n != maxSessions {
			t.Errorf("%d sessions", n)
		}
		s.access.close()
	})
}

// The page that leads a browser to the dashboard is the user's alone, and is gone once it has served.
func TestPage(t *testing.T) {
	dir := t.TempDir()
	s := serve(t, newFake(), Options{Dir: dir})
	link, err := s.Link(api.DashboardRequest{})
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(link.Page)
	if err != nil || info.Mode().Perm() != 0o600 || filepath.Dir(link.Page) != dir {
		t.Fatalf("%v, %v", info, err)
	}
	data, err := os.ReadFile(link.Page)
	if err != nil || !bytes.Contains(data, []byte(link.URL)) {
		t.Errorf("%s, %v", data, err)
	}
	_, text, _ := strings.Cut(link.URL, "#")
	b := &browser{t: t, addr: s.Addr()}
	if resp, body := b.request(
		http.MethodPost,
		"/api/login",
		`{"token":"`+text+`"}`,
		nil,
	); resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s", resp.Status, body)
	}
	if _, err := os.Stat(link.Page); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the page is still there: %v", err)
	}
	second, err := s.Link(api.DashboardRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(second.Page); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("closed, the page is still there: %v", err)
	}
	missing := &Server{addr: "127.0.0.1:1", options: Options{Dir: filepath.Join(dir, "no")}}
	if _, err := missing.Link(api.DashboardRequest{}); fail.NextOf(err) == "" {
		t.Errorf("a directory that is not there: %v", err)
	}
}

// A visit is let in wherever it comes from: the page holds nothing, and its address comes from terminals and files.
func TestVisit(t *testing.T) {
	s := serve(t, newFake(), Options{})
	b := &browser{t: t, addr: s.Addr()}
	resp, data := b.request(http.MethodGet, "/", "", func(r *http.Request) {
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		r.Header.Set("Sec-Fetch-Mode", "navigate")
		r.Header.Set("Sec-Fetch-Dest", "document")
	})
	if resp.StatusCode != http.StatusOK || !bytes.Contains(data, []byte("<title>bastion</title>")) {
		t.Errorf("%s %s", resp.Status, data)
	}
	for path, kind := range map[string]string{
		"/app.js": "text/javascript", "/chart.js": "text/javascript",
		"/app.css": "text/css", "/icon.svg": "image/svg+xml",
	} {
		resp, data := b.request(http.MethodGet, path, "", nil)
		if resp.StatusCode != http.StatusOK || len(data) == 0 || !strings.HasPrefix(resp.Header.Get("Content-Type"), kind) {
			t.Errorf("%s: %s, %d bytes, %v", path, resp.Status, len(data), resp.Header)
		}
	}
}

func TestPolicy(t *testing.T) {
	s := serve(t, newFake(), Options{})
	b := &browser{t: t, addr: s.Addr()}
	resp, _ := b.request(http.MethodGet, "/", "", nil)
	policy := make(map[string]string)
	for part := range strings.SplitSeq(resp.Header.Get("Content-Security-Policy"), ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), " ")
		policy[name] = value
	}
	for name, want := range map[string]string{
		"default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "img-src": "'self'", "connect-src": "'self'",
		"base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'", "require-trusted-types-for": "'script'",
	} {
		if policy[name] != want {
			t.Errorf("%s %q, want %q", name, policy[name], want)
		}
	}
	for name, want := range map[string]string{
		"Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
		"X-Frame-Options": "DENY", "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s %q, want %q", name, got, want)
		}
	}
}

// The page loads nothing from elsewhere, and puts nothing but text into the document.
func TestAssets(t *testing.T) {
	foreign := regexp.MustCompile(`(?i)(https?:)?//[a-z0-9.-]+\.[a-z]{2,}|@import|url\(`)
	unsafe := regexp.MustCompile(`(?i)innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|` +
		`srcdoc|setAttribute\('style'|\.style\b|javascript:|localStorage|<script>|<style|\son[a-z]+=|\sstyle=`)
	files := 0
	err := fs.WalkDir(assets, "assets", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		files++
		data, err := assets.ReadFile(path)
		if err != nil {
			return err
		}
		text := strings.ReplaceAll(string(data), "http://www.w3.org/2000/svg", "") // the name of SVG, which nobody asks for
		for _, found := range append(foreign.FindAllString(text, -1), unsafe.FindAllString(text, -1)...) {
			t.Errorf("%s has %q", path, found)
		}
		return nil
	})
	if err != nil || files != len(static) {
		t.Errorf("%d files for %d paths, %v", files, len(static), err)
	}
}

// frames reads what a stream sends, until it ends.
func frames(t *testing.T, resp *http.Response) func() (event string, f frame, ok bool) {
	t.Helper()
	lines := bufio.NewReader(resp.Body)
	return func() (event string, f frame, ok bool) {
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				return "", f, false
			}
			line = strings.TrimSuffix(line, "\n")
			if name, ok := strings.CutPrefix(line, "event: "); ok {
				event = name
			} else if data, ok := strings.CutPrefix(line, "data: "); ok {
				if err := json.Unmarshal([]byte(data), &f); err != nil {
					t.Fatalf("%v in %s", err, data)
				}
			} else if line == "" {
				return event, f, true
			}
		}
	}
}

func TestEvents(t *testing.T) {
	f := newFake()
	s := serve(t, f, Options{})
	b := signIn(t, s)
	resp, _ := b.request(http.MethodGet, "/api/events", "", nil)
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	next := frames(t, resp)
	event, first, ok := next()
	if !ok || event != "frame" || len(first.State.Forwards) != 2 || len(first.State.Links[0].Live[0].Sessions) != 4 {
		t.Fatalf("%q %+v", event, first)
	}
	if copies := first.Copies["orders"]; len(copies) != 8 || copies[0].Text != "127.0.0.1:5432" ||
		!strings.HasSuffix(copies[3].Text, " sslmode=verify-full sslrootcert=/ca.pem") {
		t.Errorf("copies %+v", copies)
	}
	if got := strings.Join(first.Targets, " "); got != "cache:sessions rds:orders reports rds cache" {
		t.Errorf("targets %q", got)
	}
	// Counters move by themselves, AWS's answer comes along, and a change is told.
	for {
		_, frame, ok := next()
		if !ok {
			t.Fatal("the stream has ended")
		}
		if frame.AccountsAt != nil && frame.State.Links[0].Live[0].Received > first.State.Links[0].Live[0].Received {
			if cost := frame.Accounts[0].Bastions[0].Cost; cost == nil || cost.SoFar < 0.0197 || cost.SoFar > 0.02 {
				t.Errorf("cost %+v", cost)
			}
			break
		}
	}
	if _, err := f.Stop("orders"); err != nil {
		t.Fatal(err)
	}
	for {
		_, frame, ok := next()
		if !ok {
			t.Fatal("the stream has ended")
		}
		if len(frame.State.Forwards) == 1 {
			break
		}
	}
	if f.asked != 1 {
		t.Errorf("AWS was asked %d times", f.asked)
	}
	// It ends with the session.
	if resp, data := b.request(
		http.MethodPost,
		"/api/logout",
		`{}`,
		nil,
	); resp.StatusCode != http.StatusOK ||
		resp.Cookies()[0].MaxAge >= 0 {
		t.Errorf("%s %s %v", resp.Status, data, resp.Cookies())
	}
	last := ""
	for {
		event, _, ok := next()
		if !ok {
			break
		}
		last = event
	}
	if last != "end" {
		t.Errorf("the last event is %q", last)
	}
	if resp, _ := b.request(http.MethodGet, "/api/events", "", nil); resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("after the end: %s", resp.Status)
	}
}

// However many streams clients request, the bound holds, and a freed place can be taken again.
func TestStreamsAreBounded(t *testing.T) {
	s := serve(t, newFake(), Options{})
	b := signIn(t, s)
	var open []*http.Response
	for range maxStreams {
		resp, data := b.request(http.MethodGet, "/api/events", "", nil)
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %s", resp.Status, data)
		}
		open = append(open, resp)
	}
	resp, _ := b.request(http.MethodGet, "/api/events", "", nil)
	if resp.StatusCode != http.StatusServiceUnavailable || resp.Header.Get("Retry-After") == "" {
		t.Errorf("one more: %s", resp.Status)
	}
	_ = open[0].Body.Close()
	deadline := time.Now().Add(30 * time.Second)
	for {
		resp, _ := b.request(http.MethodGet, "/api/events", "", nil)
		if resp.StatusCode == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the place was not free again")
		}
	}
}

// Close ends streams and openings, and waits.
func TestClose(t *testing.T) {
	f := newFake()
	f.hold = make(chan struct{})
	s := serve(t, f, Options{})
	b := signIn(t, s)
	stream, _ := b.request(http.MethodGet, "/api/events", "", nil)
	opening := make(chan struct{})
	go func() {
		defer close(opening)
		r := b.newRequest(http.MethodPost, "/api/open", `{"target":"rds:slow"}`)
		if resp, err := new(http.Transport).RoundTrip(r); err == nil { // the server's end may come first
			_ = resp.Body.Close()
		}
	}()
	for {
		f.mu.Lock()
		n := len(f.requests)
		f.mu.Unlock()
		if n > 0 {
			break
		}
		runtime.Gosched()
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	<-opening
	for next := frames(t, stream); ; {
		if _, _, ok := next(); !ok {
			break
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.broken {
		t.Error("what was being opened goes on")
	}
}

// events of an answer to /api/open.
func openEvents(t *testing.T, data []byte) []api.Event {
	t.Helper()
	var out []api.Event
	for line := range bytes.Lines(data) {
		var e api.Event
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		out = append(out, e)
	}
	return out
}

func TestOpen(t *testing.T) {
	f := newFake()
	s := serve(t, f, Options{})
	b := signIn(t, s)
	for _, tt := range []struct {
		body string
		want api.ForwardRequest
	}{
		{
			`{"kind":"tcp","target":" rds:orders ","listen":"15432"}`,
			api.ForwardRequest{Kind: api.KindTCP, Target: "rds:orders", Listen: "15432"},
		},
		{`{"target":"reports"}`, api.ForwardRequest{Name: "reports", Target: "rds:reports/reader", Listen: "15432"}},
		{`{"target":"reports","listen":":"}`, api.ForwardRequest{Name: "reports", Target: "rds:reports/reader", Listen: ":"}},
		{`{"kind":"proxy","target":"x"}`, api.ForwardRequest{Kind: api.KindProxy}},
	} {
		resp, data := b.request(http.MethodPost, "/api/open", tt.body, nil)
		got := f.requests[len(f.requests)-1]
		if resp.StatusCode != http.StatusOK || !reflect.DeepEqual(got.Forwards[0], tt.want) || !got.Detached ||
			got.Scope.Settings["region"] != "eu-central-1" {
			t.Errorf("%s: %s %s; asked for %+v", tt.body, resp.Status, data, got)
		}
		events := openEvents(t, data)
		if len(events) != 2 || events[0].Event != api.EventStep || events[1].Event != api.EventForwards {
			t.Errorf("%s: %s", tt.body, data)
		}
	}
	asked := len(f.requests)
	for _, body := range []string{
		`{}`, `{"target":" "}`, `{"kind":"udp","target":"a:1"}`,
		`{"target":"` + strings.Repeat("a", maxText+1) + `"}`,
	} {
		if resp, data := b.request(
			http.MethodPost,
			"/api/open",
			body,
			nil,
		); resp.StatusCode != http.StatusBadRequest ||
			len(f.requests) != asked {
			t.Errorf("%s: %s %s", body, resp.Status, data)
		}
	}
	f.fail = fail.New(fail.NoTarget, "find rds:nope", errors.New("there is none"), "bastion ls targets")
	_, data := b.request(http.MethodPost, "/api/open", `{"target":"rds:nope"}`, nil)
	events := openEvents(t, data)
	last := events[len(events)-1]
	if last.Error == nil || last.Error.Kind != fail.NoTarget || last.Error.Message != "find rds:nope: there is none" ||
		last.Error.Next != "bastion ls targets" {
		t.Errorf("%s", data)
	}
}

// What the buttons copy is what bastion url prints, for the forward's name and with the settings of the command.
func TestCopies(t *testing.T) {
	s := config.Settings{Forward: config.Forward{TLSCA: "/ca.pem"}}
	text := func(f api.Forward) string {
		var got []string
		for _, c := range Copies(f, s) {
			if c.Label != "Shell" {
				got = append(got, c.Label+"="+c.Text)
			}
		}
		return strings.Join(got, "|")
	}
	const at = "127.0.0.1:1"
	for _, tt := range []struct {
		f    api.Forward
		want string
	}{
		{
			api.Forward{Engine: "aurora-postgresql", Target: "db.x:5432", Database: "sales"},
			"Address=127.0.0.1:1|URI=postgresql://127.0.0.1:1/sales?sslmode=verify-ca&sslrootcert=%2Fca.pem|" +
				"JDBC=jdbc:postgresql://127.0.0.1:1/sales?sslmode=verify-ca&sslrootcert=%2Fca.pem|" +
				"psql=host=db.x hostaddr=127.0.0.1 port=1 dbname=sales sslmode=verify-full sslrootcert=/ca.pem|" +
				"Go=postgresql://127.0.0.1:1/sales?sslmode=verify-ca&sslrootcert=%2Fca.pem|" +
				"Python=postgresql+psycopg://db.x:1/sales?hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert=%2Fca.pem|" +
				"Node=postgresql://127.0.0.1:1/sales?uselibpqcompat=true&sslmode=verify-ca&sslrootcert=%2Fca.pem",
		},
		{
			api.Forward{Engine: "redis", Target: "c.x:6379", TLS: true},
			"Address=127.0.0.1:1|URI=rediss://127.0.0.1:1|" +
				"JDBC=jdbc:redis://127.0.0.1:1/0?ssl=true&verifyServerCertificate=false|" +
				"Go=rediss://127.0.0.1:1?skip_verify=true|" +
				"Python=rediss://127.0.0.1:1?ssl_cert_reqs=none&ssl_check_hostname=false",
		},
		{api.Forward{Target: "wiki:443"}, "Address=127.0.0.1:1|URI=tcp://127.0.0.1:1"},
		{api.Forward{State: api.ForwardFailed}, "Address=127.0.0.1:1"},
		{api.Forward{Kind: api.KindProxy}, "Address=127.0.0.1:1|SOCKS=socks5h://127.0.0.1:1|HTTP proxy=http://127.0.0.1:1"},
	} {
		tt.f.Listen = at
		if got := text(tt.f); got != tt.want {
			t.Errorf("%s: got  %s\nwant %s", tt.f.Engine, got, tt.want)
		}
	}
	f := api.Forward{Name: "orders", Listen: at, Target: "db.x:5432", Engine: "postgres"}
	copies := Copies(f, s)
	i := slices.IndexFunc(copies, func(c Copy) bool { return c.Label == "Shell" })
	if i < 0 || !strings.Contains(copies[i].Text, "export BASTION_ORDERS_PORT='1'") {
		t.Errorf("%+v", copies)
	}
}

func TestLinkRefusesSettings(t *testing.T) {
	s := serve(t, newFake(), Options{})
	_, err := s.Link(api.DashboardRequest{Scope: api.Scope{Settings: map[string]string{"nope": "1"}}})
	if fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" {
		t.Errorf("%v (next: %s)", err, fail.NextOf(err))
	}
}
