package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"syscall"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// wsaEADDRINUSE and wsaEACCES are Windows' codes for EADDRINUSE and EACCES.
const (
	wsaEADDRINUSE = syscall.Errno(10048)
	wsaEACCES     = syscall.Errno(10013)
)

// Listen listens for local clients on addr, "[host]:port". The default host is 127.0.0.1; port 0 picks a free port. Everyone who
// reaches the listener can use the tunnel, so an address that others can reach needs allowRemote.
func Listen(ctx context.Context, addr string, allowRemote bool) (net.Listener, error) {
	op := "listen on " + addr
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fail.New(fail.Usage, op, err, "give the local address as [host:]port")
	}
	switch host {
	case "", "localhost":
		host = "127.0.0.1"
	case "*":
		host = "" // all addresses
	}
	if !allowRemote && !isLoopback(host) {
		return nil, fail.New(fail.Usage, op, errors.New("others could use the tunnel through this address"),
			"listen on 127.0.0.1 or ::1, or allow other addresses explicitly")
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, port))
	switch {
	case err == nil:
		return ln, nil
	case errors.Is(err, syscall.EADDRINUSE), errors.Is(err, wsaEADDRINUSE):
		return nil, fail.New(fail.PortInUse, "", fmt.Errorf("local port %s is already in use: %w", port, err),
			"choose another port, or : for a free one; to see who holds it: "+whoHolds(port))
	case errors.Is(err, syscall.EACCES), errors.Is(err, wsaEACCES):
		return nil, fail.New(fail.Usage, op, err, "choose a port above 1023, or : for a free one")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	return nil, fail.New(fail.Usage, op, err, "choose an address of this machine and a port from 0 to 65535")
}

// isLoopback reports whether host is a literal address that only this machine reaches. It does not look up names, because their
// addresses may change.
func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(strings.TrimSuffix(host, "%lo"))
	return err == nil && ip.Unmap().IsLoopback()
}

// whoHolds returns the command that shows which process listens on port.
func whoHolds(port string) string {
	switch runtime.GOOS {
	case "linux":
		return "ss -ltnp 'sport = :" + port + "'"
	case "windows":
		return "netstat -ano | findstr :" + port
	}
	return "lsof -nP -iTCP:" + port + " -sTCP:LISTEN"
}
