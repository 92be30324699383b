package dashboard

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/fargate"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/tunnel"
)

// After an answer to a request that it has not read in full, net/http's server keeps the connection for half a second before it
// closes it. Close does not wait for that.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*conn).closeWriteAndWait"))
}

// fake is an agent with one link, whose figures move with time.
type fake struct {
	began time.Time

	mu       sync.Mutex
	changed  chan struct{} // closed at the next change
	revision uint64
	forwards []api.Forward
	requests []api.OpenRequest
	fail     error         // of Open
	hold     chan struct{} // Open waits until it is closed, or for its context; nil: it does not wait
	broken   bool          // Open's context ended while it waited
	asked    int           // calls of Bastions
	still    bool          // no figure moves
	empty    bool          // there is nothing
}

func newFake() *fake {
	f := &fake{began: time.Now(), changed: make(chan struct{}), revision: 1}
	f.forwards = []api.Forward{
		f.forward("orders", "rds:orders", "orders.abc.eu-central-1.rds.amazonaws.com:5432", "127.0.0.1:5432", "postgres"),
		f.forward("sessions", "cache:sessions", "master.sessions.abc.cache.amazonaws.com:6379", "127.0.0.1:6379", "valkey"),
	}
	f.forwards[1].TLS, f.forwards[1].Detached, f.forwards[1].Command = true, false, "forward"
	return f
}

func (f *fake) forward(name, spec, target, listen, engine string) api.Forward {
	return api.Forward{
		Name: name, Kind: api.KindTCP, Spec: spec, Target: target, Listen: listen, Engine: engine, State: api.ForwardReady,
		Detached: true, Command: "forward -d", Link: "l1", Opened: f.began.Add(-95 * time.Minute),
		Stats: tunnel.StatsSnapshot{Active: 1, Total: 12, BytesUp: 48_211, BytesDown: 9_120_334},
		Clients: []api.ForwardClient{
			{Addr: "127.0.0.1:53122", Since: f.began.Add(-11 * time.Minute), Up: 48_211, Down: 9_120_334},
		},
	}
}

// flow is how many bytes have come by t seconds after the beginning.
func flow(t float64) float64 {
	return 2.2e6*t + 4e6*(1-math.Cos(t/4)) + 3e5*math.Sin(t)
}

func (f *fake) State() api.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state()
}

func (f *fake) state() api.State {
	now := time.Now()
	t := 600 + now.Sub(f.began).Seconds()
	if f.still {
		t = 600
	}
	st := api.State{
		Info: api.Info{
			V:       1,
			PID:     4711,
			Version: "1.5.0",
			Started: f.began.Add(-3 * time.Hour),
			Idle:    600,
		},
		At:       now,
		Revision: f.revision,
	}
	if f.empty {
		return st
	}
	live := report.Link{
		Bastion: "bastion 8edc467e6f7387f5c87dd7e33941f5c9", State: "up", Since: f.began.Add(-94 * time.Minute), Kind: "bond",
		Channels: 3, MaxAge: 3000, Sent: uint64(flow(t) / 31), Received: uint64(flow(t)), Reinjected: 18_432,
	}
	for i := range 4 {
		phase := t/3 + float64(i)
		live.Sessions = append(live.Sessions, report.Session{
			ID: fmt.Sprintf(
				"dev-0a1b2c3d4e5f6071%d",
				i,
			),
			State:       "up",
			Age:         400*float64(i) + t/10,
			RTT:         41 + 3*math.Sin(phase) + float64(4*i),
			MinRTT:      40,
			ReceiveRate: 5.5e5 + 2.5e5*math.Sin(t/4) + 9e4*math.Sin(phase),
			SendRate:    2.1e4,
			InFlight:    4096 * i,
			Sent:        1 << 20,
			Received:    1 << 24,
			Reinjected:  uint64(i) * 4608,
		})
	}
	live.Sessions[3].State = "stalled"
	st.Links = []api.Link{{ID: "l1", Region: "eu-central-1", Cluster: "tools", Live: []report.Link{live}}}
	st.Forwards = append(st.Forwards, f.forwards...)
	if len(st.Forwards) > 0 && st.Forwards[0].Name == "orders" {
		st.Forwards[0].Stats.BytesDown += int64(flow(t))
		st.Forwards[0].Stats.BytesUp += int64(flow(t) / 31)
	}
	for i := range 6 {
		e := api.AuditEvent{
			At: f.began.Add(
				-time.Duration(7-i) * 83 * time.Second,
			),
			Forward:  "orders",
			Client:   fmt.Sprintf("127.0.0.1:5%d02", i),
			Target:   "orders.abc.eu-central-1.rds.amazonaws.com:5432",
			Duration: 12.5 * float64(i+1),
			Up:       1200,
			Down:     88_000 * int64(i),
		}
		if i == 4 {
			e.Error, e.Duration, e.Up, e.Down = "the bastion does not allow wiki.corp.internal:443", 0, 0, 0
		}
		st.Audit = append(st.Audit, e)
	}
	return st
}

func (f *fake) Wait(ctx context.Context, after uint64) api.State {
	for {
		f.mu.Lock()
		changed, st := f.changed, f.state()
		f.mu.Unlock()
		if st.Revision != after || ctx.Err() != nil {
			return st
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

func (f *fake) change() {
	f.revision++
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fake) Open(ctx context.Context, r api.OpenRequest, emit func(api.Event)) error {
	f.mu.Lock()
	f.requests = append(f.requests, r)
	err, hold := f.fail, f.hold
	f.mu.Unlock()
	emit(api.Event{Event: api.EventStep, Text: "looking up the target"})
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			f.mu.Lock()
			defer f.mu.Unlock()
			f.broken = true
			return ctx.Err()
		}
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	in := r.Forwards[0]
	out := f.forward(in.Name, in.Target, in.Target, "127.0.0.1:12345", "")
	if out.Name == "" {
		out.Name = in.Target
	}
	if in.Kind == api.KindProxy {
		out.Name, out.Kind = "proxy", api.KindProxy
	}
	out.Opened, out.Stats, out.Clients = time.Now(), tunnel.StatsSnapshot{}, nil
	f.forwards = append(f.forwards, out)
	f.change()
	emit(api.Event{Event: api.EventForwards, Forwards: []api.Forward{out}})
	return nil
}

// transfer moves bytes through a forward.
func (f *fake) transfer(name string, n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.forwards {
		if f.forwards[i].Name == name {
			f.forwards[i].Stats.BytesDown += n
		}
	}
}

func (f *fake) Stop(name string) ([]api.Forward, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, fw := range f.forwards {
		if fw.Name == name {
			f.forwards = append(f.forwards[:i:i], f.forwards[i+1:]...)
			f.change()
			return []api.Forward{fw}, nil
		}
	}
	return nil, fail.New(fail.Usage, "stop "+name, errors.New("there is no such forward"), "bastion ls forwards")
}

func (f *fake) Bastions(context.Context) []api.Account {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if f.empty {
		return nil
	}
	created := f.began.Add(-96 * time.Minute)
	b := report.Bastion{
		TaskID:  "8edc467e6f7387f5c87dd7e33941f5c9",
		TaskARN: "arn:aws:ecs:eu-central-1:000000000000:task/tools/8edc467e6f7387f5c87dd7e33941f5c9",
		Cluster: "tools",
		Status:  "RUNNING",
		Exec:    "RUNNING",
		Ready:   true,
		Created: &created,
		Started: &created,
	}
	b.CPU, b.Memory, b.Architecture = 256, 512, "x86_64"
	cost, _ := bastions.Bastion{
		Size:       fargate.Size{CPU: 256, Memory: 512},
		BilledFrom: created,
	}.Cost(
		fargate.Price{VCPUHour: 0.04048, GBHour: 0.004445},
		time.Now(),
	)
	b.Cost = &cost
	return []api.Account{
		{Link: "l1", Status: report.Status{Region: "eu-central-1", Cluster: "tools", Bastions: []report.Bastion{b}}},
	}
}

// serve starts a dashboard of f, which ends with the test.
func serve(t *testing.T, f *fake, o Options) *Server {
	t.Helper()
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(f, ln, o)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// browser is a client that behaves as a page of the dashboard.
type browser struct {
	t      *testing.T
	addr   string
	cookie *http.Cookie
	key    string
}

// tokenOf returns what a link of s holds.
func tokenOf(t *testing.T, s *Server) string {
	t.Helper()
	link, err := s.Link(api.DashboardRequest{
		Scope:   api.Scope{Settings: map[string]string{"region": "eu-central-1", "tls_ca": "/ca.pem"}},
		Targets: []api.NamedTarget{{Name: "reports", Spec: "rds:reports/reader", LocalPort: 15432}},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, text, ok := bytes.Cut([]byte(link.URL), []byte("#"))
	if !ok {
		t.Fatalf("no token in %q", link.URL)
	}
	return string(text)
}

// newRequest returns a request as the page makes it.
func (b *browser) newRequest(method, path, body string) *http.Request {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 2*time.Minute)
	b.t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, method, "http://"+b.addr+path, bytes.NewBufferString(body))
	if err != nil {
		b.t.Fatal(err)
	}
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if method == http.MethodPost {
		r.Header.Set("Origin", "http://"+b.addr)
		r.Header.Set("Content-Type", "application/json")
	}
	if b.cookie != nil {
		r.AddCookie(b.cookie)
	}
	if b.key != "" {
		r.Header.Set(keyHeader, b.key)
	}
	return r
}

func (b *browser) request(method, path, body string, change func(*http.Request)) (*http.Response, []byte) {
	b.t.Helper()
	r := b.newRequest(method, path, body)
	if change != nil {
		change(r)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(r)
	if err != nil {
		b.t.Fatal(err)
	}
	if resp.Header.Get("Content-Type") == "text/event-stream" {
		b.t.Cleanup(func() { _ = resp.Body.Close() })
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		b.t.Fatal(err)
	}
	return resp, data
}

// signIn returns a browser with a session.
func signIn(t *testing.T, s *Server) *browser {
	t.Helper()
	b := &browser{t: t, addr: s.Addr()}
	resp, data := b.request(http.MethodPost, "/api/login", `{"token":"`+tokenOf(t, s)+`"}`, nil)
	var out struct {
		Key string `json:"key"`
	}
	if err := json.Unmarshal(data, &out); err != nil || resp.StatusCode != http.StatusOK || len(resp.Cookies()) != 1 {
		t.Fatalf("%s %s", resp.Status, data)
	}
	b.cookie, b.key = resp.Cookies()[0], out.Key
	return b
}

var errTest = fail.New(fail.Other, "", errors.New("it broke"), "mend it")
