package tunnel

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// nginxConfig serves a directory at an address.
const nginxConfig = `
daemon off;
pid %[1]s/pid;
error_log stderr crit;
events {}
http {
	access_log off;
	client_body_temp_path %[1]s/body;
	proxy_temp_path %[1]s/proxy;
	fastcgi_temp_path %[1]s/fastcgi;
	uwsgi_temp_path %[1]s/uwsgi;
	scgi_temp_path %[1]s/scgi;
	types { text/plain txt; }
	gzip on;
	gzip_min_length 1;
	gzip_types text/plain;
	client_max_body_size 1k;
	server {
		listen %[2]s;
		root %[1]s/www;
		location /say { return 200 "said\n"; }
		location /moved { return 301 /say; }
		location /empty { return 204; }
	}
}
`

// startNginx serves a small site until the test ends and returns its address. nginx inherits the listener, as it does when it is
// upgraded, so nobody else can take the port.
func startNginx(t *testing.T) string {
	t.Helper()
	program := tool(t, "nginx", "/usr/sbin/nginx")
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "www"), 0o755); err != nil { // #nosec G301 -- a public site
		t.Fatal(err)
	}
	text := strings.Repeat("a line of text\n", 2000)
	if err := os.WriteFile(filepath.Join(dir, "www", "a b.txt"), []byte(text), 0o644); err != nil { // #nosec G306 -- the same
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	config := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, nginxConfig, dir, ln.Addr()), 0o600); err != nil {
		t.Fatal(err)
	}
	var output bytes.Buffer
	cmd := exec.Command(program, "-p", dir, "-c", config) // without ctx: the clean-up ends it
	cmd.Env = append(os.Environ(), "NGINX=3;")
	cmd.ExtraFiles = []*os.File{file}
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("nginx: %v\n%s", err, &output)
		}
	})
	return ln.Addr().String()
}

// What a client and nginx say to each other is the same with the proxy between them as without it.
func TestHTTPProxyNginx(t *testing.T) {
	site := startNginx(t)
	b := newBastion(t)
	b.vpcNames(map[string]string{"site.example:80": site})
	proxy := startSOCKS(t, readyLink(t, b, LinkConfig{}), ProxyConfig{})
	hello := func(c *talker) { c.send("hello") }
	for name, row := range map[string]semantics{
		"a file":                    {request: "GET /a%20b.txt HTTP/1.1\n"},
		"packed, in chunks":         {request: "GET /a%20b.txt HTTP/1.1\nAccept-Encoding: gzip\n"},
		"HEAD":                      {request: "HEAD /a%20b.txt HTTP/1.1\n"},
		"a part":                    {request: "GET /a%20b.txt HTTP/1.1\nRange: bytes=10-19\n"},
		"parts":                     {request: "GET /a%20b.txt HTTP/1.1\nRange: bytes=0-1,5-6\n"},
		"a part that there is not":  {request: "GET /a%20b.txt HTTP/1.1\nRange: bytes=99999999-\n"},
		"not modified":              {request: "GET /a%20b.txt HTTP/1.1\nIf-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\n"},
		"a condition that fails":    {request: "GET /a%20b.txt HTTP/1.1\nIf-Match: \"other\"\n"},
		"404":                       {request: "GET /none HTTP/1.1\n"},
		"moved":                     {request: "GET /moved?x=1 HTTP/1.1\n"},
		"204":                       {request: "GET /empty HTTP/1.1\n"},
		"405":                       {request: "DELETE /a%20b.txt HTTP/1.1\n"},
		"a path that is normalized": {request: "GET //x/..//a%20b.txt HTTP/1.1\n"},
		"a path above the root":     {request: "GET /../etc/passwd HTTP/1.1\n"},
		"HTTP/1.0":                  {request: "GET /say HTTP/1.0\n"},
		"a body":                    {request: "POST /say HTTP/1.1\nContent-Length: 5\n", talk: hello},
		"a body in chunks":          {request: "POST /say HTTP/1.1\nTransfer-Encoding: chunked\n", talk: func(c *talker) { c.send("5\nhello\n0\n\n") }},
		"100, then the body":        {request: "POST /say HTTP/1.1\nExpect: 100-continue\nContent-Length: 5\n", talk: func(c *talker) { c.next(); hello(c) }},
		"413 before the body":       {request: "POST /say HTTP/1.1\nContent-Length: 8388608\n", talk: flood, times: 10},
		"413 in place of 100":       {request: "POST /say HTTP/1.1\nExpect: 100-continue\nContent-Length: 8388608\n"},
		"two requests": {request: "GET /say HTTP/1.1\n", talk: func(c *talker) {
			c.next()
			target := "/moved"
			if c.RemoteAddr().String() == proxy {
				target = "http://site.example" + target
			}
			c.send("GET " + target + " HTTP/1.1\nHost: site.example\n\n")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for range max(1, row.times) {
				want, got := row.play(t, site, ""), row.play(t, proxy, "http://site.example")
				// Of several parts each answer has a boundary of its own.
				if diff := cmp.Diff(unbounded(want), unbounded(got)); diff != "" || len(want) == 0 {
					t.Fatalf("without the proxy (-) and through it (+):\n%s", diff)
				}
			}
		})
	}
}

// unbounded replaces the boundary between parts by one that is always the same.
func unbounded(answers []answered) []answered {
	for i, a := range answers {
		if _, boundary, ok := strings.Cut(a.Header.Get("Content-Type"), "boundary="); ok {
			answers[i].Body = strings.ReplaceAll(a.Body, boundary, "B")
			answers[i].Header.Set("Content-Type", "multipart/byteranges")
		}
	}
	return answers
}
