// Package rig has the parts that the end-to-end tests and the benchmark share. They are the built binaries, the peers' programs,
// measured processes, and a far end that echoes, sends and swallows bytes.
//
// Everything stays on loopback; Guard refuses any other address.
package rig

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"
)

// Root returns the repository's root directory.
func Root() string {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		panic("rig: no caller information")
	}
	root := filepath.Dir(filepath.Dir(filepath.Dir(file)))
	if filepath.IsAbs(root) {
		return root
	}
	// Built with -trimpath. A test runs in its package's directory; a test's program in any other has no use for the root.
	dir, err := os.Getwd()
	for err == nil && dir != filepath.Dir(dir) {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return dir
		}
		dir = filepath.Dir(dir)
	}
	return root
}

// Build compiles the three commands into dir.
func Build(ctx context.Context, dir string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", dir+string(filepath.Separator),
		"./cmd/bastion", "./cmd/bastiond", "./cmd/bastion-lab")
	cmd.Dir = Root()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the commands: %w\n%s", err, out)
	}
	return nil
}

// Find returns the path of a program that a test needs: one of the project's tools under build/tools, or one of the machine's,
// preferably the distribution's own. The error says how to install it.
func Find(name string) (string, error) {
	for _, dir := range []string{filepath.Join(Root(), "build", "tools"), "/usr/bin", "/usr/sbin"} {
		if path := filepath.Join(dir, name); executable(path) {
			return path, nil
		}
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name); len(found) > 0 {
		return found[len(found)-1], nil
	}
	return "", fmt.Errorf("%s is not installed: run `make deps peers`", name)
}

func executable(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode()&0o111 != 0 && !fi.IsDir()
}

// Guard returns an error for an address that is not loopback: no test of this project talks to anything else from the
// machine's own network.
func Guard(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		host = addr
	}
	if host == "localhost" {
		return nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.IsLoopback() {
		return fmt.Errorf("address %q is not loopback", addr)
	}
	return nil
}

// Dial connects to a loopback address.
func Dial(ctx context.Context, addr string) (net.Conn, error) {
	if err := Guard(addr); err != nil {
		return nil, err
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

// FreePort returns a TCP port of 127.0.0.1, for programs that cannot choose one themselves and for addresses that are used later or
// again. The system gives ports to connections and to listeners on port 0 from a range of its own: a port of that range may be another
// program's by the time that it is used. So FreePort's are below that range. It returns no port twice.
func FreePort() (int, error) {
	const tries = 100
	var failed error
	for range tries {
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		if _, given := givenPorts.LoadOrStore(port, true); given {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			failed = err
			continue
		}
		return port, l.Close()
	}
	return 0, fmt.Errorf("no free port in %d tries: %w", tries, failed)
}

// FreeAddr is FreePort as an address.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	port, err := FreePort()
	if err != nil {
		tb.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// Linux takes its own ports from 32768 on (net.ipv4.ip_local_port_range), other systems from 49152 (RFC 6335, section 6).
const lowestPort, highestPort = 20000, 32768

var givenPorts sync.Map // int: true
