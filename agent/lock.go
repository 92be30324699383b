package agent

import (
	"errors"
	"os"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/private"
)

// ErrRunning says that another agent holds the lock.
var ErrRunning = errors.New("an agent runs already")

// lock takes the lock file at path. The file stays: removing it would let two processes hold locks of the same name.
func lock(path string) (release func(), err error) {
	f, err := files.TryLock(path)
	switch {
	case err != nil:
		return nil, fail.New(fail.Other, "lock the agent's socket", err, "set a runtime_dir on a local disk (BASTION_RUNTIME_DIR)")
	case f == nil:
		return nil, fail.New(fail.Other, "", ErrRunning, "bastion agent status shows it; bastion agent stop ends it")
	}
	return func() { _ = f.Close() }, nil
}

// Locked reports whether an agent has the lock of a socket: it serves, or is about to serve or to end.
func Locked(socket string) bool {
	release, err := lock(socket + ".lock")
	if err == nil {
		release()
	}
	return errors.Is(err, ErrRunning)
}

// RemoveStale removes the socket of a killed agent. It does nothing if an agent runs or is starting.
func RemoveStale(socket string) {
	if _, err := os.Lstat(socket); err != nil {
		return
	}
	release, err := lock(socket + ".lock")
	if err != nil {
		return
	}
	defer release()
	conn, err := private.Dial(socket)
	if err == nil {
		_ = conn.Close()
	} else if private.NoListener(err) {
		_ = os.Remove(socket)
	}
}
