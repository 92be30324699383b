//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/lab"
)

// careful has the configuration of an organization ask before prod. first are further lines of the file.
func (o *organization) careful(first string) {
	o.t.Helper()
	writeFile(o.t, filepath.Join(o.dir, "bastion.yaml"), first+fmt.Sprintf(`environments:
  dev: {profile: work, region: eu-central-1}
  prod: {profile: prod, region: us-east-1, confirm: true}
targets:
  db: %[1]s
  proddb: {target: %[1]s, environment: prod}
`, o.target))
}

// atTerminal runs a command line at a terminal of its own, and types keys once the terminal shows a prompt. It returns the exit code and
// all that the terminal has shown.
func (e *labEnv) atTerminal(prompt, keys string, args ...string) (int, string) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.program, args...)
	cmd.Env, cmd.Dir = append(slices.Clone(e.env), "TERM=xterm"), scratch
	file, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 200})
	if err != nil {
		e.t.Fatal(err)
	}
	defer file.Close()
	said := new(syncBuilder)
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(said, file) // ends with the command
	}()
	ended := func() bool {
		select {
		case <-read:
			return true
		default:
			return false
		}
	}
	eventually(e.t, "the prompt or the end", func() bool { return strings.Contains(said.String(), prompt) || ended() })
	if !ended() {
		_, _ = file.WriteString(keys) // it may end just now
	}
	err = cmd.Wait()
	<-read
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		e.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), said.String()
}

// unasking are the commands that do not ask before an environment with confirm: true, each with its reason. The others are in the rows of
// TestConfirm.
var unasking = map[string]string{
	"known-hosts": "prints a key that the proxy of its ssh has, and that has asked",
	"ssh-config":  "writes ssh's configuration; the proxy that it names asks",
	"eks-token":   "signs a token; kubeconfig has asked for the proxy",
	"url":         "shows forwards that are open, whose command has asked",
	"token":       "signs a password; a connection for it needs a forward, which asks",
	"login":       "opens nothing in the environment",
	"status":      "looks", "ls bastions": "looks", "ls forwards": "looks", "ls targets": "looks", "top": "looks", "doctor": "looks",
	"agent start": "starts the agent, which opens again what a command has asked for",
	"agent stop":  "ends", "stop": "ends", "gc": "ends what is past its life, on a schedule",
	"agent run": "is the agent", "agent status": "looks", "agent logs": "looks",
	"wait":            "waits for forwards whose command asks",
	"service install": "is about the agent", "service uninstall": "is about the agent", "service start": "is about the agent",
	"service stop": "is about the agent", "service status": "looks", "service run": "is the agent",
	"version": "asks AWS nothing", "completion": "asks AWS nothing", "man": "asks AWS nothing", "help": "asks AWS nothing",
	"use": "chooses", "config check": "looks", "config show": "looks", "trust": "asks by itself, always",
	"config share": "asks by itself, always",
	"init":         "asks by itself, always", "upgrade": "asks by itself, always", "destroy": "asks by itself, always",
	"plan": "looks", "audit": "looks", "cost": "looks", "iam-policy": "looks",
}

// leaves returns the command lines of all commands.
func leaves(c *cli.Command, path string) (out []string) {
	if len(c.Verbs) == 0 {
		return []string{path}
	}
	for _, v := range c.Verbs {
		out = append(out, leaves(v, strings.TrimSpace(path+" "+v.Name))...)
	}
	return out
}

// confirmRows are command lines that reach prod, without --yes. dir has the browser, a program that ends.
func (o *organization) confirmRows(dir string) [][]string {
	web := []string{"--browser", filepath.Join(dir, "browser"), "--fresh"}
	return [][]string{
		{"forward", "prod/db"},
		{"forward", "-e", "prod", "db"},
		{"forward", "proddb"},
		{"forward", "-L", "0:prod/" + o.target},
		{"forward", "dev/db", ":", "prod/db", ":"},
		{"forward", "-d", "prod/db"},
		{"forward", "--no-agent", "prod/db"},
		{"exec", "prod/db", "--", "true"},
		{"exec", "proddb", "--", "true"},
		{"exec", "prod/eks:main", "--", "true"},
		{"exec", "dev/db", "proddb", "--", "true"},
		{"socks", "-e", "prod", ":"},
		{"socks", "-e", "prod", "-d", ":"},
		append([]string{"browser", "-e", "prod"}, web...),
		append([]string{"open", "prod/" + o.target}, web...), append([]string{"open", "proddb"}, web...),
		{"rdp", "prod/i-0123456789abcdef0", "--file", filepath.Join(dir, "desktop.rdp")},
		{"proxy", "prod/db.internal", "22"},
		{"proxy", "prod.bastion", "22"},
		{"proxy", "-e", "prod", "i-0123456789abcdef0", "22"},
		{"kubeconfig", "prod/eks:main", "--kubeconfig", filepath.Join(dir, "config")},
		{"up", "-e", "prod"},
		{"down", "-e", "prod"},
		{"dashboard", "-e", "prod", "--no-open"},
	}
}

// Every command that reaches an environment with confirm: true asks at a terminal, and needs --yes elsewhere. A command that does neither
// is on the list of those that need not; a new one is on none, and fails here.
func TestConfirm(t *testing.T) {
	t.Parallel()
	o := startOrganization(t, lab.IdentityConfig{Deny: []string{"ecs:*", "ssm:*", "ec2:*", "eks:*"}})
	o.careful("")
	prod, dir := o.labs["prod"], t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "browser"), []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	asked := make(map[string]bool)
	unasked := func(args []string) { // nothing has happened
		t.Helper()
		if calls := prod.Calls(); len(calls) > 0 {
			t.Errorf("%q: calls before the answer: %v", args, calls)
		}
		if _, err := os.Lstat(o.socket()); !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("%q: the agent runs: %v", args, err)
		}
	}
	const question = "Go on in the environment prod (prod, us-east-1)? [y/N]"
	rows := o.confirmRows(dir)
	for _, args := range rows {
		asked[args[0]] = true
		r := o.run(nil, args...)
		if r.code != 2 || !strings.Contains(r.stderr, "the environment prod asks before it is used") || !strings.Contains(r.stderr, "--yes") {
			t.Errorf("%q without a terminal: exit code %d, %s%s", args, r.code, r.stdout, r.stderr)
		}
		unasked(args)
		for _, no := range []string{"n", ""} {
			code, said := o.atTerminal(question, no+"\n", args...)
			if code != 1 || !strings.Contains(said, question) || !strings.Contains(said, "not confirmed; nothing was opened") {
				t.Errorf("%q and the answer %q: exit code %d, %s", args, no, code, said)
			}
			unasked(args)
		}
	}
	// How else an environment is chosen does not matter.
	choose := func(how string, env []string, args ...string) {
		t.Helper()
		if r := o.run(env, args...); r.code != 2 || !strings.Contains(r.stderr, "the environment prod asks before it is used") {
			t.Errorf("%s: %q: exit code %d, %s%s", how, args, r.code, r.stdout, r.stderr)
		}
		unasked(args)
	}
	choose("by a variable", []string{"BASTION_ENVIRONMENT=prod"}, "socks", ":")
	o.must("use", "prod")
	choose("by bastion use", nil, "socks", ":")
	o.must("use", "--none")
	o.careful("environment: prod\n")
	choose("by the file", nil, "socks", ":")
	o.careful("")

	// --yes goes on, and so does the answer yes: AWS denies what follows.
	for _, args := range rows {
		before := prod.Calls()
		r := o.run(nil, slices.Insert(slices.Clone(args), 1, "--yes")...)
		if strings.Contains(r.stderr, "confirm: true") || args[0] != "dashboard" && (r.code == 0 || maps.Equal(before, prod.Calls())) {
			t.Errorf("%q with --yes: exit code %d, no further calls, %s%s", args, r.code, r.stdout, r.stderr)
		}
	}
	before := prod.Calls()
	if code, said := o.atTerminal(question, "y\n", "forward", "prod/db"); code == 0 || code == 2 || maps.Equal(before, prod.Calls()) {
		t.Errorf("the answer yes: exit code %d, %s", code, said)
	}

	for _, command := range leaves(newApp(invocation.Stdio{In: os.Stdin, Out: io.Discard, Err: io.Discard}).root(), "") {
		if _, ok := unasking[command]; ok == asked[command] {
			t.Errorf("bastion %s is on no list, or on both: a command that reaches an environment asks before one with confirm: true", command)
		}
	}
}

// What a user has confirmed stays confirmed: an agent that starts again opens the forward without a question, whoever starts it.
func TestConfirmedForwardsComeBack(t *testing.T) {
	t.Parallel()
	o := startOrganization(t, lab.IdentityConfig{})
	o.careful("")
	f := o.detach("--yes", "prod/db", rig.FreeAddr(t))
	for _, start := range [][]string{{"agent", "start"}, {"forward", "-d", "dev/db", ":"}} {
		o.must("agent", "stop")
		o.must(start...) // without a terminal
		eventually(t, "the forward of prod is back", func() bool {
			return slices.ContainsFunc(o.state().Forwards, func(g api.Forward) bool {
				return g.Environment == "prod" && g.Listen == f.Listen && g.State == api.ForwardReady
			})
		})
		if got := o.which(f.Listen); got != "prod" {
			t.Errorf("%q: the forward leads to %q", start, got)
		}
	}
	// One that was ended is another forward, and asks.
	o.must("stop", "prod/db")
	if r := o.run(nil, "forward", "-d", "prod/db", ":"); r.code != 2 || !strings.Contains(r.stderr, "--yes") {
		t.Errorf("after stop: exit code %d, %s", r.code, r.stderr)
	}
}

// page is a session of the dashboard, as a browser has it.
type page struct {
	t         *testing.T
	client    *http.Client
	base, key string
}

// dashboard opens the page with the arguments of bastion dashboard.
func (o *organization) dashboard(args ...string) *page {
	o.t.Helper()
	var link api.Dashboard
	r := o.must(append([]string{"dashboard", "--no-open", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(r.stdout), &link); err != nil {
		o.t.Fatalf("%v in %q", err, r.stdout)
	}
	u, err := url.Parse(link.URL)
	if err != nil {
		o.t.Fatal(err)
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		o.t.Fatal(err)
	}
	p := &page{o.t, &http.Client{Jar: jar, Timeout: time.Minute, Transport: &http.Transport{}}, "http://" + u.Host, ""}
	o.t.Cleanup(p.client.CloseIdleConnections)
	var out struct{ Key string }
	if code, text := p.post("/api/login", map[string]string{"token": u.Fragment}); code != http.StatusOK || json.Unmarshal(text, &out) != nil {
		o.t.Fatalf("the page lets nobody in: %d, %s", code, text)
	}
	p.key = out.Key
	return p
}

func (p *page) post(path string, v any) (int, []byte) {
	p.t.Helper()
	body, err := json.Marshal(v)
	if err != nil {
		p.t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, p.base+path, bytes.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Origin", p.base)
	r.Header.Set("Bastion-Key", p.key)
	answer, err := p.client.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return answer.StatusCode, text
}

// The dashboard asks once, for its environment. Its page opens forwards there, and in no other environment: not by ENV/TARGET, nor by a
// name that stands for another one.
func TestConfirmedDashboard(t *testing.T) {
	t.Parallel()
	o := startOrganization(t, lab.IdentityConfig{})
	o.careful("")
	dev := o.dashboard("-e", "dev")
	for _, target := range []string{"prod/db", "prod/" + o.target, "proddb"} {
		if _, text := dev.post("/api/open", map[string]string{"target": target, "listen": ":"}); !bytes.Contains(text, []byte(`"event":"error"`)) {
			t.Errorf("the page of dev opens %s: %s", target, text)
		}
	}
	if calls := o.labs["prod"].Calls(); len(calls) > 0 {
		t.Errorf("the page of dev reaches prod: %v", calls)
	}
	prod := o.dashboard("-e", "prod", "--yes")
	for page, want := range map[*page]string{dev: "dev", prod: "prod"} {
		if code, text := page.post("/api/open", map[string]string{"target": "db", "listen": ":"}); code != http.StatusOK || bytes.Contains(text, []byte(`"event":"error"`)) {
			t.Errorf("the page of %s opens nothing: %d, %s", want, code, text)
		}
		for _, f := range o.state().Forwards {
			if f.Environment == want && o.which(f.Listen) != want {
				t.Errorf("the page of %s: %+v", want, f)
			}
		}
	}
	if n := len(o.state().Forwards); n != 2 {
		t.Errorf("%d forwards", n)
	}
}
