//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"github.com/bastion-ssm/bastion/internal/forwarding"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/lab"
)

// withDomains gives staging and prod names of their own, which only their labs know, and one name that both know. confirm is for staging.
func (o *organization) withDomains(confirm bool) (port string) {
	o.t.Helper()
	_, port, _ = net.SplitHostPort(o.target)
	for name, l := range o.labs {
		at := o.addresses[name]
		l.AddName("db."+name+".corp", at)
		l.AddName("both.corp", at)
	}
	path := filepath.Join(o.dir, "bastion.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		o.t.Fatal(err)
	}
	more, colour := "    profile: prod\n    proxy_domains: [prod.corp, \"*.prod.internal\"]\n", "colour: yellow, "
	if confirm {
		colour += "confirm: true, "
	}
	text = bytes.Replace(text, []byte("    profile: prod\n"), []byte(more), 1)
	text = bytes.Replace(text, []byte("colour: yellow}"), []byte(colour+"proxy_domains: [staging.corp, corp], proxy_cidrs: [10.1.0.0/16]}"), 1)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		o.t.Fatal(err)
	}
	return port
}

// through asks a host by a SOCKS proxy which environment it is in.
func through(t *testing.T, listen, addr string) (string, error) {
	t.Helper()
	dialer, err := proxy.SOCKS5("tcp", listen, nil, &net.Dialer{Timeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dialer.Dial("tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return whichOn(conn)
}

// get fetches a page, by a proxy or directly.
func get(t *testing.T, via, page string) (int, string) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	if via != "" {
		transport.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: via})
	}
	client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
	res, err := client.Get(page)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text)
}

// One proxy serves the environments with domains of their own: each name is resolved by the bastion of its environment.
func TestProxyOfEnvironments(t *testing.T) {
	t.Parallel()
	o := startOrganization(t, lab.IdentityConfig{})
	port := o.withDomains(false)
	p := o.start([]string{spoken}, "socks", "-o", "json", ":")
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	line, err := p.Line(ctx, 0)
	if err != nil {
		t.Fatalf("%v\n%s", err, p.Output())
	}
	var info forwarding.ProxyInfo
	if err := json.Unmarshal([]byte(line), &info); err != nil {
		t.Fatalf("%v: %q", err, line)
	}
	check := func() {
		t.Helper()
		for host, want := range map[string]string{
			"db.prod.corp": "prod", "DB.Prod.Corp.": "prod", "db.staging.corp": "staging", // the closest domain counts: corp is staging's
			"both.corp": "staging",
		} {
			if got, err := through(t, info.Listen, net.JoinHostPort(host, port)); err != nil || got != want {
				t.Errorf("%s is in %q, %v; want %s", host, got, err, want)
			}
		}
	}
	check()
	for _, host := range []string{"db.internal", "db.dev.internal", "prod.internal", "127.0.0.1"} { // of no environment
		if got, err := through(t, info.Listen, net.JoinHostPort(host, port)); err == nil {
			t.Errorf("%s is in %s", host, got)
		}
	}
	if code, text := get(t, info.Listen, "http://db.internal:"+port+"/"); code != http.StatusBadGateway ||
		!strings.Contains(text, "no environment has it in proxy_domains") || !strings.Contains(text, "-e ENV") {
		t.Errorf("%d: %s", code, text)
	}
	_, pac := get(t, "", info.PAC)
	for _, want := range []string{`"prod.corp"`, `"staging.corp"`, `"prod.internal"`, `[10,1,0,0]`, "PROXY " + info.Listen} {
		if !strings.Contains(pac, want) {
			t.Errorf("%q is not in the PAC file\n%s", want, pac)
		}
	}
	if n := len(o.labs["dev"].Tasks()); n != 0 { // it has no domains of its own
		t.Errorf("%d bastions in dev", n)
	}
	o.stop(p, syscall.SIGTERM, 143)
	if left := o.state().Forwards; len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
}

// Detached proxies of several environments are whole again after a restart of the agent. Without one of them, its names fail.
func TestDetachedProxyOfEnvironments(t *testing.T) {
	t.Parallel()
	o := startOrganization(t, lab.IdentityConfig{})
	port := o.withDomains(false)
	var info forwarding.ProxyInfo
	open := func() {
		t.Helper()
		r := o.must("socks", "-d", "-o", "json", "--name", "web", ":")
		if err := json.Unmarshal([]byte(r.stdout), &info); err != nil {
			t.Fatalf("%v: %q", err, r.stdout)
		}
	}
	names := func() (all []string) {
		for _, f := range o.state().Forwards {
			all = append(all, f.Environment+" "+f.Name)
		}
		slices.Sort(all)
		return all
	}
	open()
	first := info.Listen
	open() // again: the same ones
	if want := []string{"prod web", "staging web-staging"}; !slices.Equal(names(), want) || info.Listen != first {
		t.Errorf("%q, want %q; %s and %s", names(), want, first, info.Listen)
	}
	// A proxy of one environment at the same port is another one.
	if r := o.run([]string{spoken}, "socks", "-d", "-e", "prod", "--name", "web", first[strings.LastIndexByte(first, ':')+1:]); r.code == 0 {
		t.Errorf("the proxy of several environments serves for one\n%s", r.stderr)
	}
	o.must("agent", "stop")
	o.must("agent", "start")
	for _, name := range []string{"prod", "staging"} {
		if got, err := through(t, info.Listen, net.JoinHostPort("db."+name+".corp", port)); err != nil || got != name {
			t.Errorf("after a restart: %q, %v; want %s", got, err, name)
		}
	}
	o.must("stop", "web-staging")
	if code, text := get(t, info.Listen, "http://db.staging.corp:"+port+"/"); code != http.StatusBadGateway || !strings.Contains(text, "has ended") {
		t.Errorf("%d: %s", code, text)
	}
	if got, err := through(t, info.Listen, net.JoinHostPort("db.prod.corp", port)); err != nil || got != "prod" {
		t.Errorf("%q, %v", got, err)
	}
	o.must("stop", "web")
}

// What a proxy of several environments needs is said before anything opens. An environment that is chosen is served alone.
func TestProxyOfEnvironmentsErrors(t *testing.T) {
	t.Parallel()
	o := startOrganization(t, lab.IdentityConfig{})
	o.withDomains(true)
	fake := filepath.Join(o.dir, "chromium")
	if err := os.WriteFile(fake, []byte("#!/bin/sh\nprintf '%s\\n' \"$@\" > \"$0.args\"\n"), 0o700); err != nil { // #nosec G306 -- a program
		t.Fatal(err)
	}
	browser := "BASTION_BROWSER=" + fake
	for _, tt := range []struct {
		env, args []string
		says      string
	}{
		{nil, []string{"socks", ":"}, "the environment staging asks before it is used"},
		{nil, []string{"browser", "http://db.prod.corp/"}, "the environment staging asks before it is used"},
		{nil, []string{"socks", "--yes", "--no-agent", ":"}, "a proxy of several environments needs the agent"},
		{nil, []string{"socks", "--proxy-cidrs", "10.0.0.0/8", "--no-agent", ":"}, "region"}, // it is of no environment
		{nil, []string{"browser", "--yes", "--all"}, "--all sends everything through one environment"},
		{nil, []string{"browser", "--yes", "http://wiki.internal/"}, "wiki.internal is in proxy_domains or proxy_cidrs of no environment (prod, staging)"},
	} {
		r := o.run(append(tt.env, spoken, browser), tt.args...)
		if r.code != 2 || !strings.Contains(r.stderr, tt.says) {
			t.Errorf("%q: code %d, %q is not in\n%s", tt.args, r.code, tt.says, r.stderr)
		}
	}
	for name, l := range o.labs {
		if n := len(l.Tasks()); n != 0 {
			t.Errorf("%d bastions in %s", n, name)
		}
	}
	if r := o.run([]string{spoken, browser}, "browser", "--yes", "http://db.prod.corp/"); r.code != 0 ||
		!strings.Contains(r.stderr, "prod.corp, *.prod.internal, staging.corp, corp, 10.1.0.0/16 through the bastion") {
		t.Errorf("code %d\n%s", r.code, r.stderr)
	}
	args, err := os.ReadFile(fake + ".args")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(args), ";base64,")
	encoded, _, _ := strings.Cut(rest, "\n")
	pac, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || !bytes.Contains(pac, []byte(`"prod.corp"`)) || !bytes.Contains(pac, []byte(`"staging.corp"`)) {
		t.Errorf("%v in %s\n%s", err, args, pac)
	}
}

// proxied chooses the environments of one proxy: not where something else is chosen, and not where two have one domain.
func TestProxied(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("BASTION_STATE_DIR", dir)
	t.Setenv("BASTION_RUNTIME_DIR", dir)
	for _, tt := range []struct{ name, file, says string }{
		{"one domain twice", "dev: {proxy_domains: [a.corp]}, prod: {proxy_domains: [\"*.a.corp\"]}", "a.corp is of the environments dev and prod"},
		{"one network twice", "dev: {proxy_cidrs: [10.0.0.0/8]}, prod: {proxy_cidrs: [10.0.0.0/8]}", "10.0.0.0/8 is of the environments dev and prod"},
	} {
		path := filepath.Join(dir, "bastion.yaml")
		writeFile(t, path, "environments: {"+tt.file+"}\n")
		var stdout, stderr syncBuilder
		t.Setenv("BASTION_CONFIG", path)
		code := run(t.Context(), []string{"bastion", "socks", ":"}, invocation.Stdio{In: os.Stdin, Out: &stdout, Err: &stderr})
		if code != 2 || !strings.Contains(stderr.String(), tt.says) {
			t.Errorf("%s: code %d\n%s", tt.name, code, stderr.String())
		}
	}
}
