package hosts

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"syscall"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// addressTries bounds the search for a free address. Of four million addresses few are in use. If a port is taken on this many,
// it is taken on all.
const addressTries = 16

// wsaEADDRINUSE is EADDRINUSE on Windows.
const wsaEADDRINUSE = syscall.Errno(10048)

// errTaken says that another program already listens at an address.
var errTaken = errors.New("another program listens there")

// Address returns a loopback address whose port is free and that taken does not claim. The address is random, so that another
// program cannot take it first. Addresses begin at 127.64.0.1, because systems use some lower ones themselves.
func Address(ctx context.Context, port int, taken func(netip.Addr) bool) (netip.Addr, error) {
	return pick(ctx, port, taken, listenable, aliases, runtime.GOOS)
}

// pick is Address with its system calls as arguments.
func pick(ctx context.Context, port int, taken func(netip.Addr) bool, try func(context.Context, netip.Addr, int) error,
	aliases func() []netip.Addr, goos string,
) (netip.Addr, error) {
	var addr netip.Addr
	var err error
	for range addressTries {
		addr = random()
		if taken(addr) {
			continue
		}
		if err = try(ctx, addr, port); err == nil {
			return addr, nil
		}
		if errors.Is(err, syscall.EADDRNOTAVAIL) { // macOS has only the addresses that it was given
			for _, alias := range aliases() {
				if !taken(alias) && try(ctx, alias, port) == nil {
					return alias, nil
				}
			}
			break
		}
		if !errors.Is(err, errTaken) {
			break
		}
	}
	return netip.Addr{}, unusable(addr, port, err, goos)
}

// random returns an address from 127.64.0.1 to 127.127.255.254.
func random() netip.Addr {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return netip.AddrFrom4([4]byte{127, 64 + b[1]%64, b[2], 1 + b[3]%254})
}

// aliases returns the machine's additional loopback addresses, in random order.
func aliases() []netip.Addr {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	found := make(map[netip.Addr]bool) // map iteration is in random order
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			ip := prefix.Addr().Unmap()
			if ip.Is4() && ip.IsLoopback() && ip != netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
				found[ip] = true
			}
		}
	}
	return slices.Collect(maps.Keys(found))
}

// Usable returns an error if the port of an address in the hosts file is not free.
func Usable(ctx context.Context, addr netip.Addr, port int) error {
	if err := listenable(ctx, addr, port); err != nil {
		return unusable(addr, port, err, runtime.GOOS)
	}
	return nil
}

func listenable(ctx context.Context, addr netip.Addr, port int) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", netip.AddrPortFrom(addr, uint16(port)).String())
	if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, wsaEADDRINUSE) {
		return fmt.Errorf("%w: %w", errTaken, err)
	}
	if err != nil {
		return err
	}
	return ln.Close()
}

func unusable(addr netip.Addr, port int, err error, goos string) error {
	if errors.Is(err, errTaken) {
		return fail.New(fail.PortInUse, "", fmt.Errorf("nothing can listen on %s: %w",
			net.JoinHostPort(addr.String(), strconv.Itoa(port)), err), "end that program, or choose another port: SPEC LPORT")
	}
	next := "leave out --hosts"
	if goos == "darwin" && errors.Is(err, syscall.EADDRNOTAVAIL) {
		next = fmt.Sprintf("give macOS another loopback address than 127.0.0.1: sudo ifconfig lo0 alias %s up", addr)
	}
	return fail.New(fail.Other, "", fmt.Errorf("nothing can listen on %s: %w", addr, err), next)
}
