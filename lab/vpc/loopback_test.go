package vpc

import (
	"net"
	"runtime"
	"strconv"
	"testing"
)

func TestCheckLoopback(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1": true, "127.200.3.4:5432": true, "::1": true, "[::1]:80": true, "::ffff:127.0.0.1": true,
		"": false, "localhost": false, ":80": false, "0.0.0.0": false, "10.0.0.1:5432": false, "169.254.169.254": false,
		"[::]:80": false, "::ffff:10.0.0.1": false, "example.com:80": false, "127.0.0.1.example.com": false,
	} {
		if err := CheckLoopback(addr); (err == nil) != want {
			t.Errorf("%q: %v", addr, err)
		}
	}
}

func TestLoopbackAddr(t *testing.T) {
	hosts := map[string]bool{}
	for range 20 {
		host := LoopbackHost()
		if err := CheckLoopback(host); err != nil {
			t.Fatal(err)
		}
		hosts[host] = true
	}
	if runtime.GOOS == "linux" && len(hosts) < 15 {
		t.Errorf("only %d different hosts of 20", len(hosts))
	}

	// A port that is taken on all addresses is not offered.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	host, got := LoopbackAddr(port)
	if want := map[bool]int{true: port, false: 0}[runtime.GOOS == "linux"]; got != want {
		t.Errorf("%s: port %d, want %d", host, got, want)
	}
	l, err = net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(got)))
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
}
