package private

import (
	"net"
	"net/netip"
	"os"
	"testing"
)

func TestIsOwnTCP(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "[::1]:0"} {
		ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		client, err := new(net.Dialer).DialContext(t.Context(), "tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		server, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if !IsOwnTCP(server.RemoteAddr(), server.LocalAddr()) {
			t.Errorf("%s: this process's own connection is refused", listen)
		}
		uid, found, err := ownerOf(server)
		if uid != os.Geteuid() || !found || err != nil {
			t.Errorf("%s: uid %d, %v, %v", listen, uid, found, err)
		}
		_ = client.Close()
		if IsOwnTCP(server.RemoteAddr(), server.LocalAddr()) {
			t.Errorf("%s: a connection that its client has left is nobody's, and is taken", listen)
		}
		_ = server.Close()
		_ = ln.Close()
	}
	if IsOwnTCP(&net.UnixAddr{}, &net.UnixAddr{}) {
		t.Error("no address at all is taken")
	}
}

// ownerOf looks for the client's socket where the kernel lists those of its kind.
func ownerOf(server net.Conn) (uid int, found bool, err error) {
	from, _ := addrPort(server.RemoteAddr())
	to, _ := addrPort(server.LocalAddr())
	path := "/proc/net/tcp"
	if from.Addr().Is6() {
		path += "6"
	}
	return socketOwner(path, from, to)
}

func TestParseSocket(t *testing.T) {
	for text, want := range map[string]string{
		"0100007F:1F90":                         "127.0.0.1:8080",
		"00000000000000000000000001000000:0016": "[::1]:22",
		"0000000000000000FFFF00000100007F:FFFF": "127.0.0.1:65535", // a client that speaks IPv4 on a socket of IPv6
	} {
		got, ok := parseSocket(text)
		if !ok || got != netip.MustParseAddrPort(want) {
			t.Errorf("%s: %s, %v; want %s", text, got, ok, want)
		}
	}
	for _, text := range []string{
		"", "0100007F", "0100007F:", "0100007F:10000", "01007F:1F90", "0100007F01:1F90",
		"xx00007F:1F90",
	} {
		if got, ok := parseSocket(text); ok {
			t.Errorf("%q is %s", text, got)
		}
	}
}
