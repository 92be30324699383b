package targets

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Local is a forward's listening address. The zero Local is the target's own port at the default address.
type Local struct {
	Host string // "": the default address (loopback); "*": all interfaces; else "localhost" or an address without brackets
	Port int    // 0: the target's port, or a free one if Free
	Free bool   // any free port
}

// Address returns the address to listen on, in the form of net.Listen, for a target with targetPort. A port of 0 means a free
// one. defaultHost applies if the user gave no host.
func (l Local) Address(defaultHost string, targetPort int) string {
	host, port := l.Host, l.Port
	switch host {
	case "":
		host = defaultHost
	case "*":
		host = ""
	}
	if port == 0 && !l.Free {
		port = targetPort
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// Exposed reports whether other machines can reach the listener.
func (l Local) Exposed() bool {
	if l.Host == "" || strings.EqualFold(l.Host, "localhost") {
		return false
	}
	addr, err := netip.ParseAddr(l.Host)
	return err != nil || !addr.IsLoopback()
}

// String returns the LPORT form; empty for the zero Local.
func (l Local) String() string {
	port := ""
	if l.Port != 0 {
		port = strconv.Itoa(l.Port)
	}
	switch {
	case l == Local{}:
		return ""
	case l.Host == "" && l.Free:
		return ":"
	case l.Host == "":
		return port
	case strings.Contains(l.Host, ":"):
		return "[" + l.Host + "]:" + port
	}
	return l.Host + ":" + port
}

// Pair is one forward: a local listener and its target.
type Pair struct {
	Target      Spec
	Local       Local
	Environment string // the environment that the user wrote before the target, as ENV/SPEC; "": none
	Chosen      string // the environment that counts where the user wrote none; "": that of the command
}

// String returns the target with its environment, as the user may write it.
func (p Pair) String() string { return InEnvironment(p.Environment, p.Target.String()) }

// ParseTarget reads one target with its environment, [ENV/]SPEC. Its errors are of kind fail.Usage.
func ParseTarget(s string) (Pair, error) {
	environment, text := CutEnvironment(s)
	spec, err := parse(text)
	if err != nil {
		return Pair{Environment: environment}, badTarget(s, err)
	}
	return Pair{Target: spec, Environment: environment}, nil
}

// ParsePair reads the arguments of a forward, "SPEC [LPORT]...". An argument after a SPEC is its LPORT if it is all digits,
// starts with ":", or is a loopback or unspecified address with a port ("localhost" and "*" count). Every other argument is a
// SPEC. So 127.0.0.1:80 is a listening address after a SPEC, and a target after an LPORT or at the start. Its errors are of
// kind fail.Usage.
func ParsePair(args []string) ([]Pair, error) {
	if len(args) == 0 {
		return nil, fail.New(fail.Usage, "no target given", nil, specHelp())
	}
	var pairs []Pair
	open := false // the last pair may still get an LPORT
	for _, arg := range args {
		if open && IsLocal(arg) {
			local, err := ParseLocal(arg)
			if err != nil {
				return nil, err
			}
			pairs[len(pairs)-1].Local = local
			open = false
			continue
		}
		if isDigits(arg) || arg == ":" {
			err := errors.New("there is no target before this local port")
			if len(pairs) > 0 {
				err = fmt.Errorf("%s already has a local port", pairs[len(pairs)-1])
			}
			return nil, fail.New(fail.Usage, fmt.Sprintf("argument %q", clip(arg)), err,
				"write pairs: SPEC [LPORT] SPEC [LPORT]...")
		}
		pair, err := ParseTarget(arg)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, pair)
		open = true
	}
	if err := CheckPairs(pairs); err != nil {
		return nil, err
	}
	return pairs, nil
}

// CheckPairs returns an error if two pairs request the same local port at the same address.
func CheckPairs(pairs []Pair) error {
	taken := make(map[Local]Pair)
	for _, p := range pairs {
		if p.Local.Port == 0 {
			continue
		}
		if other, ok := taken[p.Local]; ok {
			return fail.New(fail.Usage,
				fmt.Sprintf("local port %s is asked for twice, for %s and for %s", p.Local, other, p), nil,
				"give each target its own local port, or : for a free one")
		}
		taken[p.Local] = p
	}
	return nil
}

// IsLocal reports whether an argument has the form of an LPORT; its port may still be out of range.
func IsLocal(arg string) bool {
	if isDigits(arg) || strings.HasPrefix(arg, ":") {
		return true
	}
	host, port, ok := cutPort(arg)
	if !ok || port != "" && !isDigits(port) {
		return false
	}
	if host == "*" || strings.EqualFold(host, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Zone() == "" && (addr.IsLoopback() || addr.IsUnspecified())
}

// ParseLocal reads an LPORT: "12345", "0" or ":" (free), "ADDR:12345", "ADDR:" (free), with IPv6 in brackets. It accepts any IP
// address. Only ParsePair, which must distinguish an LPORT from a SPEC, requires an address that cannot be a target.
func ParseLocal(s string) (Local, error) {
	local, err := parseLocal(s)
	if err != nil {
		return Local{}, fail.New(fail.Usage, fmt.Sprintf("local port %q", clip(s)), err,
			"write a port from 1 to 65535, : for a free one, or ADDR:PORT")
	}
	return local, nil
}

func parseLocal(s string) (Local, error) {
	host, port, ok := cutPort(s)
	if !ok {
		host, port = "", s
		if s == "" {
			return Local{}, errors.New("is empty")
		}
	}
	local := Local{Free: port == ""}
	if port != "" {
		n, err := parseAnyPort(port)
		if err != nil {
			return Local{}, err
		}
		local.Port, local.Free = n, n == 0
	}
	var err error
	local.Host, err = parseBind(host)
	return local, err
}

// parseBind reads the address of a listener: empty, "*", "localhost" or an IP address without brackets.
func parseBind(host string) (string, error) {
	if host == "" || host == "*" {
		return host, nil
	}
	if strings.EqualFold(host, "localhost") {
		return "localhost", nil
	}
	addr, err := netip.ParseAddr(host)
	if err != nil || addr.Zone() != "" {
		return "", fmt.Errorf("%q is not an address to listen on", clip(host))
	}
	return addr.String(), nil
}

// cutPort cuts "HOST:PORT" and "[V6]:PORT". host has no brackets; port may be empty.
func cutPort(s string) (host, port string, ok bool) {
	if inner, found := strings.CutPrefix(s, "["); found {
		host, rest, found := strings.Cut(inner, "]")
		port, colon := strings.CutPrefix(rest, ":")
		if !found || !colon || !strings.Contains(host, ":") || strings.Contains(port, ":") {
			return "", "", false
		}
		return host, port, true
	}
	host, port, found := strings.Cut(s, ":")
	if !found || strings.Contains(port, ":") {
		return "", "", false
	}
	return host, port, true
}

// ParseL reads a forward as ssh -L does: [BIND:]PORT:HOST:HOSTPORT, with IPv6 addresses in brackets. As in ssh, a missing BIND
// means loopback, an empty one or "*" means all interfaces, and PORT 0 a free one. ParseL never looks HOST up in the
// configuration. rds:ID or cache:ID may replace HOST:HOSTPORT, and ENV/ may stand before either. Its errors are of kind fail.Usage.
func ParseL(s string) (Pair, error) {
	pair, err := parseL(s)
	if err != nil {
		return Pair{}, fail.New(fail.Usage, fmt.Sprintf("-L %q", clip(s)), err, "write [BIND:]PORT:HOST:HOSTPORT or [BIND:]PORT:rds:ID")
	}
	return pair, nil
}

func parseL(s string) (Pair, error) {
	parts, err := splitColons(s)
	if err != nil {
		return Pair{}, err
	}
	var pair Pair
	pair.Environment = cutPartEnvironment(parts)
	named := slices.IndexFunc(parts, func(part string) bool {
		d, ok := kindOf(part)
		return ok && d.Prefix == part
	})
	if named >= 0 && (named == len(parts)-1 || isDigits(parts[named+1])) {
		named = -1 // a host of that name
	}
	before := len(parts) - 2
	if named >= 0 {
		before = named
	}
	switch before {
	case 1:
	case 2:
		if pair.Local.Host, err = parseBind(cmp.Or(parts[0], "*")); err != nil {
			return Pair{}, err
		}
		parts, named = parts[1:], named-1
	default:
		return Pair{}, fmt.Errorf("has %d parts, not 3 or 4", len(parts))
	}
	if pair.Local.Port, err = parseAnyPort(parts[0]); err != nil {
		return Pair{}, err
	}
	pair.Local.Free = pair.Local.Port == 0
	if named >= 0 {
		pair.Target, err = Parse(strings.Join(parts[named:], ":"))
		return pair, err
	}
	host := parts[1]
	if strings.Contains(host, ":") {
		if host, err = parseIPv6(host); err != nil {
			return Pair{}, err
		}
	} else if err := checkHost(host); err != nil {
		return Pair{}, err
	}
	port, err := parsePort(parts[2])
	if err != nil {
		return Pair{}, err
	}
	pair.Target = Spec{Kind: Host, Host: host, Port: port}
	return pair, nil
}

// splitColons splits at the colons outside brackets and removes the brackets.
func splitColons(s string) ([]string, error) {
	var parts []string
	for {
		if inner, ok := strings.CutPrefix(s, "["); ok {
			addr, rest, closed := strings.Cut(inner, "]")
			if !closed {
				return nil, errors.New("the bracket is not closed")
			}
			if !strings.Contains(addr, ":") {
				return nil, fmt.Errorf("%q is not an IPv6 address", clip(addr))
			}
			parts = append(parts, addr)
			if rest == "" {
				return parts, nil
			}
			if rest[0] != ':' {
				return nil, errors.New("a colon must follow the bracket")
			}
			s = rest[1:]
			continue
		}
		part, rest, more := strings.Cut(s, ":")
		parts = append(parts, part)
		if !more {
			return parts, nil
		}
		s = rest
	}
}
