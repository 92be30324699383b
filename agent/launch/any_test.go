package launch

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// oldAgent is an agent that refuses the environment, as one does that is older than that.
type oldAgent struct {
	mu   sync.Mutex
	seen []map[string]string // settings of the requests
}

func (a *oldAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var in struct{ Scope api.Scope }
	data, _ := io.ReadAll(r.Body)
	_ = json.Unmarshal(data, &in)
	a.mu.Lock()
	a.seen = append(a.seen, in.Scope.Settings)
	a.mu.Unlock()
	if in.Scope.Settings["environment"] != "" {
		err := fail.New(fail.Usage, "", errors.New(`unknown setting "environment"`), "see docs/configuration.md")
		_ = json.NewEncoder(w).Encode(api.Event{Event: api.EventError, Error: api.NewError(err)})
		return
	}
	_ = json.NewEncoder(w).Encode(api.Event{Event: api.EventForwards, Forwards: []api.Forward{{Name: "orders"}}})
	_ = json.NewEncoder(w).Encode(api.Event{Event: api.EventStopped, Text: "stopped"})
}

// An agent of an older version opens the forwards of an environment, without its name. Other refusals stay.
func TestAnyVersion(t *testing.T) {
	old := &oldAgent{}
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: old}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(ln) })
	t.Cleanup(func() { _ = server.Close(); serving.Wait() })
	client := api.NewClient(path)
	req := api.OpenRequest{
		Scope:    api.Scope{Settings: map[string]string{"environment": "prod", "region": "us-east-1"}},
		Forwards: []api.ForwardRequest{{Target: "rds:orders"}},
	}
	var events []api.EventType
	open := func(by api.Opener) error {
		events = nil
		return by.Open(context.WithoutCancel(t.Context()), req, func(e api.Event) { events = append(events, e.Event) })
	}
	if err := open(client); fail.KindOf(err) != fail.Usage {
		t.Fatalf("the old agent: %v", err)
	}
	if err := open(Any(client)); err != nil || !slices.Contains(events, api.EventForwards) || slices.Contains(events, api.EventError) {
		t.Errorf("%v, %v", err, events)
	}
	last := old.seen[len(old.seen)-1]
	if last["environment"] != "" || last["region"] != "us-east-1" || req.Scope.Settings["environment"] != "prod" {
		t.Errorf("asked with %v, request now %v", last, req.Scope.Settings)
	}
	for _, err := range []error{
		nil, errors.New(`unknown setting "environment"`), fail.New(fail.Usage, "", errors.New(`unknown setting "target"`), ""),
	} {
		if _, ok := WithoutEnvironment(req.Scope, err); ok {
			t.Errorf("%v is taken for the refusal", err)
		}
	}
}
