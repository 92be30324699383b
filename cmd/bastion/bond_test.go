package main

import (
	"bytes"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

// portSessions returns the ids of the sessions to ports.
func (e *labEnv) portSessions() []string {
	var ids []string
	for _, s := range e.Gateway().Sessions() {
		if s.Document != gateway.DocECSExec {
			ids = append(ids, s.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// endSessions ends all sessions to ports, as the service does.
func (e *labEnv) endSessions() {
	e.t.Helper()
	ids := e.portSessions()
	if len(ids) == 0 {
		e.t.Fatal("there are no sessions")
	}
	for _, id := range ids {
		if err := e.Gateway().Terminate(id); err != nil {
			e.t.Fatal(err)
		}
	}
}

// endSessionsUntil ends sessions until ok, those too that were being opened when AWS began to refuse more.
func (e *labEnv) endSessionsUntil(what string, ok func() bool) {
	e.t.Helper()
	eventuallyWithin(e.t, time.Minute, what, func() bool {
		for _, id := range e.portSessions() {
			_ = e.Gateway().Terminate(id) // it may have ended
		}
		return ok()
	})
}

// hold opens a connection to a forwarded Redis that a test goes on using.
func hold(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := pingOn(conn); err != nil {
		t.Fatal(err)
	}
	return conn
}

// Connections wait while the bastion is unreachable, and go on when a path is back. The user is told of both, and why.
func TestForwardWaitsForAPath(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	p, f := e.forwards(nil, "cache:sessions", ":")
	held := hold(t, f[0].Listen)
	if err := e.SetAPIFaults(lab.APIFaults{Errors: map[string]lab.APIError{
		"ssm:StartSession": {Code: "ValidationException", Message: "out of order", Status: 400},
	}}); err != nil {
		t.Fatal(err)
	}
	e.endSessionsUntil("no path", func() bool { return strings.Contains(p.Output(), `{"event":"path_lost",`) })
	answered := make(chan error, 1)
	go func() { answered <- pingOn(held) }()
	said := func(what string) {
		t.Helper()
		eventually(t, what, func() bool { return strings.Contains(p.Output(), what) })
	}
	said("bastion: no path to the bastion; the connection waits (for up to 30m)\n")
	said("bastion: looking for a path to the bastion: ")
	said("ValidationException: out of order")
	said(`{"event":"path_lost",`)
	all := e.links(nil)
	if len(all) != 1 || all[0].State != "waiting" || all[0].Pathless == nil || all[0].Kind != "bond" {
		t.Errorf("status: %+v", all)
	}
	select {
	case err := <-answered:
		t.Fatalf("answered without a path: %v", err)
	default:
	}
	if err := e.SetAPIFaults(lab.APIFaults{}); err != nil {
		t.Fatal(err)
	}
	if err := <-answered; err != nil {
		t.Errorf("the connection that waited: %v\n%s", err, p.Output())
	}
	said("bastion: path restored after ")
	said(`{"event":"path_restored",`)
	if strings.Contains(p.Output(), "the link is lost") {
		t.Errorf("the link was lost:\n%s", p.Output())
	}

	// Who gives up waiting does not wait for it.
	if err := e.SetAPIFaults(lab.APIFaults{Deny: []string{"ssm:StartSession"}}); err != nil {
		t.Fatal(err)
	}
	e.endSessionsUntil("no path again", func() bool { return strings.Count(p.Output(), `{"event":"path_lost",`) == 2 })
	began := time.Now()
	e.stop(p, syscall.SIGINT, 130)
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("ended after %v", d)
	}
	e.noSessions()
}

// A link grows while a transfer can use it, up to the setting, and status shows its sessions.
func TestStatusShowsSubflows(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) { c.Unmetered = true }) // the task's processor would have its own line
	// A session is slow by itself, not by this machine: on a busy one a third would not help, and be given back.
	if err := e.Gateway().SetFaults(gateway.Faults{RateBps: 200e3}); err != nil {
		t.Fatal(err)
	}
	source := endless(t)
	e.Allow(source)
	three, f3 := e.forwards([]string{"BASTION_SESSIONS=3"}, source, ":")
	one, f1 := e.forwards([]string{"BASTION_SESSIONS=1"}, source, ":")
	download(t, f3[0].Listen)
	download(t, f1[0].Listen)
	var all []report.Link
	var known []string
	eventually(t, "three sessions carry one transfer", func() bool {
		all, known = e.links(nil), e.portSessions()
		if len(all) != 2 {
			t.Fatalf("%d links", len(all))
		}
		slices.SortFunc(all, func(a, b report.Link) int { return len(b.Sessions) - len(a.Sessions) })
		busy := 0
		for _, s := range all[0].Sessions {
			if s.ReceiveRate > 50e3 && s.State == "up" && slices.Contains(known, s.ID) {
				busy++
			}
		}
		return busy == 3
	})
	if len(all[0].Sessions) != 3 || len(all[1].Sessions) != 1 {
		t.Errorf("%d and %d sessions, want 3 and 1", len(all[0].Sessions), len(all[1].Sessions))
	}
	measured := 0 // by the sent bytes, which use one session while that is enough
	for _, s := range all[0].Sessions {
		if s.Age <= 0 || s.Received == 0 {
			t.Errorf("%+v", s)
		}
		if s.RTT > 0 {
			measured++
		}
	}
	if measured == 0 {
		t.Error("no session has a round trip")
	}
	if l := all[0]; l.Channels != 1 || l.Received < 100e3 || l.State != "up" || len(l.Lacks) != 0 {
		t.Errorf("%+v", l)
	}
	r := e.must("status")
	if !regexp.MustCompile(`(?s)\nforward \(process \d+\) to bastion [0-9a-f]{32}: up for \d+s, 1 connection\n` +
		`  SESSION +STATE +AGE +UP +DOWN +ROUND TRIP +IN FLIGHT +REINJECTED\n  lab-`).MatchString(r.stdout) {
		t.Errorf("%s", r.stdout)
	}
	// AWS is not needed to see them. The link of one session keeps it; the other may give one back that does not help.
	r = e.run([]string{"AWS_PROFILE=nobody"}, "status")
	if r.code != 4 || !strings.Contains(r.stdout, all[1].Sessions[0].ID) {
		t.Errorf("without credentials: exit code %d\n%s%s", r.code, r.stdout, r.stderr)
	}
	e.stop(three, syscall.SIGINT, 130)
	e.stop(one, syscall.SIGINT, 130)
	e.noSessions()
}

// Credentials that expire and are renewed end neither the link nor its connections, though the sessions of the old ones can be
// resumed no more.
func TestForwardFollowsTheCredentials(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	expires := time.Now().Add(15 * time.Second)
	env, err := e.AddIdentity("sso", lab.IdentityConfig{Expires: expires, Process: true})
	if err != nil {
		t.Fatal(err)
	}
	p, f := e.forwards(env, "cache:sessions", ":")
	held := hold(t, f[0].Listen)
	before := e.portSessions()
	if _, err := e.AddIdentity("sso", lab.IdentityConfig{Expires: time.Now().Add(time.Hour), Process: true}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the sessions are replaced", func() bool {
		now := e.portSessions()
		return len(now) > 0 && !slices.ContainsFunc(now, func(id string) bool { return slices.Contains(before, id) })
	})
	if ahead := time.Until(expires); ahead > 4*time.Second { // the last fifth of their life, and something for the clock
		t.Errorf("replaced %s before the credentials were due", ahead)
	}
	if err := pingOn(held); err != nil {
		t.Errorf("%v\n%s", err, p.Output())
	}
	if e.Gateway().Cut("", "reset") == 0 {
		t.Error("nothing was cut")
	}
	if err := pingOn(held); err != nil {
		t.Errorf("after a cut: %v\n%s", err, p.Output())
	}
	if strings.Contains(p.Output(), "is lost") {
		t.Errorf("%s", p.Output())
	}
	e.stop(p, syscall.SIGINT, 130)
	e.noSessions()
}

// A bastion that takes no bonds is used with one session, and status says what that means.
func TestBastionWithoutBond(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) { c.TaskEnv = map[string]string{"BASTIOND_BOND_LISTEN": "off"} })
	p, f := e.forwards(nil, "cache:sessions", ":")
	hold(t, f[0].Listen)
	all := e.links(nil)
	if len(all) != 1 || all[0].Kind != "single" || len(all[0].Sessions) != 1 || len(all[0].Lacks) == 0 || all[0].State != "up" {
		t.Errorf("status: %+v", all)
	}
	e.stop(p, syscall.SIGINT, 130)
	e.noSessions()
}

// A remembered bond port that is wrong costs time, not the connection.
func TestRememberedBondPort(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	e.must("up", "-q")
	path := e.remembered()
	port := regexp.MustCompile(`"bond_port":\d+`)
	good := mustRead(t, path)
	if !port.Match(good) {
		t.Fatalf("the bond's port is not remembered: %s", good)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") // nobody speaks there
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, silent, _ := net.SplitHostPort(ln.Addr().String())
	if err := os.WriteFile(path, port.ReplaceAll(good, []byte(`"bond_port":`+silent)), 0o600); err != nil {
		t.Fatal(err)
	}
	p, f := e.forwards(nil, "cache:sessions", ":")
	hold(t, f[0].Listen)
	if all := e.links(nil); len(all) != 1 || all[0].Kind != "bond" {
		t.Errorf("status: %+v", all)
	}
	e.stop(p, syscall.SIGINT, 130)
	if got := mustRead(t, path); !bytes.Equal(got, good) {
		t.Errorf("remembered now: %s, want %s", got, good)
	}
	e.noSessions()
}
