package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/lab/vpc"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
)

// What is done to a Redis cluster's answers follows from the setting and from what AWS says of the target. Of a host only the user knows.
func TestClusterModeOf(t *testing.T) {
	cluster, secure := targets.Endpoint{Engine: "redis", Cluster: true}, targets.Endpoint{Engine: "redis", Cluster: true, TLS: true}
	single, host := targets.Endpoint{Engine: "redis"}, targets.Endpoint{}
	const off, follow, terminate = forwards.ClusterOff, forwards.ClusterFollow, forwards.ClusterTerminate
	for setting, want := range map[string][4]forwards.ClusterMode{ // of a cluster, one with TLS, a single node, a host
		"auto": {follow, off, off, off}, "follow": {follow, follow, off, follow}, "terminate": {terminate, terminate, off, terminate},
		"off": {off, off, off, off},
	} {
		for i, e := range []targets.Endpoint{cluster, secure, single, host} {
			s := config.Settings{Forward: config.Forward{RedisCluster: setting}}
			if got, err := clusterModeOf(s, e); got != want[i] || err != nil {
				t.Errorf("%s, %+v: %q, %v; want %q", setting, e, got, err, want[i])
			}
			s.Forward.Hosts = true // each node has its own name and address
			if got, err := clusterModeOf(s, e); got != off || err != nil {
				t.Errorf("%s, %+v with hosts: %q, %v", setting, e, got, err)
			}
		}
	}
	s := config.Settings{Forward: config.Forward{RedisCluster: "terminate", TLSCA: filepath.Join(t.TempDir(), "none")}}
	if _, err := clusterModeOf(s, cluster); !errors.Is(err, os.ErrNotExist) || fail.KindOf(err) != fail.Usage {
		t.Errorf("without its CA bundle: %v", err)
	}
	if _, err := clusterModeOf(s, single); err != nil {
		t.Errorf("a bundle that is not needed: %v", err)
	}
}

// The CA bundle is the user's file, or the system's; a file without a certificate is refused with what to give.
func TestDatabaseRoots(t *testing.T) {
	if roots, err := databaseRoots(""); roots != nil || err != nil {
		t.Errorf("the system's: %v, %v", roots, err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	authority, err := vpc.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	if roots, err := databaseRoots(write("ca.pem", authority.PEM())); roots == nil || err != nil {
		t.Errorf("a bundle: %v, %v", roots, err)
	}
	for name, data := range map[string]string{
		"empty": "", "text": "hello", "broken": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
	} {
		path := write(name, []byte(data))
		roots, err := databaseRoots(path)
		if roots != nil || fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), path) ||
			!strings.Contains(err.Error(), "no certificate") ||
			fail.NextOf(err) == "" {
			t.Errorf("%s: %v, %v, hint %q", name, roots, err, fail.NextOf(err))
		}
	}
}

// The latest connections are remembered, the newest last, and each is news to those who wait for a state.
func TestAuditIsBounded(t *testing.T) {
	a, _ := newAgent(t, time.Minute)
	defer a.cancel()
	if all := a.State().Audit; all == nil || len(all) != 0 {
		t.Errorf("of none: %v", all)
	}
	revision := a.State().Revision
	for i := range maxAudit + 10 {
		var err error
		if i%2 == 0 {
			err = errors.New("refused")
		}
		a.recorded("db", tunnel.ConnSnapshot{Client: "c", Dest: fmt.Sprint(i), Since: time.Now(), Up: 1, Down: 2}, err)
	}
	all := a.State().Audit
	if len(all) != maxAudit || all[0].Target != "10" || all[maxAudit-1].Target != fmt.Sprint(maxAudit+9) {
		t.Fatalf("%d events, from %+v to %+v", len(all), all[0], all[len(all)-1])
	}
	if e := all[0]; e.Forward != "db" || e.Client != "c" || e.Up != 1 || e.Down != 2 || e.Error != "refused" || all[1].Error != "" {
		t.Errorf("%+v, %+v", e, all[1])
	}
	if got := a.State().Revision - revision; got != maxAudit+10 {
		t.Errorf("%d revisions", got)
	}
	all[0].Forward = "changed"
	if a.State().Audit[0].Forward != "db" {
		t.Error("a state shares its audit")
	}
}

// Whoever waits for another state gets the present one when it gives up, and when the Agent ends.
func TestWaitEnds(t *testing.T) {
	a, _ := newAgent(t, time.Minute)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if st := a.Wait(ctx, a.State().Revision); st.Revision != a.State().Revision || st.Info.Ending {
		t.Errorf("%+v", st)
	}
	got := make(chan api.State, 1)
	go func() { got <- a.Wait(context.Background(), a.State().Revision) }()
	a.Shutdown()
	if st := <-got; !st.Info.Ending {
		t.Errorf("%+v", st)
	}
	if all := a.Bastions(t.Context()); all == nil || len(all) != 0 {
		t.Errorf("bastions of an Agent that ends: %v", all)
	}
	if _, err := a.Stop("all"); !errors.Is(err, errClosing) {
		t.Errorf("%v", err)
	}
}

// A link passes on what happens to it, to those who watch it at the time, and each event that changes the state is a revision.
func TestLinkTellsWatchers(t *testing.T) {
	a, _ := newAgent(t, time.Minute)
	defer a.cancel()
	l := &link{agent: a, watchers: make(map[*watcher]struct{})}
	var got []string
	w := &watcher{emit: func(e api.Event) {
		text := fmt.Sprint(e.Event, " ", e.Text)
		switch {
		case e.Path != nil:
			text = fmt.Sprint(e.Event, " ", e.Path.Lost)
		case e.Link != nil:
			text = fmt.Sprint(e.Event, " ", e.Link.Phase, " ", e.Link.Attempt, " ", e.Link.Error, "|", e.Link.Next)
		}
		got = append(got, text)
	}}
	l.onStep("nobody watches")
	release, err := l.hold(w)
	if err != nil {
		t.Fatal(err)
	}
	before := a.State().Revision
	l.onStep("a step")
	l.onPath(report.Path{Lost: true})
	l.onState(tunnel.State{
		Phase: tunnel.Reconnecting, Attempt: 2, Retry: time.Second, Err: fail.New(fail.Denied, "", errors.New("denied"), "ask for it"),
	})
	l.onState(tunnel.State{Phase: tunnel.Idle})
	if n := a.State().Revision - before; n != 3 {
		t.Errorf("%d revisions", n)
	}
	release()
	l.onStep("nobody watches any more")
	want := "step a step; path true; link reconnecting 2 denied|ask for it; link idle 0 |"
	if text := strings.Join(got, "; "); text != want {
		t.Errorf("told %q, want %q", text, want)
	}
}

// A connection that the bastion refuses, or that is lost, is told to its forward's command with the next step; what a client does is not.
func TestOnEndTells(t *testing.T) {
	a, _ := newAgent(t, time.Minute)
	defer a.cancel()
	denied := fail.New(fail.Denied, "", errors.New("not permitted"), "ask for it")
	for name, tt := range map[string]struct {
		conn tunnel.ConnSnapshot
		err  error
		want string
	}{
		"refused":         {tunnel.ConnSnapshot{Dest: "db:1"}, denied, "connection to db:1: not permitted\nhint: ask for it"},
		"refused, simply": {tunnel.ConnSnapshot{Dest: "db:1"}, errors.New("no"), "connection to db:1: no"},
		"ended":           {tunnel.ConnSnapshot{Dest: "db:1", Client: "c"}, nil, ""},
		"by its client":   {tunnel.ConnSnapshot{Dest: "db:1", Client: "c"}, errors.New("reset by peer"), ""},
	} {
		var got string
		e := newEvents(func(e api.Event) { got += e.Text })
		c := &controller{agent: a, record: testRecord("db", ""), events: e}
		c.onEnd(tt.conn, tt.err)
		(&controller{agent: a, record: testRecord("db", "")}).onEnd(tt.conn, tt.err) // nobody is there
		e.close()
		if got != tt.want {
			t.Errorf("%s: told %q, want %q", name, got, tt.want)
		}
	}
	if n := len(a.State().Audit); n != 8 {
		t.Errorf("%d recorded", n)
	}
}

// A client may ask why its connection has ended: only for what neither it nor the target did.
func TestEndOf(t *testing.T) {
	if end := endOf(nil); end.Error != nil {
		t.Errorf("an orderly end: %+v", end)
	}
	if end := endOf(errors.New("reset by peer")); end.Error != nil {
		t.Errorf("the target's: %+v", end)
	}
	if end := endOf(fmt.Errorf("splice: %w", context.Canceled)); end.Error == nil || end.Error.Kind != fail.Lost {
		t.Errorf("the agent's: %+v", end)
	}
}

// The wishes of a request are handed over all or none: nothing holds the link if one cannot be.
func TestHandOverFails(t *testing.T) {
	a, _ := newAgent(t, time.Minute)
	opening, err := a.registry.Open([]forwards.Asked{{Record: testRecord("db", ""), Detached: true}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	f := opening[0]
	twin := &controller{agent: a, f: f, record: testRecord("db", "")}
	a.registry.End(f, errStopped)
	l := &link{agent: a, watchers: make(map[*watcher]struct{})}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	wishes := []*wish{{ln: ln}, {twin: twin}, {ln: ln}}
	if out, err := a.handOver(l, wishes, nil); out != nil || err == nil ||
		!strings.Contains(err.Error(), "the existing forward db has just ended") ||
		fail.NextOf(err) != "try again" {
		t.Errorf("%v, %v", out, err)
	}
	if l.busy != 0 {
		t.Errorf("the link is held %d times", l.busy)
	}
	l.closed = true
	if _, err := a.handOver(l, wishes[:1], nil); !errors.Is(err, errClosing) {
		t.Errorf("a link that was dropped: %v", err)
	}
	a.Close()
	if _, err := a.handOver(l, wishes[:1], nil); !errors.Is(err, errClosing) {
		t.Errorf("an Agent that has ended: %v", err)
	}
}

// A forward of the last run that cannot be opened again stays, with the reason: wrong settings of another version, an address of
// another machine.
func TestReopenFails(t *testing.T) {
	_, cfg := newAgent(t, time.Minute)
	odd, remote := testRecord("odd", "127.0.0.1:0"), testRecord("remote", "0.0.0.0:0")
	odd.Scope.Settings = map[string]string{"sessions": "many"}
	if err := storeIn(cfg.StateDir).save([]forwards.Record{odd, remote}); err != nil {
		t.Fatal(err)
	}
	a, _ := runAgent(t, cfg)
	all := a.State().Forwards
	if len(all) != 2 || all[0].State != api.ForwardFailed || !strings.Contains(all[0].Error, "sessions") ||
		all[1].State != api.ForwardFailed ||
		all[1].Error == "" {
		t.Errorf("%+v", all)
	}
	revision := a.State().Revision
	a.reopen() // as the timer does: the same failure is no news
	if got := a.State().Revision; got != revision {
		t.Errorf("%d revisions", got-revision)
	}
	if records, err := a.store.load(); err != nil || len(records) != 2 {
		t.Errorf("written down: %+v, %v", records, err)
	}
}

// The agent's lock is one place on a disk; what keeps it from there is told with the setting that moves it.
func TestLockFails(t *testing.T) {
	_, cfg := newAgent(t, time.Minute)
	cfg.Socket = filepath.Join(cfg.StateDir, "missing", "control.sock")
	err := New(cfg).Run(t.Context())
	if !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "lock the agent's socket: ") ||
		!strings.Contains(fail.NextOf(err), "runtime_dir") {
		t.Errorf("%v, hint %q", err, fail.NextOf(err))
	}
}

// What the agent does not know is refused with a status and an error that says so, and changes nothing.
func TestServerRefuses(t *testing.T) {
	_, cfg := newAgent(t, time.Minute)
	a, _ := runAgent(t, cfg)
	client := api.NewClient(cfg.Socket)
	if _, err := client.Dashboard(t.Context(), api.DashboardRequest{Listen: "0.0.0.0:0"}); fail.KindOf(err) != fail.Usage {
		t.Errorf("a dashboard for everybody: %v error %v", fail.KindOf(err), err)
	}
	for text, status := range map[string]int{
		"GET /v9/nothing HTTP/1.1\r\nHost: x\r\n\r\n":                                                  http.StatusNotFound,
		"DELETE " + api.PathForwards + "/missing HTTP/1.1\r\nHost: x\r\n\r\n":                          http.StatusNotFound,
		"GET " + api.PathState + "?after=x HTTP/1.1\r\nHost: x\r\n\r\n":                                http.StatusBadRequest,
		"GET " + api.PathState + "?after=1&timeout=-1 HTTP/1.1\r\nHost: x\r\n\r\n":                     http.StatusBadRequest,
		"POST " + api.PathDial + " HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}":                 http.StatusUpgradeRequired,
		"GET " + api.PathDial + "/none/end HTTP/1.1\r\nHost: x\r\n\r\n":                                http.StatusNotFound,
		"POST " + api.PathForwards + " HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n{\"newer\":1}": http.StatusBadRequest,
	} {
		response, conn := request(t, cfg.Socket, text)
		if response.StatusCode != status || !strings.HasPrefix(response.Header.Get("Content-Type"), "application/json") {
			t.Errorf("%.40q: %s", text, response.Status)
		}
		_ = response.Body.Close()
		_ = conn.Close()
	}
	if st := a.State(); len(st.Forwards)+len(st.Links) != 0 {
		t.Errorf("%+v", st)
	}
}
