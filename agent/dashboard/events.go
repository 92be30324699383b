package dashboard

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

const (
	frameEvery  = time.Second            // while only counters change
	frameLeast  = 200 * time.Millisecond // least time between two frames
	lookupEvery = 30 * time.Second
	lookupLimit = time.Minute
)

// frame is one message of the event stream.
type frame struct {
	State api.State `json:"state"`
	// Copies are the texts of a forward's copy buttons, by the forward's reference.
	Copies map[string][]Copy `json:"copies"`
	// Targets are the known targets that the user can open.
	Targets []string `json:"targets"`
	// Accounts is AWS's answer at AccountsAt. Both are nil before the first answer.
	Accounts   []api.Account `json:"accounts"`
	AccountsAt *time.Time    `json:"accounts_at"`
}

// events sends frames until the browser leaves or the session ends.
func (s *Server) events(w http.ResponseWriter, r *http.Request, session *session) {
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	default:
		w.Header().Set("Retry-After", "5")
		refuse(w, http.StatusServiceUnavailable, "too many pages are open")
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(session.ctx, cancel)()
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{}) // the stream lasts longer than a request may take; what cannot end early ends late

	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	for state := s.backend.State(); ctx.Err() == nil; {
		began := time.Now()
		_ = control.SetWriteDeadline(began.Add(writeTimeout))
		if writeFrame(w, s.frame(session, state)) != nil || control.Flush() != nil {
			return
		}
		if sleep.For(ctx, frameLeast) != nil {
			break
		}
		wait, stop := context.WithDeadline(ctx, began.Add(frameEvery))
		state = s.backend.Wait(wait, state.Revision)
		stop()
	}
	// The page distinguishes the session's end from the agent's end, which ends the session too.
	end := "event: end\ndata: {}\n\n"
	switch {
	case s.ctx.Err() != nil:
		end = "event: gone\ndata: {}\n\n"
	case session.ctx.Err() == nil:
		return
	}
	_, _ = w.Write([]byte(end))
	_ = control.Flush()
}

func writeFrame(w http.ResponseWriter, f frame) error {
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	b.WriteString("event: frame\ndata: ")
	b.Write(data)
	b.WriteString("\n\n")
	_, err = w.Write(b.Bytes())
	return err
}

func (s *Server) frame(session *session, state api.State) frame {
	f := frame{State: state, Copies: make(map[string][]Copy, len(state.Forwards)), Targets: session.targets(state)}
	for _, fw := range state.Forwards {
		f.Copies[fw.Reference()] = Copies(fw, session.settings)
	}
	f.Accounts, f.AccountsAt = s.lookUp()
	return f
}

// lookup is AWS's last answer.
type lookup struct {
	mu       sync.Mutex
	accounts []api.Account
	at       *time.Time // nil: not answered yet
	began    time.Time
	busy     bool
}

// lookUp returns AWS's last answer, and asks again if it is older than lookupEvery. All browsers share it.
func (s *Server) lookUp() ([]api.Account, *time.Time) {
	s.aws.mu.Lock()
	defer s.aws.mu.Unlock()
	if !s.aws.busy && time.Since(s.aws.began) >= lookupEvery {
		if done, ok := s.begin(); ok {
			s.aws.busy, s.aws.began = true, time.Now()
			go s.askAWS(done)
		}
	}
	return s.aws.accounts, s.aws.at
}

// askAWS asks AWS once, in its own goroutine. Close waits for it.
func (s *Server) askAWS(done func()) {
	defer done()
	ctx, cancel := context.WithTimeout(s.ctx, lookupLimit)
	defer cancel()
	accounts := s.backend.Bastions(ctx)
	now := time.Now()
	s.aws.mu.Lock()
	defer s.aws.mu.Unlock()
	s.aws.accounts, s.aws.at, s.aws.busy = accounts, &now, false
}

// openRequest is a browser's request for a forward.
type openRequest struct {
	Kind   api.Kind `json:"kind"`
	Target string   `json:"target"`
	Listen string   `json:"listen"`
}

// open opens a detached forward. It answers with one line of JSON for each event; the last one has the result.
func (s *Server) open(w http.ResponseWriter, r *http.Request, session *session) {
	var in openRequest
	if !read(w, r, &in) {
		return
	}
	request, err := session.openRequest(in)
	if err != nil {
		answer(w, http.StatusBadRequest, map[string]*api.Error{"error": api.NewError(err)})
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(session.ctx, cancel)()
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)

	var mu sync.Mutex // several goroutines may call emit
	over := false
	emit := func(e api.Event) {
		mu.Lock()
		defer mu.Unlock()
		if over {
			return
		}
		over = e.Event == api.EventError || e.Event == api.EventForwards
		_ = control.SetWriteDeadline(time.Now().Add(writeTimeout))
		if json.NewEncoder(w).Encode(e) != nil || control.Flush() != nil {
			cancel()
		}
	}
	if err := s.backend.Open(ctx, request, emit); err != nil {
		emit(api.Event{Event: api.EventError, Error: api.NewError(err)})
	}
}

// stop ends a forward.
func (s *Server) stop(w http.ResponseWriter, r *http.Request, _ *session) {
	var in struct {
		Name string `json:"name"`
	}
	if !read(w, r, &in) {
		return
	}
	// Refuse "all": on the page it could only be a mistake.
	if !hasForward(s.backend.State(), in.Name) {
		answer(w, http.StatusNotFound, map[string]api.Error{"error": {Message: fmt.Sprintf("there is no forward %q any more", in.Name)}})
		return
	}
	if _, err := s.backend.Stop(in.Name); err != nil {
		answer(w, http.StatusConflict, map[string]*api.Error{"error": api.NewError(err)})
		return
	}
	answer(w, http.StatusOK, struct{}{})
}

func hasForward(state api.State, name string) bool {
	return slices.ContainsFunc(state.Forwards, func(f api.Forward) bool { return f.Reference() == name })
}
