package agent

import (
	"context"
	"errors"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
)

// scratch is a directory for all tests.
var scratch string

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "agent"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(scratch)
		os.Exit(code)
	}))
}

// newAgent returns an Agent with a short socket path.
func newAgent(t *testing.T, idle time.Duration) (*Agent, Config) {
	t.Helper()
	dir, err := os.MkdirTemp("", "d")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cfg := Config{Version: "test", Socket: filepath.Join(dir, "control.sock"), StateDir: dir, Idle: idle}
	return New(cfg), cfg
}

// Only one Agent serves a socket; another one can when it has ended, whatever was left there.
func TestRunAlone(t *testing.T) {
	a, cfg := newAgent(t, time.Minute)
	if err := os.WriteFile(cfg.Socket, []byte("stale"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(a *Agent) (ended chan error) {
		ready := make(chan struct{})
		a.cfg.Ready = func() { close(ready) }
		ended = make(chan error, 1)
		go func() { ended <- a.Run(t.Context()) }()
		select {
		case <-ready:
		case err := <-ended:
			t.Fatalf("the Agent has ended: %v", err)
		}
		return ended
	}
	ended := run(a)
	if err := New(cfg).Run(t.Context()); !errors.Is(err, ErrRunning) || fail.NextOf(err) == "" {
		t.Errorf("a second one: %v", err)
	}
	client := api.NewClient(cfg.Socket)
	info, err := client.Info(t.Context())
	if err != nil || info.PID != os.Getpid() || info.V != api.Version {
		t.Errorf("info: %+v, %v", info, err)
	}
	if err := client.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := client.Info(t.Context()); !errors.Is(err, api.ErrNotRunning) {
		t.Errorf("after its end: %v", err)
	}
	if _, err := os.Lstat(cfg.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its socket: %v", err)
	}
	a = New(cfg)
	ended = run(a)
	a.Shutdown()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, _, err := a.linkFor(t.Context(), api.Scope{Env: map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIAMADEUPMADEUPMADE", "AWS_SECRET_ACCESS_KEY": "made-up", "AWS_REGION": "eu-test-1",
		"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1",
	}}, nil); err == nil {
		t.Error("an Agent that has ended makes a link")
	}
}

// advance lets time pass in a test's bubble.
func advance(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // no real time passes

// An Agent that has nothing to do ends after a while, not before.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newAgent(t, time.Minute)
		end, err := a.begin()
		if err != nil {
			t.Fatal(err)
		}
		a.tasks.Go(a.retire)
		advance(10 * time.Minute) // a request is under way
		if a.ctx.Err() != nil {
			t.Fatal("ended during a request")
		}
		end()
		advance(59 * time.Second)
		if a.ctx.Err() != nil {
			t.Fatal("ended too early")
		}
		advance(32 * time.Second)
		if a.ctx.Err() == nil {
			t.Error("still there")
		}
		if _, err := a.begin(); err == nil {
			t.Error("a request begins after the end")
		}
		a.tasks.Wait()
	})
}

// Wait returns at a new revision, at once if there was one already, and at the end of ctx.
func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newAgent(t, time.Minute)
		defer a.cancel()
		a.bump()
		if st := a.Wait(t.Context(), 0); st.Revision != 1 {
			t.Errorf("revision %d", st.Revision)
		}
		began := time.Now()
		go func() {
			advance(time.Second)
			a.bump()
		}()
		if st := a.Wait(t.Context(), 1); st.Revision != 2 || time.Since(began) != time.Second {
			t.Errorf("revision %d after %s", st.Revision, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if st := a.Wait(ctx, 2); st.Revision != 2 || time.Since(began) != time.Minute+time.Second {
			t.Errorf("revision %d after %s", st.Revision, time.Since(began))
		}
	})
}

// What makes no difference to a link makes no other link.
func TestEngineKey(t *testing.T) {
	settings := func(texts map[string]string) config.Settings {
		s, err := config.FromTexts(texts)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	env := map[string]string{"AWS_PROFILE": "dev", "SSH_AUTH_SOCK": "/one"}
	base := linkKey(settings(nil), env, "")
	for _, texts := range []map[string]string{
		{"output": "json"},
		{"quiet": "true"},
		{"allow_remote": "true"},
		{"runtime_dir": "/x"},
		{"agent_idle": "1h"},
		{"proxy_domains": "corp"},
		{"cluster": "bastion"},
	} {
		if linkKey(settings(texts), env, "") != base {
			t.Errorf("%v makes another link", texts)
		}
	}
	other := maps.Clone(env)
	other["SSH_AUTH_SOCK"] = "/two"
	if linkKey(settings(nil), other, "") != base {
		t.Error("another SSH agent makes another link")
	}
	for _, texts := range []map[string]string{
		{"cluster": "other"}, {"profile": "prod"}, {"region": "eu-test-2"}, {"permit": "a:1"}, {"sessions": "2"}, {"task_definition": "other"},
	} {
		if linkKey(settings(texts), env, "") == base {
			t.Errorf("%v makes no other link", texts)
		}
	}
	if linkKey(settings(nil), env, "arn:x") == base || linkKey(settings(nil), map[string]string{"AWS_PROFILE": "prod"}, "") == base {
		t.Error("another identity has the same link")
	}
}

// Credentials that were first seen later are the ones that count, whichever command comes last.
func TestRenew(t *testing.T) {
	env := func(key string) *awssdk.Env {
		return awssdk.NewEnv(map[string]string{"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": "made-up"})
	}
	l := &link{env: env("first")}
	monday := time.Now()
	tuesday := monday.Add(24 * time.Hour)
	for _, step := range []struct {
		key  string
		seen time.Time
		want string
	}{
		{"monday", monday, "monday"}, {"tuesday", tuesday, "tuesday"}, {"monday", monday, "tuesday"}, {"tuesday", tuesday, "tuesday"},
	} {
		l.renew(env(step.key), step.seen)
		if got := l.env.Credentials().AccessKeyID; got != step.want {
			t.Errorf("after those of %s: %s, want %s", step.key, got, step.want)
		}
	}
}

func TestForwardName(t *testing.T) {
	for _, tt := range []struct{ name, spec, want string }{
		{"rds:orders", "rds", "orders"},
		{"cache:sessions", "cache:sessions", "sessions"},
		{"10.0.1.7:5432", "10.0.1.7:5432", "10.0.1.7"},
		{"[fd00::7]:5432", "[fd00::7]:5432", "fd00--7"},
		{"db.corp.internal:1", "db.corp.internal:1", "db.corp.internal"},
		{"rds:all", "rds:all", "forward"},
		{strings.Repeat("a", 60) + ":1", strings.Repeat("a", 60) + ".b:1", strings.Repeat("a", 50)},
	} {
		spec, err := targets.Parse(tt.spec)
		if err != nil {
			t.Fatal(err)
		}
		if got := forwardName(tt.name, spec); got != tt.want || !forwards.ValidName(got) {
			t.Errorf("%s: %q, want %q", tt.spec, got, tt.want)
		}
	}
}

// The file of detached forwards is the user's alone, and one that cannot be read is an error, not an empty list.
func TestStore(t *testing.T) {
	s := store{path: filepath.Join(t.TempDir(), "forwards.json")}
	if records, err := s.load(); err != nil || records != nil {
		t.Errorf("without a file: %v, %v", records, err)
	}
	want := []forwards.Record{{Request: api.ForwardRequest{Name: "db", Target: "rds:db"}, Link: "x", Target: "h:1", TLS: true}}
	if err := s.save(want); err != nil {
		t.Fatal(err)
	}
	if got, err := s.load(); err != nil || cmp.Diff(want, got) != "" {
		t.Errorf("%v, %s", err, cmp.Diff(want, got))
	}
	if info, err := os.Stat(s.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	for _, text := range []string{"", "{", `{"v":2}`, "[]"} {
		if err := os.WriteFile(s.path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if records, err := s.load(); err == nil {
			t.Errorf("%q: %v", text, records)
		}
	}
}

// A client that does not read holds nobody up, and still gets the last event.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read := make(chan struct{})
		var got []api.Event
		l := newEvents(func(ev api.Event) {
			<-read
			got = append(got, ev)
		})
		for range 10 * maxEvents {
			l.try(api.Event{Event: api.EventStep})
		}
		var ended sync.WaitGroup
		ended.Go(func() {
			l.last(api.Event{Event: api.EventError})
			l.close()
			l.try(api.Event{Event: api.EventStep}) // too late
		})
		synctest.Wait()
		l.try(api.Event{Event: api.EventStep}) // does not wait for the client either
		close(read)
		ended.Wait()
		if n := len(got); n < maxEvents || n > maxEvents+3 || got[n-1].Event != api.EventError {
			t.Errorf("%d events, the last %+v", n, got[n-1])
		}
	})
}

// runAgent runs an Agent until the test or the function that it returns ends it.
func runAgent(t *testing.T, cfg Config) (a *Agent, end func()) {
	t.Helper()
	ready := make(chan struct{})
	cfg.Ready = func() { close(ready) }
	a = New(cfg)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(context.Background()) }()
	end = sync.OnceFunc(func() {
		a.Shutdown()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(end)
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("the Agent has ended: %v", err)
	}
	return a, end
}

// testRecord is a forward that was written down.
func testRecord(name, listen string) forwards.Record {
	return forwards.Record{
		Request: api.ForwardRequest{Name: name, Kind: api.KindTCP, Target: "db.test:1", Listen: listen}, Target: "db.test:1",
		Scope: api.Scope{Env: map[string]string{"AWS_REGION": "eu-test-1"}}, Owner: "arn:test", Link: "of another version",
	}
}

// The agent does not forget a detached forward whose port is taken at its start, whatever else it writes down meanwhile. It shows
// the forward as failed, and opens it when the port is free.
func TestRestoreTaken(t *testing.T) {
	_, cfg := newAgent(t, 400*time.Millisecond)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	s := store{path: filepath.Join(cfg.StateDir, "forwards.json")}
	addr := taken.Addr().String()
	if err := s.save([]forwards.Record{testRecord("busy", addr), testRecord("free", "127.0.0.1:0"), testRecord("other", addr)}); err != nil {
		t.Fatal(err)
	}
	a, end := runAgent(t, cfg)
	states := func(st api.State) map[string]api.ForwardState {
		out := make(map[string]api.ForwardState)
		for _, f := range st.Forwards {
			out[f.Name] = f.State
		}
		return out
	}
	want := map[string]api.ForwardState{"busy": api.ForwardFailed, "free": api.ForwardReady, "other": api.ForwardFailed}
	if diff := cmp.Diff(want, states(a.State())); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"free", "other"} {
		if stopped, err := a.Stop(name); err != nil || len(stopped) != 1 || stopped[0].Name != name {
			t.Errorf("stop %s: %+v, %v", name, stopped, err)
		}
	}
	if records, err := s.load(); err != nil || len(records) != 1 || records[0].Request.Name != "busy" {
		t.Errorf("written down: %+v, %v", records, err)
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	st := a.State()
	for ctx.Err() == nil && states(st)["busy"] != api.ForwardReady {
		st = a.Wait(ctx, st.Revision)
	}
	if len(st.Forwards) != 1 || st.Forwards[0].Listen != addr || st.Forwards[0].Link == "of another version" {
		t.Errorf("once the port is free: %+v", st.Forwards)
	}
	end()
	if records, err := s.load(); err != nil || len(records) != 1 {
		t.Errorf("at the end: %+v, %v", records, err)
	}
}

// A file of forwards that cannot be read, as one of a newer version, is not replaced by an empty one.
func TestRestoreUnread(t *testing.T) {
	_, cfg := newAgent(t, time.Minute)
	path := filepath.Join(cfg.StateDir, "forwards.json")
	if err := os.WriteFile(path, []byte(`{"v":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	a, _ := runAgent(t, cfg)
	a.restoreOne("db")
	if err := a.writer.save(); err != nil {
		t.Error(err)
	}
	if records, err := a.store.load(); err != nil || len(records) != 1 {
		t.Errorf("written down: %+v, %v", records, err)
	}
	if data, err := os.ReadFile(path + ".unread"); err != nil || string(data) != `{"v":2}` {
		t.Errorf("%q, %v", data, err)
	}
}

// A detached forward whose link has failed is ready again with the next link, whoever made that.
func TestLinkUp(t *testing.T) {
	a, _ := newAgent(t, time.Minute)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	l := &link{agent: a}
	opening, err := a.registry.Open([]forwards.Asked{{Record: testRecord("db", ""), Detached: true}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	f := opening[0]
	if _, err := a.registry.Ready(f, f.Record(), time.Now()); err != nil {
		t.Fatal(err)
	}
	c := &controller{agent: a, f: f, ln: ln, link: l}
	a.controllers[f] = c
	a.linkEnded(l, errors.New("gone"))
	if got := c.show(); got.State != api.ForwardFailed || got.Error == "" || got.Since.IsZero() {
		t.Errorf("without a link: %+v", got)
	}
	l.onState(tunnel.State{Phase: tunnel.Up})
	if got := c.show(); got.State != api.ForwardReady || got.Error != "" || !got.Since.IsZero() {
		t.Errorf("with a link: %+v", got)
	}
}

// The pauses after failures grow up to a bound, and end.
func TestFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f failures
		if err := f.wait(); err != nil {
			t.Error(err)
		}
		for i := range 100 {
			want := errors.New("gone")
			f.add(want)
			pause := min(firstRetry<<min(i, 10), lastRetry)
			advance(pause - 1)
			if err := f.wait(); !errors.Is(err, want) {
				t.Errorf("%d: after less than %s: %v", i, pause, err)
			}
			advance(1)
			if err := f.wait(); err != nil {
				t.Errorf("%d: after %s: %v", i, pause, err)
			}
		}
	})
}

// controller returns the controller of the only forward of a name.
func (a *Agent) controller(t *testing.T, name string) *controller {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.controllers {
		if c.name() == name {
			return c
		}
	}
	t.Fatalf("there is no forward %s", name)
	return nil
}
