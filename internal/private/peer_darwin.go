package private

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

func peerOf(fd int) (Peer, error) {
	cred, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return Peer{}, err
	}
	pid, err := unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	if err != nil {
		pid = 0 // it has ended; its user counts all the same
	}
	return Peer{UID: int(cred.Uid), PID: pid}, nil
}

// Refused reports whether nobody listens on a socket any more.
func Refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
