//go:build unix

package access

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
	"github.com/bastion-ssm/bastion/tunnel"
)

// script writes a shell script that runs in a task in place of `bastiond grant`. $1 is the grant; $n counts its runs from 1; answer prints
// what bastiond would, as JSON; real runs bastiond itself.
func script(t *testing.T, text string) (setting string) {
	t.Helper()
	program, err := bastiond()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "grant.sh")
	text = fmt.Sprintf(`n=$(($(cat %[1]s/n 2>/dev/null || echo 0) + 1))
echo $n >%[1]s/n
answer() { echo "BASTIOND-GRANT $1"; exit 1; }
real() { exec %[2]s grant "$1"; }
%[3]s
`, dir, program, text)
	if err := os.WriteFile(file, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return "grant_command=/bin/sh " + file
}

// Whoever gives up does not wait for the end of a command that has not answered.
func TestGrantIsGivenUp(t *testing.T) {
	t.Parallel()
	l := startLab(t, func(c *lab.Config) { c.AllowHostExec = true })
	began := filepath.Join(t.TempDir(), "began")
	a := l.access(Options{}, script(t, "echo hello; sleep 1; touch "+began+"; exec sleep 600")) // by then the client reads
	a.commandEnd = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	up := make(chan error, 1)
	go func() {
		_, err := a.Up(ctx)
		up <- err
	}()
	eventually(t, "the command runs", func() bool {
		_, err := os.Stat(began)
		return err == nil
	})
	cancel()
	if err := <-up; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	closed := make(chan struct{})
	go func() {
		a.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(a.commandEnd / 2):
		t.Error("it waits for the command")
		<-closed
	}
}

// A measurement that waits for the grant's answer ends with its caller.
func TestMeasureEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	to, err := rig.ServeLoopback(func(net.Conn) { cancel() }) // the last that is measured
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = to.Close() })
	l := startLab(t, func(c *lab.Config) {
		reaching(c)
		c.AllowHostExec = true
	})
	if _, err := l.access(Options{}).Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	a := l.access(Options{}, append(quickly, script(t, `echo hello; (real "$1") >/dev/null; exec sleep 600`))...)
	a.commandEnd = time.Minute
	began := time.Now()
	m, err := a.Measure(ctx, to.Addr())
	if err != nil || m.Version == "" || !m.Dialed {
		t.Errorf("%+v, %v", m, err)
	}
	if took := time.Since(began); took > a.commandEnd/2 {
		t.Errorf("it waits for the answer: %s", took)
	}
}

// What bastiond answers to a grant decides: a refusal ends the command with what to do about it, a server that is not up yet is
// waited for, and an older bastiond gets the form of the grant that it knows. Each answer takes one run of the command.
func TestGrantAnswers(t *testing.T) {
	t.Parallel()
	const old = `case $1 in v2.*) answer '{"v":1,"version":"0.1","code":"invalid","error":"unknown version"}';; esac; real "$1"`
	host, _ := newKey(t)
	refuse := func(code string) string { return `answer '{"v":1,"version":"1","code":"` + code + `","error":"no"}'` }
	l := startLab(t, func(c *lab.Config) { c.AllowHostExec = true })
	if _, err := l.access(Options{}).Up(t.Context()); err != nil { // bastiond serves from here on
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		script string
		kind   fail.Kind
		says   string // "": it works
		next   string
		runs   int
		waits  string // a step of the progress
	}{
		{name: "bastiond", script: `real "$1"`, runs: 1},
		{name: "text before", script: `echo; echo "Welcome"; real "$1"`, runs: 1},
		{name: "full", script: refuse("full"), kind: fail.Start, says: "no", next: "bastion down", runs: 1},
		{name: "draining", script: refuse("draining"), kind: fail.Start, says: "no", next: "wait until it has stopped", runs: 1},
		{name: "expired", script: refuse("expired"), kind: fail.Denied, says: "no", next: "this machine's clock", runs: 1},
		{name: "invalid", script: refuse("invalid"), kind: fail.Denied, says: "no", next: "name destinations", runs: 1},
		{name: "a new code", script: refuse("moon"), kind: fail.Denied, says: "no", runs: 1},
		{
			name: "not up yet", script: `[ $n -gt 2 ] || ` + refuse("down") + `; real "$1"`, runs: 3, waits: "waiting for bastiond",
		},
		{
			name: "another grant's", script: `answer '{"v":1,"version":"1","grant":"other","ports":{"ssh":1},"host_key":"` + authorizedLine(host.PublicKey()) + `"}'`, kind: fail.Start, says: `"other" instead of`,
			next: "grant_command", runs: 1,
		},
		{name: "half an answer", script: `answer '{"v":1,'`, kind: fail.Start, says: "hand a key to bastion ", next: "same version", runs: 1},
		{name: "another version's", script: `answer '{"v":9}'`, kind: fail.Start, says: "hand a key to bastion ", next: "same version", runs: 1},
		{
			name: "too much", script: `while :; do echo 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef; done`, kind: fail.Start,
			says: "prints too much", next: "grant_command", runs: 1,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var steps steps
			a := l.access(Options{Progress: steps.add}, script(t, tt.script))
			before := l.calls("ecs:ExecuteCommand")[0]
			up, err := a.Up(t.Context())
			if (err == nil) != (tt.says == "") || err != nil && (fail.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says) ||
				!strings.Contains(fail.NextOf(err), tt.next) || isTransient(err)) {
				t.Errorf("%v error %v, hint %q; want %v with %q and %q", fail.KindOf(err), err, fail.NextOf(err), tt.kind, tt.says, tt.next)
			}
			if err == nil && up.HostKey == "" {
				t.Errorf("%+v", up)
			}
			if runs := l.calls("ecs:ExecuteCommand")[0] - before; runs != tt.runs {
				t.Errorf("%d runs, want %d", runs, tt.runs)
			}
			if tt.waits != "" && !steps.has(tt.waits) {
				t.Errorf("the steps: %q", steps.texts())
			}
		})
	}
	// An older bastiond does not know the form with a secret, which a link to a bastion with an unknown host key uses.
	t.Run("an older bastiond", func(t *testing.T) {
		a := l.access(Options{}, append(quickly, script(t, old))...)
		a.hostKeys = nil
		before := l.calls("ecs:ExecuteCommand")[0]
		if err := l.link(a).Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		if runs := l.calls("ecs:ExecuteCommand")[0] - before; runs != 2 {
			t.Errorf("%d runs, want 2", runs)
		}
	})
}

// AWS's failures that pass are waited out, with a step that says what for; others are not. In the end it is the latest that is told.
func TestGrantWaitsForAWS(t *testing.T) {
	t.Parallel()
	const action = "ecs:ExecuteCommand"
	failing := func(code, message string, count int) lab.APIFaults {
		return lab.APIFaults{Errors: map[string]lab.APIError{action: {Code: code, Message: message, Count: count}}}
	}
	l := startLab(t, nil)
	if _, err := l.access(Options{}).Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name    string
		faults  lab.APIFaults
		timeout time.Duration
		kind    fail.Kind
		says    string // "": it works
		next    string
		least   int // calls of ExecuteCommand
		waits   string
	}{
		{name: "not connected", faults: lab.APIFaults{NotConnected: 2}, least: 3, waits: "waiting for the bastion's exec agent to connect"},
		{name: "an internal error", faults: failing("ServerException", "try later", 3), least: 4, waits: "waiting for AWS: "},
		{
			name: "throttled for too long", faults: failing("ThrottlingException", "Rate exceeded", 0), timeout: time.Second, kind: fail.Timeout,
			says: "no answer within 1s; the latest failure: ", next: "AWS", least: 1,
		},
		{
			name: "the limit, for too long", faults: lab.APIFaults{SessionsPerContainer: 1, Errors: map[string]lab.APIError{action: {
				Code: "ClientException", Message: "the maximum session limit of 2 has been reached.",
			}}}, timeout: time.Second, kind: fail.Timeout, says: "the maximum session limit of 2", least: 1,
			waits: "waiting for a session that AWS starts: the bastion has as many as it may have",
		},
		{name: "a parameter", faults: failing("InvalidParameterException", "Command cannot be empty.", 0), kind: fail.Start, says: "cannot be empty", least: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defer l.faults(lab.APIFaults{})
			var steps steps
			settings := []string{"remember_host_keys=false"}
			if tt.timeout > 0 {
				settings = append(settings, "start_timeout="+tt.timeout.String())
			}
			a := l.access(Options{Progress: steps.add}, settings...)
			l.faults(tt.faults)
			before := l.calls(action)[0]
			_, err := a.Up(t.Context())
			if (err == nil) != (tt.says == "") || err != nil && (fail.KindOf(err) != tt.kind || !strings.Contains(err.Error(), tt.says)) {
				t.Errorf("%v error %v, hint %q; want %v with %q", fail.KindOf(err), err, fail.NextOf(err), tt.kind, tt.says)
			}
			if tt.timeout > 0 && fail.NextOf(err) == "" {
				t.Errorf("no next step: %v", err)
			}
			if n := l.calls(action)[0] - before; n < tt.least || tt.timeout == 0 && n != tt.least {
				t.Errorf("%d calls, want %d", n, tt.least)
			}
			if tt.waits != "" && !strings.Contains(strings.Join(steps.texts(), "\n"), tt.waits) {
				t.Errorf("the steps: %q", steps.texts())
			}
		})
	}
}

// A grant that cannot be made ends a command before AWS runs anything.
func TestGrantIsNotMade(t *testing.T) {
	t.Parallel()
	l := startLab(t, nil)
	a := l.access(Options{})
	many := make([]string, 65)
	for i := range many {
		many[i] = fmt.Sprintf("host-%d.%s.internal:5432", i, strings.Repeat("long", 60))
	}
	for name, tt := range map[string]struct {
		permit []string
		next   string
	}{
		"too many destinations":      {many, "check the setting permit"},
		"too much for a command":     {many[:64], "permit fewer destinations"},
		"a pattern that is not text": {[]string{"a\nb"}, "check the setting permit"},
	} {
		_, err := a.OpenSSH(t.Context(), tt.permit)
		if fail.KindOf(err) != fail.Usage || !strings.HasPrefix(err.Error(), "make a grant: ") || !strings.Contains(fail.NextOf(err), tt.next) {
			t.Errorf("%s: %v, hint %q", name, err, fail.NextOf(err))
		}
	}
	l.wantCalls(map[string]int{"ecs:ExecuteCommand": 0})
}

// A bastion that bounds what it permits refuses a grant for more, and says which destination.
func TestGrantBeyondTheBastion(t *testing.T) {
	t.Parallel()
	l := startLab(t, func(c *lab.Config) { c.TaskEnv = map[string]string{"BASTIOND_MAX_GRANTS": "1"} })
	a := l.access(Options{})
	s, err := a.OpenSSH(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, err = l.access(Options{}, "remember_host_keys=false").OpenSSH(t.Context(), nil)
	if fail.KindOf(err) != fail.Start || !strings.Contains(fail.NextOf(err), "end links that are not used") {
		t.Errorf("%v, hint %q", err, fail.NextOf(err))
	}
}

// A value ends the context that it is to end, and no other; a value that nobody has taken stays for the next wait.
func TestCancelledBy(t *testing.T) {
	c := make(chan struct{}, 1)
	ctx, came := cancelledBy(t.Context(), c)
	if ctx.Err() != nil || came() {
		t.Error("ended by nothing")
	}
	if ctx.Err() == nil {
		t.Error("the wait has not ended its context")
	}
	c <- struct{}{}
	ctx, came = cancelledBy(t.Context(), c)
	<-ctx.Done()
	if !came() || len(c) != 0 {
		t.Error("a value has not ended it")
	}
	parent, cancel := context.WithCancel(t.Context())
	ctx, came = cancelledBy(parent, c)
	cancel()
	<-ctx.Done()
	if came() || !errors.Is(ctx.Err(), context.Canceled) {
		t.Error("its parent's end is taken for a value")
	}
	_, came = cancelledBy(t.Context(), nil)
	if came() {
		t.Error("no channel has given a value")
	}
}

// gate holds back bastiond's answers while it is shut. It begins so.
type gate struct {
	t       *testing.T
	file    string
	setting string
}

func newGate(t *testing.T) *gate {
	t.Helper()
	file := filepath.Join(t.TempDir(), "open")
	return &gate{t, file, script(t, `until [ -e `+file+` ]; do sleep 0.02; done; real "$1"`)}
}

func (g *gate) open() {
	g.t.Helper()
	if err := os.WriteFile(g.file, nil, 0o600); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gate) shut() {
	g.t.Helper()
	if err := os.Remove(g.file); err != nil {
		g.t.Fatal(err)
	}
}

// A link whose server does not show the remembered host key ends for good: somebody may pose as the bastion. The key is not trusted
// again, so the next link asks the bastion itself.
func TestLinkWithWrongHostKey(t *testing.T) {
	t.Parallel()
	wrong, _ := newKey(t)
	l := startLab(t, func(c *lab.Config) { c.AllowHostExec = true })
	gate := newGate(t)
	a := l.access(Options{}, append(quickly, gate.setting)...)
	gate.open()
	up, err := a.Up(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b := l.running(a)
	if err := a.hostKeys.put(b, wrong.PublicKey(), keys.DefaultPorts); err != nil {
		t.Fatal(err)
	}
	gate.shut() // the server's key comes first
	link := l.link(a)
	if err := link.Ready(t.Context()); fail.KindOf(err) != fail.Denied ||
		!strings.Contains(err.Error(), "not the pinned "+ssh.FingerprintSHA256(wrong.PublicKey())) ||
		fail.NextOf(err) == "" {
		t.Errorf("%v, hint %q", err, fail.NextOf(err))
	}
	if key, _, known := a.hostKeys.get(b); known && ssh.FingerprintSHA256(key) != up.HostKey {
		t.Error("the wrong key is still remembered")
	}
	gate.open()
	if err := l.link(a).Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the bastion's answer", func() bool { _, _, known := a.hostKeys.get(b); return known })
	if key, _, _ := a.hostKeys.get(b); ssh.FingerprintSHA256(key) != up.HostKey {
		t.Errorf("remembered %v", key)
	}
	l.wantCalls(map[string]int{"ecs:RunTask": 1})
}

// A session that ends before the bastion has the grant makes the link wait for the answer, with the same key at the same bastion.
func TestSessionEndsBeforeTheGrant(t *testing.T) {
	t.Parallel()
	to := echo(t)
	l := startLab(t, func(c *lab.Config) {
		reaching(c)
		c.AllowHostExec, c.TaskEnv = true, map[string]string{"BASTIOND_BOND_LISTEN": "off"}
	})
	gate := newGate(t)
	a := l.access(Options{}, append(quickly, gate.setting)...)
	gate.open()
	if _, err := a.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	gate.shut()
	before := l.calls("ecs:ListTasks", "ssm:StartSession")
	link := l.link(a, to)
	eventually(t, "SSH's key exchange", func() bool {
		return slices.ContainsFunc(l.Gateway().Sessions(), func(s gateway.Info) bool { return s.Document == gateway.DocSSH && s.BytesUp > 500 })
	})
	l.cut()
	eventually(t, "the link's next attempt", func() bool { return link.State().Attempt > 0 || link.State().Phase == tunnel.Down })
	gate.open()
	l.dial(link, to)
	if after := l.calls("ecs:ListTasks", "ssm:StartSession"); after[0] != before[0]+1 || after[1] != before[1]+2 {
		t.Errorf("ListTasks and StartSession: %v calls, before %v", after, before)
	}
	l.wantCalls(map[string]int{"ecs:RunTask": 1})
}
