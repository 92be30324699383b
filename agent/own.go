package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// CheckSocket refuses a path that is too long for a unix socket: the system says no more of it than "invalid argument".
func CheckSocket(path string) error {
	if len(path) <= maxSocketPath {
		return nil
	}
	return fail.New(fail.Usage, "", fmt.Errorf("the path %s has %d bytes, and a socket's may have %d", path, len(path), maxSocketPath),
		"set a shorter runtime_dir (BASTION_RUNTIME_DIR)")
}

// ListenOwn listens on a unix socket at path, in a directory of the user's, for processes of the same user only: the socket's mode
// and the directory's say so, and where the system tells who the peer is, that is looked at too. Close removes the socket.
func ListenOwn(path string) (net.Listener, error) {
	if err := CheckSocket(path); err != nil {
		return nil, err
	}
	ln, err := listenPrivate(path)
	if err != nil {
		return nil, err
	}
	return &ownPeers{ln}, nil
}

// DialOwn connects to a unix socket of a process of the same user. What another user listens on is not trusted.
func DialOwn(path string) (net.Conn, error) {
	conn, err := dialUnix(path)
	if err != nil {
		return nil, err
	}
	if uid, known := peerUID(conn); known && uid != os.Geteuid() {
		_ = conn.Close()
		return nil, fmt.Errorf("%s is served by another user (uid %d)", path, uid)
	}
	return conn, nil
}

// SocketOwner returns the process of the same user that serves a unix socket, whether it answers or not; 0 if the system does not tell.
func SocketOwner(path string) (pid int) {
	conn, err := DialOwn(path)
	if err != nil {
		return 0
	}
	defer func() { _ = conn.Close() }()
	return peerPID(conn)
}

// StateDir returns the directory of what outlives the processes, and makes it.
func StateDir(s Settings) (string, error) {
	dir := s.StateDir
	if dir == "" {
		dir = config.DefaultStateDir()
	}
	if err := files.PrivateDir(dir); err != nil {
		return "", fail.New(fail.Other, "use the state directory", err, privateHint(dir, err, "state_dir (BASTION_STATE_DIR)"))
	}
	return dir, nil
}

// NoListener reports whether err, of DialOwn, says that nobody listens there.
func NoListener(err error) bool { return refused(err) || errors.Is(err, fs.ErrNotExist) }
