package server

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// literal is a destination without wildcards, as OpenSSH's PermitOpen compares it: byte by byte, before any name is resolved.
type literal struct {
	name string     // canonical; empty: addr
	addr netip.Addr // of an entry that names an address
	port uint16
}

// String returns the destination as PermitOpen takes it.
func (l literal) String() string {
	host := l.name
	if host == "" {
		host = l.addr.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(int(l.port)))
}

// literals returns the list's destinations. The error names an entry that stands for several: OpenSSH does not know CIDRs and patterns, and
// its * would admit every address that the list does not name.
func (a Allow) literals() ([]literal, error) {
	var found []literal
	for _, e := range a.entries {
		l := literal{name: e.name, port: e.from}
		switch {
		case e.any, e.from != e.to, strings.ContainsAny(e.name, "*?["), e.name == "" && !e.prefix.IsSingleIP():
			return nil, fmt.Errorf("destination %q: OpenSSH's PermitOpen takes one name or address, and one port", e)
		case e.name == "":
			l.addr = e.prefix.Addr()
		}
		found = append(found, l)
	}
	return found, nil
}

// openable are the destinations that OpenSSH may be asked for: those of the list that the image's own permits too. Names are checked again
// when they are resolved.
func (s *Server) openable() ([]literal, error) {
	all, err := s.config.Allow.literals()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(l literal) bool {
		if l.name == "" {
			return s.checkAddress("", l.addr, l.port, nil) != nil
		}
		return s.config.Limit != nil && !s.config.Limit.mayPermit(l.name, l.port)
	}), nil
}

// narrowed are those of the destinations that a grant's own list permits. A name is permitted by name: what it resolves to is not
// known yet.
func narrowed(all []literal, permit *Allow) (kept []literal) {
	for _, l := range all {
		if permit == nil || permit.permits(l.name, l.addr, l.port) {
			kept = append(kept, l)
		}
	}
	return kept
}

var errNotListed = errors.New("no entry of the allow-list names it")

// addressesForOpenSSH checks what a name of the list resolves to. The resolver's client does not say which port it will connect to, so an
// address must be permitted at each port that the list has for the name. Loopback and the VPC's resolver never are.
func (s *Server) addressesForOpenSSH(name string, addrs []netip.Addr) (kept []netip.Addr, err error) {
	refusal := errNotListed
	for _, addr := range addrs {
		addr = addr.Unmap()
		permitted := !addr.IsLoopback() && !slices.Contains(s.resolvers, addr)
		if !permitted {
			refusal = fmt.Errorf("%v is a loopback address or the VPC's resolver", addr)
		}
		for _, l := range s.sshd.open {
			if l.name == name && permitted {
				if err := s.checkAddress(name, addr, l.port, nil); err != nil {
					refusal, permitted = err, false
				}
			}
		}
		if permitted {
			kept = append(kept, addr)
		}
	}
	if len(kept) == 0 {
		return nil, refusal
	}
	return kept, nil
}

// lists reports whether OpenSSH may be asked for the name at some port.
func lists(all []literal, name string) bool {
	return name != "" && slices.ContainsFunc(all, func(l literal) bool { return l.name == name })
}
