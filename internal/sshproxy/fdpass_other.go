//go:build !unix

package sshproxy

import (
	"errors"
	"net"
	"os"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// PassConn fails: this system cannot pass a connection to ssh.
func PassConn(*os.File, net.Conn) error {
	return fail.New(fail.Usage, "hand the connection to ssh", errors.New("this system cannot pass connections to ssh"),
		"leave out --fdpass")
}
