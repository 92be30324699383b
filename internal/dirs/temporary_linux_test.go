package dirs

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/process"
)

// A file for a program takes what killed processes have left of its prefix away, and nothing else: neither a file of a process that runs,
// nor one of another prefix or form.
func TestTemporary(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	living := process.NewID()
	pid, _, _ := strings.Cut(living, "-")
	for _, name := range []string{
		fmt.Sprintf("rdp-%d-1-1.rdp", dead.Process.Pid), fmt.Sprintf(".rdp-%d-1-2.rdp.TMP", dead.Process.Pid),
		"rdp-" + pid + "-1-1.rdp", // an earlier process of this one's id
		"rdp-" + living + ".rdp", "rdp-GEZDGNBVGY3TQOJQ.rdp", fmt.Sprintf("other-%d-1-1.rdp", dead.Process.Pid), "control.sock",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path, remove, err := Temporary(dir, "rdp-", ".rdp", []byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	info, statErr := os.Stat(path)
	if err != nil || string(text) != "text" || statErr != nil || info.Mode().Perm() != 0o600 || filepath.Ext(path) != ".rdp" {
		t.Errorf("%s: %q, %v, %v", path, text, err, statErr)
	}
	want := []string{
		"control.sock", fmt.Sprintf("other-%d-1-1.rdp", dead.Process.Pid), "rdp-GEZDGNBVGY3TQOJQ.rdp", "rdp-" + living + ".rdp", filepath.Base(path),
	}
	left := func() (names []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	slices.Sort(want)
	if got := left(); !slices.Equal(got, want) {
		t.Errorf("left are %q, want %q", got, want)
	}
	for range 2 { // a sweep of the system may have been first
		if err := remove(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) || slices.Contains(left(), filepath.Base(path)) {
		t.Errorf("%s is still there: %v, %v", path, err, fs.ErrNotExist)
	}
}
