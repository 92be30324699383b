package keys

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"
)

// ReplyVersion is the version of the grant exchange.
const ReplyVersion = 1

const (
	replyMarker = "BASTIOND-GRANT "
	maxReply    = 16 << 10 // bytes of a reply line
)

// Codes of a refused grant.
const (
	CodeInvalid  = "invalid"  // the word is not a grant, or a permitted destination is not a pattern
	CodeExpired  = "expired"  // its not-after has passed
	CodeFull     = "full"     // the bastion holds its maximum of grants
	CodeDraining = "draining" // the bastion is about to stop
	CodeNoServer = "down"     // the server did not answer
)

// Ports are the loopback ports inside the bastion for sessions.
type Ports struct {
	SSH  int `json:"ssh"`
	Bond int `json:"bond,omitempty"` // 0: none; the SSH port is the only way in
}

// DefaultPorts are bastiond's default ports.
var DefaultPorts = Ports{SSH: 2222, Bond: 2223}

// GrantReply is the answer of `bastiond grant`. A refusal has Error and Code and may lack the rest.
type GrantReply struct {
	V        int       `json:"v"`                  // ReplyVersion
	Version  string    `json:"version"`            // bastiond's version
	HostKey  string    `json:"host_key,omitempty"` // authorized_keys form: the key to pin
	Ports    Ports     `json:"ports"`
	Grant    string    `json:"grant,omitempty"`    // the grant's ID
	NotAfter time.Time `json:"not_after,omitzero"` // when the bastion ends the grant; never later than requested
	Error    string    `json:"error,omitempty"`
	Code     string    `json:"code,omitempty"`
}

// Line returns the reply as one marked line of text, without a line end. Exec channels carry only text and mix it with other
// output. FindGrantReply looks for the mark.
func (r GrantReply) Line() string {
	text, err := json.Marshal(r)
	if err != nil { // only a year beyond 9999 causes this
		text, _ = json.Marshal(GrantReply{V: ReplyVersion, Version: r.Version, Code: CodeInvalid, Error: err.Error()})
	}
	return replyMarker + string(text)
}

// Key returns the host key to pin.
func (r GrantReply) Key() (ssh.PublicKey, error) {
	key, err := parseAuthorizedKey(r.HostKey)
	if err != nil {
		return nil, fmt.Errorf("grant reply: host key: %w", err)
	}
	return key, nil
}

// FindGrantReply finds the marked line in an exec channel's output. It may be called while output is still coming: it returns
// false, nil until the line is complete. A complete line that is not a valid reply is an error. It ignores unknown fields.
func FindGrantReply(output []byte) (GrantReply, bool, error) {
	_, rest, found := bytes.Cut(output, []byte(replyMarker))
	if !found {
		return GrantReply{}, false, nil
	}
	line, _, whole := bytes.Cut(rest, []byte("\n"))
	if len(line) > maxReply {
		return GrantReply{}, false, fmt.Errorf("grant reply: line longer than %d bytes", maxReply)
	}
	var r GrantReply
	if err := json.Unmarshal(bytes.TrimRight(line, "\r"), &r); err != nil {
		if !whole {
			return GrantReply{}, false, nil
		}
		return GrantReply{}, false, fmt.Errorf("grant reply: %w", err)
	}
	if err := r.validate(); err != nil {
		return GrantReply{}, false, err
	}
	return r, true, nil
}

func (r GrantReply) validate() error {
	if r.V != ReplyVersion {
		return fmt.Errorf("grant reply: version %d of the exchange, want %d: use matching versions of bastion and bastiond",
			r.V, ReplyVersion)
	}
	if r.Error != "" {
		return nil
	}
	if r.Code != "" {
		return errors.New("grant reply: a code without an error")
	}
	if _, err := r.Key(); err != nil {
		return err
	}
	if r.Ports.SSH < 1 || r.Ports.SSH > 65535 {
		return fmt.Errorf("grant reply: ssh port %d", r.Ports.SSH)
	}
	if r.Ports.Bond < 0 || r.Ports.Bond > 65535 {
		return fmt.Errorf("grant reply: bond port %d", r.Ports.Bond)
	}
	if r.Grant == "" {
		return errors.New("grant reply: no grant id")
	}
	return nil
}
