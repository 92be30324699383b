package hosts

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

func nobody(netip.Addr) bool { return false }

// Nobody can tell an address before it is listened at: two of one name have nothing in common but their range.
func TestAddressIsRandom(t *testing.T) {
	if runtime.GOOS == "darwin" {
		t.Log("macOS has only the addresses that it was given; TestAliases is about them")
		return
	}
	seen := make(map[netip.Addr]bool)
	for range 200 {
		addr, err := Address(t.Context(), 5432, func(a netip.Addr) bool { return seen[a] })
		if err != nil {
			t.Fatal(err)
		}
		b := addr.As4()
		if seen[addr] || b[0] != 127 || b[1] < 64 || b[1] > 127 || b[3] == 0 || b[3] == 255 {
			t.Fatalf("%s", addr)
		}
		seen[addr] = true
	}
	if err := Usable(t.Context(), netip.MustParseAddr("203.0.113.1"), 1); err == nil || fail.NextOf(err) == "" {
		t.Errorf("an address of another machine: %v", err)
	}
}

// An address at which another program listens already is not taken, and one that the hosts file pins is an error then.
func TestAddressIsFree(t *testing.T) {
	var first netip.Addr
	addr, err := pick(t.Context(), 5432, nobody, func(_ context.Context, a netip.Addr, _ int) error {
		if !first.IsValid() {
			first = a
		}
		if a == first {
			return errTaken
		}
		return nil
	}, nil, "linux")
	if err != nil || addr == first {
		t.Errorf("%s after %s, %v", addr, first, err)
	}

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	taken := ln.Addr().(*net.TCPAddr).AddrPort()
	if err := Usable(t.Context(), taken.Addr(), int(taken.Port())); fail.KindOf(err) != fail.PortInUse || fail.NextOf(err) == "" {
		t.Errorf("where a program listens: %v", err)
	}
	_, err = pick(t.Context(), 5432, nobody, func(context.Context, netip.Addr, int) error { return errTaken }, nil, "linux")
	if fail.KindOf(err) != fail.PortInUse {
		t.Errorf("where programs listen everywhere: %v", err)
	}
}

// Where only addresses that somebody has set up can be used, one of them is, and the error says how to set one up.
func TestAliases(t *testing.T) {
	alias := netip.MustParseAddr("127.0.0.9")
	unavailable := func(_ context.Context, a netip.Addr, _ int) error {
		if a == alias {
			return nil
		}
		return &net.OpError{Err: os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)}
	}
	addr, err := pick(t.Context(), 1, nobody, unavailable, func() []netip.Addr { return []netip.Addr{alias} }, "darwin")
	if err != nil || addr != alias {
		t.Errorf("%s, %v", addr, err)
	}
	_, err = pick(t.Context(), 1, nobody, unavailable, func() []netip.Addr { return nil }, "darwin")
	if next := fail.NextOf(err); !strings.Contains(next, "sudo ifconfig lo0 alias 127.") {
		t.Errorf("%v; %s", err, next)
	}
	if got := fmt.Sprint(aliases()); strings.Contains(got, "127.0.0.1 ") {
		t.Errorf("%s", got)
	}
}
