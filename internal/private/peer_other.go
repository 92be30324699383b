//go:build !linux && !darwin

package private

import (
	"errors"
	"syscall"
)

func peerOf(int) (Peer, error) { return Peer{}, errors.ErrUnsupported }

// Refused reports whether nobody listens on a socket any more.
func Refused(err error) bool {
	const wsaECONNREFUSED = syscall.Errno(10061)
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, wsaECONNREFUSED)
}
