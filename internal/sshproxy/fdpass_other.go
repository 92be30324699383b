//go:build !unix

package sshproxy

import (
	"errors"
	"net"
	"os"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// PassConn hands a connection to ssh, which this system cannot.
func PassConn(*os.File, net.Conn) error {
	return fail.New(fail.Usage, "hand the connection to ssh", errors.New("this system cannot pass connections to ssh"),
		"leave out --fdpass")
}
