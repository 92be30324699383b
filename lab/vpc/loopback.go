package vpc

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"strconv"
)

// CheckLoopback returns an error unless addr, a host or host:port, is a literal loopback address.
// Nothing in the lab listens on or dials anything else.
func CheckLoopback(addr string) error {
	host := addr
	if h, _, err := net.SplitHostPort(addr); err == nil {
		host = h
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return fmt.Errorf("%q is not a loopback address: an IP address is needed", addr)
	}
	if !ip.Unmap().IsLoopback() {
		return fmt.Errorf("%q is not a loopback address", addr)
	}
	return nil
}

// LoopbackHost returns an address to stand for one host of the VPC. On Linux, where all of 127.0.0.0/8 answers, it is random, so
// that two labs can both use a service's standard port. Elsewhere it is 127.0.0.1.
func LoopbackHost() string {
	if runtime.GOOS != "linux" {
		return "127.0.0.1"
	}
	// Avoid 127.0.0.0/16, which other software uses (systemd-resolved, distributions' host names).
	ip := netip.AddrFrom4([4]byte{127, byte(1 + rand.IntN(254)), byte(rand.IntN(256)), byte(1 + rand.IntN(254))})
	return ip.String()
}

// LoopbackAddr returns LoopbackHost's host and a port for a service on it. That is the standard port if it is free there, or else
// 0, which asks the service to choose one.
//
// The port may be taken when the service listens: a program that this process starts meanwhile holds a copy of every open listener
// until its exec. The service's error is then EADDRINUSE, and the caller tries again.
func LoopbackAddr(standard int) (host string, port int) {
	host = LoopbackHost()
	if runtime.GOOS != "linux" {
		return host, 0
	}
	if _, err := freePort(host, standard); err != nil {
		return host, 0 // something listens on the port at all addresses
	}
	return host, standard
}

// freePort returns port, if it is free on host, for servers that cannot choose one themselves; port 0 stands for any free one.
func freePort(host string, port int) (int, error) {
	l, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	addr, ok := l.Addr().(*net.TCPAddr)
	if err := l.Close(); err != nil || !ok {
		return 0, fmt.Errorf("find a free port: close %v: %w", l.Addr(), err)
	}
	return addr.Port, nil
}

// prepareHost checks a server's listen address; an empty host becomes 127.0.0.1.
func prepareHost(host string, port int) (string, error) {
	host = cmp.Or(host, "127.0.0.1")
	if err := CheckLoopback(host); err != nil {
		return "", err
	}
	if port < 0 || port > 65535 {
		return "", fmt.Errorf("port %d is not between 0 and 65535", port)
	}
	return host, nil
}
