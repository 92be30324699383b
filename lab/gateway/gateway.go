package gateway

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Documents that the lab's agent knows.
const (
	DocSSH        = "AWS-StartSSHSession"
	DocPort       = "AWS-StartPortForwardingSession"
	DocPortRemote = "AWS-StartPortForwardingSessionToRemoteHost"
	DocECSExec    = "AmazonECS-ExecuteInteractiveCommand"
	DocShell      = "SSM-SessionManagerRunShell"
)

// Errors of the session calls; test for them with errors.Is.
var (
	ErrNoSession  = errors.New("no such session")
	ErrTerminated = errors.New("session is terminated")
	ErrLimit      = errors.New("too many sessions")
	ErrNoNode     = errors.New("no control channel")
	ErrClosed     = errors.New("gateway is closed")
	ErrDown       = errors.New("gateway is restarting")
	ErrInvalid    = errors.New("invalid session")
)

// Config configures a Gateway. The zero value is the faithful model of the service.
type Config struct {
	Logger *slog.Logger // nil discards
	// BaseURL returns the ws:// or wss:// base that StreamURL puts before the path; nil makes StreamURL return a bare path.
	BaseURL func() string
	// Interval is the sleep of the agent's pump after each read (1 ms).
	Interval time.Duration
	// AgentDelay is the time from Start until the agent has connected to the gateway (40 ms); negative: none.
	AgentDelay time.Duration
	// ExecDelay is the time from a command's start until the agent reads its output (200 ms; the real one takes 1 s); negative:
	// none. The agent reports a command that failed to start after twice this time.
	ExecDelay time.Duration
	// ClosedPortDelay is the silence between HandshakeComplete and channel_closed if the port has no listener (60 s).
	ClosedPortDelay time.Duration
	// ReportDelay is the time that the agent takes to report the end of a port session and leave (20 ms); negative: none. (The
	// plugin becomes deaf if it receives a message while it sets up its multiplexer, just after HandshakeComplete.)
	ReportDelay time.Duration
	// IdleTimeout ends sessions without data (20 min); SocketLife closes each websocket (60 min).
	IdleTimeout, SocketLife time.Duration
	// MaxSessions bounds the live sessions (1000). Twice as many websockets may be open, including those without a hello.
	MaxSessions int
	// Denied reports whether the agent must refuse to forward to ip. nil denies the addresses on the real agent's default list:
	// metadata, resolver and time service, but not the task credentials. It applies only to DocPortRemote.
	Denied func(ip net.IP) bool
	// LookupHost resolves Spec.Host for DocPortRemote inside the target; nil passes the name on to Spec.Dial.
	LookupHost func(ctx context.Context, host string) ([]string, error)
	// Admit decides about the upgrade of a websocket that may be a node's: action is OpenControlChannel or OpenDataChannel, target the
	// node's id. It answers a refused request itself, and returns ok = false. isNode says that the target's own credentials signed
	// the request. nil admits everybody as everything, and the tokens decide.
	Admit func(w http.ResponseWriter, r *http.Request, action, target string) (isNode, ok bool)

	agentHold <-chan struct{} // for tests: if set, agents connect when it is closed, and AgentDelay does not apply
}

// Process is a command run for ECS Exec or a shell session. Reads and writes go to its pty. Read returns the merged output, then an
// error (io.EOF or any other) once the process has ended and its output is drained.
type Process interface {
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	Resize(cols, rows int) error
	Kill() error
	Wait() error
}

// Decrypt is kms:Decrypt as an agent calls it, with the agent's credentials.
type Decrypt func(ctx context.Context, ciphertext []byte, encryptionContext map[string]string) ([]byte, error)

// Spec describes one session as the caller of the control plane requested it.
type Spec struct {
	ID       string // session id, made by the control plane
	Document string // one of the Doc constants
	Target   string // target id; part of the KMS encryption context
	Host     string // DocPortRemote only; empty means localhost of the target
	Port     int    // far port of a port session
	// Parameters are the document's parameters from the client; the handshake shows them to the client. Optional.
	Parameters map[string]string
	// Dial connects from inside the target. For Host "" the address is "localhost:<Port>", which a net.Dialer tries on both
	// loopbacks. Closing the connection must end its reads and writes.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Exec starts a command inside the target; argv is empty for the default shell.
	Exec    func(ctx context.Context, argv []string) (Process, error)
	Machine *Machine // runs the agent; nil: its work costs nothing
	Command string   // ECS Exec: the command line, split by shlex rules
	// KMSKeyID requests encryption of an exec or shell session; Decrypt is then kms:Decrypt with the encryption context.
	KMSKeyID string
	Decrypt  Decrypt
	// NoAgent keeps the agent away, as at its limit of sessions.
	NoAgent bool
	// Node makes the node that has the target's control channel the agent of this session, in place of one of the gateway's own.
	// Dial, Exec and Machine then have no use.
	Node  bool
	Owner string // Node: the caller's ARN, which the node gets to know
}

// Info describes a live session.
type Info struct {
	ID        string    `json:"id"`
	Document  string    `json:"document"`
	Target    string    `json:"target"`
	Port      int       `json:"port,omitempty"`
	Started   time.Time `json:"started"`
	NoAgent   bool      `json:"no_agent,omitempty"`
	Node      bool      `json:"node,omitempty"` // a node is its agent
	Connected bool      `json:"connected"`      // a client's websocket is open
	// AgentConnected says that the agent's websocket is open.
	AgentConnected bool  `json:"agent_connected"`
	Resumes        int   `json:"resumes"`  // websockets opened after the first
	BytesUp        int64 `json:"bytes_up"` // payload of data messages from the client
	BytesDown      int64 `json:"bytes_down"`
	Unacked        int   `json:"unacked"` // messages of the agent that the client has not acknowledged
}

// Counters count since New.
type Counters struct {
	Started    int64 `json:"started"`
	Ports      int64 `json:"ports"`      // sessions to ports among them
	Terminated int64 `json:"terminated"` // sessions that ended, for whatever reason
	Live       int64 `json:"live"`
	Resumes    int64 `json:"resumes"`    // calls of Resume that returned a token
	Sockets    int64 `json:"sockets"`    // client websockets open now
	AgentCuts  int64 `json:"agent_cuts"` // websockets that agents lost
	TwicePort  int64 `json:"twice_port"` // messages that agents wrote to their ports a second time
}

// Gateway is the message gateway with an agent for every session.
type Gateway struct {
	cfg    Config
	log    *slog.Logger
	faults atomic.Pointer[Faults]
	wg     sync.WaitGroup // sessions and HTTP handlers

	mu       sync.Mutex
	closed   bool
	up       time.Time // when a restart is over
	live     map[string]*session
	past     map[string]bool // the last pastSessions ended sessions
	pastIDs  []string        // in the order of their ends
	controls controls
	sockets  map[*socket]bool
	counters Counters // except Live and Sockets
}

const pastSessions = 10_000

// count updates the counters.
func (g *Gateway) count(change func(*Counters)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(&g.counters)
}

// New returns a gateway without sessions.
func New(cfg Config) *Gateway {
	cfg.Interval = cmp.Or(cfg.Interval, time.Millisecond)
	cfg.AgentDelay = cmp.Or(cfg.AgentDelay, 40*time.Millisecond)
	cfg.ExecDelay = cmp.Or(cfg.ExecDelay, 200*time.Millisecond)
	cfg.ClosedPortDelay = cmp.Or(cfg.ClosedPortDelay, time.Minute)
	cfg.ReportDelay = cmp.Or(cfg.ReportDelay, 20*time.Millisecond)
	cfg.IdleTimeout = cmp.Or(cfg.IdleTimeout, 20*time.Minute)
	cfg.SocketLife = cmp.Or(cfg.SocketLife, time.Hour)
	cfg.MaxSessions = cmp.Or(cfg.MaxSessions, 1000)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Denied == nil {
		cfg.Denied = denied
	}
	g := &Gateway{
		cfg: cfg, log: cfg.Logger,
		live: map[string]*session{}, past: map[string]bool{}, sockets: map[*socket]bool{}, controls: newControls(),
	}
	g.faults.Store(&Faults{})
	return g
}

// Start begins a session and returns the token for its first websocket. Its error is ErrInvalid (with the reason), ErrLimit, ErrNoNode,
// ErrDown or ErrClosed.
func (g *Gateway) Start(spec Spec) (token string, err error) {
	if err := spec.validate(); err != nil {
		return "", fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return "", ErrClosed
	case g.live[spec.ID] != nil || g.past[spec.ID]:
		return "", fmt.Errorf("%w: id %q is in use", ErrInvalid, spec.ID)
	case len(g.live) >= g.cfg.MaxSessions:
		return "", ErrLimit
	case spec.Node && g.controls.open[spec.Target] == nil:
		return "", ErrNoNode
	case time.Now().Before(g.up):
		return "", ErrDown
	}
	g.counters.Started++
	s := newSession(g, spec, uint64(g.counters.Started))
	if spec.Port != 0 {
		g.counters.Ports++
		if f := g.faults.Load(); f.SlowEvery > 0 && g.counters.Ports%int64(f.SlowEvery) == 0 {
			s.setRate(f.SlowBps)
		}
	}
	g.live[spec.ID] = s
	token = s.token // before the session can end
	g.wg.Go(s.run)
	return token, nil
}

func (spec *Spec) validate() error {
	if spec.ID == "" || len(spec.ID) > 128 || strings.Trim(spec.ID, idChars) != "" {
		return fmt.Errorf("session id %q", spec.ID)
	}
	switch spec.Document {
	case DocSSH, DocPort, DocPortRemote:
		if spec.Port < 1 || spec.Port > 65535 {
			return fmt.Errorf("port %d", spec.Port)
		}
		if spec.Dial == nil && !spec.Node {
			return errors.New("port session without Dial")
		}
		if (spec.Host != "") != (spec.Document == DocPortRemote) {
			return fmt.Errorf("host %q for document %s", spec.Host, spec.Document)
		}
	case DocECSExec, DocShell:
		if spec.Exec == nil && !spec.Node {
			return errors.New("exec session without Exec")
		}
		if spec.KMSKeyID != "" && spec.Decrypt == nil && !spec.Node {
			return errors.New("encrypted session without Decrypt")
		}
	default:
		return fmt.Errorf("document %q", spec.Document)
	}
	return nil
}

const idChars = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.@"

// Resume returns a token for another websocket of the session, and voids earlier tokens. Its error is ErrNoSession or
// ErrTerminated.
func (g *Gateway) Resume(id string) (token string, err error) {
	s, err := g.lookup(id)
	if err != nil {
		return "", err
	}
	if token, err = s.resume(); err == nil {
		g.count(func(c *Counters) { c.Resumes++ })
	}
	return token, err
}

// Terminate ends a session: the client gets channel_closed. It returns ErrNoSession for an unknown id, and nil for a session that
// has already ended.
func (g *Gateway) Terminate(id string) error {
	s, err := g.lookup(id)
	if errors.Is(err, ErrTerminated) {
		return nil
	}
	if err != nil {
		return err
	}
	s.close("")
	s.cancel()
	return nil
}

func (g *Gateway) lookup(id string) (*session, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.live[id]; s != nil {
		return s, nil
	}
	if g.past[id] {
		return nil, ErrTerminated
	}
	return nil, ErrNoSession
}

// session returns the live session with the id, or nil.
func (g *Gateway) session(id string) *session {
	s, _ := g.lookup(id)
	return s
}

// forget removes an ended session from the list.
func (g *Gateway) forget(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.live, s.spec.ID)
	g.counters.Terminated++
	g.past[s.spec.ID] = true
	g.pastIDs = append(g.pastIDs, s.spec.ID)
	if len(g.pastIDs) > pastSessions {
		delete(g.past, g.pastIDs[0])
		g.pastIDs = g.pastIDs[1:]
	}
}

const streamPath = "/v1/data-channel/"

// StreamURL returns the websocket URL of a session.
func (g *Gateway) StreamURL(id string) string {
	base := ""
	if g.cfg.BaseURL != nil {
		base = strings.TrimSuffix(g.cfg.BaseURL(), "/")
	}
	return base + streamPath + url.PathEscape(id) + "?role=publish_subscribe"
}

func sessionID(r *http.Request) (id string, ok bool) {
	id, ok = strings.CutPrefix(r.URL.Path, streamPath)
	return id, ok && id != "" && r.Method == http.MethodGet && r.URL.Query().Get("role") == "publish_subscribe"
}

// Sessions lists the live sessions, oldest first.
func (g *Gateway) Sessions() []Info {
	live := g.sessions()
	infos := make([]Info, len(live))
	for i, s := range live {
		infos[i] = s.info()
	}
	return infos
}

// sessions returns the live sessions, oldest first.
func (g *Gateway) sessions() []*session {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.SortedFunc(maps.Values(g.live), func(a, b *session) int { return cmp.Compare(a.number, b.number) })
}

// Counters returns the counts so far.
func (g *Gateway) Counters() Counters {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := g.counters
	c.Live, c.Sockets = int64(len(g.live)), int64(len(g.sockets))
	return c
}

// SetFaults replaces the faults of all sessions, live and future. It refuses invalid faults.
func (g *Gateway) SetFaults(f Faults) error {
	if err := f.validate(); err != nil {
		return err
	}
	g.faults.Store(&f)
	for _, s := range g.sessions() {
		s.up.changed()
		s.down.changed()
		wake(s.disturbed)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.controls.open {
		c.out.changed()
	}
	return nil
}

// Faults returns the faults in force.
func (g *Gateway) Faults() Faults { return *g.faults.Load() }

// SetRate gives the session id a rate of its own each way, in bytes per second; 0 means again that of the faults. Its error is
// ErrNoSession or ErrTerminated.
func (g *Gateway) SetRate(id string, bps int64) error {
	if bps < 0 {
		return fmt.Errorf("rate %d is negative", bps)
	}
	s, err := g.lookup(id)
	if err == nil {
		s.setRate(bps)
	}
	return err
}

// ResetPort resets the agent's connection (TCP RST) to the port of the session id, or of all port sessions if id is empty. It
// returns how many it reset. Only raw streams have a connection of their own.
func (g *Gateway) ResetPort(id string) int {
	n := 0
	for _, s := range g.sessions() {
		if (id == "" || id == s.spec.ID) && s.resetPort() {
			n++
		}
	}
	return n
}

// Cut closes the client's websocket of the session id, or of all sessions if id is empty. It returns how many it closed. how is CutClose
// or CutReset. The sessions live on.
func (g *Gateway) Cut(id, how string) int {
	return g.cutSessions(id, func(s *session) bool { return s.cutClient(how) })
}

// CutAgent cuts the agent's websocket in the same way; how matters for a node's. The agent reconnects by itself, and resends
// unacknowledged messages. If the client resends a message that the gateway's own agent has written to the port but not acknowledged,
// the agent writes it again.
func (g *Gateway) CutAgent(id, how string) int {
	return g.cutSessions(id, func(s *session) bool { return s.cutAgent(how) })
}

func (g *Gateway) cutSessions(id string, cut func(*session) bool) (n int) {
	for _, s := range g.sessions() {
		if (id == "" || id == s.spec.ID) && cut(s) {
			n++
		}
	}
	return n
}

// Restart ends all websockets by a reset, of clients, agents and nodes. For the time down the gateway then takes no others, and gives out
// no tokens to nodes. Sessions live on.
func (g *Gateway) Restart(down time.Duration) {
	g.mu.Lock()
	g.up = time.Now().Add(down)
	g.mu.Unlock()
	g.CutControl("", CutReset)
	g.CutAgent("", CutReset)
	g.Cut("", CutReset)
	g.mu.Lock()
	defer g.mu.Unlock()
	for k := range g.sockets { // those that have not opened a channel yet
		k.reset()
	}
}

// downFor returns how long the gateway is still down.
func (g *Gateway) downFor() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Until(g.up)
}

// enter counts an HTTP handler, which must call wg.Done.
func (g *Gateway) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || time.Now().Before(g.up) {
		return false
	}
	g.wg.Add(1)
	return true
}

func (g *Gateway) track(k *socket) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || len(g.sockets) >= 2*g.cfg.MaxSessions {
		return false
	}
	g.sockets[k] = true
	return true
}

func (g *Gateway) untrack(k *socket) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.sockets, k)
}

// Close ends all sessions and waits until every goroutine of the gateway has returned. It always returns nil.
func (g *Gateway) Close() error {
	g.mu.Lock()
	g.closed = true
	live := slices.Collect(maps.Values(g.live))
	sockets := slices.Collect(maps.Keys(g.sockets))
	g.mu.Unlock()
	for _, s := range live {
		s.close("")
		s.cancel()
	}
	for _, k := range sockets {
		_ = k.conn.Close()
	}
	g.wg.Wait()
	return nil
}

func newToken() string { return base64.StdEncoding.EncodeToString(randomBytes(64)) }
