package lab

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/bastion-ssm/bastion/lab/gateway"
)

const maxAdminBody = 64 << 10

// admin returns the handler of the admin endpoint under /_lab/. It needs no credentials, because only this machine reaches the
// loopback address. It refuses web pages, whose browsers send an Origin.
func (l *Lab) admin() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { answer(w, r, f) })
	}
	handle("GET /_lab/state", func(*http.Request) (any, error) { return l.State(), nil })
	handle("GET /_lab/faults", func(*http.Request) (any, error) { return l.gw.Faults(), nil })
	handle("PUT /_lab/faults", body(l.putFaults))
	handle("GET /_lab/api-faults", func(*http.Request) (any, error) { return l.APIFaults(), nil })
	handle("PUT /_lab/api-faults", body(l.putAPIFaults))
	handle("POST /_lab/cut", body(l.postCut))
	handle("POST /_lab/cut-control", body(l.postCutControl))
	handle("POST /_lab/restart-gateway", body(l.postRestart))
	handle("POST /_lab/rate", body(l.postRate))
	handle("POST /_lab/reset-port", body(l.postResetPort))
	handle("POST /_lab/terminate-session", body(l.postTerminate))
	handle("POST /_lab/stop-task", body(l.postStopTask))
	handle("POST /_lab/kill-task", body(l.postKillTask))
	handle("POST /_lab/identities", body(l.postIdentity))
	handle("POST /_lab/names", body(l.postName))
	mux.HandleFunc("GET /_lab/tasks/{id}/{stream}", l.getTaskOutput)
	return mux
}

// State is the lab's state at one moment.
type State struct {
	URL      string         `json:"url"`
	Tasks    []Task         `json:"tasks"`
	Sessions []gateway.Info `json:"sessions"`
	// Nodes are programs in tasks that have their container's control channel.
	Nodes     []gateway.NodeInfo `json:"nodes"`
	Counters  gateway.Counters   `json:"counters"` // of sessions
	Launched  int                `json:"tasks_launched"`
	Calls     map[string]int     `json:"calls"`
	Resolver  string             `json:"resolver"`
	Databases []Database         `json:"databases"`
	Web       string             `json:"web,omitempty"`
}

// Database describes a server that stands in for a database of AWS.
type Database struct {
	Name     string `json:"name"`
	Endpoint string `json:"endpoint"` // as AWS's API says it
	Addr     string `json:"addr"`
	Version  string `json:"version"`
	Embedded bool   `json:"embedded"` // a stand-in: no real server is installed, or none is wanted
}

// State returns the lab's present state.
func (l *Lab) State() State {
	l.ecs.mu.Lock()
	launched := l.ecs.launched
	l.ecs.mu.Unlock()
	s := State{
		URL: l.url, Tasks: l.Tasks(), Sessions: append([]gateway.Info{}, l.gw.Sessions()...), Nodes: l.gw.Nodes(), Counters: l.gw.Counters(),
		Launched: launched, Calls: l.Calls(), Databases: l.Databases(), Web: l.WebURL(),
	}
	if l.resolver != nil {
		s.Resolver = l.resolver.Addr().String()
	}
	return s
}

// Databases describes the lab's own databases.
func (l *Lab) Databases() []Database {
	list := []Database{}
	if p := l.postgres; p != nil {
		endpoint := fmt.Sprintf("%s:%d", l.dbHost(DBID, ""), p.Addr().Port())
		list = append(list, Database{"rds:" + DBID, endpoint, p.Addr().String(), p.Version(), p.Embedded()})
	}
	if r := l.redis; r != nil {
		endpoint := fmt.Sprintf("%s:%d", Cache{ID: CacheID, Kind: ReplicationGroup, site: l.site}.endpointName(), r.Addr().Port())
		list = append(list, Database{"cache:" + CacheID, endpoint, r.Addr().String(), r.Version(), r.Embedded()})
	}
	return list
}

// answer runs an admin call and writes its result as JSON.
func answer(w http.ResponseWriter, r *http.Request, f func(*http.Request) (any, error)) {
	if err := checkCaller(r); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxAdminBody)
	result, err := f(r)
	status := http.StatusOK
	if err != nil {
		status = http.StatusBadRequest
		if errors.Is(err, ErrNoTask) || errors.Is(err, gateway.ErrNoSession) {
			status = http.StatusNotFound
		}
		result = map[string]string{"error": err.Error()}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(result) // a caller that has gone needs no answer
}

// checkCaller refuses web pages: by their Origin, or by a Host name that was rebound to this address.
func checkCaller(r *http.Request) error {
	if r.Header.Get("Origin") != "" {
		return errors.New("not from a web page")
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
		return fmt.Errorf("host %q is not loopback", host)
	}
	return nil
}

// body returns a handler that calls f with the request's body. It parses strictly, so that a misspelt fault is an error and not a
// missing fault.
func body[T any](f func(ctx context.Context, in T) (any, error)) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		var in T
		dec := json.NewDecoder(r.Body)
		dec.DisallowUnknownFields()
		if err := dec.Decode(&in); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read the request: %w", err)
		}
		return f(r.Context(), in)
	}
}

type empty struct{}

func (l *Lab) putFaults(_ context.Context, f gateway.Faults) (any, error) {
	return f, l.gw.SetFaults(f)
}

func (l *Lab) putAPIFaults(_ context.Context, f APIFaults) (any, error) { return f, l.SetAPIFaults(f) }

type cutRequest struct {
	Session string `json:"session"` // empty: all
	Side    string `json:"side"`    // client (default), agent or both
	How     string `json:"how"`     // for the client's side: close (default) or reset
}

func (l *Lab) postCut(_ context.Context, in cutRequest) (any, error) {
	how, err := wayToCut(in.How)
	if err != nil {
		return nil, err
	}
	var cut int
	switch cmp.Or(in.Side, gateway.CutClient) {
	case gateway.CutClient:
		cut = l.gw.Cut(in.Session, how)
	case gateway.CutAgent:
		cut = l.gw.CutAgent(in.Session, how)
	case gateway.CutBoth:
		cut = l.gw.Cut(in.Session, how) + l.gw.CutAgent(in.Session, how)
	default:
		return nil, fmt.Errorf("side is client, agent or both, not %q", in.Side)
	}
	return map[string]int{"cut": cut}, nil
}

// wayToCut checks how a websocket is to be cut.
func wayToCut(how string) (string, error) {
	how = cmp.Or(how, gateway.CutClose)
	if how != gateway.CutClose && how != gateway.CutReset {
		return "", fmt.Errorf("how is close or reset, not %q", how)
	}
	return how, nil
}

type controlRequest struct {
	Target string `json:"target"` // empty: all
	How    string `json:"how"`    // close (default) or reset
}

func (l *Lab) postCutControl(_ context.Context, in controlRequest) (any, error) {
	how, err := wayToCut(in.How)
	if err != nil {
		return nil, err
	}
	return map[string]int{"cut": l.gw.CutControl(in.Target, how)}, nil
}

type restartRequest struct {
	DownMS int `json:"down_ms"`
}

func (l *Lab) postRestart(_ context.Context, in restartRequest) (any, error) {
	const most = 600_000
	if in.DownMS < 0 || in.DownMS > most {
		return nil, fmt.Errorf("down_ms is from 0 to %d, not %d", most, in.DownMS)
	}
	l.gw.Restart(time.Duration(in.DownMS) * time.Millisecond)
	return empty{}, nil
}

type rateRequest struct {
	Session string `json:"session"`
	RateBps int64  `json:"rate_bps"` // 0: that of the faults
}

func (l *Lab) postRate(_ context.Context, in rateRequest) (any, error) {
	return empty{}, l.gw.SetRate(in.Session, in.RateBps)
}

type sessionRequest struct {
	Session string `json:"session"` // empty: all, if the call allows that
}

func (l *Lab) postResetPort(_ context.Context, in sessionRequest) (any, error) {
	return map[string]int{"reset": l.gw.ResetPort(in.Session)}, nil
}

func (l *Lab) postTerminate(_ context.Context, in sessionRequest) (any, error) {
	return empty{}, l.gw.Terminate(in.Session)
}

type taskRequest struct {
	Task   string `json:"task"` // id or ARN; empty: all that run
	Reason string `json:"reason"`
}

// each calls f for the tasks that a request names.
func (l *Lab) each(in taskRequest, f func(id string) error) (any, error) {
	ids := []string{in.Task}
	if in.Task == "" {
		ids = nil
		for _, t := range l.Tasks() {
			if t.LastStatus != statusStopped {
				ids = append(ids, t.ID)
			}
		}
	}
	for _, id := range ids {
		if err := f(id); err != nil {
			return nil, err
		}
	}
	return map[string]int{"tasks": len(ids)}, nil
}

func (l *Lab) postStopTask(ctx context.Context, in taskRequest) (any, error) {
	reason := cmp.Or(in.Reason, "Scaling activity initiated by the lab")
	return l.each(in, func(id string) error { return l.StopTask(ctx, id, reason) })
}

func (l *Lab) postKillTask(_ context.Context, in taskRequest) (any, error) {
	return l.each(in, l.KillTask)
}

type identityRequest struct {
	Name string `json:"name"`
	IdentityConfig
}

func (l *Lab) postIdentity(_ context.Context, in identityRequest) (any, error) {
	env, err := l.AddIdentity(in.Name, in.IdentityConfig)
	return map[string][]string{"env": env}, err
}

type nameRequest struct {
	Name  string       `json:"name"`
	Addrs []netip.Addr `json:"addrs"`
}

func (l *Lab) postName(_ context.Context, in nameRequest) (any, error) {
	if in.Name == "" {
		return nil, errors.New("a name is needed")
	}
	l.AddName(in.Name, in.Addrs...)
	return empty{}, nil
}

func (l *Lab) getTaskOutput(w http.ResponseWriter, r *http.Request) {
	if err := checkCaller(r); err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
		return
	}
	stdout, stderr, err := l.TaskOutput(r.PathValue("id"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	var text []byte
	switch r.PathValue("stream") {
	case "stdout":
		text = stdout
	case "stderr":
		text = stderr
	default:
		http.Error(w, "stdout or stderr", http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(text) //nolint:gosec // plain text, for no web page; a reader that has gone needs none
}
