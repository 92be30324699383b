package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"
)

const (
	maxAddresses   = 16 // of one name that the server considers
	resolvConf     = "/etc/resolv.conf"
	maxResolvConf  = 64 << 10
	maxNameservers = 16
)

// newResolver returns a resolver that asks the DNS server at address (IP:PORT), or the system's if address is empty. It also
// returns the addresses of the servers that the resolver asks.
func newResolver(address string) (*net.Resolver, []netip.Addr, error) {
	if address == "" {
		f, err := os.Open(resolvConf)
		if err != nil { // then the system has its servers elsewhere, or none
			return &net.Resolver{PreferGo: true, Dial: dialResolver}, nil, nil
		}
		defer func() { _ = f.Close() }()
		return &net.Resolver{PreferGo: true, Dial: dialResolver}, nameservers(f), nil
	}
	server, err := netip.ParseAddrPort(address)
	if err != nil || server.Port() == 0 {
		return nil, nil, fmt.Errorf("resolver %q: want IP:PORT", address)
	}
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialResolver(ctx, network, server.String())
	}
	return &net.Resolver{PreferGo: true, Dial: dial}, []netip.Addr{server.Addr()}, nil
}

// dialResolver connects to a DNS server for the query of ctx. The resolver itself does not interrupt a canceled query: it would go
// on, unwanted, until its own time limit.
func dialResolver(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // ctx ends with the query at the latest
	}
	return conn, err
}

// nameservers reads the addresses of the name servers from a resolv.conf.
func nameservers(r io.Reader) []netip.Addr {
	var addrs []netip.Addr
	lines := bufio.NewScanner(io.LimitReader(r, maxResolvConf))
	for lines.Scan() && len(addrs) < maxNameservers {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(fields[1]); err == nil {
			addrs = append(addrs, addr.WithZone("").Unmap())
		}
	}
	return addrs
}

// resolve returns the addresses of a name, at least one.
func (s *Server) resolve(ctx context.Context, name string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, s.config.ResolveTimeout)
	defer cancel()
	addrs, err := s.resolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		if dns, ok := errors.AsType[*net.DNSError](err); ok { // its text would name the resolver
			return nil, errors.New(dns.Err)
		}
		return nil, err
	}
	if len(addrs) == 0 {
		return nil, errors.New("no addresses")
	}
	return addrs[:min(len(addrs), maxAddresses)], nil
}
