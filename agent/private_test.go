package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// A private Agent acts by its process and asks nobody whose the request's credentials are. It keeps no forward.
func TestPrivate(t *testing.T) {
	t.Chdir(t.TempDir()) // a file that it must not write would be here
	stop := fail.New(fail.Denied, "", errors.New("stop here"), "")
	var got []access.Options
	a := New(Config{Version: "test", Private: &Private{Access: func(_ context.Context, o access.Options) (*access.Access, error) {
		got = append(got, o)
		return nil, stop
	}}})
	req := api.OpenRequest{
		Scope:    api.Scope{Env: map[string]string{"AWS_ACCESS_KEY_ID": "AKIAMADEUP", "AWS_SECRET_ACCESS_KEY": "made-up"}},
		Forwards: []api.ForwardRequest{{Target: "db.test:1", Listen: ":"}},
	}
	var events []string
	emit := func(e api.Event) { events = append(events, fmt.Sprint(e.Event)) }
	if err := a.Open(t.Context(), req, emit); !errors.Is(err, stop) {
		t.Errorf("without AWS: %v", err)
	}
	if len(got) != 1 || got[0].Env != nil || got[0].Progress == nil || got[0].Path == nil {
		t.Errorf("it went to AWS with %+v", got)
	}
	req.Detached = true
	if err := a.Open(t.Context(), req, emit); fail.KindOf(err) != fail.Usage || len(got) != 1 {
		t.Errorf("a detached forward: %v", err)
	}
	if diff := cmp.Diff([]string{"error", "error"}, events); diff != "" {
		t.Error(diff)
	}
	a.Close()
	if records, err := a.store.load(); err != nil || records != nil {
		t.Errorf("written down: %+v, %v", records, err)
	}
	req.Detached = false
	if err := a.Open(t.Context(), req, func(api.Event) {}); !errors.Is(err, errClosing) || len(got) != 1 {
		t.Errorf("after its end: %v", err)
	}
}

// The forwards of a private Agent outlive their link, which is not made again: names may lead to them until the command's work has ended.
func TestPrivateLost(t *testing.T) {
	var lost error
	a := New(Config{Private: &Private{Lost: func(err error) { lost = err }}})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	opening, err := a.registry.Open([]forwards.Asked{{Record: testRecord("db", "")}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	f := opening[0]
	if _, err := a.registry.Ready(f, f.Record(), time.Now()); err != nil {
		t.Fatal(err)
	}
	l := &link{agent: a}
	a.mu.Lock()
	c := a.control(f, ln, nil, l, nil)
	a.mu.Unlock()
	gone := errors.New("gone")
	l.failed.add(gone)
	l.failed.retry = time.Now() // a shared Agent would try again
	a.linkEnded(l, gone)
	if fail.KindOf(lost) != fail.Lost || !errors.Is(lost, gone) {
		t.Errorf("told: %v", lost)
	}
	if _, err := c.Dial(t.Context(), "tcp", "db.test:1"); !errors.Is(err, gone) {
		t.Errorf("a client later: %v", err)
	}
	if other, err := net.Listen("tcp", ln.Addr().String()); err == nil {
		_ = other.Close()
		t.Error("it does not listen any more")
	}
	a.Close()
	if f.State() != forwards.Ended {
		t.Errorf("after the end it is %s", f.State())
	}
}

// The grant of a narrowed link is for its request's destinations alone, each once.
func TestPermitOf(t *testing.T) {
	settings := config.Settings{Grant: config.Grant{Permit: []string{"of.setting:1"}}}
	tcp := func(destinations ...string) *wish {
		return &wish{record: forwards.Record{Request: api.ForwardRequest{Kind: api.KindTCP}}, destinations: destinations}
	}
	proxy := &wish{record: forwards.Record{Request: api.ForwardRequest{Kind: api.KindProxy}}}
	for name, tt := range map[string]struct {
		wishes []*wish
		want   []string
	}{
		"one":          {[]*wish{tcp("a:1")}, []string{"a:1"}},
		"with nodes":   {[]*wish{tcp("a:1", "n:1", "n:2"), tcp("b:1")}, []string{"a:1", "n:1", "n:2", "b:1"}},
		"the same":     {[]*wish{tcp("a:1"), tcp("a:1")}, []string{"a:1"}},
		"a proxy":      {[]*wish{proxy}, settings.Grant.Permit},
		"with a proxy": {[]*wish{tcp("a:1"), proxy}, settings.Grant.Permit},
	} {
		if diff := cmp.Diff(tt.want, permitOf(tt.wishes, settings)); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}
