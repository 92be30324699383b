package keys

import (
	"crypto/subtle"
	"fmt"
	"net"
	"strconv"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// HostKeyError says that a server showed another key than the pinned one. Want and Got are SHA256 fingerprints.
type HostKeyError struct{ Host, Want, Got string }

func (e *HostKeyError) Error() string {
	return fmt.Sprintf("host key of %s is %s, not the pinned %s: the server is not the one that was asked for",
		e.Host, e.Got, e.Want)
}

// PinnedHostKey returns a callback that accepts only the key want. It refuses any other key with a *HostKeyError, before the
// client sends anything that depends on the server's identity.
func PinnedHostKey(want ssh.PublicKey) ssh.HostKeyCallback {
	pinned := want.Marshal()
	return func(host string, _ net.Addr, got ssh.PublicKey) error {
		if subtle.ConstantTimeCompare(pinned, got.Marshal()) == 1 {
			return nil
		}
		return &HostKeyError{Host: host, Want: ssh.FingerprintSHA256(want), Got: ssh.FingerprintSHA256(got)}
	}
}

// KnownHostsLine returns the known_hosts line that pins key for host and port, without a line end. OpenSSH's KnownHostsCommand
// prints such lines.
func KnownHostsLine(host string, port int, key ssh.PublicKey) string {
	return knownhosts.Line([]string{net.JoinHostPort(host, strconv.Itoa(port))}, key)
}
