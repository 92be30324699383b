// Package private has unix sockets for the user's own processes, and identifies the process at a socket's other end. On Linux
// it also identifies the user of a connection to a loopback address.
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

// Suffix is the suffix of socket names.
const Suffix = ".sock"

// maxPath is the longest path of a unix socket that every system accepts, in bytes.
const maxPath = 103

// CheckPath returns an error for a path that is too long for a unix socket; the system's error is only "invalid argument".
func CheckPath(path string) error {
	if len(path) <= maxPath {
		return nil
	}
	return fail.New(fail.Usage, "", fmt.Errorf("the path %s has %d bytes, and a socket's may have %d", path, len(path), maxPath),
		"set a shorter runtime_dir (BASTION_RUNTIME_DIR)")
}

// Socket is a listener on a unix socket, with its path.
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

// ListenSocket listens on a socket that only the user can connect to. Its directory must belong to the user. A ready socket
// replaces any file at path, because a socket that refuses connections counts as stale.
func ListenSocket(path string) (*Socket, error) { return listen(path, 0o600) }

// ListenSocketOfDirectory is ListenSocket for all whom the directory admits: its mode decides who can connect.
func ListenSocketOfDirectory(path string) (*Socket, error) { return listen(path, 0o666) }

func listen(path string, mode fs.FileMode) (*Socket, error) {
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
	if err := errors.Join(os.Chmod(tmp, mode), os.Rename(tmp, path)); err != nil {
		return nil, errors.Join(err, ln.Close(), os.Remove(tmp))
	}
	return &Socket{ln, path}, nil
}

// Listen is ListenSocket for processes of the same user only. Besides the modes of the socket and its directory, it checks the
// peer if the system tells who that is.
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

// ownPeers is a listener that accepts only this user's processes.
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

// DialSocket connects to a local socket. It does not block for long, so it takes no context.
func DialSocket(path string) (net.Conn, error) {
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
}

// Dial connects to a socket of a process of the same user. It refuses another user's process.
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

// Owner returns the id of the same user's process that listens on a socket, even if it does not answer; 0 if the system does
// not tell.
func Owner(path string) (pid int) {
	conn, err := Dial(path)
	if err != nil {
		return 0
	}
	defer func() { _ = conn.Close() }()
	return PeerPID(conn)
}

// Refused reports whether err says that a socket has no listener.
func Refused(err error) bool {
	const wsaECONNREFUSED = syscall.Errno(10061) // on Windows
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, wsaECONNREFUSED)
}

// NoListener reports whether err, from Dial, says that the socket is missing or has no listener.
func NoListener(err error) bool { return Refused(err) || errors.Is(err, fs.ErrNotExist) }

// RemoveStale removes the sockets that match pattern and have no listener: killed processes left them.
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
