package server

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

const (
	maxEntries   = 1000
	maxEntryText = 300
)

// Allow is a list of destinations that a bastion may connect to, or to which a grant narrows those. The zero Allow permits nothing.
// It is immutable.
type Allow struct {
	entries []entry
}

// entry is one of: any, a name pattern, a prefix.
type entry struct {
	any      bool         // "*": every name, and every address that is not special
	name     string       // a pattern for path.Match, lower case; never matches an IP address
	prefix   netip.Prefix // an address or a CIDR
	from, to uint16       // ports
}

// ParseAllow parses a list of entries HOST:PORT, separated by commas or white space. HOST is an IP address, a CIDR, '*', or a name
// with the wildcards '*' (any characters, including dots) and '?'. IPv6 stands in brackets. PORT is a number, a range FROM-TO, or
// '*'. An entry that lies wholly in a range that is never permitted is an error.
func ParseAllow(s string) (Allow, error) {
	return parseEntries(strings.FieldsFunc(s, func(r rune) bool { return r == ',' || unicode.IsSpace(r) }))
}

func parseEntries(fields []string) (Allow, error) {
	if len(fields) > maxEntries {
		return Allow{}, fmt.Errorf("%d destinations, at most %d are allowed", len(fields), maxEntries)
	}
	var a Allow
	for _, field := range fields {
		e, err := parseEntry(field)
		if err != nil {
			return Allow{}, fmt.Errorf("destination %.80q: %w", field, err)
		}
		a.entries = append(a.entries, e)
	}
	return a, nil
}

func parseEntry(s string) (entry, error) {
	if len(s) > maxEntryText {
		return entry{}, fmt.Errorf("longer than %d bytes", maxEntryText)
	}
	colon := strings.LastIndexByte(s, ':')
	if colon < 0 || strings.HasSuffix(s, "]") {
		return entry{}, errors.New("want HOST:PORT")
	}
	host, port := s[:colon], s[colon+1:]
	var e entry
	var err error
	if e.from, e.to, err = parsePorts(port); err != nil {
		return entry{}, err
	}
	inner, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		if inner, bracketed = strings.CutSuffix(inner, "]"); !bracketed || !strings.Contains(inner, ":") {
			return entry{}, errors.New("want an IPv6 address or CIDR in the brackets")
		}
		host = inner
	} else if strings.Contains(host, ":") {
		return entry{}, errors.New("put an IPv6 address or CIDR in brackets: [2001:db8::1]:443")
	}

	switch {
	case host == "*":
		e.any = true
	case strings.Contains(host, "/"):
		if e.prefix, err = netip.ParsePrefix(host); err != nil {
			return entry{}, errors.New("want a CIDR such as 10.0.0.0/8")
		}
		if e.prefix != e.prefix.Masked() {
			return entry{}, fmt.Errorf("the CIDR has host bits set, want %v", e.prefix.Masked())
		}
	default:
		addr, err := netip.ParseAddr(host)
		if err != nil {
			e.name, err = parsePattern(host)
			return e, err
		}
		if addr.Zone() != "" {
			return entry{}, errors.New("an address with a zone is never permitted")
		}
		e.prefix = netip.PrefixFrom(addr, addr.BitLen())
	}
	if e.prefix.Addr().Is4In6() {
		return entry{}, errors.New("write an IPv4 address or CIDR in IPv4 form")
	}
	for _, never := range neverRanges {
		if !e.any && within(e.prefix, never.prefix) {
			return entry{}, fmt.Errorf("%v (%s) can never be permitted", never.prefix, never.what)
		}
	}
	return e, nil
}

func parsePorts(s string) (from, to uint16, err error) {
	if s == "*" {
		return 1, 65535, nil
	}
	first, last, isRange := strings.Cut(s, "-")
	if from, err = parsePort(first); err != nil {
		return 0, 0, err
	}
	if !isRange {
		return from, from, nil
	}
	if to, err = parsePort(last); err != nil {
		return 0, 0, err
	}
	if to < from {
		return 0, 0, fmt.Errorf("port range %s ends before it begins", s)
	}
	return from, to, nil
}

func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '0' || s[0] == '+' {
		return 0, fmt.Errorf("port %q: want a number from 1 to 65535, a range FROM-TO, or *", s)
	}
	return uint16(n), nil
}

func parsePattern(s string) (string, error) {
	name := strings.TrimSuffix(strings.ToLower(s), ".")
	plain := strings.NewReplacer("*", "a", "?", "a").Replace(name)
	if err := checkName(plain); err != nil {
		return "", fmt.Errorf("host: %w", err)
	}
	if !strings.ContainsFunc(name, func(r rune) bool { return r >= 'a' && r <= 'z' }) {
		return "", errors.New("host: no letter in it: want a CIDR for a range of addresses")
	}
	return name, nil
}

// parseName returns the canonical form of a client's host name: lower case, without a final dot.
func parseName(s string) (string, error) {
	name := strings.TrimSuffix(strings.ToLower(s), ".")
	return name, checkName(name)
}

// checkName accepts a canonical host name. It refuses a name whose last label is numeric: some resolvers take "127.1" or "0x7f.1"
// for an address.
func checkName(name string) error {
	if name == "" || len(name) > 253 {
		return errors.New("want a host name of 1 to 253 characters")
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(r rune) bool { return !nameRune(r) }) {
			return errors.New("want a host name of letters, digits, '-', '_' and single dots")
		}
	}
	last := labels[len(labels)-1]
	if last[0] >= '0' && last[0] <= '9' {
		if _, err := strconv.ParseUint(last, 0, 64); err == nil || strings.Trim(last, "0123456789") == "" {
			return errors.New("neither an IP address nor a host name")
		}
	}
	return nil
}

func nameRune(r rune) bool {
	return 'a' <= r && r <= 'z' || '0' <= r && r <= '9' || r == '-' || r == '_'
}

// Empty reports whether the list permits nothing.
func (a Allow) Empty() bool { return len(a.entries) == 0 }

// hasNames reports whether an entry is a name or a pattern of names.
func (a Allow) hasNames() bool {
	return slices.ContainsFunc(a.entries, func(e entry) bool { return e.name != "" })
}

// String returns the list in the form that ParseAllow parses.
func (a Allow) String() string { return strings.Join(a.texts(), ",") }

func (a Allow) texts() []string {
	texts := make([]string, len(a.entries))
	for i, e := range a.entries {
		texts[i] = e.String()
	}
	return texts
}

func (e entry) String() string {
	host := e.name
	switch {
	case e.any:
		host = "*"
	case e.name != "":
	case e.prefix.IsSingleIP():
		host = e.prefix.Addr().String()
	default:
		host = e.prefix.String()
	}
	if e.prefix.Addr().Is6() {
		host = "[" + host + "]"
	}
	switch {
	case e.from == 1 && e.to == 65535:
		return host + ":*"
	case e.from == e.to:
		return fmt.Sprintf("%s:%d", host, e.from)
	}
	return fmt.Sprintf("%s:%d-%d", host, e.from, e.to)
}

// Check reports whether the list permits a connection to addr at port. name is the name that the client asked for, or "" if it
// asked for an address. The error names the rule that forbids the connection. The list never permits some special addresses, and
// others only by an entry that names the address: see docs/threat-model.md.
func (a Allow) Check(name string, addr netip.Addr, port uint16) error {
	return a.check(name, addr, port, nil)
}

var errUnlisted = errors.New("no entry of the allow-list permits it")

// check is Check with the VPC's resolvers as further addresses that an entry must name.
func (a Allow) check(name string, addr netip.Addr, port uint16, resolvers []netip.Addr) error {
	addr = addr.Unmap()
	if what, never := neverPermitted(addr); never {
		return fmt.Errorf("%v is never permitted (%s)", addr, what)
	}
	for _, r := range loopbackRanges {
		if r.Contains(addr) && !a.namesWithin(r, addr, port) {
			return fmt.Errorf("%v is a loopback address, which no entry of the allow-list names", addr)
		}
	}
	for _, r := range resolvers {
		if r = r.Unmap(); r == addr && !a.namesWithin(netip.PrefixFrom(r, r.BitLen()), addr, port) {
			return fmt.Errorf("%v is the VPC's resolver, which no entry of the allow-list names", addr)
		}
	}
	if !a.permits(name, addr, port) {
		return errUnlisted
	}
	return nil
}

// permits compares only the entries, without the rules for special addresses.
func (a Allow) permits(name string, addr netip.Addr, port uint16) bool {
	return slices.ContainsFunc(a.entries, func(e entry) bool {
		return e.hasPort(port) && (e.any || e.matchesName(name) || e.name == "" && e.prefix.Contains(addr))
	})
}

// mayPermit reports whether the list could permit some answer of the resolver. If not, the server must not query the name: the
// query would leave the VPC for the name's own servers.
func (a Allow) mayPermit(name string, port uint16) bool {
	return slices.ContainsFunc(a.entries, func(e entry) bool {
		return e.hasPort(port) && (e.name == "" || e.matchesName(name))
	})
}

// namesWithin reports whether an address entry that lies wholly inside r permits addr.
func (a Allow) namesWithin(r netip.Prefix, addr netip.Addr, port uint16) bool {
	return slices.ContainsFunc(a.entries, func(e entry) bool {
		return e.hasPort(port) && e.prefix.IsValid() && within(e.prefix, r) && e.prefix.Contains(addr)
	})
}

func (e entry) hasPort(port uint16) bool { return e.from <= port && port <= e.to }

func (e entry) matchesName(name string) bool {
	if e.name == "" || name == "" {
		return false
	}
	ok, err := path.Match(e.name, name)
	return ok && err == nil
}

// within reports whether p lies wholly inside r.
func within(p, r netip.Prefix) bool { return p.Bits() >= r.Bits() && r.Contains(p.Addr()) }
