package files

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// Old files of the prefixes go, also those that a killed process has left. Everything else stays.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	if err := os.Mkdir(filepath.Join(dir, "a-dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{
		"a-old": 2 * time.Hour, ".a-old.TMP": 2 * time.Hour, "b-old": 2 * time.Hour, "a-new": 0, "c-old": 2 * time.Hour, "x-a-old": 2 * time.Hour,
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, now.Add(-age), now.Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(filepath.Join(dir, "a-dir"), now.Add(-2*time.Hour), now.Add(-2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	Sweep(dir, Before(now.Add(-time.Hour)), "a-", "b-")
	Sweep(filepath.Join(dir, "missing"), Before(now), "a-")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if want := []string{"a-dir", "a-new", "c-old", "x-a-old"}; !slices.Equal(left, want) {
		t.Errorf("left are %q, want %q", left, want)
	}
}
