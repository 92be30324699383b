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
	"github.com/bastion-ssm/bastion/internal/files"
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
	Next     string     `json:"next,omitempty"`    // what the user can do about Error
	Retry    time.Time  `json:"retry_at,omitzero"` // when the next attempt begins; zero: one is under way, or none is needed

	// Document is the SSM document of its sessions, and DocumentReason why it is not the usual one.
	Document       string `json:"session_document,omitempty"`
	DocumentReason string `json:"session_document_reason,omitempty"`

	BondVersion int `json:"bond_version,omitempty"`     // 0: no bond
	Damaged     int `json:"damaged_sessions,omitempty"` // ended because they did not deliver what was sent

	Limit *LiveLimit `json:"session_limit,omitempty"` // nil: none is known
	Far   *FarEnd    `json:"far_end,omitempty"`       // nil: not known

	MaxAge float64 `json:"session_max_age_seconds,omitempty"` // each session is replaced in the last tenth before it

	Channels   int    `json:"channels"` // connections through the bastion
	Sent       uint64 `json:"sent_bytes"`
	Received   uint64 `json:"received_bytes"`
	Reinjected uint64 `json:"reinjected_bytes"` // sent again by another session

	Sessions []LiveSession `json:"sessions"`
}

// Bond says in words how the bond under a link does; empty without one.
func (l *Live) Bond() string {
	switch {
	case l.BondVersion == 0:
		return ""
	case l.Damaged == 0:
		return fmt.Sprintf("bond: version %d", l.BondVersion)
	case l.Damaged == 1:
		return fmt.Sprintf("bond: version %d, 1 session ended because its data was damaged", l.BondVersion)
	}
	return fmt.Sprintf("bond: version %d, %d sessions ended because their data was damaged", l.BondVersion, l.Damaged)
}

// LiveLimit is how many sessions AWS starts for a link, where it has been found to start no more.
type LiveLimit struct {
	Sessions int        `json:"sessions"`
	Reason   string     `json:"reason"`
	Retry    *time.Time `json:"retry_at,omitempty"` // when another is tried, if it is wanted then
}

// String says the limit in words.
func (l *LiveLimit) String() string {
	sessions := "sessions"
	if l.Sessions == 1 {
		sessions = "session"
	}
	return fmt.Sprintf("AWS starts no more than %d %s: %s", l.Sessions, sessions, l.Reason)
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
	if err := files.PrivateDir(dir); err != nil {
		return err
	}
	path := filepath.Join(dir, strconv.Itoa(os.Getpid())+sockSuffix)
	if err := CheckSocket(path); err != nil {
		return err
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

func (l *Link) live() []Live {
	state, members := l.State(), l.Stats()
	out := Live{Bastion: state.Describe, State: string(state.Phase), Since: state.Since, Kind: "single", Sessions: []LiveSession{}}
	out.explain(state.Err, time.Time{})
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
			out.Document, out.DocumentReason = l.agent.documentInUse(l.agent.bonds.target(conn))
			out.Far = l.agent.bonds.far(conn)
			out.MaxAge = l.agent.settings.SessionMaxAge.Seconds()
		case *sessions.Stream:
			out.single(conn)
			out.Document, out.DocumentReason = l.agent.documentInUse(conn.Target())
			s := &out.Sessions[len(out.Sessions)-1]
			s.SendRate, s.ReceiveRate, s.Channels = m.SendRate, m.ReceiveRate, m.Channels
			if m.State.Phase != tunnel.Up {
				s.State = string(bond.Leaving)
			}
		}
	}
	if c := l.Condition(); c.Waiting {
		out.explain(c.Err, c.Retry)
	}
	return []Live{out}
}

// Trouble says in words why the link waits, when the next attempt is, and what to do.
func (l *Live) Trouble(now time.Time) string {
	return Trouble(now, l.Error, l.Next, time.Time{}, l.Retry)
}

// Trouble says in words since when, why and until when something waits or has failed, and what to do. All but now may be zero.
func Trouble(now time.Time, reason, next string, since, retry time.Time) string {
	var out string
	if !since.IsZero() {
		out = fmt.Sprintf("since %s (%s)", since.Local().Format(time.TimeOnly), max(now.Sub(since), 0).Round(time.Second))
		if reason != "" {
			out += ": "
		}
	}
	out += reason
	if retry.After(now) {
		out += fmt.Sprintf("; next try in %s", max(retry.Sub(now).Round(time.Second), time.Second))
	}
	if next != "" {
		out += "; " + next
	}
	return out
}

// explain notes the latest failure, and when the next attempt is.
func (l *Live) explain(err error, retry time.Time) {
	l.Error, l.Next, l.Retry = "", "", retry
	if err != nil {
		l.Error, l.Next = err.Error(), fail.NextOf(err)
	}
}

// bond adds the figures of a bond.
func (l *Live) bond(st bond.Stats, rates map[uint32]flowRate) {
	l.Kind, l.Reinjected, l.BondVersion, l.Damaged = "bond", st.Reinjected, st.Version, st.Damaged
	if !st.Pathless.IsZero() {
		l.State, l.Since, l.Pathless = "waiting", st.Pathless, &st.Pathless
		l.explain(st.Trouble.Err, future(st.Trouble.Next))
	}
	l.Limit = liveLimit(st.Limit, time.Now())
	for _, f := range st.Subflows {
		l.Sessions = append(l.Sessions, LiveSession{
			ID: f.Name, State: string(f.State), Age: f.Age.Seconds(), RTT: milliseconds(f.RTT), MinRTT: milliseconds(f.MinRTT),
			SendRate: rates[f.ID].up, ReceiveRate: rates[f.ID].down, Capacity: f.SendRate, InFlight: f.InFlight,
			Sent: f.Sent, Received: f.Received, Reinjected: f.Reinjected,
		})
	}
}

func liveLimit(known bond.Limit, now time.Time) *LiveLimit {
	if known.Subflows == 0 {
		return nil
	}
	limit := &LiveLimit{Sessions: known.Subflows, Reason: "a place was needed for another session"}
	if known.Retry.After(now) {
		limit.Retry = &known.Retry
	}
	if known.Err != nil {
		limit.Reason = reasonOf(known.Err)
	}
	return limit
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
		out.Document, out.DocumentReason = s.agent.documentInUse(s.agent.bonds.target(conn))
		out.MaxAge = s.agent.settings.SessionMaxAge.Seconds()
	case *sessions.Stream:
		st := conn.Stats()
		out.Sent, out.Received = st.Sent, st.Received
		out.single(conn)
		out.Document, out.DocumentReason = s.agent.documentInUse(conn.Target())
	}
	return []Live{out}
}
