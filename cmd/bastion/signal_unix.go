//go:build unix

package main

import (
	"os"
	"syscall"
)

// endSignals are the signals that end a command in order. OpenSSH sends SIGHUP to its ProxyCommand when it ends.
var endSignals = []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}
