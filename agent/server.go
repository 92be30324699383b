package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/metrics"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/tunnel"
)

const (
	// maxRequest bounds a request's body, in bytes.
	maxRequest = 1 << 20
	// headerTimeout bounds the wait for a request's header and body.
	headerTimeout = 10 * time.Second
	// writeTimeout bounds the wait for a client to read an answer, or an event.
	writeTimeout = 10 * time.Second
	// longestWait bounds a request's wait for another revision.
	longestWait = 10 * time.Minute
	// endTimeout bounds the wait for requests under way when the Agent ends.
	endTimeout = 5 * time.Second
)

// serve serves the control API on ln until the Agent ends, and returns after close: once the socket is gone, everything has
// ended.
func (a *Agent) serve(ln net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+api.PathInfo, func(w http.ResponseWriter, _ *http.Request) { answer(w, a.Info()) })
	mux.HandleFunc("POST "+api.PathStop, func(w http.ResponseWriter, _ *http.Request) {
		answer(w, struct{}{})
		a.Shutdown()
	})
	mux.HandleFunc("GET "+api.PathState, a.serveState)
	mux.HandleFunc("GET "+api.PathBastions, a.serveBastions)
	mux.HandleFunc("POST "+api.PathForwards, a.serveOpen)
	mux.HandleFunc("DELETE "+api.PathForwards+"/{name}", a.serveStop)
	mux.HandleFunc("POST "+api.PathDial, a.serveDial)
	mux.HandleFunc("GET "+api.PathDial+"/{id}/end", a.serveDialEnd)
	mux.HandleFunc("POST "+api.PathDashboard, a.serveDashboard)
	// Only the user can open the socket, so a token is unnecessary.
	monitoring := metrics.Handler(a.State, "")
	for _, path := range []string{metrics.PathMetrics, metrics.PathLive, metrics.PathReady} {
		mux.Handle("GET "+path, monitoring)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, fail.New(fail.Usage, "", fmt.Errorf("the agent has no %s %s", r.Method, r.URL.Path),
			"it may be of another version: bastion agent stop, then try again"))
	})
	server := &http.Server{
		Handler: mux, ReadHeaderTimeout: headerTimeout, IdleTimeout: headerTimeout,
		BaseContext: func(net.Listener) context.Context { return a.ctx },
		ErrorLog:    nil,
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	var err error
	select {
	case err = <-served:
	case <-a.ctx.Done():
	}
	a.cancel()
	a.close()
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close()
	}
	if err == nil {
		err = <-served
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fail.New(fail.Other, "serve the agent's socket", err, "start it again: bastion agent start")
}

func answer(w http.ResponseWriter, v any) { send(w, http.StatusOK, v) }

// send sends a JSON value.
func send(w http.ResponseWriter, status int, v any) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may have gone
}

// statusOf maps failure kinds to HTTP status codes, for clients that do not read the error.
var statusOf = map[fail.Kind]int{
	fail.Usage: http.StatusBadRequest, fail.NoTarget: http.StatusNotFound, fail.Credentials: http.StatusUnauthorized,
	fail.Denied: http.StatusForbidden, fail.PortInUse: http.StatusConflict, fail.Timeout: http.StatusGatewayTimeout,
	fail.Start: http.StatusBadGateway, fail.Lost: http.StatusBadGateway, fail.Other: http.StatusInternalServerError,
}

func refuse(w http.ResponseWriter, status int, err error) { send(w, status, api.NewError(err)) }

func refuseBy(w http.ResponseWriter, err error) { refuse(w, statusOf[fail.KindOf(err)], err) }

// read reads a request's JSON body and reports whether it did; otherwise it has answered. An unknown field is an error, because
// the client is of another version. The client's process must match this one (api.CheckProcess), because the agent acts in its
// place.
func read(w http.ResponseWriter, r *http.Request, v any) bool {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(headerTimeout))
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest))
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if err == nil {
		// Read the body to its end. Only then does the server notice that the client has left. Unread bytes of a chunked body
		// would also count as the first bytes of a dialed connection.
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			err = nil
		} else if err == nil {
			err = errors.New("more than one JSON value")
		}
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, fail.New(fail.Usage, "read the request", err, "see docs/api.md"))
		return false
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	if err := api.CheckProcess(r.Header, awssdk.OtherEnv); err != nil {
		refuseBy(w, err)
		return false
	}
	return true
}

func (a *Agent) serveState(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if !q.Has("after") {
		answer(w, a.State())
		return
	}
	after, err := strconv.ParseUint(q.Get("after"), 10, 64)
	if err != nil {
		refuse(w, http.StatusBadRequest, fail.New(fail.Usage, "", fmt.Errorf("after=%q is not a revision", q.Get("after")), "see docs/api.md"))
		return
	}
	seconds := longestWait.Seconds()
	if q.Has("timeout") {
		if seconds, err = strconv.ParseFloat(q.Get("timeout"), 64); err != nil || !(seconds >= 0) {
			refuse(w, http.StatusBadRequest, fail.New(fail.Usage, "", fmt.Errorf("timeout=%q is not a number of seconds", q.Get("timeout")),
				"see docs/api.md"))
			return
		}
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Duration(min(seconds, longestWait.Seconds())*float64(time.Second)))
	defer cancel()
	answer(w, a.Wait(ctx, after))
}

// counted is begin for a request. It answers 503 if the Agent is ending; the client may start another agent.
func (a *Agent) counted(w http.ResponseWriter) (end func(), ok bool) {
	end, err := a.begin()
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
	}
	return end, err == nil
}

func (a *Agent) serveBastions(w http.ResponseWriter, r *http.Request) {
	end, ok := a.counted(w)
	if !ok {
		return
	}
	defer end()
	answer(w, a.Bastions(r.Context()))
}

func (a *Agent) serveOpen(w http.ResponseWriter, r *http.Request) {
	var req api.OpenRequest
	if !read(w, r, &req) {
		return
	}
	end, ok := a.counted(w)
	if !ok {
		return
	}
	defer end()
	w.Header().Set("Content-Type", "application/x-ndjson")
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	out := http.NewResponseController(w)
	enc := json.NewEncoder(w)
	gone := false
	_ = a.Open(ctx, req, func(ev api.Event) {
		if gone {
			return
		}
		err := out.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err == nil {
			err = enc.Encode(ev)
		}
		if err == nil {
			err = out.Flush()
		}
		if err != nil {
			gone = true
			cancel()
		}
	})
}

func (a *Agent) serveStop(w http.ResponseWriter, r *http.Request) {
	stopped, err := a.Stop(r.PathValue("name"))
	if err != nil {
		refuseBy(w, err)
		return
	}
	answer(w, stopped)
}

// serveDial opens a connection to the target and splices it with the request's connection.
func (a *Agent) serveDial(w http.ResponseWriter, r *http.Request) {
	var req api.DialRequest
	if !read(w, r, &req) {
		return
	}
	if r.Header.Get("Upgrade") != api.Protocol {
		refuse(w, http.StatusUpgradeRequired, fail.New(fail.Usage, "", errors.New("the request does not upgrade to "+api.Protocol),
			"see docs/api.md"))
		return
	}
	end, ok := a.counted(w)
	if !ok {
		return
	}
	defer end()
	l, release, err := a.linkFor(r.Context(), req.Scope, nil)
	if err != nil {
		refuseBy(w, err)
		return
	}
	defer release()
	remote, err := l.dialReady(r.Context(), req.Target)
	if err != nil {
		a.recorded("proxy", tunnel.ConnSnapshot{Dest: req.Target, Since: time.Now()}, err)
		refuseBy(w, err)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = remote.Close()
		refuseBy(w, err)
		return
	}
	_ = conn.SetDeadline(time.Time{})
	dial := a.dials.begin(req.ID) // before the answer: a client may ask for the end as soon as it has that
	_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+api.Protocol+"\r\n\r\n")
	unix, ok := conn.(tunnel.Duplex)
	if err != nil || !ok {
		a.dials.end(dial, err)
		_ = conn.Close()
		_ = remote.Close()
		return
	}
	a.splice(&hijacked{unix, buffered.Reader, dial}, remote, req.Target)
}

// splice carries a dialed connection until it ends or the Agent does. The request's ctx no longer tells whether the client is
// there.
func (a *Agent) splice(local *hijacked, remote net.Conn, target string) {
	stats := &tunnel.Stats{OnEnd: func(c tunnel.ConnSnapshot, err error) {
		a.dials.end(local.dial, err)
		a.recorded("proxy", c, err)
	}}
	tunnel.SpliceCounted(a.ctx, local, remote, target, stats)
}

// hijacked is a connection whose first bytes may be in the server's reader.
type hijacked struct {
	tunnel.Duplex
	r    *bufio.Reader
	dial *dialed
}

func (h *hijacked) Read(p []byte) (int, error) { return h.r.Read(p) }

// CloseWrite notes that the target has ended its side, and ends the client's.
func (h *hijacked) CloseWrite() error {
	h.dial.once.Do(func() { close(h.dial.half) })
	return h.Duplex.CloseWrite()
}
