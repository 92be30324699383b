// Package audit is the form of bastiond's audit log: one JSON object a line. Package server writes it. account/audit reads it back from
// CloudWatch Logs. docs/threat-model.md lists the fields of each event.
package audit

import "time"

// The events.
const (
	Start        = "start"
	Grant        = "grant"
	GrantRefused = "grant-refused"
	Auth         = "auth"
	AuthRefused  = "auth-refused"
	Connect      = "connect" // a channel was opened, or could not be because of the network
	Denied       = "denied"  // the policy refused a channel or request
	Close        = "close"   // an open channel ended
	Disconnect   = "disconnect"
	BondOpen     = "bond-open"       // a connection over many subflows began, with its first subflow
	BondClose    = "bond-close"      // such a connection ended, for any reason
	SubflowJoin  = "subflow-join"    // another subflow joined
	SubflowLost  = "subflow-lost"    // a subflow ended, for any reason
	SubflowDeny  = "subflow-refused" // a subflow was not let in, be it a connection's first or another
	Drain        = "drain"
	Stop         = "stop"
	Overdue      = "overdue" // the server still runs although its maximum life is over
)

// Results of an event.
const (
	OK      = "ok"
	Failed  = "failed"
	Refused = "refused"
)

// Record is a line of the log. Logs are kept for years: a field may be added, and none may change its name or meaning.
type Record struct {
	Time        string   `json:"time"` // RFC 3339, UTC
	Event       string   `json:"event"`
	Result      string   `json:"result,omitempty"`
	Reason      string   `json:"reason,omitempty"`
	Who         string   `json:"who,omitempty"`   // as the grant has it
	Grant       string   `json:"grant,omitempty"` // the grant's ID
	Key         string   `json:"key,omitempty"`   // SHA256 fingerprint
	Conn        uint64   `json:"conn,omitempty"`  // number of the SSH connection, from 1
	User        string   `json:"user,omitempty"`  // the SSH user name: claimed by the client, and without effect
	Client      string   `json:"client,omitempty"`
	Bond        string   `json:"bond,omitempty"`    // the beginning of the random ID of the connection over many subflows
	Subflow     *uint32  `json:"subflow,omitempty"` // number of the subflow in it, from 0
	Channel     uint64   `json:"channel,omitempty"` // number of the channel, from 1; joins connect and close
	Request     string   `json:"request,omitempty"` // type of a refused channel or request
	Destination string   `json:"destination,omitempty"`
	Address     string   `json:"address,omitempty"` // that was dialed or refused
	BytesUp     *int64   `json:"bytes_up,omitempty"`
	BytesDown   *int64   `json:"bytes_down,omitempty"`
	DurationMS  *int64   `json:"duration_ms,omitempty"`
	NotAfter    string   `json:"not_after,omitempty"`
	Permit      []string `json:"permit,omitempty"`
	Replaces    string   `json:"replaces,omitempty"` // the ID of the grant that this one replaces

	// Only in start and drain.
	Version    string   `json:"version,omitempty"`
	LifeS      int64    `json:"life_s,omitempty"` // seconds from the start to the end at the latest
	Listen     []string `json:"listen,omitempty"`
	BondListen []string `json:"bond_listen,omitempty"`
	Allow      []string `json:"allow,omitempty"`
	Limit      []string `json:"limit,omitempty"`
	HostKey    string   `json:"host_key,omitempty"`
	Deadline   string   `json:"deadline,omitempty"`
	VCPU       float64  `json:"vcpu,omitempty"`       // of the task, as ECS says it; as the next, only in start, and left out if unknown
	MemoryMiB  int64    `json:"memory_mib,omitempty"` // of the task
}

// Stamp is a time as Record has it.
func Stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }
