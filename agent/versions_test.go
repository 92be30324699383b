package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/private"
)

// exchange is a request of a command and the agent's answer, both of an older version, from before environments and routes. An answer has
// several values if it is a stream of events.
type exchange struct {
	Method string           `json:"method"`
	Path   string           `json:"path"`
	Body   map[string]any   `json:"body"`
	Status int              `json:"status"`
	Answer []map[string]any `json:"answer"`
}

// UnmarshalJSON takes an answer that is an array for its elements.
func (e *exchange) UnmarshalJSON(data []byte) error {
	type plain exchange
	in := struct {
		*plain
		Answer []json.RawMessage `json:"answer"`
	}{plain: (*plain)(e)}
	if err := json.Unmarshal(data, &in); err != nil {
		return err
	}
	for _, value := range in.Answer {
		e.Answer = append(e.Answer, objects(value)...)
	}
	return nil
}

// objects returns the JSON objects in data, whether they follow each other or are in an array.
func objects(data []byte) (out []map[string]any) {
	dec := json.NewDecoder(bytes.NewReader(data))
	for {
		var value any
		if dec.Decode(&value) != nil {
			return out
		}
		list, ok := value.([]any)
		if !ok {
			list = []any{value}
		}
		for _, v := range list {
			if object, ok := v.(map[string]any); ok {
				out = append(out, object)
			}
		}
	}
}

// exchanges are those of one older command after another with one older agent.
func exchanges(t *testing.T) (out []exchange) {
	t.Helper()
	data, err := os.ReadFile("testdata/older.json")
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	if err != nil || len(out) == 0 {
		t.Fatalf("%d exchanges, %v", len(out), err)
	}
	return out
}

// fields returns the names of all fields of JSON values, with the names of those that they are in, and the kinds of their values.
func fields[T any](values ...T) (out []string) {
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for name, in := range v {
				walk(path+"."+name, in)
			}
		case []any:
			for _, in := range v {
				walk(path+"[]", in)
			}
		default:
			out = append(out, fmt.Sprintf("%s %T", path, v))
		}
	}
	for _, v := range values {
		walk("", v)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// missing are the fields of older that now has not. The state of a link's sessions varies with the time.
func missing(older, now []string) (out []string) {
	for _, name := range older {
		if !slices.Contains(now, name) && !strings.Contains(name, ".live[]") {
			out = append(out, name)
		}
	}
	return out
}

// lasts leaves the last event of a stream of events, and other answers as they are: which steps there are is no promise.
func lasts(answer []map[string]any) []map[string]any {
	if n := len(answer); n > 0 && answer[n-1]["event"] != nil {
		return answer[n-1:]
	}
	return answer
}

// A new agent serves an old command: it takes every request of the older version, with all its settings, and its answers have every field
// that the older agent's had.
func TestNewAgentServesOldCommand(t *testing.T) {
	a := withLab(t)
	client := &http.Client{Transport: &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return private.Dial(a.cfg.Socket) },
		DisableKeepAlives: true,
	}}
	for _, e := range exchanges(t) {
		if scope, ok := e.Body["scope"].(map[string]any); ok {
			scope["env"] = a.scope.Env
			scope["settings"].(map[string]any)["runtime_dir"] = a.scope.Settings["runtime_dir"]
		}
		if e.Path == api.PathState { // with a client, as it was
			_ = a.connect(a.State().Forwards[0].Listen)
		}
		status, answer := ask(t, client, e)
		now := lasts(objects(answer))
		if status != e.Status {
			t.Errorf("%s %s: status %d, was %d: %s", e.Method, e.Path, status, e.Status, answer)
		}
		if gone := missing(fields(lasts(e.Answer)...), fields(now...)); len(gone) > 0 {
			t.Errorf("%s %s: without %q: %s", e.Method, e.Path, gone, answer)
		}
		if len(now) > 0 && len(e.Answer) > 0 && now[0]["event"] != lasts(e.Answer)[0]["event"] {
			t.Errorf("%s %s: the last event is %v", e.Method, e.Path, now[0])
		}
	}
}

// ask sends the request of an exchange.
func ask(t *testing.T, client *http.Client, e exchange) (status int, answer []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var body io.Reader = http.NoBody
	if e.Body != nil {
		data, err := json.Marshal(e.Body)
		if err != nil {
			t.Fatal(err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, e.Method, "http://agent"+e.Path, body)
	if err != nil {
		t.Fatal(err)
	}
	if e.Status == http.StatusSwitchingProtocols {
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", api.Protocol)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", e.Method, e.Path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return resp.StatusCode, nil
	}
	answer, err = io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("%s %s: %v", e.Method, e.Path, err)
	}
	return resp.StatusCode, answer
}

// olderAgent gives the answers of an older agent. It refuses a request with a field that the older version had not, as that did.
type olderAgent struct {
	exchanges []exchange
	mu        sync.Mutex
	refused   []string
}

func (o *olderAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	asked, _ := io.ReadAll(r.Body)
	i := slices.IndexFunc(o.exchanges, func(e exchange) bool { return e.Method == r.Method && e.Path == r.URL.Path })
	if i < 0 {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	e := o.exchanges[i]
	if further := missing(fields(objects(asked)...), fields(e.Body)); len(further) > 0 {
		o.refused = append(o.refused, further...)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.WriteHeader(e.Status)
	enc := json.NewEncoder(w)
	switch {
	case r.URL.Path == api.PathBastions, r.Method == http.MethodDelete && e.Status == http.StatusOK:
		_ = enc.Encode(e.Answer)
	default:
		for _, value := range e.Answer {
			_ = enc.Encode(value)
		}
	}
}

// An old agent serves a new command: the client understands the older answers, and asks with nothing that the older agent refuses.
func TestOldAgentServesNewCommand(t *testing.T) {
	_, cfg := newAgent(t, time.Minute)
	ln, err := private.Listen(cfg.Socket)
	if err != nil {
		t.Fatal(err)
	}
	older := &olderAgent{exchanges: exchanges(t)}
	server := &http.Server{Handler: older, ReadHeaderTimeout: time.Minute}
	var served sync.WaitGroup
	served.Go(func() { _ = server.Serve(ln) })
	t.Cleanup(func() { _ = server.Close(); served.Wait() })
	ctx, client := t.Context(), api.NewClient(cfg.Socket)

	if info, err := client.Info(ctx); err != nil || info.V != api.Version || info.PID == 0 || info.Started.IsZero() || info.Idle != 3600 {
		t.Errorf("info: %+v, %v", info, err)
	}
	var opened []api.Forward
	err = client.Open(ctx, api.OpenRequest{
		Scope:   api.Scope{Settings: map[string]string{"cluster": "bastion"}, Env: map[string]string{"AWS_REGION": "eu-central-1"}},
		Command: "forward", PID: 1, Detached: true,
		Forwards: []api.ForwardRequest{{Kind: api.KindTCP, Target: "cache:sessions", Listen: "127.0.0.1:0"}},
	}, func(e api.Event) { opened = append(opened, e.Forwards...) })
	if err != nil || len(opened) != 1 || opened[0].State != api.ForwardReady || opened[0].Engine != "redis" || !opened[0].Detached {
		t.Errorf("opened: %+v, %v", opened, err)
	}
	st, err := client.State(ctx)
	if err != nil || len(st.Forwards) != 2 || len(st.Links) != 1 || st.Forwards[0].Reference() != "sessions" ||
		st.Forwards[0].Stats.Active != 1 || st.Links[0].State != api.LinkUp || len(st.Links[0].Live) != 1 || len(st.Links[0].Live[0].Sessions) == 0 {
		t.Errorf("state: %+v, %v", st, err)
	}
	if all, err := client.Bastions(ctx); err != nil || len(all) != 1 || len(all[0].Bastions) != 1 || !all[0].Bastions[0].Ready {
		t.Errorf("bastions: %+v, %v", all, err)
	}
	if err := client.DialEnd(ctx, "one"); err != nil {
		t.Errorf("a connection's end: %v", err)
	}
	if _, err := client.Stop(ctx, "nothing"); fail.KindOf(err) != fail.NoTarget || fail.NextOf(err) == "" {
		t.Errorf("stop of what is not there: %v", err)
	}
	if stopped, err := client.Stop(ctx, "all"); err != nil || len(stopped) != 2 || stopped[1].Kind != api.KindProxy {
		t.Errorf("stopped: %+v, %v", stopped, err)
	}
	if err := client.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	older.mu.Lock()
	defer older.mu.Unlock()
	if len(older.refused) > 0 {
		t.Errorf("it refuses %q", older.refused)
	}
}
