package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/sessions"
	"github.com/bastion-ssm/bastion/sessions/bond"
	"github.com/bastion-ssm/bastion/tunnel"
)

// Each process that has a link says what it is like to who asks, by HTTP on the socket <runtime_dir>/live/<process id>.sock:
// GET /v1/links answers a Process in JSON. The directory is the user's alone, and so must be who asks.
const (
	liveDir     = "live"
	livePath    = "/v1/links"
	liveVersion = 1

	liveTimeout = 2 * time.Second // for the answer of one process
	maxLive     = 4 << 20         // bytes of it
)

// Process is a running command with its links, as status shows it.
type Process struct {
	V       int       `json:"v"`
	PID     int       `json:"pid"`
	Command string    `json:"command"`
	Version string    `json:"version"`
	Region  string    `json:"region"`
	Started time.Time `json:"started_at"`
	Links   []Live    `json:"links"`
}

// Live is the state of a link.
type Live struct {
	Bastion  string     `json:"bastion"`         // what the link leads to
	State    string     `json:"state"`           // as tunnel.Phase; "waiting" while there is no path
	Since    time.Time  `json:"since"`           //
	Error    string     `json:"error,omitempty"` // the latest failure
	Kind     string     `json:"kind"`            // "bond", or "single": each connection lives as long as its session
	Lacks    []string   `json:"lacks,omitempty"` // what the far end cannot do
	Pathless *time.Time `json:"pathless_since,omitempty"`

	MaxAge float64 `json:"session_max_age_seconds,omitempty"` // each session is replaced in the last tenth before it

	Channels   int    `json:"channels"` // connections through the bastion
	Sent       uint64 `json:"sent_bytes"`
	Received   uint64 `json:"received_bytes"`
	Reinjected uint64 `json:"reinjected_bytes"` // sent again by another session

	Sessions []LiveSession `json:"sessions"`
}

// LiveSession is the state of one SSM session of a link: a subflow of its bond, or an SSH connection of its own.
type LiveSession struct {
	ID          string  `json:"session_id"`
	State       string  `json:"state"` // up, stalled or leaving
	Age         float64 `json:"age_seconds"`
	RTT         float64 `json:"rtt_ms"` // 0: not measured yet
	MinRTT      float64 `json:"min_rtt_ms,omitempty"`
	SendRate    float64 `json:"send_bytes_per_second"` // over the last second or so
	ReceiveRate float64 `json:"receive_bytes_per_second"`
	Capacity    float64 `json:"send_capacity,omitempty"` // bytes per second that it could send, when it was last used to the full
	InFlight    int     `json:"in_flight_bytes"`
	Sent        uint64  `json:"sent_bytes"`
	Received    uint64  `json:"received_bytes"`
	Reinjected  uint64  `json:"reinjected_bytes"`
	Channels    int     `json:"channels,omitempty"` // of an SSH connection of its own
}

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
	live() []Live // its state
	probe()       // makes its sessions find out whether they live
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

func (a *Agent) process() Process {
	a.live.mu.Lock()
	defer a.live.mu.Unlock()
	p := Process{
		V: liveVersion, PID: os.Getpid(), Command: a.options.Command, Version: a.options.Version, Region: a.region,
		Started: a.live.started, Links: []Live{},
	}
	for l := range a.live.links {
		p.Links = append(p.Links, l.live()...)
	}
	slices.SortFunc(p.Links, func(x, y Live) int { return cmp.Or(cmp.Compare(x.Bastion, y.Bastion), x.Since.Compare(y.Since)) })
	return p
}

// Live returns the state of the Agent's links.
func (a *Agent) Live() []Live { return a.process().Links }

func (a *Agent) serveLive() error {
	dir, err := RuntimeDir(a.settings)
	if err != nil {
		return err
	}
	dir = filepath.Join(dir, liveDir)
	if err := privateDir(dir); err != nil {
		return err
	}
	path := filepath.Join(dir, strconv.Itoa(os.Getpid())+sockSuffix)
	if len(path) > maxSocketPath {
		return fmt.Errorf("the path %s is too long for a socket", path)
	}
	ln, err := listenPrivate(path)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+livePath, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(a.process()) // who asked may have gone
	})
	server := &http.Server{Handler: mux, ReadTimeout: liveTimeout, WriteTimeout: liveTimeout, IdleTimeout: liveTimeout}
	a.tasks.Go(func() { _ = server.Serve(&ownPeers{ln}) }) // it ends when ln does
	a.tasks.Go(func() {
		<-a.ctx.Done()
		_ = server.Close()
	})
	return nil
}

// ownPeers is a listener that takes connections of this user's processes only. The directory's mode says the same; where the
// system does not tell, it alone does.
type ownPeers struct{ *socket }

func (l *ownPeers) Accept() (net.Conn, error) {
	for {
		conn, err := l.socket.Accept()
		if err != nil {
			return nil, err
		}
		if uid, known := peerUID(conn); !known || uid == os.Geteuid() {
			return conn, nil
		}
		_ = conn.Close()
	}
}

// Processes returns the running commands that have links, the oldest first, and removes the sockets of those that have ended
// without doing so.
func Processes(ctx context.Context, s Settings) ([]Process, error) {
	out := []Process{}
	dir, err := RuntimeDir(s)
	if err != nil {
		return out, err
	}
	paths, err := filepath.Glob(filepath.Join(dir, liveDir, "*"+sockSuffix))
	if err != nil {
		return out, fail.New(fail.Other, "look for links of running commands", err, "")
	}
	found := make([]*Process, len(paths))
	var wg sync.WaitGroup
	for i, path := range paths {
		wg.Go(func() {
			p, err := askLive(ctx, path)
			switch {
			case err == nil:
				found[i] = &p
			case refused(err):
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
	slices.SortFunc(out, func(x, y Process) int { return cmp.Or(x.Started.Compare(y.Started), x.PID-y.PID) })
	return out, nil
}

// askLive asks the process whose socket is at path.
func askLive(ctx context.Context, path string) (Process, error) {
	ctx, cancel := context.WithTimeout(ctx, liveTimeout)
	defer cancel()
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return dialUnix(path) }}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://bastion"+livePath, http.NoBody)
	if err != nil {
		return Process{}, err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return Process{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	var p Process
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
	agent *Agent
	hide  func()
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

func (l *Link) live() []Live {
	state, members := l.State(), l.Stats()
	out := Live{Bastion: state.Describe, State: string(state.Phase), Since: state.Since, Kind: "single", Sessions: []LiveSession{}}
	if state.Err != nil {
		out.Error = state.Err.Error()
	}
	for _, m := range members {
		out.Channels += m.Channels
		if m.Conn == nil {
			continue
		}
		out.Sent += m.Sent
		out.Received += m.Received
		switch conn := m.Conn.(type) {
		case bonded:
			out.bond(conn.Stats(), l.agent.bonds.rates(conn))
			out.MaxAge = l.agent.settings.SessionMaxAge.Seconds()
		case *sessions.Stream:
			out.single(conn)
			s := &out.Sessions[len(out.Sessions)-1]
			s.SendRate, s.ReceiveRate, s.Channels = m.SendRate, m.ReceiveRate, m.Channels
			if m.State.Phase != tunnel.Up {
				s.State = string(bond.Leaving)
			}
		}
	}
	return []Live{out}
}

// bond adds the figures of a bond.
func (l *Live) bond(st bond.Stats, rates map[uint32]flowRate) {
	l.Kind, l.Reinjected = "bond", st.Reinjected
	if !st.Pathless.IsZero() {
		l.State, l.Since, l.Pathless = "waiting", st.Pathless, &st.Pathless
	}
	for _, f := range st.Subflows {
		l.Sessions = append(l.Sessions, LiveSession{
			ID: f.Name, State: string(f.State), Age: f.Age.Seconds(), RTT: milliseconds(f.RTT), MinRTT: milliseconds(f.MinRTT),
			SendRate: rates[f.ID].up, ReceiveRate: rates[f.ID].down, Capacity: f.SendRate, InFlight: f.InFlight,
			Sent: f.Sent, Received: f.Received, Reinjected: f.Reinjected,
		})
	}
}

// single adds the figures of a session that is a connection of its own.
func (l *Live) single(s *sessions.Stream) {
	st := s.Stats()
	l.Lacks = lacksBond
	l.Sessions = append(l.Sessions, LiveSession{
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
func (s *SSHStream) live() []Live {
	out := Live{
		Bastion: s.opened.describe, State: string(tunnel.Up), Since: s.began, Kind: "single", Channels: 1, Sessions: []LiveSession{},
	}
	switch conn := s.opened.conn.(type) {
	case bonded:
		st := conn.Stats()
		out.Sent, out.Received = st.Sent, st.Received
		out.bond(st, s.agent.bonds.rates(conn))
		out.MaxAge = s.agent.settings.SessionMaxAge.Seconds()
	case *sessions.Stream:
		st := conn.Stats()
		out.Sent, out.Received = st.Sent, st.Received
		out.single(conn)
	}
	return []Live{out}
}
