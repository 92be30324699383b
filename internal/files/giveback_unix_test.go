//go:build unix

package files

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Root's files in a directory of the home's owner become that user's, if they are a library's, and have no name elsewhere.
func TestGiveBack(t *testing.T) {
	if !asRoot(t) {
		return
	}
	root := t.TempDir()
	dir := filepath.Join(root, "cache")
	t.Setenv("HOME", root)
	must(t, os.Chown(root, aliceUID, aliceUID))
	isOurs := func(name string, text []byte) bool { return name != "shadow" && string(text) == "ours" }
	must(t, GiveBack(dir, isOurs)) // it is not there
	must(t, os.Mkdir(dir, 0o700))
	for name, text := range map[string]string{
		"token": "ours", "linked": "ours", "mallory's": "ours", "shadow": "ours", "other": "theirs", "large": strings.Repeat("ours", maxGiven),
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	must(t, os.Link(filepath.Join(dir, "linked"), filepath.Join(root, "other")), os.Symlink("/etc/passwd", filepath.Join(dir, "link")))
	must(t, os.Chown(filepath.Join(dir, "mallory's"), malloryUID, malloryUID))
	owner := func(path string) int {
		t.Helper()
		var st unix.Stat_t
		must(t, unix.Stat(path, &st))
		return int(st.Uid)
	}
	for _, uid := range []int{0, malloryUID} {
		must(t, os.Chown(dir, uid, uid), GiveBack(dir, isOurs))
		if got := owner(filepath.Join(dir, "token")); got != 0 {
			t.Errorf("in a directory of %d it belongs to %d", uid, got)
		}
	}
	must(t, os.Chown(dir, aliceUID, aliceUID))
	must(t, GiveBack(dir, isOurs))
	for name, want := range map[string]int{
		"token": aliceUID, "linked": 0, "mallory's": malloryUID, "link": 0, "shadow": 0, "other": 0, "large": 0,
	} {
		if got := owner(filepath.Join(dir, name)); got != want {
			t.Errorf("%s belongs to %d, want %d", name, got, want)
		}
	}
}
