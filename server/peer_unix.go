//go:build linux || darwin

package server

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
)

// checkPeer accepts this user and root: ECS Exec runs its commands as root, whatever the task's user is.
func checkPeer(conn net.Conn) error {
	local, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("not a unix socket")
	}
	uid, err := peerUID(local)
	if err != nil {
		return err
	}
	if !acceptsUID(uid) {
		return fmt.Errorf("user %d is neither this process's nor root", uid)
	}
	return nil
}

func acceptsUID(uid int) bool { return uid == 0 || uid == os.Geteuid() }

// checkPrivateDir makes sure that nobody else can reach into dir.
func checkPrivateDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("directory %s does not belong to user %d", dir, os.Geteuid())
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("directory %s has mode %#o, want 0700 (chmod 700 %s)", dir, mode, dir)
	}
	return nil
}
