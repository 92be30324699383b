package agent

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// peerPID returns the id of the process at the other end of a unix socket, or 0.
func peerPID(conn net.Conn) int {
	pid := 0
	control(conn, func(fd uintptr) {
		if n, err := unix.GetsockoptInt(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERPID); err == nil {
			pid = n
		}
	})
	return pid
}

// peerUID returns the id of the user at the other end of a unix socket.
func peerUID(conn net.Conn) (uid int, known bool) {
	control(conn, func(fd uintptr) {
		if cred, err := unix.GetsockoptXucred(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERCRED); err == nil {
			uid, known = int(cred.Uid), true
		}
	})
	return uid, known
}

func control(conn net.Conn, f func(fd uintptr)) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(f) // without it the peer stays unknown
}

// refused reports whether nobody listens on a socket any more.
func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
