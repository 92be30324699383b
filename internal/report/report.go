// Package report has the state of links, sessions and bastions in the form that the API and status print, and its wording. It
// only has values; it calls nothing.
package report

import (
	"cmp"
	"fmt"
	"time"

	"github.com/bastion-ssm/bastion/internal/fargate"
	"github.com/bastion-ssm/bastion/internal/words"
)

// Process is a running command with its links.
type Process struct {
	V           int       `json:"v"`
	PID         int       `json:"pid"`
	Command     string    `json:"command"`
	Version     string    `json:"version"`
	Environment string    `json:"environment,omitempty"` // of the configuration
	Region      string    `json:"region"`
	Started     time.Time `json:"started_at"`
	Links       []Link    `json:"links"`
}

// Link is the state of a link.
type Link struct {
	Bastion  string     `json:"bastion"` // where the link leads
	State    string     `json:"state"`   // a tunnel.Phase; "waiting" without a path
	Since    time.Time  `json:"since"`
	Error    string     `json:"error,omitempty"` // latest failure
	Kind     string     `json:"kind"`            // "bond", or "single": each connection lives as long as its session
	Lacks    []string   `json:"lacks,omitempty"` // missing capabilities of the far end
	Pathless *time.Time `json:"pathless_since,omitempty"`
	Next     string     `json:"next,omitempty"`    // hint for Error
	Retry    time.Time  `json:"retry_at,omitzero"` // start of the next attempt; zero: an attempt is under way, or none is needed

	// Document is the sessions' SSM document. DocumentReason says why it is not the preferred one.
	Document       string `json:"session_document,omitempty"`
	DocumentReason string `json:"session_document_reason,omitempty"`

	BondVersion int `json:"bond_version,omitempty"`     // 0: no bond
	Damaged     int `json:"damaged_sessions,omitempty"` // sessions that ended because they corrupted data

	Limit *SessionLimit `json:"session_limit,omitempty"` // nil: unknown
	Far   *FarEnd       `json:"far_end,omitempty"`       // nil: unknown

	SignIn *SignIn `json:"sign_in,omitempty"` // nil: the AWS credentials need nothing from the user

	MaxAge float64 `json:"session_max_age_seconds,omitempty"` // each session is replaced in the last tenth of this time

	Channels   int    `json:"channels"` // connections through the bastion
	Sent       uint64 `json:"sent_bytes"`
	Received   uint64 `json:"received_bytes"`
	Reinjected uint64 `json:"reinjected_bytes"` // sent again by another session

	Sessions []Session `json:"sessions"`
}

// SignIn says that only the user can renew the AWS credentials. What runs goes on meanwhile.
type SignIn struct {
	Since   time.Time `json:"since"`
	Expires time.Time `json:"expires_at,omitzero"` // of the present credentials; zero: unknown
	Reason  string    `json:"reason"`              // why they could not be renewed
	Next    string    `json:"next,omitempty"`      // hint for Reason
	Command string    `json:"command,omitempty"`   // command that signs in; "": see Next
}

// Ask asks the user to sign in.
func (s *SignIn) Ask(now time.Time) string {
	what := "no longer work"
	switch left := s.Expires.Sub(now).Round(time.Second); {
	case s.Expires.IsZero():
	case left > 0:
		what = "expire in " + left.String()
	default:
		what = "have expired"
	}
	how := "sign in again: " + s.Command
	if s.Command == "" {
		how = cmp.Or(s.Next, "sign in again")
	}
	return "the AWS credentials " + what + "; " + how
}

// Bond describes the link's bond; "" without one.
func (l *Link) Bond() string {
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

// SessionLimit is the number of sessions at which AWS refused to start another for a link.
type SessionLimit struct {
	Sessions int        `json:"sessions"`
	Reason   string     `json:"reason"`
	Retry    *time.Time `json:"retry_at,omitempty"` // time of the next attempt, if the link then wants another
}

// String describes the limit.
func (l *SessionLimit) String() string {
	return fmt.Sprintf("AWS starts no more than %s: %s", words.Count(l.Sessions, "session"), l.Reason)
}

// Session is the state of a link's SSM session: a bond's subflow, or the session of a single SSH connection.
type Session struct {
	ID          string  `json:"session_id"`
	State       string  `json:"state"` // up, stalled or leaving
	Age         float64 `json:"age_seconds"`
	RTT         float64 `json:"rtt_ms"` // 0: not measured yet
	MinRTT      float64 `json:"min_rtt_ms,omitempty"`
	SendRate    float64 `json:"send_bytes_per_second"` // over the last second
	ReceiveRate float64 `json:"receive_bytes_per_second"`
	Capacity    float64 `json:"send_capacity,omitempty"` // bytes per second that it could send when it was last fully used
	InFlight    int     `json:"in_flight_bytes"`
	Sent        uint64  `json:"sent_bytes"`
	Received    uint64  `json:"received_bytes"`
	Reinjected  uint64  `json:"reinjected_bytes"`
	Channels    int     `json:"channels,omitempty"` // for a session with its own SSH connection
}

// Path says whether a link has a path to its bastion. Without one, connections wait.
type Path struct {
	Lost   bool          `json:"lost"`
	Since  time.Time     `json:"since"`     // start of the loss
	Linger time.Duration `json:"linger_ns"` // how long connections wait in all

	// Why the path is missing; reported again when the reason changes.
	Reason string    `json:"reason,omitempty"`
	Next   string    `json:"next,omitempty"`    // hint
	Retry  time.Time `json:"retry_at,omitzero"` // start of the next attempt
}

// FarEnd is the load of the task at a link's far end, measured during a transfer.
type FarEnd struct {
	Measured    time.Time `json:"measured_at"`
	CPULimit    float64   `json:"cpu_limit,omitempty"`       // vCPU
	CPUShare    float64   `json:"cpu_share"`                 // share of the limit in use, 0 to 1
	Throttled   float64   `json:"cpu_throttled_share"`       // share of scheduler periods with processes waiting for the CPU, 0 to 1
	MemoryLimit int64     `json:"memory_limit,omitempty"`    // bytes
	MemoryUsed  int64     `json:"memory_used,omitempty"`     // bytes
	Sessions    int       `json:"sessions"`                  // of all links to the task
	MaxSessions int       `json:"max_sessions,omitempty"`    // that its memory has room for
	Limit       string    `json:"limiting_factor,omitempty"` // why the link is not faster
}

// String describes the far end in one line; "" if its limits are unknown.
func (f *FarEnd) String() string {
	if f.Limit != "" {
		return f.Limit
	}
	if f.CPULimit == 0 {
		return ""
	}
	size := fargate.Size{CPU: int(f.CPULimit * 1024), Memory: int(f.MemoryLimit >> 20)}
	return fmt.Sprintf("the task has %v; %.0f %% of its CPU in use, %d sessions", size, 100*f.CPUShare, f.Sessions)
}

// Bastion is a bastion as up and status show it.
type Bastion struct {
	TaskID    string     `json:"task_id"`
	TaskARN   string     `json:"task_arn"`
	Cluster   string     `json:"cluster"`
	Container string     `json:"container"`
	Target    string     `json:"target,omitempty"` // SSM target; set once the task runs
	Status    string     `json:"status"`
	Exec      string     `json:"exec_agent,omitempty"`
	Ready     bool       `json:"ready"` // its exec agent runs
	Created   *time.Time `json:"created_at,omitempty"`
	Started   *time.Time `json:"started_at,omitempty"`
	Reason    string     `json:"stopped_reason,omitempty"`
	Service   string     `json:"service,omitempty"`   // that runs it, for everybody; none: it is the user's own
	Refused   string     `json:"refused,omitempty"`   // why it is not used: another user may have started it
	Outdated  string     `json:"outdated,omitempty"`  // why a new one replaces it
	Unchecked string     `json:"unchecked,omitempty"` // properties that could not be compared with the user's own bastion
	Size
}

// Step is a step of a bastion's start, with its times since the begin of the start.
type Step struct {
	Name   string  `json:"name"`
	Begin  float64 `json:"begin_seconds"`
	End    float64 `json:"end_seconds"`
	Source string  `json:"source"` // whose clock says so: here, or ECS
}

// Status is the state of the user's bastions.
type Status struct {
	Owner    string    `json:"owner"` // ARN of the bastions' owner
	Region   string    `json:"region"`
	Cluster  string    `json:"cluster,omitempty"`
	Target   string    `json:"target,omitempty"` // the OpenSSH server that replaces the task
	Bastions []Bastion `json:"bastions"`
}

// Size is a bastion's size and cost. Values that ECS has not reported are zero.
type Size struct {
	CPU          int           `json:"cpu,omitempty"` // 1024 is a vCPU
	Memory       int           `json:"memory_mib,omitempty"`
	Architecture string        `json:"architecture,omitempty"`
	Spot         bool          `json:"spot,omitempty"`              // on Fargate Spot: Cost is what it would be without
	Cost         *fargate.Cost `json:"cost_estimate_usd,omitempty"` // set by Up and Status
}

// String describes the size and its price, as far as they are known.
func (s Size) String() string {
	if s.CPU == 0 || s.Memory == 0 {
		return ""
	}
	text := fargate.Size{CPU: s.CPU, Memory: s.Memory}.String()
	switch {
	case s.Cost != nil && s.Spot:
		text += fmt.Sprintf(", on Spot, at most $%.4f an hour", s.Cost.PerHour)
	case s.Cost != nil:
		text += fmt.Sprintf(", about $%.4f an hour", s.Cost.PerHour)
	}
	return text
}

// Trouble says why the link waits, when the next attempt starts, and what to do.
func (l *Link) Trouble(now time.Time) string {
	return Trouble(now, l.Error, l.Next, time.Time{}, l.Retry)
}

// Trouble says since when and why something waits or has failed, when the next attempt starts, and what to do. Any argument but
// now may be zero.
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
