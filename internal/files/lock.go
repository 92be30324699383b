package files

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/bastion-ssm/bastion/internal/backoff"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

// The pause between attempts to take a lock grows from minLockPause to maxLockPause.
const (
	minLockPause = 5 * time.Millisecond
	maxLockPause = 50 * time.Millisecond
)

// TryLock takes the lock file at path for this process, until the file is closed or the process ends. It returns nil without an
// error if another process holds the lock. The file stays: removing it would let two processes hold locks of the same name.
//
// Every user who can open a file can lock it. So a lock file must be in a directory that only the user can enter (PrivateDir).
// Never lock a file that others can read.
func TryLock(path string) (*os.File, error) {
	f, err := openLock(path)
	if err != nil {
		return nil, err
	}
	if taken, err := tryLock(f); !taken || err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// Lock waits until it has the lock file at path, or until ctx ends. See TryLock.
func Lock(ctx context.Context, path string) (*os.File, error) {
	for pause := minLockPause; ; pause = backoff.Next(pause, minLockPause, maxLockPause) {
		f, err := TryLock(path)
		if err != nil || f != nil {
			return f, err
		}
		if err := sleep.For(ctx, pause); err != nil {
			return nil, fmt.Errorf("another process holds the lock %s: %w", path, err)
		}
	}
}
