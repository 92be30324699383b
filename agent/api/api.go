// Package api is the agent's control API: its types, documented in docs/api.md, and the client that the commands use.
//
// The API is HTTP with JSON on a unix socket in the runtime directory, which only the user can enter. Package agent serves it.
package api

import (
	"cmp"
	"fmt"
	"net/netip"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/tunnel"
)

// Version is the API's version and the first part of every path.
const Version = 1

// The paths of the API.
const (
	PathInfo     = "/v1/agent"      // GET Info
	PathStop     = "/v1/agent/stop" // POST: ends the agent
	PathState    = "/v1/state"      // GET State; ?after=REVISION&timeout=SECONDS waits for another revision
	PathForwards = "/v1/forwards"   // POST OpenRequest, answered by a stream of Event; DELETE PathForwards/NAME
	PathDial     = "/v1/dial"       // POST DialRequest, which becomes a byte stream
	PathBastions = "/v1/bastions"   // GET []Account, looked up in AWS
)

// Scope has the settings and variables of a request: those that its command would use itself.
type Scope struct {
	// Settings maps setting keys to values in the text form of flags. A missing key has its default.
	Settings map[string]string `json:"settings,omitempty"`
	// Env has the command's variables AWS_*, the HTTP proxy variables and SSH_AUTH_SOCK. The agent keeps secrets among them
	// only in memory.
	Env map[string]string `json:"env,omitempty"`
}

// Kind says what a forward serves to its clients.
type Kind string

// The kinds of forwards.
const (
	KindTCP   Kind = "tcp"   // the target's bytes
	KindProxy Kind = "proxy" // SOCKS5, SOCKS4a and HTTP CONNECT on one port, and the PAC file
)

// ForwardRequest asks for one forward.
type ForwardRequest struct {
	Kind Kind   `json:"kind,omitempty"` // "": KindTCP
	Name string `json:"name,omitempty"` // "": derived from the target
	// Target is a spec as on the command line; empty for KindProxy.
	Target string `json:"target,omitempty"`
	// Listen is the local address as on the command line (LPORT); "": the target's port on 127.0.0.1.
	Listen string `json:"listen,omitempty"`
	// Routes make a proxy serve several environments: a destination leaves by the route that matches it most closely, and one without a
	// route is refused. Empty: all leave by the proxy's own bastion.
	Routes []Route `json:"routes,omitempty"`
}

// Route leads destinations to a bastion.
type Route struct {
	Domains []string       `json:"domains,omitempty"` // as in proxy_domains
	CIDRs   []netip.Prefix `json:"cidrs,omitempty"`   // as in proxy_cidrs
	Via     string         `json:"via,omitempty"`     // where the proxy of that bastion listens; "": the proxy's own bastion
}

// OpenRequest asks for forwards, all of them or none.
type OpenRequest struct {
	Scope    Scope            `json:"scope"`
	Command  string           `json:"command"` // the requesting command, for lists of forwards
	PID      int              `json:"pid,omitempty"`
	Forwards []ForwardRequest `json:"forwards"`
	// Detached forwards outlive the request and reopen when the agent restarts. Others end with the request's connection.
	Detached bool `json:"detached,omitempty"`
}

// EventType says what an Event is about.
type EventType string

// The events of an OpenRequest. EventForwards comes once all forwards are ready. It ends the events of detached forwards.
// EventStopped and EventError always come last.
const (
	EventStep     EventType = "step"     // what the agent waits for
	EventNote     EventType = "note"     // a note for the user
	EventForwards EventType = "forwards" // the open forwards
	EventLink     EventType = "link"     // the link's state has changed
	EventPath     EventType = "path"     // the link has lost every path to the bastion, or has one again
	EventRefused  EventType = "refused"  // a connection could not be opened or was lost
	EventStopped  EventType = "stopped"  // the user has stopped the forwards or the agent
	EventError    EventType = "error"    // the request has failed, or its forwards have ended
)

// Event is one line of an OpenRequest's answer.
type Event struct {
	Event    EventType    `json:"event"`
	Text     string       `json:"text,omitempty"` // EventStep, EventNote, EventRefused
	Forwards []Forward    `json:"forwards,omitempty"`
	Link     *LinkState   `json:"link,omitempty"`
	Path     *report.Path `json:"path,omitempty"`
	Error    *Error       `json:"error,omitempty"`
	// Places are those of an EventRefused whose target is in another VPC or region than the bastion.
	Places *report.Places `json:"places,omitempty"`
}

// LinkState is a tunnel.State in JSON.
type LinkState struct {
	Phase   tunnel.Phase `json:"phase"`
	Since   time.Time    `json:"since"`
	Error   string       `json:"error,omitempty"`
	Next    string       `json:"next,omitempty"` // hint for Error
	Attempt int          `json:"attempt,omitempty"`
	Retry   time.Time    `json:"retry_at,omitzero"` // start of the next attempt
	Bastion string       `json:"bastion,omitempty"`
}

// DialRequest asks for a connection through a bastion. The answer is status 101 and then the connection's bytes, or an Error.
type DialRequest struct {
	Scope  Scope  `json:"scope"`
	Target string `json:"target"` // host:port as the bastion resolves it
	// ID is the client's own choice. The client asks by it why the connection ended.
	ID string `json:"id,omitempty"`
}

// DialEnd says why a dialed connection has ended. Without an Error, the client or the target ended it.
type DialEnd struct {
	Error *Error `json:"error,omitempty"`
}

// Error is a failure as a command reports it.
type Error struct {
	Kind    fail.Kind `json:"kind"` // by its name
	Message string    `json:"message"`
	Next    string    `json:"next,omitempty"` // hint
	// Process names variables that a process reads only once and that differ from the agent's own.
	Process []string `json:"process,omitempty"`

	Taken *NameTaken `json:"name_taken,omitempty"` // set if another forward has the name
}

// NameTaken is the error for a forward name that another forward has.
type NameTaken struct {
	Name string `json:"name"`
	By   string `json:"by"` // the other forward's target and address
}

func (e *NameTaken) Error() string {
	return fmt.Sprintf("the name %s is taken by the forward of %s", e.Name, e.By)
}

// Info is the agent's description of itself.
type Info struct {
	V       int       `json:"v"` // Version
	PID     int       `json:"pid"`
	Version string    `json:"version"` // program version
	Started time.Time `json:"started_at"`
	Socket  string    `json:"socket"`
	Log     string    `json:"log,omitempty"`    // file
	Idle    float64   `json:"idle_seconds"`     // idle time after which the agent ends
	Ending  bool      `json:"ending,omitempty"` // it takes no further requests
}

// State has the agent's links, forwards and recent connections. Byte counters change without a new revision.
type State struct {
	Info
	At       time.Time    `json:"at"`
	Revision uint64       `json:"revision"`
	Links    []Link       `json:"links"`
	Forwards []Forward    `json:"forwards"`
	Audit    []AuditEvent `json:"audit"` // the latest connections, the newest last
}

// Link is the agent's way into one account and network.
type Link struct {
	ID          string         `json:"id"`                    // Forward.Link refers to it
	Environment string         `json:"environment,omitempty"` // of the configuration, as the commands name it
	Owner       string         `json:"owner,omitempty"`
	Profile     string         `json:"profile,omitempty"`
	Region      string         `json:"region"`
	Account     string         `json:"account,omitempty"` // once it is known
	Cluster     string         `json:"cluster,omitempty"`
	LastUsed    time.Time      `json:"last_used_at"`
	State       LinkPhase      `json:"state"`
	Error       string         `json:"error,omitempty"`   // latest failure, for example AWS's last answer
	Next        string         `json:"next,omitempty"`    // hint for Error
	Since       time.Time      `json:"since,omitzero"`    // start of LinkWaiting or LinkFailed
	Retry       time.Time      `json:"retry_at,omitzero"` // zero: an attempt is under way, or waits for a client
	SignIn      *report.SignIn `json:"sign_in,omitempty"` // set while only the user can renew the AWS credentials
	Live        []report.Link  `json:"live"`              // empty while the link is down; each with its sessions
}

// Trouble says why the link waits or has failed, and what to do; "" in other states.
func (l *Link) Trouble(now time.Time) string {
	if l.State != LinkWaiting && l.State != LinkFailed {
		return ""
	}
	return report.Trouble(now, l.Error, l.Next, l.Since, l.Retry)
}

// HasGivenUp reports whether a link has failed and has no live parts. It is shown only for its error.
func (l *Link) HasGivenUp() bool { return len(l.Live) == 0 && l.State == LinkFailed }

// LinkPhase is a link's condition for its next client.
type LinkPhase string

// The phases of a link.
const (
	LinkIdle    LinkPhase = "idle"    // not connected: the next connection connects it
	LinkUp      LinkPhase = "up"      // connections go through
	LinkWaiting LinkPhase = "waiting" // connections wait: the link is being made or restored, or has no path
	LinkFailed  LinkPhase = "failed"  // the link has given up; from retry_at on, a connection reconnects it
)

// ForwardState is a forward's condition for its next client.
type ForwardState string

// The states of a forward.
const (
	ForwardReady   ForwardState = "ready"   // clients are served; the first may wait for the link
	ForwardWaiting ForwardState = "waiting" // the link is waiting, so clients wait
	ForwardKept    ForwardState = "kept"    // saved while the agent does not run; opens when it starts
	ForwardFailed  ForwardState = "failed"  // see its error; a client that connects from retry_at on makes it try again
)

// Forward is a local listener.
type Forward struct {
	Name        string               `json:"name"`                  // unique in its scope: profile, region and account
	Ref         string               `json:"ref,omitempty"`         // unique reference: its name, or NAME@LINK if several forwards share a name
	Environment string               `json:"environment,omitempty"` // of the configuration, as its command names it
	Profile     string               `json:"profile,omitempty"`
	Region      string               `json:"region,omitempty"`
	Account     string               `json:"account,omitempty"` // once it is known
	Owner       string               `json:"owner,omitempty"`   // ARN, for credentials from variables
	Kind        Kind                 `json:"kind"`
	Spec        string               `json:"spec,omitempty"`     // as requested
	Target      string               `json:"target,omitempty"`   // host:port as the bastion sees it
	Listen      string               `json:"listen"`             // local address for clients
	Engine      string               `json:"engine,omitempty"`   // of the target: postgres, mysql, redis, ...
	TLS         bool                 `json:"tls,omitempty"`      // the target accepts only TLS
	Database    string               `json:"database,omitempty"` // the database that RDS created with the target
	IAM         bool                 `json:"iam,omitempty"`      // the target takes IAM database tokens
	Note        string               `json:"note,omitempty"`     // about the target
	State       ForwardState         `json:"state"`
	Error       string               `json:"error,omitempty"` // its own or its link's
	Next        string               `json:"next,omitempty"`
	Since       time.Time            `json:"since,omitzero"` // start of ForwardWaiting or ForwardFailed
	Retry       time.Time            `json:"retry_at,omitzero"`
	Detached    bool                 `json:"detached"`
	Command     string               `json:"command"` // the command that requested it
	PID         int                  `json:"pid,omitempty"`
	Link        string               `json:"link,omitempty"`
	Opened      time.Time            `json:"opened_at"`
	Stats       tunnel.StatsSnapshot `json:"stats"`
	Clients     []ForwardClient      `json:"clients"`
}

// Reference returns the forward's unique reference, for Client.Stop.
func (f *Forward) Reference() string { return cmp.Or(f.Ref, f.Name) }

// Trouble says why the forward waits or has failed, and what to do; "" in other states.
func (f *Forward) Trouble(now time.Time) string {
	if f.State == ForwardReady || f.State == ForwardKept {
		return ""
	}
	return report.Trouble(now, f.Error, f.Next, f.Since, f.Retry)
}

// ForwardClient is a forward's current connection.
type ForwardClient struct {
	Addr   string    `json:"addr"`
	Target string    `json:"target,omitempty"` // for KindProxy
	Since  time.Time `json:"since"`
	Up     int64     `json:"bytes_up"`   // from the client
	Down   int64     `json:"bytes_down"` // to the client
}

// AuditEvent is a connection that has ended or could not be opened. It never contains transferred data.
type AuditEvent struct {
	At       time.Time `json:"at"`
	Forward  string    `json:"forward"` // its name, or the command for a connection without one
	Client   string    `json:"client,omitempty"`
	Target   string    `json:"target"`
	Duration float64   `json:"duration_seconds"`
	Up       int64     `json:"bytes_up"`
	Down     int64     `json:"bytes_down"`
	Error    string    `json:"error,omitempty"`
}

// Account is AWS's answer about one link's bastions.
type Account struct {
	Link string `json:"link"`
	report.Status
	Error *Error `json:"error,omitempty"`
}
