package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/vpc"
)

// bastiond builds the program of the lab's tasks, once.
var bastiond = sync.OnceValues(func() (string, error) { return rig.BuildBastiond(scratch) })

// labAgent is an Agent that runs, with a lab as its AWS.
type labAgent struct {
	*Agent
	t      *testing.T
	lab    *lab.Lab
	client *api.Client
	scope  api.Scope
}

// withLab returns an Agent that runs with a lab until the test ends.
func withLab(t *testing.T) *labAgent {
	t.Helper()
	program, err := bastiond()
	if err != nil {
		t.Fatal(err)
	}
	l, err := lab.Start(t.Context(), lab.Config{
		Bastiond: program, Postgres: lab.Off, Redis: vpc.Embedded, NoWeb: true,
		StateDelay: -1, ExecDelay: -1, ConnectDelay: -1, StopTimeout: 3 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the Agent's end
		if left := l.Gateway().Sessions(); len(left) > 0 {
			t.Errorf("%d sessions are left: %+v", len(left), left)
		}
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	_, cfg := newAgent(t, time.Hour)
	a, _ := runAgent(t, cfg)
	env := make(map[string]string)
	for _, kv := range l.Env() {
		name, value, _ := strings.Cut(kv, "=")
		env[name] = value
	}
	return &labAgent{
		Agent: a, t: t, lab: l, client: api.NewClient(cfg.Socket),
		scope: api.Scope{Env: env, Settings: map[string]string{"runtime_dir": cfg.StateDir}},
	}
}

// asking is a request for forwards with further settings, given as KEY=TEXT.
func (a *labAgent) asking(forwards []api.ForwardRequest, settings ...string) api.OpenRequest {
	scope := api.Scope{Env: a.scope.Env, Settings: maps.Clone(a.scope.Settings)}
	for _, kv := range settings {
		key, text, _ := strings.Cut(kv, "=")
		scope.Settings[key] = text
	}
	return api.OpenRequest{Scope: scope, Command: "test", Forwards: forwards}
}

// attached is a request whose forwards are open.
type attached struct {
	forwards []api.Forward
	events   []api.Event // valid once ended has its value
	cancel   context.CancelFunc
	ended    chan error
}

// attach opens attached forwards through the socket, as a command does.
func (a *labAgent) attach(req api.OpenRequest) *attached {
	a.t.Helper()
	ctx, cancel := context.WithCancel(a.t.Context())
	a.t.Cleanup(cancel)
	r := &attached{cancel: cancel, ended: make(chan error, 1)}
	opened := make(chan []api.Forward, 1)
	go func() {
		r.ended <- a.client.Open(ctx, req, func(e api.Event) {
			r.events = append(r.events, e)
			if e.Event == api.EventForwards {
				opened <- e.Forwards
			}
		})
	}()
	select {
	case r.forwards = <-opened:
	case err := <-r.ended:
		a.t.Fatalf("the forwards do not open: %v", err)
	}
	return r
}

// detach opens a detached forward.
func (a *labAgent) detach(req api.OpenRequest) (api.Forward, error) {
	req.Detached = true
	var opened []api.Forward
	err := a.client.Open(a.t.Context(), req, func(e api.Event) {
		if e.Event == api.EventForwards {
			opened = e.Forwards
		}
	})
	if err != nil || len(opened) != 1 {
		return api.Forward{}, errors.Join(err, fmt.Errorf("%d forwards", len(opened)))
	}
	return opened[0], nil
}

// until waits for a state of the Agent.
func (a *labAgent) until(what string, is func(api.State) bool) {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), time.Minute)
	defer cancel()
	st := a.State()
	for !is(st) {
		if ctx.Err() != nil {
			a.t.Fatalf("not reached: %s\n%+v", what, st)
		}
		next, stop := context.WithTimeout(ctx, 10*time.Millisecond) // not all that is waited for makes a revision
		st = a.Wait(next, st.Revision)
		stop()
	}
}

// untouched checks that nothing is left of requests but n forwards: neither names, nor holds on links, nor watchers.
func (a *labAgent) untouched(n int) {
	a.t.Helper()
	a.until("the request is over", func(api.State) bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.requests == 0
	})
	a.mu.Lock()
	defer a.mu.Unlock()
	if all := a.registry.All(); len(all) != n || len(a.controllers) != n {
		a.t.Errorf("%d forwards and %d controllers are left, want %d", len(all), len(a.controllers), n)
	}
	opening, err := a.registry.Open(make([]forwards.Asked, forwards.Max-n), time.Now()) // whatever opens takes a place
	if err != nil {
		a.t.Errorf("a forward still opens: %v", err)
	}
	for _, f := range opening {
		a.registry.End(f, errStopped)
	}
	for _, l := range a.links {
		l.mu.Lock()
		if l.busy != n || len(l.watchers) != 0 || l.waiting != 0 {
			a.t.Errorf("the link is held %d times, want %d, by %d watchers, and %d wait", l.busy, n, len(l.watchers), l.waiting)
		}
		l.mu.Unlock()
	}
}

// What a Redis client asks for a sign of life, and the answer.
const (
	pingRequest = "*1\r\n$4\r\nPING\r\n"
	pingReply   = "+PONG\r\n"
)

// ping asks the Redis behind conn for a sign of life.
func ping(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, pingRequest); err != nil {
		return err
	}
	buf := make([]byte, len(pingReply))
	if _, err := io.ReadFull(conn, buf); err != nil {
		return err
	}
	if string(buf) != pingReply {
		return fmt.Errorf("it answered %q", buf)
	}
	return nil
}

// connect connects to a forward, and pings the server behind it.
func (a *labAgent) connect(addr string) net.Conn {
	a.t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = conn.Close() })
	if err := ping(conn); err != nil {
		a.t.Fatal(err)
	}
	return conn
}

// free reports whether nobody listens at addr.
func free(addr string) bool {
	ln, err := net.Listen("tcp", addr)
	if err == nil {
		_ = ln.Close()
	}
	return err == nil
}

var cache = []api.ForwardRequest{{Target: "cache:sessions", Listen: ":"}}

// A forward lives as long as its request. Whoever ends it, the port, the name and the link are free again, and the request's client
// learns why.
func TestForwardEnds(t *testing.T) {
	a := withLab(t)
	for name, tt := range map[string]struct {
		end  func(*attached) error
		last api.EventType
		is   error
	}{
		"its command is interrupted": {
			end: func(r *attached) error { r.cancel(); return nil }, last: api.EventForwards, is: context.Canceled,
		},
		"bastion stop": {
			end: func(*attached) error {
				stopped, err := a.client.Stop(t.Context(), "sessions")
				if err == nil && (len(stopped) != 1 || stopped[0].Name != "sessions") {
					err = fmt.Errorf("stopped %+v", stopped)
				}
				return err
			}, last: api.EventStopped,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := a.attach(a.asking([]api.ForwardRequest{{Target: "cache:sessions", Listen: rig.FreeAddr(t)}}))
			conn := a.connect(r.forwards[0].Listen)
			st := a.State()
			if len(st.Links) != 1 || st.Links[0].State != api.LinkUp || len(st.Forwards) != 1 || len(st.Forwards[0].Clients) != 1 ||
				st.Forwards[0].State != api.ForwardReady || st.Forwards[0].Stats.Active != 1 {
				t.Errorf("%+v", st)
			}
			if err := tt.end(r); err != nil {
				t.Error(err)
			}
			if err := <-r.ended; !errors.Is(err, tt.is) {
				t.Errorf("the request: %v, want %v", err, tt.is)
			}
			if last := r.events[len(r.events)-1].Event; last != tt.last {
				t.Errorf("the last event is %s, want %s", last, tt.last)
			}
			a.untouched(0)
			if _, err := conn.Read(make([]byte, 1)); err == nil {
				t.Error("its client is still connected")
			}
			if !free(r.forwards[0].Listen) {
				t.Error("its port is not free")
			}
			audit := a.State().Audit
			if e := audit[len(audit)-1]; e.Forward != "sessions" || e.Up != int64(len(pingRequest)) || e.Down != int64(len(pingReply)) {
				t.Errorf("recorded: %+v", e)
			}
		})
	}
}

// A request that fails at any step opens none of its forwards and leaves nothing behind.
func TestOpenFails(t *testing.T) {
	a := withLab(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = busy.Close() }()
	first := api.ForwardRequest{Name: "first", Target: "cache:sessions", Listen: rig.FreeAddr(t)}
	standing, err := a.detach(a.asking([]api.ForwardRequest{{Name: "standing", Target: "cache:sessions", Listen: ":"}}))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		second   api.ForwardRequest
		settings []string
		faults   lab.APIFaults
		kind     fail.Kind
		next     string // in the hint
	}{
		"a port of another program": {
			second: api.ForwardRequest{Target: "cache:sessions", Listen: busy.Addr().String()}, kind: fail.PortInUse,
		},
		"a port of a forward": {
			second: api.ForwardRequest{Target: "cache:sessions", Listen: standing.Listen}, kind: fail.PortInUse, next: "bastion stop standing",
		},
		"a name of a forward": {
			second: api.ForwardRequest{Name: "standing", Target: "cache:sessions", Listen: ":"}, kind: fail.Usage, next: "name",
		},
		"an unknown target":   {second: api.ForwardRequest{Target: "cache:missing", Listen: ":"}, kind: fail.NoTarget},
		"a bad listener":      {second: api.ForwardRequest{Target: "cache:sessions", Listen: "1:2:3"}, kind: fail.Usage},
		"a remote listener":   {second: api.ForwardRequest{Target: "cache:sessions", Listen: "0.0.0.0:0"}, kind: fail.Usage},
		"a name not allowed":  {second: api.ForwardRequest{Name: "all", Target: "cache:sessions", Listen: ":"}, kind: fail.Usage},
		"an unknown kind":     {second: api.ForwardRequest{Kind: "udp", Target: "cache:sessions", Listen: ":"}, kind: fail.Usage},
		"a proxy with target": {second: api.ForwardRequest{Kind: api.KindProxy, Target: "x:1", Listen: ":"}, kind: fail.Usage},
		"a proxy nowhere":     {second: api.ForwardRequest{Kind: api.KindProxy}, kind: fail.Usage},
		"a configured name":   {second: api.ForwardRequest{Target: "mydb", Listen: ":"}, kind: fail.NoTarget},
		"an odd setting":      {second: cache[0], settings: []string{"sessions=many"}, kind: fail.Usage},
		"a denied look-up": {
			second: cache[0], settings: []string{"cluster=bastion", "linger=31m"},
			faults: lab.APIFaults{Deny: []string{"elasticache:*"}}, kind: fail.Denied,
		},
		"a denied session": {
			second: cache[0], settings: []string{"linger=32m"}, faults: lab.APIFaults{Deny: []string{"ecs:ExecuteCommand"}}, kind: fail.Denied,
		},
		"a denied look at tasks": {
			second: cache[0], settings: []string{"linger=33m"}, faults: lab.APIFaults{Deny: []string{"ecs:ListTasks"}}, kind: fail.Denied,
		},
		"no connection in time": {
			second: cache[0], settings: []string{"linger=34m", "start_timeout=1s", "connect_timeout=1s"},
			faults: lab.APIFaults{NotConnected: -1}, kind: fail.Timeout,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := a.lab.SetAPIFaults(tt.faults); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = a.lab.SetAPIFaults(lab.APIFaults{}) }()
			var last api.Event
			err := a.client.Open(t.Context(), a.asking([]api.ForwardRequest{first, tt.second}, tt.settings...), func(e api.Event) { last = e })
			if err == nil || fail.KindOf(err) != tt.kind || !strings.Contains(fail.NextOf(err), tt.next) {
				t.Errorf("%v error %v, hint %q; want %v, hint with %q", fail.KindOf(err), err, fail.NextOf(err), tt.kind, tt.next)
			}
			if last.Event != api.EventError {
				t.Errorf("the last event: %+v", last)
			}
			if !free(first.Listen) {
				t.Error("the other forward's port is not free")
			}
			a.until("the request is over", func(api.State) bool {
				a.mu.Lock()
				defer a.mu.Unlock()
				for _, l := range a.links {
					l.mu.Lock()
					held := l.busy
					l.mu.Unlock()
					if l.id != standing.Link && held > 0 {
						return false
					}
				}
				return a.requests == 0
			})
			if all := a.State().Forwards; len(all) != 1 || all[0].Name != "standing" {
				t.Errorf("forwards: %+v", all)
			}
		})
	}
	// The fault is mended: the same ports and names are there for the next request.
	r := a.attach(a.asking([]api.ForwardRequest{first}))
	a.connect(r.forwards[0].Listen)
}

// To ask twice for a detached forward is to ask once; what differs in a way that matters to its clients is another forward.
func TestTwins(t *testing.T) {
	a := withLab(t)
	first, err := a.detach(a.asking(cache))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		ask  api.ForwardRequest
		twin bool
	}{
		"the same":           {ask: cache[0], twin: true},
		"by its name":        {ask: api.ForwardRequest{Name: "sessions", Target: "cache:sessions", Listen: ":"}, twin: true},
		"at its address":     {ask: api.ForwardRequest{Target: "cache:sessions", Listen: first.Listen}, twin: true},
		"another name":       {ask: api.ForwardRequest{Name: "other", Target: "cache:sessions", Listen: ":"}},
		"another target":     {ask: api.ForwardRequest{Name: "web", Target: "web.test:80", Listen: ":"}},
		"no target, a proxy": {ask: api.ForwardRequest{Kind: api.KindProxy, Listen: ":"}},
	} {
		f, err := a.detach(a.asking([]api.ForwardRequest{tt.ask}))
		if err != nil || (f.Listen == first.Listen) != tt.twin {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
		if !tt.twin {
			if _, err := a.client.Stop(t.Context(), f.Reference()); err != nil {
				t.Error(err)
			}
		}
	}
	// A proxy with another password lets other people in: it is not the same.
	auth := filepath.Join(a.cfg.StateDir, "auth")
	if err := os.WriteFile(auth, []byte("jo:secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	proxy := []api.ForwardRequest{{Kind: api.KindProxy, Listen: ":"}}
	with, err := a.detach(a.asking(proxy, "proxy_auth_file="+auth))
	if err != nil {
		t.Fatal(err)
	}
	again, err := a.detach(a.asking(proxy, "proxy_auth_file="+auth))
	if err != nil || again.Listen != with.Listen {
		t.Errorf("the same proxy: %+v, %v", again, err)
	}
	without, err := a.detach(a.asking(proxy))
	if err != nil || without.Listen == with.Listen || without.Name == with.Name {
		t.Errorf("a proxy without a password: %+v, %v", without, err)
	}
	for _, f := range []api.Forward{with, without} {
		if _, err := a.client.Stop(t.Context(), f.Reference()); err != nil {
			t.Error(err)
		}
	}
	a.connect(first.Listen)
	a.untouched(1)
}

// A link that nobody uses is closed, but not under a client; a forward of it makes it anew when somebody connects.
func TestLinkIdle(t *testing.T) {
	a := withLab(t)
	f, err := a.detach(a.asking(cache))
	if err != nil {
		t.Fatal(err)
	}
	conn := a.connect(f.Listen)
	a.mu.Lock()
	l := a.links[f.Link]
	a.mu.Unlock()
	idle := func() { // nobody has used it for an hour
		l.mu.Lock()
		l.used = time.Now().Add(-time.Hour)
		l.mu.Unlock()
		l.closeIdle(time.Minute)
	}
	idle()
	if c := l.condition(); c.state != api.LinkUp {
		t.Fatalf("under a client: %+v", c)
	}
	if err := ping(conn); err != nil {
		t.Error(err)
	}
	_ = conn.Close()
	a.until("the client has gone", func(st api.State) bool { return st.Forwards[0].Stats.Active == 0 })
	a.until("the link is idle", func(api.State) bool {
		idle()
		return l.condition().state == api.LinkIdle
	})
	if a.dropLinks(); a.links[f.Link] != l {
		t.Error("the link of a forward is dropped")
	}
	a.until("its sessions have ended", func(api.State) bool { return len(a.lab.Gateway().Sessions()) == 0 })
	_ = a.connect(f.Listen).Close()
	if _, err := a.client.Stop(t.Context(), "all"); err != nil {
		t.Error(err)
	}
	if a.dropLinks(); a.links[f.Link] != l {
		t.Error("a link that is connected is dropped")
	}
	l.closeIdle(time.Hour)
	if c := l.condition(); c.state != api.LinkUp {
		t.Errorf("just after its use: %+v", c)
	}
	idle()
	release, err := l.hold(nil)
	if err != nil {
		t.Fatal(err)
	}
	if a.dropLinks(); a.links[f.Link] != l {
		t.Error("a link that a request holds is dropped")
	}
	release()
	if a.dropLinks(); len(a.links) != 0 {
		t.Error("a link that is idle, and that nobody holds, stays")
	}
	if _, err := l.hold(nil); err == nil {
		t.Error("a link that was dropped is held")
	}
	// A request makes another one.
	_ = a.connect(a.attach(a.asking(cache)).forwards[0].Listen).Close()
}

// A link that cannot be restored ends the forwards of requests, which learn why. It leaves the detached ones listening: these
// report the fault, and work again after its repair.
func TestLinkLost(t *testing.T) {
	a := withLab(t)
	const short = "reconnect_timeout=1s"
	detached, err := a.detach(a.asking([]api.ForwardRequest{{Name: "stays", Target: "cache:sessions", Listen: ":"}}, short))
	if err != nil {
		t.Fatal(err)
	}
	r := a.attach(a.asking(cache, short))
	if err := a.lab.SetAPIFaults(lab.APIFaults{Deny: []string{"ecs:RunTask"}}); err != nil {
		t.Fatal(err)
	}
	conn := a.connect(r.forwards[0].Listen)
	for _, task := range a.lab.Tasks() {
		if err := a.lab.KillTask(task.ID); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-r.ended:
		if fail.KindOf(err) != fail.Lost {
			t.Errorf("%v error %v", fail.KindOf(err), err)
		}
	case <-time.After(time.Minute):
		t.Fatalf("the request goes on: %+v", a.State().Links)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("its client is still connected")
	}
	a.until("the detached forward has failed", func(st api.State) bool {
		return len(st.Forwards) == 1 && st.Forwards[0].Name == "stays" && st.Forwards[0].State == api.ForwardFailed &&
			st.Forwards[0].Error != "" && st.Links[0].State == api.LinkFailed && st.Links[0].Error != ""
	})
	if free(detached.Listen) {
		t.Error("it does not listen")
	}
	if err := a.lab.SetAPIFaults(lab.APIFaults{}); err != nil {
		t.Fatal(err)
	}
	again, err := a.detach(a.asking([]api.ForwardRequest{{Name: "stays", Target: "cache:sessions", Listen: ":"}}, short)) // a command does not wait
	if err != nil || again.Listen != detached.Listen || again.State != api.ForwardReady {
		t.Errorf("%+v, %v", again, err)
	}
	a.connect(detached.Listen)
}

// A dialed connection carries its bytes, and the agent tells its end by its ID. A refused one has the bastion's error. The agent
// records both.
func TestDial(t *testing.T) {
	a := withLab(t)
	r := a.attach(a.asking(cache))
	target := r.forwards[0].Target
	conn, err := a.client.Dial(t.Context(), api.DialRequest{Scope: a.scope, Target: target, ID: "one"})
	if err != nil {
		t.Fatal(err)
	}
	if err := ping(conn); err != nil {
		t.Error(err)
	}
	_ = conn.Close()
	if err := a.client.DialEnd(t.Context(), "one"); err != nil {
		t.Errorf("the end that its client made: %v", err)
	}
	if err := a.client.DialEnd(t.Context(), "another"); fail.KindOf(err) != fail.Lost {
		t.Errorf("one that was never there: %v", err)
	}
	_, err = a.client.Dial(t.Context(), api.DialRequest{Scope: a.scope, Target: "169.254.169.254:80"})
	if err == nil || fail.KindOf(err) != fail.Denied {
		t.Errorf("what is never permitted: %v error %v", fail.KindOf(err), err)
	}
	events := slices.DeleteFunc(a.State().Audit, func(e api.AuditEvent) bool { return e.Forward != "proxy" })
	if len(events) != 2 || events[0].Target != target || events[0].Error != "" || events[1].Target != "169.254.169.254:80" ||
		events[1].Error == "" {
		t.Errorf("recorded: %+v", events)
	}
}

// The bastions of every link are listed, and where AWS does not answer for one, that is said beside its link.
func TestBastions(t *testing.T) {
	a := withLab(t)
	if all, err := a.client.Bastions(t.Context()); err != nil || all == nil || len(all) != 0 {
		t.Errorf("without a link: %v, %v", all, err)
	}
	r := a.attach(a.asking(cache))
	all, err := a.client.Bastions(t.Context())
	if err != nil || len(all) != 1 || all[0].Link != r.forwards[0].Link || len(all[0].Bastions) != 1 || !all[0].Bastions[0].Ready ||
		all[0].Error != nil {
		t.Errorf("%+v, %v", all, err)
	}
	if err := a.lab.SetAPIFaults(lab.APIFaults{Deny: []string{"ecs:ListTasks"}}); err != nil {
		t.Fatal(err)
	}
	all, err = a.client.Bastions(t.Context())
	if err != nil || len(all) != 1 || all[0].Bastions == nil || all[0].Error == nil || all[0].Error.Kind != fail.Denied {
		t.Errorf("without a right to look: %+v, %v", all, err)
	}
}
