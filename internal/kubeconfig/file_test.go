package kubeconfig

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// The file is chosen as the AWS CLI does it.
func TestPath(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	none, empty, has := filepath.Join(dir, "none"), file("empty", ""), file("has", "clusters:\n- name: "+arn+"\n")
	list := func(paths ...string) string { return strings.Join(paths, string(os.PathListSeparator)) }
	for _, tt := range []struct{ list, home, want string }{
		{"", dir, filepath.Join(dir, ".kube", "config")},
		{none, dir, none},
		{list(none, empty), dir, none},
		{list("", none, has), dir, has},
		{list(has, empty), dir, has},
		{"", "", ""},
	} {
		got, err := Path(tt.list, tt.home, func(text []byte) bool { return Has(text, arn) })
		if got != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%q: %s, %v", tt.list, got, err)
		}
	}
}

// A new file is for the user alone, an old one keeps its mode, and a lock of kubectl's is waited for.
func TestUpdate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "config")
	merge := func(text []byte) ([]byte, error) { return Merge(text, prod) }
	if err := Update(t.Context(), path, merge); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if text, err := read(path); err != nil || !Has(text, arn) {
		t.Errorf("%s, %v", text, err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
	broken := errors.New("broken")
	err = Update(t.Context(), path, func([]byte) ([]byte, error) { return nil, broken })
	if !errors.Is(err, broken) || fail.NextOf(err) == "" {
		t.Error(err)
	}
	if text, err := read(path); err != nil || !Has(text, arn) {
		t.Errorf("after a failure: %s, %v", text, err)
	}
	lockFile := path + ".lock"
	if err := os.WriteFile(lockFile, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	entered := make(chan struct{})
	go func() {
		done <- Update(t.Context(), path, func(text []byte) ([]byte, error) {
			close(entered)
			return text, nil
		})
	}()
	select {
	case <-entered:
		t.Error("it is edited in spite of the lock")
	case err := <-done:
		t.Errorf("in spite of the lock: %v", err)
	case <-t.Context().Done():
	case <-waitFor(2 * lockPause):
	}
	if err := os.Remove(lockFile); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func waitFor(d time.Duration) <-chan time.Time { return time.After(d) }
