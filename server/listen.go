package server

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

const portTries = 50

// listen opens the listeners of address, which must be on loopback. "localhost:PORT" means 127.0.0.1 and, if the system has it,
// ::1, both on the same port; any other HOST is a loopback address. Port 0 picks a port that is free on both.
func listen(address string) ([]net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, configErrorf("listen address %q: want HOST:PORT", address)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, configErrorf("listen address %q: port: want a number from 0 to 65535", address)
	}
	if host != "localhost" {
		addr, err := netip.ParseAddr(host)
		if err != nil || !addr.IsLoopback() || addr.Is4In6() || addr.Zone() != "" {
			return nil, configErrorf("listen address %q is refused: bastiond listens on loopback only, "+
				"want localhost, 127.0.0.1 or ::1", address)
		}
		l, err := net.Listen("tcp", netip.AddrPortFrom(addr, uint16(number)).String())
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		return []net.Listener{l}, nil
	}

	var last error
	for range portTries {
		v4, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		v6, err := net.Listen("tcp6", net.JoinHostPort("::1", strconv.Itoa(portOf(v4))))
		switch {
		case err == nil:
			return []net.Listener{v4, v6}, nil
		case !hasLoopback6():
			return []net.Listener{v4}, nil
		}
		last = errors.Join(err, v4.Close())
		if number != 0 {
			break
		}
	}
	return nil, fmt.Errorf("listen: %w", last)
}

// hasLoopback6 reports whether ::1 is usable.
func hasLoopback6() bool {
	l, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		return false
	}
	_ = l.Close()
	return true
}

func portOf(l net.Listener) int {
	if addr, ok := l.Addr().(*net.TCPAddr); ok {
		return addr.Port
	}
	return 0
}

func configErrorf(format string, args ...any) error {
	return &ConfigError{fmt.Errorf(format, args...)}
}
