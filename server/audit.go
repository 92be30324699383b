package server

import (
	"encoding/json"
	"io"
	"net"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/bastion-ssm/bastion/internal/printable"
	"github.com/bastion-ssm/bastion/sessions/bond"
)

// The events of the audit log.
const (
	eventStart        = "start"
	eventGrant        = "grant"
	eventGrantRefused = "grant-refused"
	eventAuth         = "auth"
	eventAuthRefused  = "auth-refused"
	eventConnect      = "connect" // a channel was opened, or could not be because of the network
	eventDenied       = "denied"  // the policy refused a channel or request
	eventClose        = "close"   // an open channel ended
	eventDisconnect   = "disconnect"
	eventBondOpen     = "bond-open"       // a connection over many subflows began, with its first subflow
	eventBondClose    = "bond-close"      // such a connection ended, for any reason
	eventSubflowJoin  = "subflow-join"    // another subflow joined
	eventSubflowLost  = "subflow-lost"    // a subflow ended, for any reason
	eventSubflowDeny  = "subflow-refused" // a subflow was not let in, be it a connection's first or another
	eventDrain        = "drain"
	eventStop         = "stop"
)

// Results of an event.
const (
	resultOK      = "ok"
	resultFailed  = "failed"
	resultRefused = "refused"
)

// record is a line of the audit log. docs/threat-model.md lists the fields of each event.
type record struct {
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
	Listen     []string `json:"listen,omitempty"`
	BondListen []string `json:"bond_listen,omitempty"`
	Allow      []string `json:"allow,omitempty"`
	Limit      []string `json:"limit,omitempty"`
	HostKey    string   `json:"host_key,omitempty"`
	Deadline   string   `json:"deadline,omitempty"`
}

// from records a connection's remote address. One over many subflows has several, which the subflows' own events have.
func (r *record) from(conn net.Conn) {
	if _, ok := conn.(*bond.Conn); ok {
		r.Bond = conn.RemoteAddr().String()
		return
	}
	r.Client = conn.RemoteAddr().String()
}

// auditor writes records. It reports the first failed write to failed, because the server must not go on unaudited.
type auditor struct {
	failed func(error)

	mu     sync.Mutex
	w      io.Writer
	broken bool
}

func (a *auditor) write(r record) {
	r.Time = stamp(time.Now())
	for _, field := range []*string{
		&r.Reason, &r.Who, &r.Grant, &r.User, &r.Client, &r.Request, &r.Destination, &r.Address, &r.Replaces,
	} {
		*field = auditText(*field)
	}
	line, err := json.Marshal(r)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil && !a.broken {
		_, err = a.w.Write(append(printable.JSON(line), '\n'))
	}
	if err != nil && !a.broken {
		a.broken = true
		a.failed(err)
	}
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

const maxAuditText = 1024

// auditText bounds s, and replaces characters that could disturb a terminal or a log viewer.
func auditText(s string) string {
	if len(s) > maxAuditText {
		s = strings.ToValidUTF8(s[:maxAuditText], "") + "..."
	}
	return printable.Replace(s, unicode.ReplacementChar)
}
