// Package api is the agent's control API: its types, which docs/api.md documents, and the client that the commands use.
//
// It is HTTP with JSON on a unix socket in the runtime directory, which only the user can enter. Package daemon serves it.
package api

import (
	"cmp"
	"fmt"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/tunnel"
)

// Version is the version of the API. It is the first part of every path; another version has other paths.
const Version = 1

// The paths of the API.
const (
	PathInfo     = "/v1/agent"      // GET Info
	PathStop     = "/v1/agent/stop" // POST: the agent ends
	PathState    = "/v1/state"      // GET State; ?after=REVISION&timeout=SECONDS waits for another revision
	PathForwards = "/v1/forwards"   // POST OpenRequest, answered by a stream of Event; DELETE PathForwards/NAME
	PathDial     = "/v1/dial"       // POST DialRequest, which becomes a byte stream
	PathBastions = "/v1/bastions"   // GET []Account, looked up in AWS
)

// Scope says for which AWS account and with which settings something is done: what the command that asks would use itself.
type Scope struct {
	// Settings are the settings by key, in the text form of flags; those that are left out have their defaults.
	Settings map[string]string `json:"settings,omitempty"`
	// Env are the command's variables that matter: AWS_*, the HTTP proxy's, and SSH_AUTH_SOCK. Secrets among them are kept in memory
	// only.
	Env map[string]string `json:"env,omitempty"`
}

// Kind says what a forward serves to those who connect to it.
type Kind string

// The kinds of forwards.
const (
	KindTCP   Kind = "tcp"   // the target's bytes
	KindProxy Kind = "proxy" // SOCKS5, SOCKS4a and HTTP CONNECT on one port, and the PAC file
)

// ForwardRequest asks for one forward.
type ForwardRequest struct {
	Kind Kind   `json:"kind,omitempty"` // "": KindTCP
	Name string `json:"name,omitempty"` // "": made of the target's
	// Target is a spec as on the command line. Not of KindProxy.
	Target string `json:"target,omitempty"`
	// Listen is the local address as on the command line (LPORT); "": the target's port on 127.0.0.1.
	Listen string `json:"listen,omitempty"`
}

// OpenRequest asks for forwards, all of them or none.
type OpenRequest struct {
	Scope    Scope            `json:"scope"`
	Command  string           `json:"command"` // what asks, for those who look at the forwards
	PID      int              `json:"pid,omitempty"`
	Forwards []ForwardRequest `json:"forwards"`
	// Detached forwards stay when the request has ended, and are opened again when the agent starts anew. The others end
	// with the request's connection.
	Detached bool `json:"detached,omitempty"`
}

// EventType says what an Event is about.
type EventType string

// The events of an OpenRequest. EventForwards comes once all are ready; for detached ones it is the last. EventStopped and
// EventError are the last too.
const (
	EventStep     EventType = "step"     // what is waited for
	EventNote     EventType = "note"     // something that the user should know
	EventForwards EventType = "forwards" // the forwards, open
	EventLink     EventType = "link"     // the link's state has changed
	EventPath     EventType = "path"     // the link has lost every path to the bastion, or found one
	EventRefused  EventType = "refused"  // a connection could not be opened or was lost
	EventStopped  EventType = "stopped"  // somebody has stopped the forwards, or the agent
	EventError    EventType = "error"    // the request has failed, or its forwards have ended
)

// Event is a line of the answer to an OpenRequest.
type Event struct {
	Event    EventType    `json:"event"`
	Text     string       `json:"text,omitempty"` // EventStep, EventNote, EventRefused
	Forwards []Forward    `json:"forwards,omitempty"`
	Link     *LinkState   `json:"link,omitempty"`
	Path     *report.Path `json:"path,omitempty"`
	Error    *Error       `json:"error,omitempty"`
}

// LinkState is a tunnel.State.
type LinkState struct {
	Phase   tunnel.Phase `json:"phase"`
	Since   time.Time    `json:"since"`
	Error   string       `json:"error,omitempty"`
	Next    string       `json:"next,omitempty"` // what the user can do about Error
	Attempt int          `json:"attempt,omitempty"`
	Retry   time.Time    `json:"retry_at,omitzero"` // when the next attempt begins
	Bastion string       `json:"bastion,omitempty"`
}

// DialRequest asks for a connection through a bastion. The answer is 101 and then the connection's bytes, or an Error.
type DialRequest struct {
	Scope  Scope  `json:"scope"`
	Target string `json:"target"` // host:port as the bastion resolves it
	// ID is one that the client chose. It can ask by it why the connection has ended.
	ID string `json:"id,omitempty"`
}

// DialEnd says why a dialed connection has ended. It has no Error where the client or the target ended the connection.
type DialEnd struct {
	Error *Error `json:"error,omitempty"`
}

// Error is a failure, as a command would report it.
type Error struct {
	Kind    fail.Kind `json:"kind"` // by its name
	Message string    `json:"message"`
	Next    string    `json:"next,omitempty"` // what the user can do
	// Process are variables that a process reads once for all, and that the agent's has other values of.
	Process []string `json:"process,omitempty"`

	Taken *NameTaken `json:"name_taken,omitempty"` // the failure is that a name is another forward's
}

// NameTaken is the failure of a forward whose name is another's.
type NameTaken struct {
	Name string `json:"name"`
	By   string `json:"by"` // what the other leads to, and where it listens
}

func (e *NameTaken) Error() string {
	return fmt.Sprintf("the name %s is taken by the forward of %s", e.Name, e.By)
}

// Info is what the agent says of itself.
type Info struct {
	V       int       `json:"v"` // Version
	PID     int       `json:"pid"`
	Version string    `json:"version"` // of the program
	Started time.Time `json:"started_at"`
	Socket  string    `json:"socket"`
	Log     string    `json:"log,omitempty"`    // file
	Idle    float64   `json:"idle_seconds"`     // how long it stays when it is not used
	Ending  bool      `json:"ending,omitempty"` // it takes no requests any more
}

// State is all that the agent has. Counters move without a new revision.
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
	ID       string        `json:"id"` // Forward.Link refers to it
	Owner    string        `json:"owner,omitempty"`
	Profile  string        `json:"profile,omitempty"`
	Region   string        `json:"region"`
	Account  string        `json:"account,omitempty"` // once it is known
	Cluster  string        `json:"cluster,omitempty"`
	LastUsed time.Time     `json:"last_used_at"`
	State    LinkPhase     `json:"state"`
	Error    string        `json:"error,omitempty"`   // the latest failure; with AWS's last answer, if there was one
	Next     string        `json:"next,omitempty"`    // what the user can do about it
	Since    time.Time     `json:"since,omitzero"`    // of LinkWaiting and LinkFailed
	Retry    time.Time     `json:"retry_at,omitzero"` // zero: an attempt is under way, or waits for a client
	Live     []report.Link `json:"live"`              // empty while it is not up; each with its sessions
}

// Trouble says in words why the link waits or has failed, and what to do; empty if it does neither.
func (l *Link) Trouble(now time.Time) string {
	if l.State != LinkWaiting && l.State != LinkFailed {
		return ""
	}
	return report.Trouble(now, l.Error, l.Next, l.Since, l.Retry)
}

// HasGivenUp reports whether a link has failed and nothing is left of it. It is shown for its error.
func (l *Link) HasGivenUp() bool { return len(l.Live) == 0 && l.State == LinkFailed }

// LinkPhase says what a link's next client meets.
type LinkPhase string

// The phases of a link.
const (
	LinkIdle    LinkPhase = "idle"    // there is none: the next connection makes one
	LinkUp      LinkPhase = "up"      // connections go through
	LinkWaiting LinkPhase = "waiting" // connections wait: the link is being made or restored, or has no path
	LinkFailed  LinkPhase = "failed"  // the link has given up; from retry_at on a connection makes another
)

// ForwardState says whether a forward serves.
type ForwardState string

// The states of a forward.
const (
	ForwardReady   ForwardState = "ready"   // clients are served; the first may wait until a link is made
	ForwardWaiting ForwardState = "waiting" // its link is: clients wait
	ForwardKept    ForwardState = "kept"    // it is written down, and opens when the agent starts: none runs
	ForwardFailed  ForwardState = "failed"  // see its error; a client that connects from retry_at on makes it try again
)

// Forward is a local listener.
type Forward struct {
	Name     string               `json:"name"`          // alone in its scope: profile, region and account
	Ref      string               `json:"ref,omitempty"` // means it alone: its name, or NAME@LINK where several have one name
	Profile  string               `json:"profile,omitempty"`
	Region   string               `json:"region,omitempty"`
	Account  string               `json:"account,omitempty"` // once it is known
	Owner    string               `json:"owner,omitempty"`   // ARN, of credentials that came by variables
	Kind     Kind                 `json:"kind"`
	Spec     string               `json:"spec,omitempty"`     // as it was asked for
	Target   string               `json:"target,omitempty"`   // host:port as the bastion sees it
	Listen   string               `json:"listen"`             // where to connect to
	Engine   string               `json:"engine,omitempty"`   // of the target: postgres, mysql, redis, ...
	TLS      bool                 `json:"tls,omitempty"`      // the target accepts nothing else
	Database string               `json:"database,omitempty"` // the one that RDS made with the target
	IAM      bool                 `json:"iam,omitempty"`      // the target takes IAM database tokens
	Note     string               `json:"note,omitempty"`     // about the target
	State    ForwardState         `json:"state"`
	Error    string               `json:"error,omitempty"` // as of its link
	Next     string               `json:"next,omitempty"`
	Since    time.Time            `json:"since,omitzero"` // of ForwardWaiting and ForwardFailed
	Retry    time.Time            `json:"retry_at,omitzero"`
	Detached bool                 `json:"detached"`
	Command  string               `json:"command"` // what asked for it
	PID      int                  `json:"pid,omitempty"`
	Link     string               `json:"link,omitempty"`
	Opened   time.Time            `json:"opened_at"`
	Stats    tunnel.StatsSnapshot `json:"stats"`
	Clients  []ForwardClient      `json:"clients"`
}

// Reference returns what means the forward alone, for Client.Stop.
func (f *Forward) Reference() string { return cmp.Or(f.Ref, f.Name) }

// Trouble says in words why the forward waits or has failed, and what to do; empty if it does neither.
func (f *Forward) Trouble(now time.Time) string {
	if f.State == ForwardReady || f.State == ForwardKept {
		return ""
	}
	return report.Trouble(now, f.Error, f.Next, f.Since, f.Retry)
}

// ForwardClient is a connection of a forward, now.
type ForwardClient struct {
	Addr   string    `json:"addr"`
	Target string    `json:"target,omitempty"` // of KindProxy
	Since  time.Time `json:"since"`
	Up     int64     `json:"bytes_up"`   // from the client
	Down   int64     `json:"bytes_down"` // to the client
}

// AuditEvent is a connection that has ended, or could not be opened. It never says what was transferred.
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

// Account is what AWS says of the bastions of one link.
type Account struct {
	Link string `json:"link"`
	report.Status
	Error *Error `json:"error,omitempty"`
}
