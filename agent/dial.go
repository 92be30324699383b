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
	// endKept is how long it is known why a dialed connection ended: its client asks at once, or never.
	endKept = time.Minute
	// maxEnds bounds the ends that are known, of which the oldest are forgotten first. Connections that stand are bounded by
	// this process's open files.
	maxEnds = 4096
)

// dials knows why dialed connections have ended, by the IDs that their clients gave them: a unix socket can end, but not say why.
type dials struct {
	mu   sync.Mutex
	byID map[string]*dialed
	ends []*dialed // that have ended, the oldest first; some may be forgotten already
}

// dialed is one dialed connection.
type dialed struct {
	id    string // "": nobody can ask
	ended chan struct{}
	half  chan struct{} // closed when the target has ended its side, by itself
	once  sync.Once
	err   error     // guarded by ended
	at    time.Time // of the end; guarded by dials.mu
}

// begin makes a connection known. Without an ID, or with one that is taken, it is known to nobody.
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

// end says why the connection has ended; nil: one of its ends did it.
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

// forget drops the ends that are too old, or too many. The caller holds s.mu.
func (s *dials) forget() {
	for len(s.ends) > 0 && (len(s.ends) > maxEnds || time.Since(s.ends[0].at) > endKept) {
		if c := s.ends[0]; s.byID[c.id] == c { // the ID may be another connection's by now
			delete(s.byID, c.id)
		}
		s.ends[0] = nil
		s.ends = s.ends[1:]
	}
}

// take returns a connection, which is forgotten once its end has been told.
func (s *dials) take(id string) *dialed {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.byID[id]
	if c != nil && !c.at.IsZero() {
		delete(s.byID, id)
	}
	return c
}

// serveDialEnd tells the client of a dialed connection that has come to its end whether that was the target's doing. It may ask
// before the splice has come to tell.
func (a *Agent) serveDialEnd(w http.ResponseWriter, r *http.Request) {
	c := a.dials.take(r.PathValue("id"))
	if c == nil {
		refuse(w, http.StatusNotFound, fail.New(fail.NoTarget, "", errors.New("there is no such connection"), ""))
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

// endOf tells of an end that none of the connection's ends wanted.
func endOf(err error) api.DialEnd {
	switch {
	case tunnel.IsLost(err):
		return api.DialEnd{Error: api.NewError(fail.New(fail.Lost, "", err, ""))}
	case errors.Is(err, context.Canceled):
		return api.DialEnd{Error: api.NewError(fail.New(fail.Lost, "", errors.New("the agent has ended"), ""))}
	}
	return api.DialEnd{}
}
