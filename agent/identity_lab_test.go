package agent

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

// keysOf returns variables with the credentials that the lab has in its files for a profile, as tools for single sign-on export them.
func (a *labAgent) keysOf(profile string) map[string]string {
	a.t.Helper()
	data, err := os.ReadFile(a.scope.Env["AWS_SHARED_CREDENTIALS_FILE"])
	if err != nil {
		a.t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(data), "\n["+profile+"]\n")
	section, _, _ = strings.Cut(section, "\n[")
	env := map[string]string{
		"AWS_ENDPOINT_URL": a.lab.URL(), "AWS_REGION": a.lab.Region(), "AWS_CONFIG_FILE": filepath.Join(a.cfg.StateDir, "none"),
		"AWS_SHARED_CREDENTIALS_FILE": filepath.Join(a.cfg.StateDir, "none"), "AWS_EC2_METADATA_DISABLED": "true",
	}
	for _, m := range regexp.MustCompile(`(aws_\w+) = (\S+)`).FindAllStringSubmatch(section, -1) {
		env[strings.ToUpper(m[1])] = m[2]
	}
	if env["AWS_SECRET_ACCESS_KEY"] == "" {
		a.t.Fatalf("no keys of %s", profile)
	}
	return env
}

// asked returns how often AWS was asked who somebody is.
func (a *labAgent) asked() int { return a.lab.Calls()["sts:GetCallerIdentity"] }

// Requests with credentials in variables share a link if these belong to the same identity, whichever keys they are. AWS is asked
// whose they are once for each. Credentials of a profile are the profile's business.
func TestLinkByIdentity(t *testing.T) {
	a := withLab(t)
	link := func(env map[string]string) *link {
		t.Helper()
		l, release, err := a.linkFor(t.Context(), api.Scope{Env: env, Settings: a.scope.Settings}, nil)
		if err != nil {
			t.Fatal(err)
		}
		release()
		return l
	}
	if _, err := a.lab.AddIdentity("jo", lab.IdentityConfig{}); err != nil {
		t.Fatal(err)
	}
	first := link(a.keysOf("jo"))
	if _, err := first.access.Owner(t.Context()); err != nil { // the link asks on its own account, in its own time
		t.Fatal(err)
	}
	before := a.asked()
	if again := link(a.keysOf("jo")); again != first || a.asked() != before {
		t.Errorf("the same keys: another link %v, asked %d times", again != first, a.asked()-before)
	}
	if !strings.HasSuffix(first.owner, "/jo") || first.show().Owner != first.owner {
		t.Errorf("the owner is %q", first.owner)
	}
	if _, err := a.lab.AddIdentity("jo", lab.IdentityConfig{}); err != nil { // new keys
		t.Fatal(err)
	}
	if renewed := link(a.keysOf("jo")); renewed != first {
		t.Error("renewed keys make another link")
	}
	if _, err := a.lab.AddIdentity("max", lab.IdentityConfig{}); err != nil {
		t.Fatal(err)
	}
	other := link(a.keysOf("max"))
	if other == first || !strings.HasSuffix(other.owner, "/max") {
		t.Errorf("another identity has the link of %q", other.owner)
	}
	profile := link(a.scope.Env)
	if profile == first || profile.owner != "" {
		t.Errorf("a profile has the link of %q", profile.owner)
	}
	if all := a.State().Links; len(all) != 3 {
		t.Errorf("%d links", len(all))
	}
	for _, l := range a.State().Links {
		if l.State != api.LinkIdle || l.Region != a.lab.Region() || l.Cluster != "bastion" || l.Live == nil {
			t.Errorf("%+v", l)
		}
	}
}

// Credentials that AWS does not accept make no link, and are asked again: the user may have signed in meanwhile.
func TestLinkOfNobody(t *testing.T) {
	a := withLab(t)
	env := a.keysOf("lab")
	env["AWS_SECRET_ACCESS_KEY"] = "made-up"
	scope := api.Scope{Env: env, Settings: a.scope.Settings}
	for range 2 {
		if _, _, err := a.linkFor(t.Context(), scope, nil); fail.KindOf(err) != fail.Credentials && fail.KindOf(err) != fail.Denied {
			t.Errorf("%v error %v", fail.KindOf(err), err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.links)+len(a.owners) != 0 {
		t.Errorf("%d links, %d owners", len(a.links), len(a.owners))
	}
}

// next returns the next value of c. It ends the test if the request ends before, by a value from ended, or after a minute.
func next[T any](t *testing.T, what string, c <-chan T, ended <-chan error) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case err := <-ended:
		t.Fatalf("the request ended before %s came: %v", what, err)
	case <-time.After(time.Minute):
		t.Fatalf("%s has not come within a minute", what)
	}
	panic("unreachable")
}

// A private Agent's link may reach what its command asked for, and nothing else.
func TestPrivateLink(t *testing.T) {
	of := withLab(t)
	settings, err := config.FromTexts(of.scope.Settings)
	if err != nil {
		t.Fatal(err)
	}
	a := New(Config{Version: "test", Private: &Private{Access: func(ctx context.Context, o access.Options) (*access.Access, error) {
		o.Env = awssdk.NewEnv(of.scope.Env) // in place of the process's own
		return access.New(ctx, settings, o)
	}}})
	t.Cleanup(a.Close)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	opened := make(chan api.Forward, 1)
	var steps []string
	ended := make(chan error, 1)
	go func() {
		ended <- a.Open(ctx, api.OpenRequest{Scope: of.scope, Forwards: cache}, func(e api.Event) {
			switch e.Event {
			case api.EventForwards:
				opened <- e.Forwards[0]
			case api.EventStep:
				steps = append(steps, e.Text)
			}
		})
	}()
	f := next(t, "the forward", opened, ended)
	_ = of.connect(f.Listen).Close()
	a.mu.Lock()
	links := slices.Collect(maps.Values(a.links))
	a.mu.Unlock()
	if len(links) != 1 {
		t.Fatalf("%d links", len(links))
	}
	host, _, err := net.SplitHostPort(f.Target)
	if err != nil {
		t.Fatal(err)
	}
	if conn, err := links[0].Dial(t.Context(), "tcp", net.JoinHostPort(host, "9")); err == nil || fail.KindOf(err) != fail.Denied {
		t.Errorf("another destination: %v, %v", conn, err)
	}
	cancel()
	if err := next(t, "the request's end", ended, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	a.Close()
	if len(steps) == 0 || !strings.Contains(strings.Join(steps, "\n"), "looking up cache:sessions") {
		t.Errorf("the steps: %q", steps)
	}
	if st := of.State(); len(st.Links)+len(st.Forwards) != 0 {
		t.Errorf("the user's agent has %+v", st)
	}
}

// A forward waits while its link has no path, says why, and works again without another request. Its command is told of both.
func TestForwardWaits(t *testing.T) {
	a := withLab(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	opened, paths := make(chan api.Forward, 1), make(chan report.Path, 100)
	ended := make(chan error, 1)
	go func() {
		ended <- a.client.Open(ctx, a.asking(cache, "reconnect_min=10ms", "reconnect_max=50ms"), func(e api.Event) {
			switch e.Event {
			case api.EventForwards:
				opened <- e.Forwards[0]
			case api.EventPath:
				paths <- *e.Path
			}
		})
	}()
	f := next(t, "the forward", opened, ended)
	conn := a.connect(f.Listen)
	if err := a.lab.SetAPIFaults(lab.APIFaults{Deny: []string{"ssm:StartSession"}}); err != nil {
		t.Fatal(err)
	}
	for _, s := range a.lab.Gateway().Sessions() {
		if s.Document != gateway.DocECSExec { // the grant's
			_ = a.lab.Gateway().Terminate(s.ID) // it may have ended
		}
	}
	if p := next(t, "the loss", paths, ended); !p.Lost {
		t.Errorf("%+v", p)
	}
	a.until("the forward waits", func(st api.State) bool {
		return len(st.Forwards) == 1 && st.Forwards[0].State == api.ForwardWaiting && strings.Contains(st.Forwards[0].Error, "ssm:StartSession") &&
			st.Forwards[0].Next != "" && !st.Forwards[0].Since.IsZero() && st.Links[0].State == api.LinkWaiting
	})
	if err := a.lab.SetAPIFaults(lab.APIFaults{}); err != nil {
		t.Fatal(err)
	}
	for next(t, "the path", paths, ended).Lost {
	}
	if err := ping(conn); err != nil {
		t.Error(err)
	}
	a.until("the forward is ready", func(st api.State) bool { return st.Forwards[0].State == api.ForwardReady && st.Forwards[0].Error == "" })
	cancel()
	if err := next(t, "the request's end", ended, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// The agent opens a detached forward even if it cannot save it, and notes that the forward will not come back. It also notes that a name
// was taken, and which one the forward has instead.
func TestDetachedIsAnnounced(t *testing.T) {
	a := withLab(t)
	if err := os.Mkdir(storeIn(a.cfg.StateDir).path, 0o700); err != nil { // in the file's place
		t.Fatal(err)
	}
	var notes []string
	emit := func(e api.Event) {
		if e.Event == api.EventNote {
			notes = append(notes, e.Text)
		}
	}
	req := a.asking(cache)
	req.Detached = true
	if err := a.client.Open(t.Context(), req, emit); err != nil {
		t.Fatal(err)
	}
	if len(notes) != 1 ||
		!strings.HasPrefix(notes[0], "the detached forwards cannot be saved and will not come back when the agent starts again: ") {
		t.Errorf("%q", notes)
	}
	// A forward at another address has another name. The port must be a given one: for any free port the agent returns the first forward.
	notes = nil
	req.Forwards = []api.ForwardRequest{{Target: "cache:sessions", Listen: rig.FreeAddr(t)}}
	if err := a.client.Open(t.Context(), req, emit); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.Join(notes, "\n"), "another forward has the name sessions; this one is ") {
		t.Errorf("%q", notes)
	}
}

// A cluster's clients may reach its nodes as well, and the forward says what becomes of the cluster's answers.
func TestClusterForward(t *testing.T) {
	a := withLab(t)
	node := netip.MustParseAddrPort("127.0.0.1:6379")
	if err := a.lab.AddCache(lab.Cache{ID: "shards", Sharded: true, Nodes: []lab.CacheNode{{Shard: 1, Addr: node}}}); err != nil {
		t.Fatal(err)
	}
	for mode, want := range map[string]struct {
		mode forwards.ClusterMode
		note string
	}{
		"auto": {forwards.ClusterFollow, forwards.ClusterFollow.Note()}, "terminate": {forwards.ClusterTerminate, forwards.ClusterTerminate.Note()},
		"off": {forwards.ClusterOff, "cluster mode: "},
	} {
		r := a.attach(a.asking([]api.ForwardRequest{{Name: mode, Target: "cache:shards", Listen: ":"}}, "redis_cluster="+mode))
		a.mu.Lock()
		for _, c := range a.controllers {
			if c.name() == mode && c.record.Cluster != want.mode {
				t.Errorf("%s: %q, want %q", mode, c.record.Cluster, want.mode)
			}
		}
		a.mu.Unlock()
		if note := r.forwards[0].Note; !strings.HasPrefix(note, want.note) {
			t.Errorf("%s: %q, want %q", mode, note, want.note)
		}
		r.cancel()
		if err := <-r.ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}
