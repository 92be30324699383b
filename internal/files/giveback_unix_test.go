//go:build unix

package files

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Root's files in another user's directory become that user's, except those that have a name elsewhere.
func TestGiveBack(t *testing.T) {
	if !asRoot(t) {
		return
	}
	root := t.TempDir()
	dir := filepath.Join(root, "cache")
	must(t, GiveBack(dir)) // it is not there
	must(t, os.Mkdir(dir, 0o700))
	write := func(name string) { t.Helper(); must(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600)) }
	for _, name := range []string{"token", "linked", "mallory's"} {
		write(name)
	}
	must(t, os.Link(filepath.Join(dir, "linked"), filepath.Join(root, "other")), os.Symlink("/etc/passwd", filepath.Join(dir, "link")))
	must(t, os.Chown(filepath.Join(dir, "mallory's"), malloryUID, malloryUID))
	owner := func(path string) int {
		t.Helper()
		var st unix.Stat_t
		must(t, unix.Stat(path, &st))
		return int(st.Uid)
	}
	must(t, GiveBack(dir))
	if got := owner(filepath.Join(dir, "token")); got != 0 {
		t.Errorf("in a directory of root's it belongs to %d", got)
	}
	must(t, os.Chown(dir, aliceUID, aliceUID))
	must(t, GiveBack(dir))
	for name, want := range map[string]int{"token": aliceUID, "linked": 0, "mallory's": malloryUID, "link": 0} {
		if got := owner(filepath.Join(dir, name)); got != want {
			t.Errorf("%s belongs to %d, want %d", name, got, want)
		}
	}
}
