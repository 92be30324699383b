package private

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// IsOwnTCP reports whether the client of a loopback connection is this process's user or root. The kernel lists the sockets of
// this network namespace, including the client's, with their owners.
func IsOwnTCP(client, server net.Addr) bool {
	from, ok := addrPort(client)
	to, ok2 := addrPort(server)
	if !ok || !ok2 {
		return false
	}
	const tries = 3 // the kernel may omit lines while sockets come and go
	for range tries {
		readable := false
		for _, path := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
			uid, found, err := socketOwner(path, from, to)
			if err != nil {
				continue
			}
			readable = true
			if found {
				return uid == 0 || uid == os.Geteuid()
			}
		}
		if !readable {
			return true // this system does not tell; the caller's secrets must suffice
		}
	}
	return false
}

func addrPort(a net.Addr) (netip.AddrPort, bool) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port()), true
}

// socketOwner finds the socket that is bound to local and connected to remote. It does not find a socket that its process has
// closed, which lacks an inode and an owner.
func socketOwner(path string, local, remote netip.AddrPort) (uid int, found bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		const owner, inode = 7, 9
		fields := strings.Fields(lines.Text())
		if len(fields) <= inode || fields[inode] == "0" {
			continue
		}
		if from, ok := parseSocket(fields[1]); !ok || from != local {
			continue
		}
		if to, ok := parseSocket(fields[2]); !ok || to != remote {
			continue
		}
		uid, err := strconv.Atoi(fields[owner])
		return uid, err == nil, nil
	}
	return 0, false, lines.Err()
}

// parseSocket reads an address in the kernel's form: 32-bit words in the machine's byte order, and the port.
func parseSocket(text string) (netip.AddrPort, bool) {
	address, port, ok := strings.Cut(text, ":")
	raw, err := hex.DecodeString(address)
	n, portErr := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || portErr != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), ok
}
