package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/adrg/xdg"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// ListenOwn listens on a unix socket at path, in a directory of the user's, for processes of the same user only: the socket's mode
// and the directory's say so, and where the system tells who the peer is, that is looked at too. Close removes the socket.
func ListenOwn(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("the path %s is too long for a socket", path)
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

// StateDir returns the directory of what outlives the processes, and makes it.
func StateDir(s Settings) (string, error) {
	dir := s.StateDir
	if dir == "" {
		dir = filepath.Join(xdg.StateHome, "bastion")
	}
	if err := privateDir(dir); err != nil {
		return "", fail.New(fail.Other, "use the state directory", err,
			"give "+dir+" mode 0700, or set another state_dir (BASTION_STATE_DIR)")
	}
	return dir, nil
}

// NoListener reports whether err, of DialOwn, says that nobody listens there.
func NoListener(err error) bool { return refused(err) || errors.Is(err, fs.ErrNotExist) }
