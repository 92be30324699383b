package rig

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"syscall"
)

// Piped makes a connection of a command that has not been started: its standard input and output are the other end. Call started
// once the command was, or could not be.
func Piped(cmd *exec.Cmd) (conn *net.UnixConn, started func(), err error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "socketpair"), os.NewFile(uintptr(pair[1]), "socketpair")
	c, err := net.FileConn(ours)
	err = errors.Join(err, ours.Close()) // FileConn has its own of it
	conn, ok := c.(*net.UnixConn)
	if err != nil || !ok {
		return nil, nil, errors.Join(err, theirs.Close(), errors.New("no unix connection"))
	}
	cmd.Stdin, cmd.Stdout = theirs, theirs
	return conn, func() { _ = theirs.Close() }, nil
}
