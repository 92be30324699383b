package private

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// shortDir returns a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestPathTooLong(t *testing.T) {
	long := "/" + strings.Repeat("x", maxPath)
	if err := CheckPath(long[:maxPath]); err != nil {
		t.Errorf("the longest path: %v", err)
	}
	_, err := Listen(long)
	if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "may have 103") || !strings.Contains(fail.NextOf(err), "runtime_dir") {
		t.Errorf("%v (%s)", err, fail.NextOf(err))
	}
}

func TestPeer(t *testing.T) {
	path := filepath.Join(shortDir(t), "s.sock")
	ln, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conn, err := Dial(path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	peer, err := PeerOf(accepted)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Log("peers have no ids here")
		return
	}
	if want := (Peer{UID: os.Geteuid(), PID: os.Getpid()}); err != nil || peer != want {
		t.Errorf("%+v, %v; want %+v", peer, err, want)
	}
	if pid := Owner(path); pid != os.Getpid() {
		t.Errorf("the owner is %d", pid)
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if CheckPeer(near, 0) == nil {
		t.Error("accepts a peer that has no user")
	}
}

func TestAllows(t *testing.T) {
	own := os.Geteuid()
	for _, tt := range []struct {
		uid    int
		others []int
		want   bool
	}{{own, nil, true}, {own, []int{0}, true}, {0, []int{0}, true}, {own + 1, nil, false}, {own + 1, []int{0}, false}} {
		if got := allows(tt.uid, tt.others); got != tt.want {
			t.Errorf("user %d and %v: %v", tt.uid, tt.others, got)
		}
	}
}

// The files of a killed process go; those of a live one, and those that are not sockets', stay.
func TestRemoveStale(t *testing.T) {
	dir := shortDir(t)
	live, err := ListenSocket(filepath.Join(dir, "live.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	stale, err := ListenSocket(filepath.Join(dir, "stale.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if err := stale.UnixListener.Close(); err != nil { // as when it is killed: the socket stays
		t.Fatal(err)
	}
	RemoveStale(filepath.Join(dir, "*.sock"))
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 1 || left[0] != live.Path {
		t.Errorf("left: %v, %v", left, err)
	}
	_, err = Dial(stale.Path)
	if !NoListener(err) {
		t.Errorf("nobody listens: %v", err)
	}
}
