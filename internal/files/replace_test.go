package files

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// A later replacement removes files that killed processes left beside a file. It keeps files that may still be in use, and files
// with other names.
func TestReplaceSweeps(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "forwards.json")
	now := time.Now()
	stay := []string{"forwards.json"}
	for _, left := range []struct {
		name  string
		age   time.Duration
		stays bool
	}{
		{temporaryName("forwards.json"), 2 * abandonedAge, false},
		{temporaryName("forwards.json"), abandonedAge / 2, true},
		{temporaryName("other.json"), 2 * abandonedAge, true},
		{".forwards.json.swp", 2 * abandonedAge, true},
		{".forwards.json.0123456789abcdefghijklmnop", 2 * abandonedAge, true},
		{"forwards.json.unread", 2 * abandonedAge, true},
	} {
		at := filepath.Join(dir, left.name)
		if err := os.WriteFile(at, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(at, now, now.Add(-left.age)); err != nil {
			t.Fatal(err)
		}
		if left.stays {
			stay = append(stay, left.name)
		}
	}
	if err := Replace(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	slices.Sort(stay)
	if !slices.Equal(got, stay) {
		t.Errorf("there are %q, want %q", got, stay)
	}
}
