//go:build unix

package sshproxy

import (
	"errors"
	"net"
	"os"
	"syscall"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// PassConn passes conn to the process at the other end of out, as OpenSSH's ProxyUseFdpass expects it: with one meaningless byte.
func PassConn(out *os.File, conn net.Conn) error {
	const op = "hand the connection to ssh"
	const next = "--fdpass is for ssh_config's ProxyUseFdpass yes; leave both out"
	local, err := net.FileConn(out)
	if err != nil {
		return fail.New(fail.Usage, op, errors.New("standard output is not a socket"), next)
	}
	defer func() { _ = local.Close() }()
	to, ok := local.(*net.UnixConn)
	if !ok {
		return fail.New(fail.Usage, op, errors.New("standard output is not a unix socket"), next)
	}
	from, ok := conn.(syscall.Conn)
	if !ok {
		return fail.New(fail.Other, op, errors.New("the connection is not a file descriptor"), next)
	}
	raw, err := from.SyscallConn()
	if err != nil {
		return fail.New(fail.Other, op, err, next)
	}
	var sent error
	err = raw.Control(func(fd uintptr) {
		_, _, sent = to.WriteMsgUnix([]byte{0}, syscall.UnixRights(int(fd)), nil)
	})
	if err = errors.Join(err, sent); err != nil {
		return fail.New(fail.Lost, op, err, next)
	}
	return nil
}
