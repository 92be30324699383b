package agent

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
)

// A forward whose listener fails ends by itself: it is gone from the state and from the file once its controller is done.
func TestListenerFails(t *testing.T) {
	_, cfg := newAgent(t, time.Minute)
	if err := storeIn(cfg.StateDir).save([]forwards.Record{testRecord("db", "127.0.0.1:0"), testRecord("other", "127.0.0.1:0")}); err != nil {
		t.Fatal(err)
	}
	a, _ := runAgent(t, cfg)
	c := a.controller(t, "db")
	if err := c.ln.Close(); err != nil {
		t.Fatal(err)
	}
	<-c.done
	if c.f.State() != forwards.Ended || c.f.Why() == nil {
		t.Errorf("the forward is %s, by %v", c.f.State(), c.f.Why())
	}
	if all := a.State().Forwards; len(all) != 1 || all[0].Name != "other" {
		t.Errorf("left are %+v", all)
	}
	if records, err := a.store.load(); err != nil || len(records) != 1 {
		t.Errorf("written down: %+v, %v", records, err)
	}
}

// A forward that cannot be served at all ends and frees its port.
func TestUnservable(t *testing.T) {
	a, cfg := newAgent(t, time.Minute)
	defer a.cancel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := testRecord("cache", ln.Addr().String())
	r.Cluster, r.Scope.Settings = forwards.ClusterTerminate, map[string]string{"tls_ca": filepath.Join(cfg.StateDir, "missing.pem")}
	a.mu.Lock()
	f := a.registry.Restore(r, time.Now())
	if err := a.registry.Reopen(f, r.Request.Listen, r.Link, time.Now()); err != nil {
		t.Error(err)
	}
	c := a.control(f, ln, nil, nil, nil)
	a.mu.Unlock()
	<-c.done
	if f.State() != forwards.Ended || !errors.Is(f.Why(), os.ErrNotExist) {
		t.Errorf("the forward is %s, by %v", f.State(), f.Why())
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("its port: %v", err)
	}
	a.close()
}

// A forward that was stopped does not come back when the agent ends before the file is written, and its port is freed meanwhile.
func TestStopWhileFileIsStuck(t *testing.T) {
	_, cfg := newAgent(t, time.Minute)
	if err := storeIn(cfg.StateDir).save([]forwards.Record{testRecord("db", "127.0.0.1:0")}); err != nil {
		t.Fatal(err)
	}
	a, _ := runAgent(t, cfg)
	c := a.controller(t, "db")
	a.writer.mu.Lock() // as during a write to a slow disk
	stopped := make(chan error, 1)
	go func() {
		_, err := a.Stop("db")
		stopped <- err
	}()
	if _, err := c.ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("its port: %v", err)
	}
	if records, _ := a.kept(); len(records) != 0 {
		t.Errorf("what is to come back: %+v", records)
	}
	a.writer.mu.Unlock()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if records, err := a.store.load(); err != nil || len(records) != 0 {
		t.Errorf("written down: %+v, %v", records, err)
	}
}

// A client that goes away while its forward looks for a link leaves the forward as it was.
func TestClientGoesAway(t *testing.T) {
	_, cfg := newAgent(t, time.Minute)
	env, asked := stuckAWS(t)
	r := testRecord("db", "127.0.0.1:0")
	env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"] = "AKIATEST", "made-up" // whose they are is asked
	r.Owner, r.Scope.Env = "", env
	if err := storeIn(cfg.StateDir).save([]forwards.Record{r}); err != nil {
		t.Fatal(err)
	}
	a, _ := runAgent(t, cfg)
	c := a.controller(t, "db")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := c.Dial(ctx, "tcp", "db.test:1"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if all := a.State().Forwards; len(all) != 1 || all[0].State != api.ForwardReady || all[0].Error != "" {
		t.Errorf("%+v", all)
	}
}

// A name that was asked for is the request's while it opens its forward, and free again when the request is given up.
func TestOpeningHoldsName(t *testing.T) {
	env, _ := stuckAWS(t)
	_, cfg := newAgent(t, time.Minute)
	a, _ := runAgent(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	results := make(chan error, 2)
	for _, target := range []string{"db.test:2", "db.test:3"} {
		go func() {
			results <- a.Open(ctx, api.OpenRequest{
				Scope: api.Scope{Env: env, Settings: map[string]string{"runtime_dir": cfg.StateDir}}, Detached: true,
				Forwards: []api.ForwardRequest{{Name: "db", Target: target, Listen: ":"}},
			}, func(api.Event) {})
		}()
	}
	if taken, ok := errors.AsType[*api.NameTaken](<-results); !ok || taken.Name != "db" { // the other one waits for AWS
		t.Errorf("none is refused: %+v", taken)
	}
	if all := a.State().Forwards; len(all) != 0 {
		t.Errorf("a forward that opens is shown: %+v", all)
	}
	cancel()
	if err := <-results; !errors.Is(err, context.Canceled) {
		t.Errorf("the other one: %v", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, err := a.registry.Open(make([]forwards.Asked, forwards.Max), time.Now()); err != nil {
		t.Errorf("something is left: %v", err)
	}
}
