package hosts

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A link stays a link, and the file behind it is what changes.
func TestLink(t *testing.T) {
	file := hostsFile(t, original)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	mustAdd(t, link, "1-2-3", names("a.example", "127.64.0.1"))
	if fi, err := os.Lstat(link); err != nil || fi.Mode()&os.ModeSymlink == 0 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	if !strings.Contains(content(t, file), "a.example") {
		t.Error("the file behind the link is as it was")
	}
}
