//go:build !linux && !darwin

package agent

import (
	"errors"
	"net"
	"syscall"
)

// peerPID returns 0: this system does not tell whose the other end of a socket is.
func peerPID(net.Conn) int { return 0 }

// peerUID knows no user: this system does not tell whose the other end of a socket is.
func peerUID(net.Conn) (uid int, known bool) { return 0, false }

// refused reports whether nobody listens on a socket any more.
func refused(err error) bool {
	const wsaECONNREFUSED = syscall.Errno(10061)
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, wsaECONNREFUSED)
}
