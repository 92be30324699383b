//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/inventory"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/vpc"
)

// The accounts of the organization. Two environments share the first.
const (
	accountWork = "111111111111"
	accountProd = "222222222222"
)

// organization is a lab of two accounts and two regions with three environments, each with a host db.internal at the same port that
// says which one it is.
type organization struct {
	*labEnv
	*lab.Organization
	labs   map[string]*lab.Lab // by environment
	dir    string              // with bastion.yaml
	target string              // db.internal:PORT

	addresses map[string]netip.Addr // of db.internal, by environment
}

// startOrganization starts an organization and an agent's environment. prod are the rights of the people of the account prod.
func startOrganization(t *testing.T, prod lab.IdentityConfig) *organization {
	t.Helper()
	program, err := bastiond()
	if err != nil {
		t.Fatal(err)
	}
	config := func(account, region string) lab.Config {
		return lab.Config{
			Account: account, Region: region, Bastiond: program, Postgres: lab.Off, Redis: vpc.Embedded, NoWeb: true,
			StateDelay: 20 * time.Millisecond, ExecDelay: 20 * time.Millisecond, ConnectDelay: 100 * time.Millisecond, StopTimeout: 3 * time.Second,
		}
	}
	o, err := lab.StartOrganization(t.Context(), config(accountWork, "eu-central-1"), config(accountWork, "us-east-1"), config(accountProd, "us-east-1"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Errorf("close the organization: %v", err)
		}
	})
	home := newHome(t)
	out := &organization{
		Organization: o, dir: home, addresses: make(map[string]netip.Addr),
		labs: map[string]*lab.Lab{
			"dev": o.Lab(accountWork, "eu-central-1"), "staging": o.Lab(accountWork, "us-east-1"), "prod": o.Lab(accountProd, "us-east-1"),
		},
	}
	out.labEnv = &labEnv{Lab: out.labs["dev"], t: t, program: filepath.Join(scratch, "bastion")}
	out.env = slices.Concat(rig.Environ(), offline(home), o.Env(), []string{"BASTION_NO_AGENT=false", "BASTION_QUIET=true"})
	if err := errors.Join(
		o.AddIdentity("work", accountWork, "eu-central-1", lab.IdentityConfig{}), o.AddIdentity("prod", accountProd, "us-east-1", prod),
	); err != nil {
		t.Fatal(err)
	}
	out.target = out.hosts()
	path := filepath.Join(home, "bastion.yaml")
	out.env = append(out.env, "BASTION_CONFIG="+path)
	if err := os.WriteFile(path, fmt.Appendf(nil, `environments:
  dev: {profile: work, region: eu-central-1}
  staging: {profile: work, region: us-east-1, colour: yellow}
  prod:
    profile: prod
    region: us-east-1
    colour: "#ff0000"
targets:
  db: %s
  proddb: {target: %s, environment: prod}
`, out.target, out.target), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, out.program, "agent", "stop")
		cmd.Env = out.env
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("stop the agent: %v\n%s", err, text)
		}
	})
	return out
}

// hosts starts db.internal of each environment, all at one port.
func (o *organization) hosts() (target string) {
	o.t.Helper()
	port := "0"
	for _, name := range []string{"dev", "staging", "prod"} {
		ln, err := net.Listen("tcp", net.JoinHostPort(vpc.LoopbackHost(), port))
		if err != nil {
			o.t.Fatal(err)
		}
		var serving sync.WaitGroup
		serving.Go(func() { serveName(ln, name) })
		o.t.Cleanup(func() { _ = ln.Close(); serving.Wait() })
		at := netip.MustParseAddrPort(ln.Addr().String())
		port = fmt.Sprint(at.Port())
		o.labs[name].AddName("db.internal", at.Addr())
		o.addresses[name] = at.Addr()
		o.labs[name].Allow(at.String())
	}
	return "db.internal:" + port
}

// serveName answers each line of each connection with a name, until the listener is closed.
func serveName(ln net.Listener, name string) {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		conns.Go(func() {
			defer conn.Close()
			buf := make([]byte, 1)
			for {
				if _, err := conn.Read(buf); err != nil {
					return
				}
				if _, err := io.WriteString(conn, name+"\n"); err != nil {
					return
				}
			}
		})
	}
}

// asks a connection which environment it leads to.
func whichOn(conn net.Conn) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte{'?'}); err != nil {
		return "", err
	}
	var out strings.Builder
	buf := make([]byte, 1)
	for {
		if _, err := conn.Read(buf); err != nil {
			return "", err
		}
		if buf[0] == '\n' {
			return out.String(), nil
		}
		out.Write(buf)
	}
}

// which asks where a forward leads to.
func (o *organization) which(listen string) string {
	o.t.Helper()
	conn, err := net.DialTimeout("tcp", listen, 10*time.Second)
	if err != nil {
		o.t.Fatal(err)
	}
	defer conn.Close()
	name, err := whichOn(conn)
	if err != nil {
		o.t.Fatal(err)
	}
	return name
}

// Three environments in two accounts and two regions are served by one agent at once, in one command, each by its own bastion. A name
// means in each what it means there.
func TestEnvironments(t *testing.T) {
	t.Parallel()
	o := startOrganization(t, lab.IdentityConfig{})
	p, forwards := o.forwards(nil, "dev/db", ":", "staging/"+o.target, ":", "proddb", ":")
	order := []string{"dev", "staging", "prod"}
	for i, f := range forwards {
		if f.Environment != order[i] {
			t.Errorf("forward %d is of %q, want %s", i, f.Environment, order[i])
		}
		if got := o.which(f.Listen); got != order[i] {
			t.Errorf("the forward of %s leads to %q", order[i], got)
		}
		if n := len(o.labs[order[i]].Tasks()); n != 1 {
			t.Errorf("%d bastions in %s", n, order[i])
		}
	}
	var of []string
	for _, l := range o.state().Links {
		account, region := accountWork, "us-east-1"
		switch l.Environment {
		case "dev":
			region = "eu-central-1"
		case "prod":
			account = accountProd
		}
		if l.Account != account || l.Region != region {
			t.Errorf("the link of %s is in %s, %s", l.Environment, l.Account, l.Region)
		}
		of = append(of, l.Environment)
	}
	slices.Sort(of)
	if want := []string{"dev", "prod", "staging"}; !slices.Equal(of, want) {
		t.Errorf("links of %v", of)
	}
	for _, show := range [][]string{{"ls"}, {"top"}, {"status", "-e", "dev"}} {
		r := o.must(show...)
		for _, name := range order {
			if !strings.Contains(r.stdout, name) {
				t.Errorf("%v does not name %s:\n%s", show, name, r.stdout)
			}
		}
	}
	// Each name leads to the forward of its environment.
	for _, c := range []struct{ ref, env, listen string }{
		{"dev/db", "", forwards[0].Listen},
		{"db", "dev", forwards[0].Listen},
		{"staging/db.internal", "", forwards[1].Listen},
		{"proddb", "", forwards[2].Listen},
		{"prod/proddb", "", forwards[2].Listen},
		{"proddb", "prod", forwards[2].Listen},
	} {
		if r := o.run([]string{"BASTION_ENVIRONMENT=" + c.env}, "wait", c.ref); r.code != 0 || r.stdout != c.listen+"\n" {
			t.Errorf("wait %s in %q: %q, want %s", c.ref, c.env, r.stdout, c.listen)
		}
	}
	if r := o.run(nil, "url", "staging/db"); r.code != 3 || !strings.Contains(r.stderr, "environment") {
		t.Errorf("url of a forward of another environment: exit code %d, %s%s", r.code, r.stdout, r.stderr)
	}
	o.stop(p, syscall.SIGINT, 130)
	for name, l := range o.labs {
		if left := l.Gateway().Sessions(); len(left) > 8 {
			t.Errorf("%d sessions of %s are left", len(left), name)
		}
	}
}

// When the credentials of one environment expire, the others go on: forwards, connections and new ones.
func TestEnvironmentExpires(t *testing.T) {
	t.Parallel()
	o := startOrganization(t, lab.IdentityConfig{Expires: time.Now().Add(12 * time.Second), Process: true})
	_, forwards := o.forwards(nil, "dev/db", ":", "staging/db", ":", "prod/db", ":")
	var held []net.Conn
	for _, f := range forwards {
		conn, err := net.DialTimeout("tcp", f.Listen, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := whichOn(conn); err != nil {
			t.Fatal(err)
		}
		held = append(held, conn)
	}
	eventuallyWithin(t, 30*time.Second, "the credentials of prod expire", func() bool {
		r := o.run(nil, "status", "-e", "prod")
		return r.code == 4
	})
	if o.labs["prod"].Gateway().Cut("", "reset") == 0 {
		t.Fatal("nothing of prod was cut")
	}
	eventually(t, "the link of prod waits for credentials", func() bool {
		return slices.ContainsFunc(o.state().Forwards, func(f api.Forward) bool {
			return f.Environment == "prod" && f.State == api.ForwardWaiting && strings.Contains(strings.ToLower(f.Error), "expired")
		})
	})
	for i, name := range []string{"dev", "staging"} {
		if got, err := whichOn(held[i]); err != nil || got != name {
			t.Errorf("the connection to %s: %q, %v", name, got, err)
		}
		if got := o.which(forwards[i].Listen); got != name {
			t.Errorf("a new connection to %s: %q", name, got)
		}
	}
	r := o.must("forward", "-d", "-o", "json", "--name", "another", "dev/db", ":")
	var out struct{ Forwards []api.Forward }
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || len(out.Forwards) != 1 || o.which(out.Forwards[0].Listen) != "dev" {
		t.Errorf("a new forward: %v, %s", err, r.stdout)
	}
	if r := o.run(nil, "forward", "-d", "--name", "later", "prod/cache:sessions", ":"); r.code != 4 {
		t.Errorf("a new forward to prod: exit code %d, %s", r.code, r.stderr)
	}
	// All goes on once there are others.
	if err := o.AddIdentity("prod", accountProd, "us-east-1", lab.IdentityConfig{Expires: time.Now().Add(time.Hour), Process: true}); err != nil {
		t.Fatal(err)
	}
	if got, err := whichOn(held[2]); err != nil || got != "prod" {
		t.Errorf("the connection to prod: %q, %v", got, err)
	}
}

// TestTargetsOfEnvironments: the list, completion and the kept lists are an environment's own. Without an environment that counts, ls
// targets has those of all, as the other commands take them; one that AWS denies does not hide the others.
func TestTargetsOfEnvironments(t *testing.T) {
	t.Parallel()
	o := startOrganization(t, lab.IdentityConfig{Deny: []string{"eks:*"}})
	at := netip.MustParseAddrPort("127.9.8.7:7777")
	for name, l := range o.labs {
		for _, err := range []error{
			l.AddKubernetes(lab.Kubernetes{Name: "k-" + name, Addr: at}),
			l.AddWarehouse(lab.Warehouse{ID: "w-" + name, Tags: map[string]string{"team": name}, Addr: at}),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		for i := range 500 {
			if err := l.AddDBInstance(lab.DBInstance{ID: fmt.Sprintf("db-%03d", i), Addr: at}); err != nil {
				t.Fatal(err)
			}
		}
	}
	calls := func() (n int) {
		for _, l := range o.labs {
			for _, count := range l.Calls() {
				n += count
			}
		}
		return n
	}
	list := func(code int, args ...string) (out inventory.Output, lines []string) {
		t.Helper()
		r := o.run(nil, append([]string{"ls", "targets", "-o", "json"}, args...)...)
		if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || r.code != code {
			t.Fatalf("%q: %d, %v\n%s%s", args, r.code, err, r.stdout, r.stderr)
		}
		for _, target := range out.Targets {
			if target.Kind == "eks" || target.Kind == "redshift" {
				lines = append(lines, target.Environment+" "+target.Spec)
			}
		}
		return out, lines
	}
	want := []string{"dev eks:k-dev", "dev redshift:w-dev", "prod redshift:w-prod", "staging eks:k-staging", "staging redshift:w-staging"}
	out, lines := list(5)
	if !slices.Equal(lines, want) {
		t.Errorf("%q, want %q", lines, want)
	}
	for i, name := range []string{"dev", "prod", "staging"} {
		l := out.Lists[i]
		if l.Environment != name || l.Kept || l.AsOf == nil || strings.Contains(l.Missing, "eks:ListClusters") != (name == "prod") ||
			(l.Account == accountProd) != (name == "prod") {
			t.Errorf("list of %s: %+v", name, l)
		}
	}
	asked := calls()
	out, lines = list(5)
	if !slices.Equal(lines, want) || !out.Lists[0].Kept || !out.Lists[2].Kept {
		t.Errorf("kept: %q, %+v", lines, out.Lists)
	}
	if _, lines = list(0, "-e", "staging"); !slices.Equal(lines, want[3:]) {
		t.Errorf("-e staging: %q", lines)
	}
	if _, lines = list(5, "-e", "staging", "--all"); !slices.Equal(lines, want) {
		t.Errorf("-e staging --all: %q", lines)
	}
	if _, lines = list(5, "--tag", "team=prod"); !slices.Equal(lines, want[2:3]) {
		t.Errorf("--tag: %q", lines)
	}
	if r := o.run(nil, "ls", "targets"); r.code != 5 || !strings.Contains(r.stdout, "\nprod/redshift:w-prod ") || !strings.Contains(r.stdout, " dev/db ") ||
		!strings.Contains(r.stderr, "environment prod: ") {
		t.Errorf("%d\n%s%s", r.code, r.stdout, r.stderr)
	}
	for word, want := range map[string]string{
		"prod/red": "prod/redshift:", "dev/redshift:w": "dev/redshift:w-dev\tredshift, available", "prod/redshift:w-d": "", "redshift:w": "",
	} {
		if got := strings.TrimSpace(o.run(nil, "__complete", "forward", word).stdout); !strings.HasPrefix(got, want) || (got == "") != (want == "") {
			t.Errorf("%s is completed with %q, want %q", word, got, want)
		}
	}
	if got := strings.TrimSpace(o.run([]string{"BASTION_ENVIRONMENT=dev"}, "__complete", "forward", "redshift:w").stdout); !strings.HasPrefix(got, "redshift:w-dev") {
		t.Errorf("in dev, it is completed with %q", got)
	}
	// 1,500 kept targets are printed, and completed, within 100 ms of the program's start. The best of some runs counts: other tests run
	// beside this one.
	for _, args := range [][]string{{"ls", "targets"}, {"__complete", "forward", "prod/rds:db-4"}} {
		best := time.Hour
		for range 10 {
			began := time.Now()
			r := o.run(nil, args...)
			best = min(best, time.Since(began))
			if !strings.Contains(r.stdout, "prod/rds:db-499") {
				t.Fatalf("%q: %s%s", args, r.stdout, r.stderr)
			}
		}
		t.Logf("%q: %s", args, best)
		if best > 100*time.Millisecond && !withRace() {
			t.Errorf("%q takes %s at best", args, best)
		}
	}
	if n := calls() - asked; n != 0 {
		t.Errorf("what is kept took %d calls", n)
	}
}

// withRace reports whether the program has the race detector, which makes it slower.
func withRace() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "-race" && s.Value == "true" })
}
