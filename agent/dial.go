package agent

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/tunnel"
)

const (
	// endKept is how long the Agent remembers why a dialed connection ended. A client asks at once or never.
	endKept = time.Minute
	// maxEnds bounds the remembered ends; the Agent forgets the oldest first. The process's open files bound the standing
	// connections.
	maxEnds = 4096
)

// dials remembers why dialed connections ended, by the IDs that their clients chose: closing a unix socket cannot carry a
// reason.
type dials struct {
	mu   sync.Mutex
	byID map[string]*dialed
	ends []*dialed // connections that have ended, the oldest first; take may have removed some from byID
}

// dialed is one dialed connection.
type dialed struct {
	id    string // "": no client can ask
	ended chan struct{}
	half  chan struct{} // closed when the target has ended its side
	once  sync.Once
	err   error     // guarded by ended
	at    time.Time // time of the end; guarded by dials.mu
}

// begin registers a connection. Without an ID, or with one in use, no client can ask for its end.
func (s *dials) begin(id string) *dialed {
	c := &dialed{ended: make(chan struct{}), half: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
	if s.byID[id] != nil || id == "" {
		return c
	}
	if s.byID == nil {
		s.byID = make(map[string]*dialed)
	}
	c.id = id
	s.byID[id] = c
	return c
}

// end notes why a connection has ended; nil: the client or the target ended it.
func (s *dials) end(c *dialed, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.err, c.at = err, time.Now()
	close(c.ended)
	if s.byID[c.id] == c {
		s.ends = append(s.ends, c)
		s.forget()
	}
}

// forget drops ends that are too old or too many. The caller holds s.mu.
func (s *dials) forget() {
	for len(s.ends) > 0 && (len(s.ends) > maxEnds || time.Since(s.ends[0].at) > endKept) {
		if c := s.ends[0]; s.byID[c.id] == c { // the ID may belong to another connection by now
			delete(s.byID, c.id)
		}
		s.ends[0] = nil
		s.ends = s.ends[1:]
	}
}

// take returns a connection; nil if the ID is unknown. It forgets a connection that has ended.
func (s *dials) take(id string) *dialed {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.byID[id]
	if c != nil && !c.at.IsZero() {
		delete(s.byID, id)
	}
	return c
}

// serveDialEnd tells a client whether the target ended its dialed connection. The request may come before splice has noted the
// end, so it waits.
func (a *Agent) serveDialEnd(w http.ResponseWriter, r *http.Request) {
	c := a.dials.take(r.PathValue("id"))
	if c == nil {
		refuse(w, http.StatusNotFound, fail.New(fail.NoTarget, "", errors.New("unknown connection"), ""))
		return
	}
	var end api.DialEnd
	select {
	case <-c.ended:
		end = endOf(c.err)
	case <-c.half:
	case <-r.Context().Done():
		return
	}
	answer(w, end)
}

// endOf returns the error of an end that neither the client nor the target caused; otherwise no error.
func endOf(err error) api.DialEnd {
	switch {
	case tunnel.IsLost(err):
		return api.DialEnd{Error: api.NewError(fail.New(fail.Lost, "", err, ""))}
	case errors.Is(err, context.Canceled):
		return api.DialEnd{Error: api.NewError(fail.New(fail.Lost, "", errors.New("the agent has ended"), ""))}
	}
	return api.DialEnd{}
}
