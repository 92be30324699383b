// Package report has what the agent and running commands report: the state of links, sessions and bastions, as the API and status
// print it. It has values and their words, and asks nobody.
package report

import (
	"fmt"
	"time"

	"github.com/bastion-ssm/bastion/internal/fargate"
	"github.com/bastion-ssm/bastion/internal/words"
)

// Process is a running command with its links, as status shows it.
type Process struct {
	V       int       `json:"v"`
	PID     int       `json:"pid"`
	Command string    `json:"command"`
	Version string    `json:"version"`
	Region  string    `json:"region"`
	Started time.Time `json:"started_at"`
	Links   []Link    `json:"links"`
}

// Link is the state of a link.
type Link struct {
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

	Limit *SessionLimit `json:"session_limit,omitempty"` // nil: none is known
	Far   *FarEnd       `json:"far_end,omitempty"`       // nil: not known

	MaxAge float64 `json:"session_max_age_seconds,omitempty"` // each session is replaced in the last tenth before it

	Channels   int    `json:"channels"` // connections through the bastion
	Sent       uint64 `json:"sent_bytes"`
	Received   uint64 `json:"received_bytes"`
	Reinjected uint64 `json:"reinjected_bytes"` // sent again by another session

	Sessions []Session `json:"sessions"`
}

// Bond says in words how the bond under a link does; empty without one.
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

// SessionLimit is how many sessions AWS starts for a link, where it has been found to start no more.
type SessionLimit struct {
	Sessions int        `json:"sessions"`
	Reason   string     `json:"reason"`
	Retry    *time.Time `json:"retry_at,omitempty"` // when another is tried, if it is wanted then
}

// String says the limit in words.
func (l *SessionLimit) String() string {
	return fmt.Sprintf("AWS starts no more than %s: %s", words.Count(l.Sessions, "session"), l.Reason)
}

// Session is the state of one SSM session of a link: a subflow of its bond, or an SSH connection of its own.
type Session struct {
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

// Path says whether there is a path to a bastion that the user's connections lead to. While there is none they wait.
type Path struct {
	Lost   bool          `json:"lost"`
	Since  time.Time     `json:"since"`     // when it was lost
	Linger time.Duration `json:"linger_ns"` // how long the connections wait for another, in all

	// Why there is still none; told again when the reason is another one.
	Reason string    `json:"reason,omitempty"`
	Next   string    `json:"next,omitempty"`    // what the user can do
	Retry  time.Time `json:"retry_at,omitzero"` // when the next attempt begins
}

// FarEnd is how the task at the far end of a link did when it was asked last, during a transfer.
type FarEnd struct {
	Measured    time.Time `json:"measured_at"`
	CPULimit    float64   `json:"cpu_limit,omitempty"`       // vCPU
	CPUShare    float64   `json:"cpu_share"`                 // of the limit, that was in use
	Throttled   float64   `json:"cpu_throttled_share"`       // of the time, that something waited for processor time
	MemoryLimit int64     `json:"memory_limit,omitempty"`    // bytes
	MemoryUsed  int64     `json:"memory_used,omitempty"`     // bytes
	Sessions    int       `json:"sessions"`                  // of all links to it
	MaxSessions int       `json:"max_sessions,omitempty"`    // that its memory has room for
	Limit       string    `json:"limiting_factor,omitempty"` // why a link is not faster, in words
}

// String is the far end in a line.
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
	Target    string     `json:"target,omitempty"` // of SSM; known once it runs
	Status    string     `json:"status"`
	Exec      string     `json:"exec_agent,omitempty"`
	Ready     bool       `json:"ready"` // SSM's agent runs in it
	Created   *time.Time `json:"created_at,omitempty"`
	Started   *time.Time `json:"started_at,omitempty"`
	Reason    string     `json:"stopped_reason,omitempty"`
	Refused   string     `json:"refused,omitempty"`   // why it is not used: somebody else may have started it
	Outdated  string     `json:"outdated,omitempty"`  // why a new one takes its place
	Unchecked string     `json:"unchecked,omitempty"` // what could not be compared with a bastion of the user's own
	Size
}

// Status is the state of the user's bastions.
type Status struct {
	Owner    string    `json:"owner"` // the ARN that the bastions belong to
	Region   string    `json:"region"`
	Cluster  string    `json:"cluster,omitempty"`
	Target   string    `json:"target,omitempty"` // the OpenSSH server that is used in place of a task
	Bastions []Bastion `json:"bastions"`
}

// Size is how big a bastion is and what that costs. What ECS has not said is left out.
type Size struct {
	CPU          int           `json:"cpu,omitempty"`        // 1024 is a vCPU
	Memory       int           `json:"memory_mib,omitempty"` //
	Architecture string        `json:"architecture,omitempty"`
	Cost         *fargate.Cost `json:"cost_estimate_usd,omitempty"` // by Up and Status
}

// String is the size with its price, as far as they are known.
func (s Size) String() string {
	if s.CPU == 0 || s.Memory == 0 {
		return ""
	}
	text := fargate.Size{CPU: s.CPU, Memory: s.Memory}.String()
	if s.Cost != nil {
		text += fmt.Sprintf(", about $%.4f an hour", s.Cost.PerHour)
	}
	return text
}

// Trouble says in words why the link waits, when the next attempt is, and what to do.
func (l *Link) Trouble(now time.Time) string {
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
