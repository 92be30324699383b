//go:build unix

package process

import (
	"errors"
	"os"
	"os/signal"
	"syscall"
)

// endSignals are the signals that end a command in good order. OpenSSH sends SIGHUP to its ProxyCommand when it ends.
var endSignals = []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP}

// AskToEnd asks a process to end in good order, even a stopped one.
func AskToEnd(pid int) error {
	p, err := os.FindProcess(pid)
	if err == nil {
		err = p.Signal(syscall.SIGTERM)
	}
	if err == nil {
		err = p.Signal(syscall.SIGCONT)
	}
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// KeepPipeErrors makes a write to a closed standard output return an error, as for any other file. By default it ends the process,
// which would leave its sessions behind.
func KeepPipeErrors() { signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE) }
