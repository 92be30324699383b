package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Documents that the agent's part knows.
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
	ErrClosed     = errors.New("gateway is closed")
	ErrInvalid    = errors.New("invalid session")
)

// Config sets up a Gateway. The zero value is the faithful model of the service.
type Config struct {
	Logger *slog.Logger // nil discards
	// BaseURL returns the ws:// or wss:// base that StreamURL puts before the path; nil makes StreamURL return a bare path.
	BaseURL func() string
	// ChunkSize is the most that the agent's pump reads at once, in bytes (1024); Interval is its sleep after each (1 ms).
	ChunkSize int
	Interval  time.Duration
	// AgentDelay is the time from Start until the agent has connected to the gateway (40 ms); negative means none.
	AgentDelay time.Duration
	// ExecDelay is the time from the agent's connection until an exec command is started (200 ms; the real one takes about
	// 1 s); negative means none.
	ExecDelay time.Duration
	// ClosedPortDelay is the silence between HandshakeComplete and channel_closed when nobody listens at the port (60 s).
	ClosedPortDelay time.Duration
	// IdleTimeout ends sessions without data (20 min); SocketLife closes each websocket (60 min).
	IdleTimeout, SocketLife time.Duration
	// MaxSessions bounds the live sessions (1000).
	MaxSessions int
	// Denied reports whether the agent must refuse to forward to ip (the default denies the metadata, credential and VPC
	// resolver addresses). It is asked only for DocPortRemote.
	Denied func(ip net.IP) bool
	// LookupHost resolves Spec.Host for DocPortRemote inside the target; nil passes the name on to Spec.Dial.
	LookupHost func(ctx context.Context, host string) ([]string, error)
}

// Process is a command run for ECS Exec or a shell session. Reads and writes are those of its pty: Read returns the merged output,
// an error (io.EOF or any other) once the process has ended and its output is drained.
type Process interface {
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	Resize(cols, rows int) error
	Kill() error
	Wait() error
}

// Spec describes one session, as the control plane was asked for it.
type Spec struct {
	ID       string // session id, made by the control plane
	Document string // one of the Doc constants
	Target   string // target id; part of the KMS encryption context
	Host     string // DocPortRemote only; empty means localhost of the target
	Port     int    // far port of a port session
	// Parameters are the document's parameters as the client gave them; the handshake shows them to the client. Optional.
	Parameters map[string]string
	// Dial connects from inside the target.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Exec starts a command inside the target; argv is empty for the default shell.
	Exec    func(ctx context.Context, argv []string) (Process, error)
	Command string // ECS Exec: the command line, split by shlex rules
	// KMSKeyID asks for encryption of an exec or shell session; Decrypt is then kms:Decrypt with the encryption context.
	KMSKeyID string
	Decrypt  func(ctx context.Context, ciphertext []byte, encryptionContext map[string]string) ([]byte, error)
}

// Info describes a live session.
type Info struct {
	ID        string    `json:"id"`
	Document  string    `json:"document"`
	Target    string    `json:"target"`
	Port      int       `json:"port,omitempty"`
	Started   time.Time `json:"started"`
	Connected bool      `json:"connected"` // a client's websocket is open
	Resumes   int       `json:"resumes"`   // websockets opened after the first
	BytesUp   int64     `json:"bytes_up"`  // payload of data messages from the client
	BytesDown int64     `json:"bytes_down"`
}

// Counters count since New.
type Counters struct {
	Started    int64 `json:"started"`
	Terminated int64 `json:"terminated"` // sessions that ended, for whatever reason
	Live       int64 `json:"live"`
	Resumes    int64 `json:"resumes"` // calls of Resume that gave a token
	Sockets    int64 `json:"sockets"` // client websockets open now
}

// Gateway is the message gateway with an agent for every session.
type Gateway struct {
	cfg Config
	log *slog.Logger
}

// New returns a gateway without sessions.
func New(cfg Config) *Gateway { return &Gateway{cfg: cfg, log: cfg.Logger} }

// ServeHTTP serves the clients' websockets: GET /v1/data-channel/<session id>?role=publish_subscribe.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {}

// Start begins a session and returns the token for its first websocket.
func (g *Gateway) Start(spec Spec) (token string, err error) { return "", ErrClosed }

// Resume returns a token for another websocket of the session; tokens given before are void.
func (g *Gateway) Resume(id string) (token string, err error) { return "", ErrNoSession }

// Terminate ends a session: the client gets channel_closed. It returns ErrNoSession for an id that never was, and nil for a
// session that has ended already.
func (g *Gateway) Terminate(id string) error { return ErrNoSession }

// StreamURL is the websocket URL of a session.
func (g *Gateway) StreamURL(id string) string { return "" }

// Sessions lists the live sessions, oldest first.
func (g *Gateway) Sessions() []Info { return nil }

// Counters returns the counts so far.
func (g *Gateway) Counters() Counters { return Counters{} }

// SetFaults replaces the faults of all sessions, live and future.
func (g *Gateway) SetFaults(f Faults) error { return nil }

// Faults returns the faults in force.
func (g *Gateway) Faults() Faults { return Faults{} }

// Cut closes the websocket of the session id, or of all sessions if id is empty, and returns how many it closed. How is
// "close" (close frame 1000) or "reset" (TCP RST). The sessions live on.
func (g *Gateway) Cut(id, how string) int { return 0 }

// Close ends all sessions and waits until every goroutine of the gateway has returned.
func (g *Gateway) Close() error { return nil }
