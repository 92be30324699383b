//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/lab"
)

// startAgentLab starts a lab whose user's commands go through the agent, which ends with the test.
func startAgentLab(t *testing.T, change func(*lab.Config)) *labEnv {
	t.Helper()
	e := startLab(t, change)
	e.env = append(e.env, "BASTION_NO_AGENT=false", "BASTION_QUIET=true")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, e.program, "agent", "stop")
		cmd.Env = e.env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("stop the agent: %v\n%s", err, out)
		}
		if !e.killed {
			e.noSessions()
		}
	})
	return e
}

// client returns a client of the agent.
func (e *labEnv) client() *api.Client { return api.NewClient(e.socket()) }

func (e *labEnv) socket() string { return filepath.Join(e.runtimeDir(), "control.sock") }

// state returns the agent's state.
func (e *labEnv) state() api.State {
	e.t.Helper()
	st, err := e.client().State(e.t.Context())
	if err != nil {
		e.t.Fatal(err)
	}
	return st
}

// detach opens a detached forward and returns where it listens.
func (e *labEnv) detach(args ...string) api.Forward {
	e.t.Helper()
	r := e.must(append([]string{"forward", "--detach", "-o", "json"}, args...)...)
	var out struct {
		Forwards []api.Forward `json:"forwards"`
	}
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || len(out.Forwards) != 1 {
		e.t.Fatalf("%v in %q", err, r.stdout)
	}
	return out.Forwards[0]
}

// Detached forwards stay, are listed, and are stopped; the second one does not need a second link.
func TestAgentDetached(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	if r := e.must("ls"); r.stdout != "no forwards\n" {
		t.Errorf("ls without an agent: %q", r.stdout)
	}
	cache := e.detach("cache", ":")
	if err := ping(cache.Listen); err != nil {
		t.Fatal(err)
	}
	if again := e.detach("cache", ":"); again.Listen != cache.Listen || again.Name != cache.Name {
		t.Errorf("asked for again: %+v, want the same as %+v", again, cache)
	}
	orders := e.detach("--name", "db", "rds:orders", ":")
	if orders.Name != "db" || orders.Engine != "postgres" || !orders.Detached {
		t.Errorf("the forward: %+v", orders)
	}
	if links := e.state().Links; len(links) != 1 || len(links[0].Live) != 1 {
		t.Errorf("two forwards have the links %+v, want one", links)
	}
	eventually(t, "the connection is counted", func() bool {
		f := e.state().Forwards
		return len(f) == 2 && f[0].Stats.Total == 1 && f[0].Stats.BytesUp == 14 && f[0].Stats.BytesDown == 7 &&
			f[0].Stats.Active == 0
	})
	audit := e.state().Audit
	if len(audit) != 1 || audit[0].Forward != "sessions" || audit[0].Up != 14 || audit[0].Down != 7 ||
		audit[0].Error != "" {
		t.Errorf("audit: %+v", audit)
	}
	if r := e.must("ls", "forwards"); !strings.Contains(r.stdout, "\nsessions  "+cache.Listen+" ") ||
		!strings.Contains(r.stdout, "the agent") {
		t.Errorf("ls: %s", r.stdout)
	}
	if r := e.must("wait", "db"); r.stdout != orders.Listen+"\n" {
		t.Errorf("wait: %q", r.stdout)
	}
	if r := e.must("status"); !strings.Contains(r.stdout, "agent (process "+strconv.Itoa(e.state().PID)+") to bastion ") {
		t.Errorf("status: %s", r.stdout)
	}
	r := e.run(nil, "stop", "dbb")
	if r.code != 3 || !strings.Contains(r.stderr, `there are db, sessions;`) {
		t.Errorf("stop of an unknown forward: exit code %d, %s", r.code, r.stderr)
	}
	if r := e.run(nil, "url", "db@0"); r.code != 3 || !strings.Contains(r.stderr, "hint: bastion ls shows NAME@LINK of each") {
		t.Errorf("url of another link: exit code %d, %s", r.code, r.stderr)
	}
	if r := e.must("stop", "db", "db"); r.stdout != "db is stopped\n" {
		t.Errorf("stop: %q", r.stdout)
	}
	if _, err := net.Dial("tcp", orders.Listen); err == nil {
		t.Error("a stopped forward still listens")
	}
	e.must("stop", "all")
	if f := e.state().Forwards; len(f) != 0 {
		t.Errorf("after stop all: %+v", f)
	}
}

// A forward in the foreground ends with its command, however that ends, and bastion stop ends both.
func TestAgentForeground(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	for _, end := range []struct {
		how  string
		do   func(pid int)
		code int
	}{
		{"SIGINT", func(pid int) { _ = syscall.Kill(pid, syscall.SIGINT) }, 130},
		{"SIGKILL", func(pid int) { _ = syscall.Kill(pid, syscall.SIGKILL) }, -1},
		{"bastion stop", func(int) { e.must("stop", "sessions") }, 0},
	} {
		p, forwards := e.forwards(nil, "cache", ":")
		held := hold(t, forwards[0].Listen)
		if f := e.state().Forwards; len(f) != 1 || f[0].PID != p.Cmd.Process.Pid || f[0].Detached || len(f[0].Clients) != 1 ||
			f[0].Clients[0].Addr != held.LocalAddr().String() {
			t.Errorf("the agent's forwards: %+v", f)
		}
		end.do(p.Cmd.Process.Pid)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		code, err := p.Wait(ctx)
		cancel()
		if err != nil || code != end.code {
			t.Errorf("%s: exit code %d, %v; want %d\n%s", end.how, code, err, end.code, p.Output())
		}
		eventually(t, "the forward ends after "+end.how, func() bool { return len(e.state().Forwards) == 0 })
		_, _ = io.ReadAll(held) // returns: the connection ends with the forward
		if _, err := net.Dial("tcp", forwards[0].Listen); err == nil {
			t.Errorf("%s: the forward still listens", end.how)
		}
	}
	if n := e.State().Launched; n != 1 {
		t.Errorf("%d tasks were started, want 1", n)
	}
}

// An agent that is killed leaves nothing in the way of the next one, which has the detached forwards again, at the same
// ports.
func TestAgentRestart(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	cache := e.detach("cache", rig.FreeAddr(t))
	for _, how := range []string{"killed", "stopped"} {
		first := e.state().PID
		if how == "killed" {
			e.killed = true // its sessions end by SSM's time-out
			if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the killed agent has gone", func() bool {
				_, err := e.client().Info(t.Context())
				return errors.Is(err, api.ErrNotRunning)
			})
			// The system may release the lock a moment after it has closed the socket; until then the agent counts as running.
			eventually(t, "ls removes the killed agent's socket", func() bool {
				e.must("ls")
				_, err := os.Lstat(e.socket())
				return errors.Is(err, os.ErrNotExist)
			})
		} else {
			e.must("agent", "stop")
		}
		r := e.must("agent", "start", "-o", "json")
		var st api.State
		if err := json.Unmarshal([]byte(r.stdout), &st); err != nil {
			t.Fatal(err)
		}
		if st.PID == first || len(st.Forwards) != 1 || st.Forwards[0].Listen != cache.Listen ||
			st.Forwards[0].Name != cache.Name {
			t.Errorf("%s: %+v", how, st)
		}
		if err := ping(cache.Listen); err != nil {
			t.Errorf("%s: %v", how, err)
		}
		if r := e.must("wait", cache.Name); r.stdout != cache.Listen+"\n" {
			t.Errorf("%s: wait: %q", how, r.stdout)
		}
	}
	for _, name := range []string{
		"state/forwards.json", "state/agent.log", "run/bastion/control.sock",
		"run/bastion/control.sock.lock",
	} {
		info, err := os.Stat(filepath.Join(e.home(), name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

func (e *labEnv) home() string {
	for _, kv := range e.env {
		if dir, ok := strings.CutPrefix(kv, "HOME="); ok && strings.HasPrefix(dir, scratch) {
			return dir
		}
	}
	e.t.Fatal("no home")
	return ""
}

// However many commands start the agent at once, there is one.
func TestAgentIsAlone(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	pids := make([]int, 12)
	var all sync.WaitGroup
	for i := range pids {
		all.Go(func() {
			r := e.run(nil, "agent", "start", "-o", "json")
			var st api.State
			if err := json.Unmarshal([]byte(r.stdout), &st); err != nil || r.code != 0 {
				t.Errorf("start: %v, exit code %d, %s", err, r.code, r.stderr)
			}
			pids[i] = st.PID
		})
	}
	all.Wait()
	for _, pid := range pids {
		if pid != pids[0] || pid == 0 {
			t.Fatalf("the agents are %v", pids)
		}
	}
	if r := e.run(nil, "agent", "run"); r.code != 1 || !strings.Contains(r.stderr, "an agent runs already") {
		t.Errorf("a second agent: exit code %d, %s", r.code, r.stderr)
	}
}

// What nobody uses is closed: first the link, then the agent itself.
func TestAgentIdle(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	e.env = append(e.env, "BASTION_AGENT_IDLE=1s")
	f := e.detach("cache", ":")
	held := hold(t, f.Listen)
	e.must("agent", "status") // it runs
	quiet := time.After(2500 * time.Millisecond)
	<-quiet
	if err := pingOn(held); err != nil {
		t.Errorf("a connection in use was closed: %v", err)
	}
	_ = held.Close()
	eventually(t, "the unused link is closed", func() bool { return len(e.Gateway().Sessions()) == 0 })
	if err := ping(f.Listen); err != nil {
		t.Errorf("the next connection: %v", err)
	}
	e.must("stop", "all")
	eventually(t, "the agent ends", func() bool {
		_, err := e.client().Info(t.Context())
		return err != nil
	})
}

// signIn gives an identity of the lab new credentials and returns a command's environment that has them in variables.
func (e *labEnv) signIn(name string) (env []string) {
	e.t.Helper()
	files, err := e.AddIdentity(name, lab.IdentityConfig{Expires: time.Now().Add(time.Hour)})
	if err != nil {
		e.t.Fatal(err)
	}
	var text []byte
	for _, kv := range files {
		if path, ok := strings.CutPrefix(kv, "AWS_SHARED_CREDENTIALS_FILE="); ok {
			if text, err = os.ReadFile(path); err != nil {
				e.t.Fatal(err)
			}
		}
	}
	_, section, _ := strings.Cut(string(text), "["+name+"]\n")
	section, _, _ = strings.Cut(section, "[")
	for line := range strings.Lines(section) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " = "); ok {
			env = append(env, strings.ToUpper(key)+"="+value)
		}
	}
	return append(env, "AWS_PROFILE=", "AWS_SHARED_CREDENTIALS_FILE="+os.DevNull, "AWS_CONFIG_FILE="+os.DevNull)
}

// The agent acts with the credentials of the command's variables. Renewed ones of the same identity use the same link, and others
// use another. The agent keeps none where a later process could find them.
func TestAgentCredentials(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	open := func(env []string, args ...string) api.Forward {
		t.Helper()
		r := e.run(env, append([]string{"forward", "--detach", "-o", "json"}, args...)...)
		var out struct {
			Forwards []api.Forward `json:"forwards"`
		}
		if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || len(out.Forwards) != 1 {
			t.Fatalf("%v, exit code %d\n%s", err, r.code, r.stderr)
		}
		return out.Forwards[0]
	}
	first := open(e.signIn("alice"), "cache", ":")
	renewed := e.signIn("alice")
	if second := open(renewed, "rds:orders", ":"); second.Link != first.Link {
		t.Errorf("renewed credentials have the link %s, want %s", second.Link, first.Link)
	}
	if other := open(e.signIn("bob"), "cache", ":"); other.Link == first.Link {
		t.Error("another identity has the same link")
	}
	wrong := []string{
		"AWS_ACCESS_KEY_ID=AKIAUNKNOWNUNKNOWN00", "AWS_SECRET_ACCESS_KEY=not-a-secret", "AWS_SESSION_TOKEN=",
		"AWS_PROFILE=",
	}
	if r := e.run(wrong, "forward", "-d", "cache", ":"); r.code != 4 {
		t.Errorf("with wrong credentials: exit code %d, %s", r.code, r.stderr)
	}

	// The next agent knows whose credentials it needs, and gets them from the next command that has them.
	e.must("agent", "stop")
	e.must("agent", "start")
	if err := ping(first.Listen); err == nil {
		t.Error("a forward works without credentials")
	}
	r := e.must("ls")
	if !strings.Contains(r.stdout, "failed") || !strings.Contains(r.stdout, "the AWS credentials of arn:aws:sts::") {
		t.Errorf("ls: %s", r.stdout)
	}
	if again := open(renewed, "cache", ":"); again.Listen != first.Listen {
		t.Errorf("asked for again it is at %s, want %s", again.Listen, first.Listen)
	}
	if err := ping(first.Listen); err != nil {
		t.Error(err)
	}

	for _, kv := range append(renewed, wrong...) {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "AWS_SECRET") && name != "AWS_SESSION_TOKEN" || value == "" {
			continue
		}
		for _, file := range []string{"agent.log", "agent.err", "forwards.json"} {
			data, err := os.ReadFile(filepath.Join(e.home(), "state", file))
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(data), value) {
				t.Errorf("%s has the value of %s", file, name)
			}
		}
	}
}

// Commands that cannot be served say what to do.
func TestAgentBadInput(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	first := e.detach("cache", ":")
	_, port, _ := net.SplitHostPort(first.Listen)
	for _, tt := range []struct {
		args string
		code int
		says []string
	}{
		{"forward -d cache " + port + " --name other", 7, []string{
			"the forward sessions listens there",
			"bastion stop sessions",
		}},
		{"forward -d rds:nonesuch :", 3, []string{"nonesuch"}},
		{"forward -d --name a/b cache :", 2, []string{"is no name for a forward"}},
		{"forward -d --name x cache : rds :", 2, []string{"--name names one forward"}},
		{"forward -d --no-agent cache :", 2, []string{"leave out --no-agent"}},
		{"forward -d 127.0.0.1:1 0.0.0.0:0", 2, []string{"--allow-remote", "others could use the tunnel"}},
		{"wait nonesuch --timeout 100ms", 9, []string{"there is none", "bastion ls forwards"}},
		{"wait nonesuch --timeout soon", 2, []string{"timeout"}},
		{"wait", 2, []string{"usage: bastion wait"}},
		{"stop", 2, []string{"usage: bastion stop"}},
		{"ls forwrds", 2, []string{"did you mean bastion ls forwards?"}},
		{"agent stat", 2, []string{"did you mean bastion agent start?"}},
		{"agent", 2, []string{"usage: bastion agent"}},
	} {
		r := e.run([]string{"BASTION_QUIET="}, strings.Fields(tt.args)...)
		if r.code != tt.code {
			t.Errorf("%s: exit code %d, want %d\n%s", tt.args, r.code, tt.code, r.stderr)
		}
		for _, text := range tt.says {
			if !strings.Contains(r.stderr, text) {
				t.Errorf("%s does not say %q: %s", tt.args, text, r.stderr)
			}
		}
	}
	if f := e.state().Forwards; len(f) != 1 {
		t.Errorf("what failed left forwards: %+v", f)
	}
}

// status --watch shows each change, without asking again and again.
func TestStatusWatch(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	e.must("agent", "start")
	p := e.start(nil, "status", "--watch", "-o", "json")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := p.Line(ctx, 0); err != nil {
		t.Fatal(err)
	}
	e.detach("cache", ":")
	if err := p.WaitOutput(ctx, `"session_id"`); err != nil {
		t.Error(err)
	}
	e.stop(p, syscall.SIGINT, 130)
}

// The API refuses what it does not understand, with an error in JSON.
func TestAgentAPI(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	e.must("agent", "start")
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", e.socket()) },
	}}
	defer client.CloseIdleConnections()
	for _, tt := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/v1/agent", "", 200},
		{"GET", "/v2/agent", "", 404},
		{"GET", "/v1/state?after=0&timeout=x", "", 400},
		{"GET", "/v1/state?after=0&timeout=NaN", "", 400},
		{"GET", "/v1/state?after=-1", "", 400},
		{"GET", "/v1/state?after=12345", "", 200},
		{"POST", "/v1/forwards", "{", 400},
		{"POST", "/v1/forwards", `{"colour":"red"}`, 400},
		{"POST", "/v1/forwards", `{"command":"` + strings.Repeat("x", 2<<20) + `"}`, 400},
		{"DELETE", "/v1/forwards/nonesuch", "", 404},
		{"POST", "/v1/dial", `{"target":"a:1"}`, 426},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://agent"+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Errorf("%s %s: %v", tt.method, tt.path, err)
			continue
		}
		data, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != tt.status {
			t.Errorf("%s %s: %s, %v; want %d", tt.method, tt.path, resp.Status, err, tt.status)
		}
		var e api.Error
		if err := json.Unmarshal(data, &e); tt.status != 200 && (err != nil || e.Message == "" || e.Next == "") {
			t.Errorf("%s %s: %v in %s", tt.method, tt.path, err, data)
		}
	}
	// A forward that cannot be opened ends the stream with an error.
	for _, requests := range [][]api.ForwardRequest{
		nil,
		{{Kind: "carrier-pigeon"}},
		{{Target: "orders"}},
		{{Kind: api.KindProxy}},
		{{Target: "h:1", Listen: "nowhere"}},
		{{Name: "all", Target: "h:1"}},
	} {
		if err := e.client().Open(t.Context(), api.OpenRequest{Forwards: requests}, func(api.Event) {}); err == nil {
			t.Errorf("%+v: no error", requests)
		}
	}
}

// Connections through the agent are bytes both ways, whose ends are passed on one by one.
func TestAgentDial(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	f := e.detach("cache", ":")
	scope := scopeOf(e)
	conn, err := e.client().Dial(t.Context(), api.DialRequest{Scope: scope, Target: f.Target})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := pingOn(conn); err != nil {
		t.Error(err)
	}
	_, err = e.client().Dial(t.Context(), api.DialRequest{Scope: scope, Target: "169.254.169.254:80"})
	if err == nil {
		t.Error("a connection to a forbidden address was opened")
	}
	if _, err := io.WriteString(conn, "*1\r\n$4\r\nPING\r\n"); err != nil {
		t.Error(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Error(err)
	}
	if rest, err := io.ReadAll(conn); err != nil || string(rest) != "+PONG\r\n" {
		t.Errorf("after the end of the other direction: %q, %v", rest, err)
	}
	if links := e.state().Links; len(links) != 1 || len(links[0].Live) != 1 {
		t.Errorf("the links are %+v, want one", links)
	}
}

// scopeOf is the scope of the lab's user.
func scopeOf(e *labEnv) api.Scope {
	return api.Scope{Settings: map[string]string{"runtime_dir": filepath.Dir(e.socket())}, Env: awssdk.RelevantEnv(e.env)}
}

// A forward in the foreground ends in order when its agent is stopped.
func TestAgentStopForeground(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	p, _ := e.forwards(nil, "cache", ":")
	e.must("agent", "stop")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if code, err := p.Wait(ctx); err != nil || code != 0 {
		t.Errorf("exit code %d, %v; want 0\n%s", code, err, p.Output())
	}
}

// The end of a long log begins with a whole line.
func TestAgentLogTail(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	e.must("agent", "start")
	e.must("agent", "stop")
	line := strings.Repeat("x", 98) + "\n"
	text := strings.Repeat("a"+line, 2*64<<10/len(line))
	if err := os.WriteFile(filepath.Join(e.home(), "state", "agent.log"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	r := e.must("agent", "logs")
	if !strings.HasPrefix(r.stdout, "a"+line) || !strings.HasSuffix(text, r.stdout) || len(r.stdout) < 64<<10-2*len(line) {
		t.Errorf("%d bytes: %.200q", len(r.stdout), r.stdout)
	}
}

// A client that resets its connection is no news to the command that has the forward; one that cannot be opened is.
func TestAgentClientResets(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	e.must("agent", "start")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	var refused []string
	opened := make(chan []api.Forward, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- e.client().Open(ctx, api.OpenRequest{Scope: scopeOf(e), Forwards: []api.ForwardRequest{
			{Target: "cache:sessions", Listen: ":"}, {Target: "nonesuch.test:1", Listen: ":"},
		}}, func(ev api.Event) {
			mu.Lock()
			defer mu.Unlock()
			switch ev.Event {
			case api.EventForwards:
				opened <- ev.Forwards
			case api.EventRefused:
				refused = append(refused, ev.Text)
			}
		})
	}()
	var forwards []api.Forward
	select {
	case forwards = <-opened:
	case err := <-ended:
		t.Fatal(err)
	}
	held := hold(t, forwards[0].Listen)
	if err := held.(*net.TCPConn).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	_ = held.Close()
	eventually(t, "the reset is in the audit", func() bool {
		audit := e.state().Audit
		return len(audit) == 1 && audit[0].Error != ""
	})
	if conn, err := net.Dial("tcp", forwards[1].Listen); err == nil {
		_, _ = io.ReadAll(conn)
		_ = conn.Close()
	}
	eventually(t, "the refusal is told", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(refused) > 0
	})
	cancel()
	if err := <-ended; err == nil {
		t.Error("the request has ended well before its client went")
	}
	if len(refused) != 1 || !strings.Contains(refused[0], "nonesuch.test:1") {
		t.Errorf("told: %q", refused)
	}
}

// The command tells the agent only about unusual settings, so that an agent of another version need not know settings that the user
// has not set.
func TestAgentScope(t *testing.T) {
	s, err := config.FromTexts(map[string]string{"cluster": "other", "agent_idle": "10m", "keepalive": "7s"})
	if err != nil {
		t.Fatal(err)
	}
	got := invocation.AgentScope(s).Settings
	if len(got) != 2 || got["cluster"] != "other" || got["keepalive"] != "7s" {
		t.Errorf("%v", got)
	}
	back, err := config.FromTexts(got)
	if err != nil || !maps.Equal(back.Texts(), s.Texts()) {
		t.Errorf("%v, %v", back, err)
	}
}

// When the agent cannot restore a link, a command with a forward in the foreground ends with code 8. A detached forward has failed
// until a later client finds the bastion again.
func TestAgentGivesUp(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	e.env = append(e.env, "BASTION_RECONNECT_TIMEOUT=1s", "BASTION_LINGER=1s")
	detached := e.detach("rds:orders", ":")
	p, _ := e.forwards([]string{"AWS_CA_BUNDLE="}, "cache:sessions", ":") // for the same link, whatever this process has
	e.outOfOrder()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	code, err := p.Wait(ctx)
	if err != nil || code != 8 {
		t.Fatalf("exit code %d, %v; want 8\n%s", code, err, p.Output())
	}
	f := e.state().Forwards
	if len(f) != 1 || f[0].Name != detached.Name || f[0].State != api.ForwardFailed || !strings.Contains(f[0].Error, "out of order") {
		t.Fatalf("the detached forward: %+v", f)
	}
	if err := e.SetAPIFaults(lab.APIFaults{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a client gets through", func() bool {
		conn, err := net.Dial("tcp", detached.Listen)
		if err != nil {
			return false
		}
		defer func() { _ = conn.Close() }()
		f := e.state().Forwards
		return len(f) == 1 && f[0].State == api.ForwardReady && f[0].Error == ""
	})
	if r := e.must("wait", detached.Name); r.stdout != detached.Listen+"\n" {
		t.Errorf("wait: %q", r.stdout)
	}
}

// A connection that carried nothing for the task's idle time ends as if at its far end. A busy one on the same link goes on. The
// audit and the agent's log say why.
func TestForwardIdleConnection(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, func(c *lab.Config) { c.TaskEnv = map[string]string{"BASTIOND_IDLE_CONN": "10s"} })
	f := e.detach("cache:sessions", ":")
	var conns [2]net.Conn
	for i := range conns {
		c, err := net.Dial("tcp", f.Listen)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if err := pingOn(c); err != nil {
			t.Fatal(err)
		}
		conns[i] = c
	}
	busy, idle := conns[0], conns[1]
	if err := idle.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := idle.Read(make([]byte, 1))
		ended <- err
	}()
	var end error
	eventuallyWithin(t, time.Minute, "the idle connection ends", func() bool {
		if err := pingOn(busy); err != nil {
			t.Fatal(err)
		}
		select {
		case end = <-ended:
			return true
		default:
			return false
		}
	})
	if !errors.Is(end, io.EOF) {
		t.Errorf("the idle connection ended with %v, want a clean end", end)
	}
	if err := pingOn(busy); err != nil {
		t.Error(err)
	}
	eventually(t, "the audit says why the connection ended", func() bool { // it does once the connection has
		audit, _, err := e.TaskOutput(e.Tasks()[0].ID)
		return err == nil && strings.Contains(string(audit), `"reason":"idle for 10s"`)
	})
	if log := e.must("agent", "logs").stdout; !strings.Contains(log, "ended by the bastion") || !strings.Contains(log, "idle for 10s") {
		t.Errorf("the agent's log does not say why:\n%s", log)
	}
}
