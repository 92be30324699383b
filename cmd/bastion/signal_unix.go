//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// endSignals are the signals that end a command in order. OpenSSH sends SIGHUP to its ProxyCommand when it ends.
var endSignals = []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}

// keepPipeErrors makes a write to a closed standard output an error, as for any other file. By default it ends the process,
// which would leave its sessions behind.
func keepPipeErrors() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }
