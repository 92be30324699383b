package hosts

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"syscall"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Address returns the loopback address of a name, always the same one unless it is taken by another name. Addresses begin at
// 127.64.0.1: below, systems use some themselves.
func Address(name string, taken func(netip.Addr) bool) netip.Addr {
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	var addr netip.Addr
	// Of four million addresses a few are in use; what is still taken after so many is so to be refused by the listener.
	for i := range 64 {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", name, i))
		n := binary.BigEndian.Uint32(sum[:])
		addr = netip.AddrFrom4([4]byte{127, 64 + byte(n>>16)%64, byte(n >> 8), 1 + byte(n)%254})
		if !taken(addr) {
			break
		}
	}
	return addr
}

// Usable returns an error if nothing can listen on a loopback address of this machine.
func Usable(ctx context.Context, addr netip.Addr) error {
	var lc net.ListenConfig
	ln, err := lc.Listen(ctx, "tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		return unusable(addr, err, runtime.GOOS)
	}
	return ln.Close()
}

func unusable(addr netip.Addr, err error, goos string) error {
	next := "do without --hosts"
	if goos == "darwin" && errors.Is(err, syscall.EADDRNOTAVAIL) {
		next = fmt.Sprintf("macOS has 127.0.0.1 alone until told otherwise: sudo ifconfig lo0 alias %s up", addr)
	}
	return fail.New(fail.Other, "", fmt.Errorf("nothing can listen on %s: %w", addr, err), next)
}
