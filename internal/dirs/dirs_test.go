package dirs

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

func TestRuntime(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Log("modes mean nothing here")
		return
	}
	base := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", base)
	dir, err := Runtime("")
	if err != nil || dir != filepath.Join(base, "bastion") {
		t.Errorf("%q, %v", dir, err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := os.Chmod(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := Runtime(""); err == nil || !strings.Contains(err.Error(), "others can enter") || fail.NextOf(err) == "" {
		t.Errorf("a directory that others can enter: %v", err)
	}
	link := filepath.Join(base, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if _, err := Runtime(link); err == nil {
		t.Error("a symbolic link was accepted")
	}
	state := filepath.Join(base, "state")
	if got, err := State(state); err != nil || got != state {
		t.Errorf("the state directory: %q, %v", got, err)
	}
	if _, err := State(dir); err == nil || !strings.Contains(fail.NextOf(err), "state_dir") {
		t.Errorf("a state directory that others can enter: %v (%s)", err, fail.NextOf(err))
	}
}
