//go:build !unix

package main

import (
	"errors"
	"net"
	"os"

	"github.com/bastion-ssm/bastion/internal/fail"
)

func passConn(*os.File, net.Conn) error {
	return fail.New(fail.Usage, "hand the connection to ssh", errors.New("this system cannot pass connections to ssh"),
		"leave out --fdpass")
}
