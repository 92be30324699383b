package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// refusingAWS is an AWS whose every call fails. It returns variables for it, with credentials in a file, and the number of calls.
func refusingAWS(t *testing.T) (env map[string]string, calls *atomic.Int64) {
	t.Helper()
	calls = new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `<ErrorResponse><Error><Code>AccessDenied</Code><Message>no</Message></Error></ErrorResponse>`)
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	credentials := filepath.Join(dir, "credentials")
	text := "[default]\naws_access_key_id = AKIAMADEUPMADEUPMADE\naws_secret_access_key = made-up\n"
	for path, text := range map[string]string{credentials: text, filepath.Join(dir, "config"): ""} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return map[string]string{
		"AWS_REGION": "eu-test-1", "AWS_ENDPOINT_URL": server.URL, "AWS_MAX_ATTEMPTS": "1", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_SHARED_CREDENTIALS_FILE": credentials, "AWS_CONFIG_FILE": filepath.Join(dir, "config"),
	}, calls
}

// A client of a detached forward that connects again and again, while the link cannot be made, does not ask AWS each time.
func TestForwardBacksOff(t *testing.T) {
	env, calls := refusingAWS(t)
	_, cfg := newAgent(t, time.Minute)
	r := testRecord("db", "127.0.0.1:0")
	r.Owner, r.Scope = "", api.Scope{Env: env, Settings: map[string]string{"runtime_dir": cfg.StateDir}}
	if err := (store{path: filepath.Join(cfg.StateDir, "forwards.json")}).save([]forwards.Record{r}); err != nil {
		t.Fatal(err)
	}
	a, _ := runAgent(t, cfg)
	addr := a.State().Forwards[0].Listen
	const tries = 50
	for range tries {
		conn, err := net.Dial("tcp", addr)
		if errors.Is(err, syscall.ECONNRESET) {
			continue // before Dial had looked
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(conn); err == nil {
			t.Error("the connection ended, it was not reset")
		}
		_ = conn.Close()
	}
	if n := calls.Load(); n == 0 || n > tries/4 {
		t.Errorf("%d connections made %d calls", tries, n)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	st := a.State()
	for ctx.Err() == nil && (st.Forwards[0].Stats.Failed < tries || st.Forwards[0].State != api.ForwardFailed) { // the link's end comes later
		st = a.Wait(ctx, st.Revision)
	}
	f := st.Forwards[0]
	if f.State != api.ForwardFailed || f.Error == "" || f.Stats.Failed != tries {
		t.Errorf("the forward: %+v", f)
	}
	// Even so, a command asks at once.
	before := calls.Load()
	err := a.Open(t.Context(), api.OpenRequest{Scope: r.Scope, Detached: true, Forwards: []api.ForwardRequest{{Target: "db.test:2", Listen: ":"}}},
		func(api.Event) {})
	if err == nil || calls.Load() == before {
		t.Errorf("a command: %v after %d calls", err, calls.Load()-before)
	}
}

// The state can be asked for while links are made.
func TestStateMeanwhile(t *testing.T) {
	env, _ := refusingAWS(t)
	_, cfg := newAgent(t, time.Minute)
	a, _ := runAgent(t, cfg)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				_ = a.State()
			}
		}
	}()
	for i := range 5 {
		scope := api.Scope{Env: env, Settings: map[string]string{"cluster": fmt.Sprint("c", i), "runtime_dir": cfg.StateDir}}
		if err := a.Open(t.Context(), api.OpenRequest{Scope: scope, Forwards: []api.ForwardRequest{{Target: "db.test:2", Listen: ":"}}},
			func(api.Event) {}); err == nil {
			t.Error("opened without AWS")
		}
	}
	close(stop)
	<-stopped
}

// request sends a request as it is written and returns the answer.
func request(t *testing.T, socket, text string) (*http.Response, net.Conn) {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp, conn
}

// stuckAWS is an AWS that does not answer.
func stuckAWS(t *testing.T) (env map[string]string, asked <-chan struct{}) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	env, _ = refusingAWS(t)
	env["AWS_ENDPOINT_URL"] = "http://" + ln.Addr().String()
	first := make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var conns []net.Conn
		defer func() {
			for _, c := range conns {
				_ = c.Close()
			}
		}()
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conns = append(conns, conn)
			select {
			case first <- struct{}{}:
			default:
			}
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		<-done
	})
	return env, first
}

// A request whose body came in chunks ends with its client as any other.
func TestChunkedClientGone(t *testing.T) {
	env, asked := stuckAWS(t)
	_, cfg := newAgent(t, time.Minute)
	a, _ := runAgent(t, cfg)
	body, err := json.Marshal(api.OpenRequest{
		Scope:    api.Scope{Env: env, Settings: map[string]string{"runtime_dir": cfg.StateDir}},
		Forwards: []api.ForwardRequest{{Target: "db.test:2", Listen: ":"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, conn := request(t, cfg.Socket, fmt.Sprintf("POST /v1/forwards HTTP/1.1\r\nHost: agent\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n",
		len(body), body))
	<-asked
	_ = conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		a.mu.Lock()
		n := a.requests
		a.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal("the request goes on without its client")
		case <-time.After(time.Millisecond):
		}
	}
}

// A body is one JSON value, and is read to its end: only then the server looks whether the client is still there.
func TestBodyIsOneValue(t *testing.T) {
	rest := strings.NewReader(" \n")
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", io.MultiReader(strings.NewReader(`{"target":"x"}`), rest))
	var req api.DialRequest
	if w := httptest.NewRecorder(); !read(w, r, &req) || req.Target != "x" || rest.Len() > 0 {
		t.Errorf("%d %s, %d bytes are left", w.Code, w.Body, rest.Len())
	}
	_, cfg := newAgent(t, time.Minute)
	runAgent(t, cfg)
	for _, body := range []string{`{} {}`, `{}x`, `{}]`} {
		resp, _ := request(t, cfg.Socket, fmt.Sprintf("POST /v1/forwards HTTP/1.1\r\nHost: agent\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", body, resp.Status)
		}
	}
}

// Forwards that could not be opened because the agent ends are an error to the client, not an end in order.
func TestOpenAtTheEnd(t *testing.T) {
	env, asked := stuckAWS(t)
	_, cfg := newAgent(t, time.Minute)
	a, end := runAgent(t, cfg)
	req := api.OpenRequest{
		Scope:    api.Scope{Env: env, Settings: map[string]string{"runtime_dir": cfg.StateDir}},
		Detached: true, Forwards: []api.ForwardRequest{{Target: "db.test:2", Listen: ":"}},
	}
	result := make(chan error, 1)
	go func() { result <- api.NewClient(cfg.Socket).Open(context.Background(), req, func(api.Event) {}) }()
	<-asked
	end()
	if err := <-result; err == nil || !strings.Contains(err.Error(), errShutdown.Error()) || fail.NextOf(err) == "" {
		t.Errorf("a request under way: %v", err)
	}
	var got []api.Event
	if err := a.Open(t.Context(), req, func(e api.Event) { got = append(got, e) }); err == nil || len(got) != 1 ||
		got[0].Event != api.EventError {
		t.Errorf("a request after the end: %v, %+v", err, got)
	}
}

// A request that finds the agent about to end is refused so that the client starts another one.
func TestEnding(t *testing.T) {
	a, _ := newAgent(t, time.Minute)
	a.cancel()
	for _, tt := range []struct {
		serve http.HandlerFunc
		body  string
	}{
		{a.serveOpen, `{}`}, {a.serveDial, `{}`}, {a.serveBastions, ``},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(tt.body))
		r.Header.Set("Upgrade", api.Protocol)
		tt.serve(w, r)
		if w.Code != http.StatusServiceUnavailable {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	socket := filepath.Join(t.TempDir(), "s")
	if len(socket) > 100 {
		t.Fatal(socket)
	}
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(a.serveOpen)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	if err := api.NewClient(socket).Open(t.Context(), api.OpenRequest{}, func(api.Event) {}); !errors.Is(err, api.ErrNotRunning) {
		t.Errorf("the client: %v", err)
	}
	_ = server.Close()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// A client of a restored forward does not have the credentials looked for each time either.
func TestRestoredBacksOff(t *testing.T) {
	env, calls := refusingAWS(t)
	config := env["AWS_CONFIG_FILE"]
	text := "[profile role]\nrole_arn = arn:aws:iam::123456789012:role/r\nsource_profile = default\n"
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	env["AWS_PROFILE"] = "role"
	_, cfg := newAgent(t, time.Minute)
	r := testRecord("db", "127.0.0.1:0")
	r.Owner, r.Scope = "", api.Scope{Env: env, Settings: map[string]string{"runtime_dir": cfg.StateDir}}
	if err := (store{path: filepath.Join(cfg.StateDir, "forwards.json")}).save([]forwards.Record{r}); err != nil {
		t.Fatal(err)
	}
	a, _ := runAgent(t, cfg)
	f := a.controller(t, "db")
	const tries = 20
	for range tries {
		if conn, err := f.Dial(t.Context(), "tcp", "db.test:1"); err == nil {
			_ = conn.Close()
			t.Error("connected without AWS")
		}
	}
	if n := calls.Load(); n == 0 || n > tries/2 {
		t.Errorf("%d connections made %d calls", tries, n)
	}
}
