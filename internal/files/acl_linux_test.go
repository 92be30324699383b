package files

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// accessListFor is a POSIX access list by which the group may read and a user write.
func accessListFor(uid byte) []byte {
	entry := func(tag, perm byte, id ...byte) []byte {
		if id == nil {
			id = []byte{0xff, 0xff, 0xff, 0xff}
		}
		return append([]byte{tag, 0, perm, 0}, id...)
	}
	out := []byte{2, 0, 0, 0} // version
	for _, e := range [][]byte{
		entry(0x01, 6), entry(0x02, 6, uid, 0, 0, 0), entry(0x04, 4), entry(0x10, 6), entry(0x20, 0),
	} {
		out = append(out, e...)
	}
	return out
}

// An access list that lets another user write is seen, whatever the group is, and stays when the file is replaced. Where the file
// system has none there is nothing to see.
func TestAccessLists(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, []byte("old"), 0o600))
	if err := unix.Setxattr(file, accessList, accessListFor(99), 0); errors.Is(err, unix.EOPNOTSUPP) {
		t.Logf("no access lists here: %v", err)
		return
	} else if err != nil {
		t.Fatal(err)
	}
	if f, err := OpenTrusted(file); err == nil {
		t.Errorf("opened: %v", f)
	}
	must(t, Replace(file, []byte("new"), 0o600))
	if !hasACL(file) {
		t.Error("the access list is gone")
	}
	must(t, os.Remove(file), os.WriteFile(file, nil, 0o600))
	if hasACL(file) {
		t.Error("a file without one has an access list")
	}
}
