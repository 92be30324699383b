//go:build unix

package hosts

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/process"
)

// Everybody can open the hosts file, and so hold its lock. That stops nothing.
func TestLockOfTheHostsFile(t *testing.T) {
	file := hostsFile(t, original)
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, how := range []int{unix.LOCK_SH, unix.LOCK_EX} {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), how); err != nil {
			t.Fatal(err)
		}
		b := mustAdd(t, file, "1-2-3", names("a.example", "127.64.0.1"))
		if err := b.Remove(t.Context()); err != nil {
			t.Error(err)
		}
		if got := content(t, file); got != original {
			t.Errorf("%q", got)
		}
		_ = f.Close()
	}
	for _, name := range []string{"locks", "locks/*"} {
		found, err := filepath.Glob(filepath.Join(filepath.Dir(file), name))
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %q, %v", name, found, err)
		}
		for _, path := range found {
			if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s: %v, %v", path, info.Mode(), err)
			}
		}
	}
}

// The wait for the lock ends with the context, and by itself.
func TestWaitForTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := open(t, hostsFile(t, original))
		held, err := file.lock(t.Context(), file.path)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(os.ErrProcessDone)
		if _, err := file.Add(ctx, "1-2-3", names("a.example", "127.64.0.1")); err == nil ||
			!strings.Contains(err.Error(), os.ErrProcessDone.Error()) {
			t.Errorf("with a context that has ended: %v", err)
		}
		if _, err := file.Add(t.Context(), "1-2-3", names("a.example", "127.64.0.1")); err == nil ||
			!strings.Contains(err.Error(), "it is not free after 10s") {
			t.Errorf("with one that never ends: %v", err)
		}
		if err := held.Close(); err != nil {
			t.Error(err)
		}
		if _, err := file.Add(t.Context(), "1-2-3", names("a.example", "127.64.0.1")); err != nil {
			t.Errorf("when it is free: %v", err)
		}
	})
}

// A removal that fails is tried again until it does not.
func TestRemovalIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := hostsFile(t, original)
		file := open(t, path)
		b, err := file.Add(t.Context(), "1-2-3", names("a.example", "127.64.0.1"))
		if err != nil {
			t.Fatal(err)
		}
		// A directory of locks that others can enter is refused: nothing is done then.
		if err := os.Chmod(file.locks, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := b.Remove(t.Context()); err == nil || !strings.Contains(content(t, path), "a.example") {
			t.Fatalf("%v", err)
		}
		done := make(chan error)
		go func() { done <- b.Remove(t.Context()) }()
		synctest.Wait() // it pauses after its first try
		if err := os.Chmod(file.locks, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if got := content(t, path); got != original {
			t.Errorf("%q", got)
		}
	})
}

// A lock that another user has made first is refused, not waited for.
func TestPlantedLock(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("only root can make files of another user")
		return
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "x.lock")
	for name, plant := range map[string]func() error{
		"another user's": func() error { return os.Chown(path, 60911, 60911) },
		"open":           func() error { return os.Chmod(path, 0o644) },
		"link":           func() error { return os.Symlink("/dev/null", path) },
	} {
		_ = os.Remove(path)
		if name != "link" {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := plant(); err != nil {
			t.Fatal(err)
		}
		if f, err := files.TryLock(path); err == nil {
			t.Errorf("%s: taken, %v", name, f)
		}
	}
}

// A pipe in the place of the hosts file does not hold a command.
func TestPipeForAHostsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hosts")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	file := open(t, path)
	_, readErr := file.Addresses()
	for _, err := range []error{readErr, file.Sweep(t.Context(), process.Alive), file.CanAdd(names("a.example", "127.64.0.1"))} {
		if err == nil || !strings.Contains(err.Error(), "is not a regular file") {
			t.Error(err)
		}
	}
}

// What a failure to replace the file permits.
func TestInPlace(t *testing.T) {
	file := hostsFile(t, original)
	for err, want := range map[error]bool{
		unix.EBUSY: true, unix.EXDEV: true, unix.EROFS: true, unix.EACCES: true, unix.EPERM: true, files.ErrNotReplaceable: true,
		unix.ENOSPC: false, unix.EDQUOT: false, unix.EIO: false, context.Canceled: false, &files.ForeignError{}: false,
	} {
		if got := inPlace(file, fmt.Errorf("x: %w", err)); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
	if os.Geteuid() != 0 {
		t.Log("only root can make files of other users")
		return
	}
	if err := os.Chown(filepath.Dir(file), 60912, 60912); err != nil {
		t.Fatal(err)
	}
	if inPlace(file, unix.EACCES) {
		t.Error("root writes in another user's directory")
	}
}
