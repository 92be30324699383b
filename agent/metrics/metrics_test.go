package metrics

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/tunnel"
)

// agent is the state of an agent.
type agent struct{ api.State }

func (a *agent) get() api.State { return a.State }

// fixture is an agent with a link of four sessions and two forwards. Its ids and addresses must not become labels.
func fixture() *agent {
	live := report.Link{State: "up", Channels: 3, Sent: 1 << 20, Received: 1 << 24, Reinjected: 18_432}
	for i := range 4 {
		live.Sessions = append(live.Sessions, report.Session{
			ID: fmt.Sprintf("dev-0a1b2c3d4e5f6071%d", i), State: "up", RTT: float64(41 + 4*i), InFlight: 4096 * i,
		})
	}
	live.Sessions[3].State = "stalled"
	forward := func(name, target, listen string) api.Forward {
		return api.Forward{
			Name: name, Kind: api.KindTCP, Target: target, Listen: listen, State: api.ForwardReady, Link: "l1",
			Stats:   tunnel.StatsSnapshot{Active: 1, Total: 12, BytesUp: 48_211, BytesDown: 9_120_334},
			Clients: []api.ForwardClient{{Addr: "127.0.0.1:53122"}},
		}
	}
	return &agent{api.State{
		Info:  api.Info{V: 1, PID: 4711, Version: "1.5.0", Started: time.Now()},
		Links: []api.Link{{ID: "l1", Region: "eu-central-1", Cluster: "tools", Live: []report.Link{live}}},
		Forwards: []api.Forward{
			forward("orders", "orders.abc.eu-central-1.rds.amazonaws.com:5432", "127.0.0.1:5432"),
			forward("sessions", "master.sessions.abc.cache.amazonaws.com:6379", "127.0.0.1:6379"),
		},
	}}
}

func TestMetricsLint(t *testing.T) {
	r := prometheus.NewPedanticRegistry() // it compares the metrics with Describe
	r.MustRegister(&collector{fixture().get})
	problems, err := testutil.GatherAndLint(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// get asks h for a path.
func get(h http.Handler, path string, change func(*http.Request)) (int, string) {
	r := httptest.NewRequest(http.MethodGet, path, http.NoBody)
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

func TestMetrics(t *testing.T) {
	code, text := get(Handler(fixture().get, ""), PathMetrics, nil)
	if code != http.StatusOK {
		t.Fatal(code, text)
	}
	for _, want := range []string{
		`bastion_agent_info{version="1.5.0"} 1`,
		`bastion_forward_bytes_total{direction="up",forward="orders"} ` + `\S+`,
		`bastion_forward_connections{forward="orders"} 1`,
		`bastion_forward_connections_total{forward="sessions"} 12`,
		`bastion_forward_failed_connections_total{forward="orders"} 0`,
		`bastion_forward_ready{forward="orders",kind="tcp"} 1`,
		`bastion_link_channels{link="l1"} 3`,
		`bastion_link_in_flight_bytes{link="l1"} 24576`,
		`bastion_link_reinjected_bytes_total{link="l1"} 18432`,
		`bastion_link_rtt_seconds{link="l1"} 0\.0\d+`,
		`bastion_link_sessions{link="l1",state="stalled"} 1`,
		`bastion_link_sessions{link="l1",state="leaving"} 0`,
		`bastion_link_sessions{link="l1",state="up"} 3`,
		`bastion_link_up{cluster="tools",link="l1",region="eu-central-1"} 1`,
		`go_goroutines \d+`,
	} {
		pattern := strings.NewReplacer("{", `\{`, "}", `\}`).Replace(want)
		if !regexp.MustCompile(`(?m)^` + pattern + `$`).MatchString(text) {
			t.Errorf("no %s", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
	if problems := regexp.MustCompile(`dev-0a1b|rds\.amazonaws\.com|127\.0\.0\.1`).FindString(text); problems != "" {
		t.Errorf("the metrics have %s, of which there is no end", problems)
	}
	// Every metric is in the documentation, and no other.
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (bastion_\w+) `).FindAllStringSubmatch(text, -1) {
		names[m[1]] = true
		if !strings.Contains(string(doc), "`"+m[1]) {
			t.Errorf("docs/metrics.md lacks %s", m[1])
		}
	}
	for _, m := range regexp.MustCompile("`(bastion_\\w+)").FindAllStringSubmatch(string(doc), -1) {
		if !names[m[1]] {
			t.Errorf("docs/metrics.md has %s, which there is not", m[1])
		}
	}
}

func TestMetricsToken(t *testing.T) {
	const secret = "0123456789abcdef"
	h := Handler(fixture().get, secret)
	for header, want := range map[string]int{
		"": 401, "Bearer": 401, "Bearer ": 401, "Bearer 0123456789abcdeX": 401, "Basic " + secret: 401, secret: 401,
		"Bearer " + secret: 200, "bearer " + secret: 200,
	} {
		code, text := get(h, PathMetrics, func(r *http.Request) {
			if header != "" {
				r.Header.Set("Authorization", header)
			}
		})
		if code != want || code != http.StatusOK && strings.Contains(text, "bastion_") {
			t.Errorf("%q: %d %s", header, code, text)
		}
	}
	local := LocalOnly("127.0.0.1:9464", h)
	for name, change := range map[string]func(*http.Request){
		"DNS rebinding":  func(r *http.Request) { r.Host = "attacker.example:9464" },
		"another origin": func(r *http.Request) { r.Header.Set("Origin", "http://attacker.example") },
		"another site":   func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
	} {
		code, text := get(local, PathLive, func(r *http.Request) {
			r.Host = "127.0.0.1:9464"
			change(r)
		})
		if code != http.StatusForbidden {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
	if code, text := get(local, PathLive, func(r *http.Request) { r.Host = "127.0.0.1:9464" }); code != http.StatusOK {
		t.Errorf("%d %s", code, text)
	}
}

func TestHealth(t *testing.T) {
	f := fixture()
	h := Handler(f.get, "0123456789abcdef") // health needs none
	for _, tt := range []struct {
		state api.ForwardState
		ready int
	}{{api.ForwardReady, 200}, {api.ForwardFailed, 503}} {
		f.Forwards[1].State = tt.state
		if code, text := get(h, PathReady, nil); code != tt.ready {
			t.Errorf("%s: %d %s", tt.state, code, text)
		}
		if code, text := get(h, PathLive, nil); code != http.StatusOK || text != "ok\n" {
			t.Errorf("%s: %d %s", tt.state, code, text)
		}
	}
	f.Forwards = nil
	if code, _ := get(h, PathReady, nil); code != http.StatusOK {
		t.Errorf("without forwards: %d", code)
	}
}

func TestReadToken(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if token, err := ReadToken(write("good", "0123456789abcdef\n", 0o640)); err != nil || token != "0123456789abcdef" {
		t.Errorf("%q, %v", token, err)
	}
	if token, err := ReadToken(write("marked", "\ufeff0123456789abcdef\r\n", 0o600)); err != nil || token != "0123456789abcdef" {
		t.Errorf("with a byte order mark: %q, %v", token, err)
	}
	bad := []string{
		write("utf16", strings.Repeat("a\x00", 16), 0o600), filepath.Join(dir, "missing"),
		write("short", "abc\n", 0o600), write("empty", "", 0o600),
		write("two", "0123456789abcdef 0123456789abcdef", 0o600), write("long", strings.Repeat("a", 5000), 0o600),
	}
	if runtime.GOOS != "windows" {
		bad = append(bad, write("open", "0123456789abcdef", 0o604))
	}
	for _, path := range bad {
		token, err := ReadToken(path)
		if fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" || token != "" {
			t.Errorf("%s: %q, %v", path, token, err)
		}
	}
}
