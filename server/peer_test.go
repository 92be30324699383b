//go:build linux || darwin

package server

import (
	"net"
	"os"
	"testing"
)

func TestPeerUID(t *testing.T) {
	path := socketPath(t)
	l, err := listenControl(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	uid, err := peerUID(peer.(*net.UnixConn))
	if err != nil || uid != os.Geteuid() {
		t.Errorf("%d, %v", uid, err)
	}
	if err := checkPeer(peer); err != nil {
		t.Error(err)
	}
	if acceptsUID(os.Geteuid()+1) || !acceptsUID(0) || !acceptsUID(os.Geteuid()) {
		t.Error("accepts others than root and itself")
	}
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	if checkPeer(near) == nil {
		t.Error("accepts a peer that has no user")
	}
}
