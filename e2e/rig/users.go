//go:build linux

package rig

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// User is a user of this machine who has no account: an id that nobody else has, and a home directory. Only root can make one.
type User struct {
	UID  int
	Home string // mode 0700
}

// NewUser makes the home directory of a user below dir, which others must be able to enter.
func NewUser(dir string, uid int) (User, error) {
	u := User{UID: uid, Home: filepath.Join(dir, "home-"+strconv.Itoa(uid))}
	return u, errors.Join(os.Mkdir(u.Home, 0o700), os.Chown(u.Home, uid, uid))
}

// Command is a command that the user runs, in his home directory.
func (u User) Command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = u.Home
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.UID)}}
	return cmd
}

// Env are the variables that say where the user's files are.
func (u User) Env() []string {
	return []string{
		"HOME=" + u.Home, "XDG_RUNTIME_DIR=" + u.Home, "XDG_CACHE_HOME=" + u.Home, "XDG_CONFIG_HOME=" + u.Home, "XDG_STATE_HOME=" + u.Home,
		"TMPDIR=" + u.Home,
	}
}
