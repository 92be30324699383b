package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// A request that the agent does not understand is refused with its status and with a next step, and never waits for AWS.
func TestRequestsRefused(t *testing.T) {
	_, cfg := newAgent(t, time.Minute)
	runAgent(t, cfg)
	large := `{"command":"` + strings.Repeat("x", maxRequest) + `"}`
	many := `{"forwards":[` + strings.Repeat(`{"target":"a:1"},`, forwards.Max) + `{"target":"a:1"}]}`
	for name, tt := range map[string]struct {
		line, header, body string
		status             int
		says               string
	}{
		"a path of another version":  {line: "GET /v2/state", status: 404, says: "GET /v2/state"},
		"another method":             {line: "PUT /v1/forwards", status: 404, says: "PUT /v1/forwards"},
		"a stop by GET":              {line: "GET /v1/agent/stop", status: 404, says: "GET /v1/agent/stop"},
		"no revision":                {line: "GET /v1/state?after=x", status: 400, says: "revision"},
		"a negative revision":        {line: "GET /v1/state?after=-1", status: 400, says: "revision"},
		"a time that is none":        {line: "GET /v1/state?after=1&timeout=soon", status: 400, says: "number of seconds"},
		"a negative time":            {line: "GET /v1/state?after=1&timeout=-1", status: 400, says: "number of seconds"},
		"a time that is not one":     {line: "GET /v1/state?after=1&timeout=NaN", status: 400, says: "number of seconds"},
		"an unknown forward":         {line: "DELETE /v1/forwards/missing", status: 404, says: "missing"},
		"an unknown end":             {line: "GET /v1/dial/missing/end", status: 404, says: "connection"},
		"garbage":                    {line: "POST /v1/forwards", body: "<html>", status: 400, says: "read the request"},
		"nothing":                    {line: "POST /v1/forwards", status: 400, says: "read the request"},
		"cut":                        {line: "POST /v1/forwards", body: `{"forwards":[`, status: 400, says: "read the request"},
		"a field of a newer version": {line: "POST /v1/forwards", body: `{"colour":"red"}`, status: 400, says: "colour"},
		"too large":                  {line: "POST /v1/forwards", body: large, status: 400, says: "too large"},
		"another process": {
			line: "POST /v1/forwards", header: api.HeaderProcess + ": SSL_CERT_FILE=other\r\n", body: `{}`, status: 400, says: "SSL_CERT_FILE",
		},
		"a dial without upgrade":      {line: "POST /v1/dial", body: `{"target":"a:1"}`, status: 426, says: api.Protocol},
		"a dial to another protocol":  {line: "POST /v1/dial", header: "Upgrade: h2c\r\n", body: `{}`, status: 426, says: api.Protocol},
		"a dial with odd settings":    {line: "POST /v1/dial", header: "Upgrade: " + api.Protocol + "\r\n", body: `{"scope":{"settings":{"x":"1"}}}`, status: 400},
		"a dashboard on all networks": {line: "POST /v1/dashboard", body: `{"listen":"0.0.0.0:0"}`, status: 400, says: "loopback"},
		// These are answered as a stream, whose last line is the error.
		"no forwards":       {line: "POST /v1/forwards", body: `{}`, status: 200, says: "0 forwards in one request"},
		"too many forwards": {line: "POST /v1/forwards", body: many, status: 200, says: "257 forwards in one request"},
		"a long command": {
			line: "POST /v1/forwards", body: `{"command":"` + strings.Repeat("x", maxCommand+1) + `","forwards":[{"target":"a:1"}]}`, status: 200, says: "65 bytes",
		},
	} {
		t.Run(name, func(t *testing.T) {
			resp, _ := request(t, cfg.Socket, fmt.Sprintf("%s HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n%sContent-Length: %d\r\n\r\n%s",
				tt.line, tt.header, len(tt.body), tt.body))
			body, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != tt.status || !strings.Contains(string(body), tt.says) {
				t.Fatalf("%s %s, %v; want %d with %q", resp.Status, body, err, tt.status, tt.says)
			}
			if tt.status == http.StatusOK {
				return
			}
			var e api.Error
			if err := json.Unmarshal(body, &e); err != nil || e.Message == "" || e.Next == "" && tt.line[:3] != "GET" {
				t.Errorf("%s, %v", body, err)
			}
		})
	}
}

// A request for a new revision waits no longer than it says, and an answer is JSON.
func TestServeState(t *testing.T) {
	_, cfg := newAgent(t, time.Minute)
	a, _ := runAgent(t, cfg)
	a.bump()
	revision := a.State().Revision
	for _, query := range []string{"", "?after=0", fmt.Sprintf("?after=%d&timeout=0", revision), fmt.Sprintf("?after=%d&timeout=0.01", revision)} {
		resp, _ := request(t, cfg.Socket, "GET /v1/state"+query+" HTTP/1.1\r\nHost: agent\r\n\r\n")
		var st api.State
		if err := json.NewDecoder(resp.Body).Decode(&st); err != nil || st.Revision != revision ||
			resp.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %+v, %v", query, st, err)
		}
	}
}

// The metrics' address takes nothing but their token, and is free when the agent ends. One that cannot be had ends the agent at its start,
// with the setting to change, and leaves no socket behind.
func TestMetricsAddress(t *testing.T) {
	_, cfg := newAgent(t, time.Minute)
	cfg.MetricsToken = filepath.Join(cfg.StateDir, "token")
	if err := os.WriteFile(cfg.MetricsToken, []byte(strings.Repeat("s", 32)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.MetricsListen = netip.MustParseAddrPort(taken.Addr().String())
	if err := New(cfg).Run(t.Context()); fail.KindOf(err) != fail.PortInUse || !strings.Contains(fail.NextOf(err), "metrics_listen") {
		t.Errorf("an address that is taken: %v", err)
	}
	if _, err := os.Lstat(cfg.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its socket: %v", err)
	}
	_ = taken.Close()
	_, end := runAgent(t, cfg)
	for token, want := range map[string]int{"": 401, "wrong": 401, strings.Repeat("s", 32): 200} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+cfg.MetricsListen.String()+"/metrics", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.Close = true
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := (&http.Client{Timeout: time.Minute}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("with token %q: %s", token, resp.Status)
		}
	}
	end()
	if ln, err := net.Listen("tcp", cfg.MetricsListen.String()); err != nil {
		t.Errorf("after the end: %v", err)
	} else {
		_ = ln.Close()
	}
	cfg.MetricsToken += ".missing"
	if err := New(cfg).Run(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without the token's file: %v", err)
	}
}

// The dashboard is served from when it is first asked for, at one address, and not after the agent's end.
func TestDashboardOnce(t *testing.T) {
	_, cfg := newAgent(t, time.Minute)
	a, end := runAgent(t, cfg)
	client := api.NewClient(cfg.Socket)
	address := func() string {
		link, err := client.Dashboard(t.Context(), api.DashboardRequest{})
		if err != nil {
			t.Fatal(err)
		}
		rest, ok := strings.CutPrefix(link.URL, "http://")
		host, _, _ := strings.Cut(rest, "/")
		if !ok || !strings.HasPrefix(host, "127.0.0.1:") {
			t.Fatalf("%+v", link)
		}
		return host
	}
	first := address()
	if second := address(); second != first {
		t.Errorf("served at %s and at %s", first, second)
	}
	end()
	if _, err := net.Dial("tcp", first); err == nil {
		t.Error("it is still served")
	}
	if _, err := a.dashboard(t.Context(), ""); !errors.Is(err, errShutdown) {
		t.Errorf("after the end: %v", err)
	}
}

// The socket of an agent that was killed is removed; that of one that runs, or just starts, is not touched.
func TestRemoveStale(t *testing.T) {
	_, cfg := newAgent(t, time.Minute)
	RemoveStale(cfg.Socket) // none is there
	leave := func() {
		ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: cfg.Socket})
		if err != nil {
			t.Fatal(err)
		}
		ln.SetUnlinkOnClose(false)
		_ = ln.Close()
	}
	left := func() bool { _, err := os.Lstat(cfg.Socket); return err == nil }
	leave()
	release, err := lock(cfg.Socket + ".lock")
	if err != nil {
		t.Fatal(err)
	}
	if RemoveStale(cfg.Socket); !left() {
		t.Error("the socket of an agent that starts is removed")
	}
	release()
	if RemoveStale(cfg.Socket); left() {
		t.Error("the socket of an agent that was killed is left")
	}
	ln, err := net.Listen("unix", cfg.Socket) // an agent of an older version, which took no lock
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	if RemoveStale(cfg.Socket); !left() {
		t.Error("the socket of an agent that answers is removed")
	}
}

// Without an agent the forwards that would come back can be seen and forgotten. With one it is the agent's to do that.
func TestForget(t *testing.T) {
	_, cfg := newAgent(t, time.Minute)
	if err := storeIn(cfg.StateDir).save([]forwards.Record{testRecord("db", "127.0.0.1:0"), testRecord("other", "127.0.0.1:0")}); err != nil {
		t.Fatal(err)
	}
	kept := func() (names []string) {
		all, err := Kept(cfg.StateDir)
		if err != nil {
			t.Error(err)
		}
		for _, f := range all {
			if f.State != api.ForwardKept {
				t.Errorf("%+v", f)
			}
			names = append(names, f.Name)
		}
		return names
	}
	if got := fmt.Sprint(kept()); got != "[db other]" {
		t.Errorf("kept: %s", got)
	}
	if _, err := Forget(cfg.Socket, cfg.StateDir, "missing"); fail.KindOf(err) != fail.NoTarget || len(kept()) != 2 {
		t.Errorf("one that is not there: %v, %v", err, kept())
	}
	gone, err := Forget(cfg.Socket, cfg.StateDir, "db")
	if err != nil || len(gone) != 1 || gone[0].Name != "db" || fmt.Sprint(kept()) != "[other]" {
		t.Errorf("%+v, %v, %v", gone, err, kept())
	}
	_, end := runAgent(t, cfg)
	if _, err := Forget(cfg.Socket, cfg.StateDir, "other"); !errors.Is(err, ErrRunning) || len(kept()) != 1 {
		t.Errorf("with an agent: %v, %v", err, kept())
	}
	end()
	if gone, err := Forget(cfg.Socket, cfg.StateDir, "all"); err != nil || len(gone) != 1 || len(kept()) != 0 {
		t.Errorf("all: %+v, %v", gone, err)
	}
	if err := os.WriteFile(filepath.Join(cfg.StateDir, "forwards.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Forget(cfg.Socket, cfg.StateDir, "all"); err == nil {
		t.Error("a file that cannot be read is replaced by an empty one")
	}
}

// A proxy that an older command opened, with the same settings in another spelling, is the same proxy.
func TestServesLikeOlderTexts(t *testing.T) {
	proxy := func(domains, cidrs string) forwards.Record {
		return forwards.Record{
			Request: api.ForwardRequest{Kind: api.KindProxy},
			Scope:   api.Scope{Settings: map[string]string{"proxy_domains": domains, "proxy_cidrs": cidrs}},
		}
	}
	asked := &wish{record: proxy("corp.internal", "10.1.2.3/32")}
	for _, tt := range []struct {
		older forwards.Record
		same  bool
	}{
		{proxy("Corp.Internal.", "10.1.2.3"), true},
		{proxy("corp.internal", "10.1.2.4"), false},
	} {
		if got := asked.servesLike(&controller{record: tt.older}); got != tt.same {
			t.Errorf("%v: %t", tt.older.Scope.Settings, got)
		}
	}
}
