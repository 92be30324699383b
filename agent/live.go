package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/private"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/sessions/bond"
	"github.com/bastion-ssm/bastion/tunnel"
)

// Each process that has a link reports its state by HTTP on the socket <runtime_dir>/live/<process id>.sock: GET /v1/links answers a
// report.Process in JSON. The directory is the user's alone, and a client must be a process of the same user.
const (
	liveDir     = "live"
	livePath    = "/v1/links"
	liveVersion = 1

	liveTimeout = 2 * time.Second // for the answer of one process
	maxLive     = 4 << 20         // bytes of it
)

// lacksBond are the capabilities that need bastiond's bond.
var lacksBond = []string{
	"no bond: a connection lives as long as its session",
	"no bond: one connection is as fast as one session",
}

// live are an Agent's links.
type live struct {
	serve   sync.Once // starts to look after them and to show them
	mu      sync.Mutex
	started time.Time
	links   map[liveLink]struct{}
}

// liveLink is a link, or a stream that another program's SSH client uses.
type liveLink interface {
	live() []report.Live // its state
	probe()              // makes its sessions find out whether they live
}

// showLive makes l one of the Agent's links until the function that it returns is called. The first one starts what looks after
// them and shows them, which the Agent's Close ends.
func (a *Agent) showLive(l liveLink) (hide func()) {
	a.live.serve.Do(func() {
		wakes := make(chan struct{}, 1)
		a.tasks.Go(func() { a.watchCredentials(wakes) })
		a.tasks.Go(func() { a.watchWake(wakes) })
		a.live.mu.Lock()
		a.live.started = time.Now()
		a.live.mu.Unlock()
		if a.options.Hosted {
			return
		}
		if err := a.serveLive(); err != nil {
			a.log.Debug("bastion status will not show the links of this process", "err", err)
		}
	})
	a.live.mu.Lock()
	defer a.live.mu.Unlock()
	if a.live.links == nil {
		a.live.links = make(map[liveLink]struct{})
	}
	a.live.links[l] = struct{}{}
	return func() {
		a.live.mu.Lock()
		defer a.live.mu.Unlock()
		delete(a.live.links, l)
	}
}

// probe makes all sessions find out whether they live.
func (a *Agent) probe() {
	a.bonds.probe()
	a.live.mu.Lock()
	defer a.live.mu.Unlock()
	for l := range a.live.links {
		l.probe()
	}
}

func (a *Agent) process() report.Process {
	a.live.mu.Lock()
	defer a.live.mu.Unlock()
	p := report.Process{
		V: liveVersion, PID: os.Getpid(), Command: a.options.Command, Version: a.options.Version, Region: a.region,
		Started: a.live.started, Links: []report.Live{},
	}
	for l := range a.live.links {
		p.Links = append(p.Links, l.live()...)
	}
	slices.SortFunc(p.Links, func(x, y report.Live) int { return cmp.Or(cmp.Compare(x.Bastion, y.Bastion), x.Since.Compare(y.Since)) })
	return p
}

// Live returns the state of the Agent's links.
func (a *Agent) Live() []report.Live { return a.process().Links }

func (a *Agent) serveLive() error {
	dir, err := dirs.Runtime(a.settings.RuntimeDir)
	if err != nil {
		return err
	}
	dir = filepath.Join(dir, liveDir)
	if err := files.PrivateDir(dir); err != nil {
		return err
	}
	path := filepath.Join(dir, strconv.Itoa(os.Getpid())+private.Suffix)
	ln, err := private.Listen(path)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+livePath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a.process()) // the client may have gone
	})
	server := &http.Server{Handler: mux, ReadTimeout: liveTimeout, WriteTimeout: liveTimeout, IdleTimeout: liveTimeout}
	a.tasks.Go(func() { _ = server.Serve(ln) }) // it ends when ln does
	a.tasks.Go(func() {
		<-a.ctx.Done()
		_ = server.Close()
	})
	return nil
}

// Processes returns the running commands that have links, the oldest first, and removes the sockets of those that have ended
// without doing so.
func Processes(ctx context.Context, s Settings) ([]report.Process, error) {
	out := []report.Process{}
	dir, err := dirs.Runtime(s.RuntimeDir)
	if err != nil {
		return out, err
	}
	paths, err := filepath.Glob(filepath.Join(dir, liveDir, "*"+private.Suffix))
	if err != nil {
		return out, fail.New(fail.Other, "look for links of running commands", err, "")
	}
	found := make([]*report.Process, len(paths))
	var wg sync.WaitGroup
	for i, path := range paths {
		wg.Go(func() {
			p, err := askLive(ctx, path)
			switch {
			case err == nil:
				found[i] = &p
			case private.Refused(err):
				_ = os.Remove(path)
			}
		})
	}
	wg.Wait()
	for _, p := range found {
		if p != nil {
			out = append(out, *p)
		}
	}
	slices.SortFunc(out, func(x, y report.Process) int { return cmp.Or(x.Started.Compare(y.Started), x.PID-y.PID) })
	return out, nil
}

// askLive asks the process whose socket is at path.
func askLive(ctx context.Context, path string) (report.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return private.DialSocket(path) }}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://bastion"+livePath, http.NoBody)
	if err != nil {
		return report.Process{}, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return report.Process{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	var p report.Process
	switch err := json.NewDecoder(io.LimitReader(resp.Body, maxLive)).Decode(&p); {
	case err != nil:
		return p, err
	case resp.StatusCode != http.StatusOK || p.V != liveVersion:
		return p, errors.New("not an answer of this version")
	}
	return p, nil
}

// Link is a link to the bastion whose state bastion status shows.
type Link struct {
	*tunnel.Pool
	agent   *Agent
	answers *lastFailure // of AWS, to the attempt to connect that is under way
	hide    func()
}

// Close ends the link and waits until that is done.
func (l *Link) Close() error {
	l.hide()
	return l.Pool.Close()
}

// probe reaches the sessions that are connections of their own; bonds are probed as such.
func (l *Link) probe() {
	for _, m := range l.Stats() {
		if s, ok := m.Conn.(*sessions.Stream); ok {
			s.Probe()
		}
	}
}

func (l *Link) live() []report.Live {
	state, members := l.State(), l.Stats()
	out := report.Live{Bastion: state.Describe, State: string(state.Phase), Since: state.Since, Kind: "single", Sessions: []report.LiveSession{}}
	explain(&out, state.Err, time.Time{})
	for _, m := range members {
		out.Channels += m.Channels
		if m.Conn == nil {
			continue
		}
		out.Sent += m.Sent
		out.Received += m.Received
		switch conn := m.Conn.(type) {
		case bonded:
			addBond(&out, conn.Stats(), l.agent.bonds.rates(conn))
			out.Document, out.DocumentReason = l.agent.documentInUse(l.agent.bonds.target(conn))
			out.Far = l.agent.bonds.far(conn)
			out.MaxAge = l.agent.settings.SessionMaxAge.Seconds()
		case *sessions.Stream:
			addSingle(&out, conn)
			out.Document, out.DocumentReason = l.agent.documentInUse(conn.Target())
			s := &out.Sessions[len(out.Sessions)-1]
			s.SendRate, s.ReceiveRate, s.Channels = m.SendRate, m.ReceiveRate, m.Channels
			if m.State.Phase != tunnel.Up {
				s.State = string(bond.Leaving)
			}
		}
	}
	if c := l.Condition(); c.Waiting {
		explain(&out, c.Err, c.Retry)
	}
	return []report.Live{out}
}

// explain notes the latest failure, and when the next attempt is.
func explain(l *report.Live, err error, retry time.Time) {
	l.Error, l.Next, l.Retry = "", "", retry
	if err != nil {
		l.Error, l.Next = err.Error(), fail.NextOf(err)
	}
}

// addBond adds the figures of a bond.
func addBond(l *report.Live, st bond.Stats, rates map[uint32]flowRate) {
	l.Kind, l.Reinjected, l.BondVersion, l.Damaged = "bond", st.Reinjected, st.Version, st.Damaged
	if !st.Pathless.IsZero() {
		l.State, l.Since, l.Pathless = "waiting", st.Pathless, &st.Pathless
		explain(l, st.Trouble.Err, future(st.Trouble.Next))
	}
	l.Limit = liveLimit(st.Limit, time.Now())
	for _, f := range st.Subflows {
		l.Sessions = append(l.Sessions, report.LiveSession{
			ID: f.Name, State: string(f.State), Age: f.Age.Seconds(), RTT: milliseconds(f.RTT), MinRTT: milliseconds(f.MinRTT),
			SendRate: rates[f.ID].up, ReceiveRate: rates[f.ID].down, Capacity: f.SendRate, InFlight: f.InFlight,
			Sent: f.Sent, Received: f.Received, Reinjected: f.Reinjected,
		})
	}
}

func liveLimit(known bond.Limit, now time.Time) *report.LiveLimit {
	if known.Subflows == 0 {
		return nil
	}
	limit := &report.LiveLimit{Sessions: known.Subflows, Reason: "a place was needed for another session"}
	if known.Retry.After(now) {
		limit.Retry = &known.Retry
	}
	if known.Err != nil {
		limit.Reason = reasonOf(known.Err)
	}
	return limit
}

// addSingle adds the figures of a session that is a connection of its own.
func addSingle(l *report.Live, s *sessions.Stream) {
	st := s.Stats()
	l.Lacks = lacksBond
	l.Sessions = append(l.Sessions, report.LiveSession{
		ID: s.SessionID(), State: string(bond.Up), Age: st.Age.Seconds(), RTT: milliseconds(st.RTT), Sent: st.Sent, Received: st.Received,
	})
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (s *SSHStream) probe() {
	if stream, ok := s.opened.conn.(*sessions.Stream); ok {
		stream.Probe()
	}
}

// live shows a stream that another program's SSH client uses.
func (s *SSHStream) live() []report.Live {
	out := report.Live{
		Bastion: s.opened.describe, State: string(tunnel.Up), Since: s.began, Kind: "single", Channels: 1, Sessions: []report.LiveSession{},
	}
	switch conn := s.opened.conn.(type) {
	case bonded:
		st := conn.Stats()
		out.Sent, out.Received = st.Sent, st.Received
		addBond(&out, st, s.agent.bonds.rates(conn))
		out.Document, out.DocumentReason = s.agent.documentInUse(s.agent.bonds.target(conn))
		out.MaxAge = s.agent.settings.SessionMaxAge.Seconds()
	case *sessions.Stream:
		st := conn.Stats()
		out.Sent, out.Received = st.Sent, st.Received
		addSingle(&out, conn)
		out.Document, out.DocumentReason = s.agent.documentInUse(conn.Target())
	}
	return []report.Live{out}
}
