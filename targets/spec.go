package targets

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Role chooses between the endpoints of a cluster.
type Role uint8

// The roles. Anyone is the zero Role: the endpoint that accepts writes, if there are several.
const (
	Anyone Role = iota
	Writer
	Reader
)

func (r Role) String() string {
	switch r {
	case Writer:
		return "writer"
	case Reader:
		return "reader"
	default:
		return ""
	}
}

// Spec is a parsed target. Specs are comparable; String gives the canonical form, which parses to the same Spec.
type Spec struct {
	Kind Kind
	ID   string // of AWS's kinds: the identifier in its canonical form, or empty; Name: the name
	Role Role   // of a kind with roles, with an ID
	Host string // Host: a name, or an address without brackets
	Port int    // 0: the target's own port
}

func (s Spec) String() string {
	var b strings.Builder
	switch s.Kind {
	case Name:
		b.WriteString(s.ID)
	case Host:
		return net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
	default:
		prefix := s.Kind.Prefix()
		if prefix == "" {
			return ""
		}
		b.WriteString(prefix)
	}
	if s.Kind != Name && s.ID != "" {
		b.WriteString(":" + s.ID)
	}
	if s.Role != Anyone {
		b.WriteString("/" + s.Role.String())
	}
	if s.Port != 0 {
		b.WriteString(":" + strconv.Itoa(s.Port))
	}
	return b.String()
}

// Named returns the Spec of the configuration's name that a bare kind is too: such a name has precedence. has reports whether the
// configuration has a name. Other Specs stay.
func (s Spec) Named(has func(name string) bool) Spec {
	if prefix := s.Kind.Prefix(); prefix != "" && s.ID == "" && has(prefix) {
		return Spec{Kind: Name, ID: prefix, Port: s.Port}
	}
	return s
}

// MarshalText returns the canonical form.
func (s Spec) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is Parse.
func (s *Spec) UnmarshalText(text []byte) error {
	spec, err := Parse(string(text))
	if err != nil {
		return err
	}
	*s = spec
	return nil
}

// specHelp is the hint of an error about the form of a target.
func specHelp() string {
	var more []string
	for _, d := range Kinds() {
		if d.Kind != RDS && d.Kind != Cache {
			more = append(more, d.Prefix)
		}
	}
	return "write rds:ID, cache:ID, HOST:PORT or a name from the configuration; see bastion help forward (other kinds: " +
		strings.Join(more, ", ") + ")"
}

// Parse reads one target; the package comment has the grammar. Its errors are of kind fail.Usage.
func Parse(s string) (Spec, error) {
	spec, err := parse(s)
	if err != nil {
		return Spec{}, badTarget(s, err)
	}
	return spec, nil
}

// badTarget is the error of a target that the user wrote as text.
func badTarget(text string, err error) error {
	return fail.New(fail.Usage, fmt.Sprintf("target %q", clip(text)), err, specHelp())
}

func parse(s string) (Spec, error) {
	if s == "" {
		return Spec{}, errors.New("is empty")
	}
	if strings.HasPrefix(s, "[") {
		return parseBracketed(s)
	}
	head, rest, colon := strings.Cut(s, ":")
	if d, ok := kindOf(head); ok {
		return d.parse(rest, colon)
	}
	if strings.Contains(rest, ":") {
		if _, err := netip.ParseAddr(s); err == nil {
			return Spec{}, errors.New("an IPv6 address needs brackets and a port: [ADDR]:PORT")
		}
		return Spec{}, fmt.Errorf("too many colons: %q is not a kind of target", clip(head))
	}
	if !colon {
		if isDigits(s) {
			return Spec{}, errors.New("is a port, not a target")
		}
		if err := CheckName(s); err == nil {
			return Spec{Kind: Name, ID: s}, nil
		}
		if checkHost(s) == nil {
			return Spec{}, errors.New("a host needs a port: HOST:PORT")
		}
		return Spec{}, errors.New("is neither a name nor HOST:PORT")
	}
	port, err := parsePort(rest)
	if err != nil {
		return Spec{}, err
	}
	if CheckName(head) == nil {
		return Spec{Kind: Name, ID: head, Port: port}, nil
	}
	if err := checkHost(head); err != nil {
		return Spec{}, err
	}
	return Spec{Kind: Host, Host: head, Port: port}, nil
}

// parseBracketed reads [IPv6]:PORT.
func parseBracketed(s string) (Spec, error) {
	inner, rest, ok := strings.Cut(s[1:], "]")
	if !ok {
		return Spec{}, errors.New("the bracket is not closed")
	}
	addr, err := parseIPv6(inner)
	if err != nil {
		return Spec{}, err
	}
	digits, ok := strings.CutPrefix(rest, ":")
	if !ok {
		return Spec{}, errors.New("an address needs a port: [ADDR]:PORT")
	}
	port, err := parsePort(digits)
	if err != nil {
		return Spec{}, err
	}
	return Spec{Kind: Host, Host: addr, Port: port}, nil
}

// parse reads the text after a kind's prefix: [ID[/ROLE]][:PORT].
func (d Description) parse(rest string, colon bool) (Spec, error) {
	spec := Spec{Kind: d.Kind}
	if !colon {
		return spec, nil
	}
	if isDigits(rest) {
		port, err := parsePort(rest)
		spec.Port = port
		return spec, err
	}
	id, digits, more := strings.Cut(rest, ":")
	if more {
		port, err := parsePort(digits)
		if err != nil {
			return Spec{}, err
		}
		spec.Port = port
	}
	if d.roles {
		var err error
		if id, spec.Role, err = cutRole(id); err != nil {
			return Spec{}, err
		}
	}
	var err error
	if spec.ID, err = d.id(id); err != nil {
		return Spec{}, err
	}
	return spec, nil
}

// cutRole cuts ID/ROLE.
func cutRole(text string) (id string, role Role, err error) {
	id, name, ok := strings.Cut(text, "/")
	if !ok {
		return id, Anyone, nil
	}
	switch strings.ToLower(name) {
	case "writer", "primary":
		return id, Writer, nil
	case "reader":
		return id, Reader, nil
	}
	return "", Anyone, fmt.Errorf("%q is not a role: write /writer or /reader", clip(name))
}

// checkID accepts identifiers as RDS and ElastiCache do, without their rules about hyphens.
func checkID(id string) error {
	if id == "" {
		return errors.New("the identifier is empty")
	}
	if len(id) > 63 {
		return errors.New("the identifier is longer than 63 characters")
	}
	for i := range len(id) {
		c := id[i]
		if isLetter(c) || i > 0 && (isDigit(c) || c == '-') {
			continue
		}
		return fmt.Errorf("%q is not an identifier: a letter, then letters, digits and hyphens", id)
	}
	return nil
}

// CheckName returns an error if s cannot be a target's name in the configuration.
func CheckName(s string) error {
	switch {
	case s == "" || len(s) > 63:
		return errors.New("a name has 1 to 63 characters")
	case isDigits(s):
		return fmt.Errorf("%q is a port and cannot be a name", s)
	case s[0] == '-':
		return fmt.Errorf("%q starts with a hyphen", s)
	}
	for i := range len(s) {
		if c := s[i]; !isLetter(c) && !isDigit(c) && c != '-' && c != '_' {
			return fmt.Errorf("%q is not a name: use letters, digits, - and _", clip(s))
		}
	}
	if _, ok := kindOf(s); ok {
		return fmt.Errorf("%q is a kind of target and cannot be a name", s)
	}
	return nil
}

// checkHost accepts DNS names and IPv4 addresses.
func checkHost(host string) error {
	if host == "" {
		return errors.New("the host is empty")
	}
	if len(host) > 254 {
		return errors.New("the host is longer than 254 characters")
	}
	name := strings.TrimSuffix(host, ".")
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("%q is not a host name", clip(host))
		}
		for i := range len(label) {
			if c := label[i]; !isLetter(c) && !isDigit(c) && c != '-' && c != '_' {
				return fmt.Errorf("%q is not a host name", clip(host))
			}
		}
	}
	// A last label of digits only is an IPv4 address or a mistake: 10.0.0.300, 10.1.
	if isDigits(labels[len(labels)-1]) {
		if addr, err := netip.ParseAddr(host); err != nil || !addr.Is4() {
			return fmt.Errorf("%q is not an IPv4 address", clip(host))
		}
	}
	return nil
}

func parseIPv6(s string) (string, error) {
	addr, err := netip.ParseAddr(s)
	if err != nil || !addr.Is6() || addr.Zone() != "" {
		return "", fmt.Errorf("%q is not an IPv6 address", clip(s))
	}
	return addr.String(), nil
}

// parsePort reads the port of a target, 1 to 65535.
func parsePort(s string) (int, error) {
	port, err := parseAnyPort(s)
	if err == nil && port == 0 {
		return 0, errors.New("port 0 is not a port of a target")
	}
	return port, err
}

// parseAnyPort reads a port, 0 to 65535.
func parseAnyPort(s string) (int, error) {
	if s == "" {
		return 0, errors.New("the port is missing")
	}
	if !isDigits(s) {
		return 0, fmt.Errorf("%q is not a port number", clip(s))
	}
	port, err := strconv.Atoi(s)
	if err != nil || port > 65535 || len(s) > 5 {
		return 0, fmt.Errorf("port %s is out of range (1 to 65535)", clip(s))
	}
	return port, nil
}

func isDigits(s string) bool {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return s != ""
}

func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

// clip shortens foreign text to 80 bytes for a message.
func clip(s string) string {
	if len(s) <= 80 {
		return s
	}
	return strings.ToValidUTF8(s[:77], "") + "..."
}
