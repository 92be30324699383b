package private

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"
)

// Peer is the process at the other end of a unix socket.
type Peer struct{ UID, PID int }

// PeerOf returns the process at the other end of a unix socket. On some systems it always fails with errors.ErrUnsupported.
func PeerOf(conn net.Conn) (Peer, error) {
	c, ok := conn.(syscall.Conn)
	if _, isUnix := conn.LocalAddr().(*net.UnixAddr); !ok || !isUnix {
		return Peer{}, errors.New("not a unix socket")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var peer Peer
	var askErr error
	if err := raw.Control(func(fd uintptr) { peer, askErr = peerOf(int(fd)) }); err != nil {
		return Peer{}, err
	}
	return peer, askErr
}

// PeerPID returns the process id at the other end of a unix socket, or 0 if it is unknown.
func PeerPID(conn net.Conn) int {
	peer, err := PeerOf(conn)
	if err != nil {
		return 0
	}
	return peer.PID
}

// CheckPeer returns an error if the peer belongs to a user other than this process's and others. If the system does not tell
// the peer's user, the modes of the socket and its directory must suffice.
func CheckPeer(conn net.Conn, others ...int) error {
	peer, err := PeerOf(conn)
	if errors.Is(err, errors.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	if !allows(peer.UID, others) {
		return fmt.Errorf("the process at the other end is of another user (uid %d)", peer.UID)
	}
	return nil
}

func allows(uid int, others []int) bool { return uid == os.Geteuid() || slices.Contains(others, uid) }
