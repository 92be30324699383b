// Package private has the unix sockets that only the user's own processes may use, and tells who is at the other end of one. On
// Linux it also tells whose a connection to a loopback address is.
package private

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Suffix ends the names of sockets.
const Suffix = ".sock"

// maxPath is what every system can take for the path of a unix socket, in bytes.
const maxPath = 103

// CheckPath refuses a path that is too long for a unix socket: the system says no more of it than "invalid argument".
func CheckPath(path string) error {
	if len(path) <= maxPath {
		return nil
	}
	return fail.New(fail.Usage, "", fmt.Errorf("the path %s has %d bytes, and a socket's may have %d", path, len(path), maxPath),
		"set a shorter runtime_dir (BASTION_RUNTIME_DIR)")
}

// Socket is a listener on a unix socket, and its place.
type Socket struct {
	*net.UnixListener
	Path string
}

// Close closes the listener and removes the socket.
func (s *Socket) Close() error {
	err := s.UnixListener.Close()
	if err == nil {
		err = os.Remove(s.Path)
	}
	return err
}

// ListenSocket listens on a socket that only the user can connect to, in a directory of the user's. The socket replaces what is in
// its place when it is ready: one that refuses connections is taken for stale.
func ListenSocket(path string) (*Socket, error) {
	dir, name := filepath.Split(path)
	tmp := filepath.Join(dir, "."+strings.TrimSuffix(name, Suffix))
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	ln.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(tmp, 0o600), os.Rename(tmp, path)); err != nil {
		return nil, errors.Join(err, ln.Close(), os.Remove(tmp))
	}
	return &Socket{ln, path}, nil
}

// Listen is ListenSocket for processes of the same user only: the socket's mode and the directory's say so, and where the system
// tells who the peer is, that is looked at too.
func Listen(path string) (net.Listener, error) {
	if err := CheckPath(path); err != nil {
		return nil, err
	}
	s, err := ListenSocket(path)
	if err != nil {
		return nil, err
	}
	return &ownPeers{s}, nil
}

// ownPeers is a listener that takes connections of this user's processes only.
type ownPeers struct{ *Socket }

func (l *ownPeers) Accept() (net.Conn, error) {
	for {
		conn, err := l.Socket.Accept()
		if err != nil || CheckPeer(conn) == nil {
			return conn, err
		}
		_ = conn.Close()
	}
}

// DialSocket connects to a socket of this machine, which does not take time.
func DialSocket(path string) (net.Conn, error) {
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
}

// Dial connects to a socket of a process of the same user. What another user listens on is not trusted.
func Dial(path string) (net.Conn, error) {
	conn, err := DialSocket(path)
	if err != nil {
		return nil, err
	}
	if err := CheckPeer(conn); err != nil {
		return nil, errors.Join(fmt.Errorf("%s is served by another: %w", path, err), conn.Close())
	}
	return conn, nil
}

// Owner returns the process of the same user that serves a socket, whether it answers or not; 0 if the system does not tell.
func Owner(path string) (pid int) {
	conn, err := Dial(path)
	if err != nil {
		return 0
	}
	defer func() { _ = conn.Close() }()
	return PeerPID(conn)
}

// Refused reports whether nobody listens on a socket any more.
func Refused(err error) bool {
	const wsaECONNREFUSED = syscall.Errno(10061) // of Windows
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, wsaECONNREFUSED)
}

// NoListener reports whether err, of Dial, says that nobody listens there.
func NoListener(err error) bool { return Refused(err) || errors.Is(err, fs.ErrNotExist) }

// RemoveStale removes the sockets that match a pattern and on which nobody listens any more: processes left them that were killed.
func RemoveStale(pattern string) {
	paths, err := filepath.Glob(pattern)
	if err != nil {
		return
	}
	for _, path := range paths {
		conn, err := DialSocket(path)
		if err == nil {
			_ = conn.Close()
		} else if Refused(err) {
			_ = os.Remove(path)
		}
	}
}
