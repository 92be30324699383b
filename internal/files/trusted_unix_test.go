//go:build unix

package files

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The ids of users that no machine has.
const (
	aliceUID   = 60911
	malloryUID = 60912
)

// asRoot says so where a test cannot do its work: only root makes files of other users.
func asRoot(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() == 0 {
		return true
	}
	t.Log("only root can make files of other users")
	return false
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// tree makes a directory with a file deep in it, and returns the path of the file.
func tree(t *testing.T) (root, file string) {
	t.Helper()
	root = filepath.Join(t.TempDir(), "root")
	dir := filepath.Join(root, "a", "b")
	must(t, os.MkdirAll(dir, 0o755))
	file = filepath.Join(dir, "file")
	must(t, os.WriteFile(file, []byte("text"), 0o644), os.Chmod(file, 0o644))
	return root, file
}

// Only the user and root may be able to change a file, or anything on the way to it.
func TestOpenTrusted(t *testing.T) {
	if !asRoot(t) {
		return
	}
	for name, tt := range map[string]struct {
		change func(root, file string) error
		want   string // in the error; "" for none
		fix    string
	}{
		"as it is":                 {func(_, _ string) error { return nil }, "", ""},
		"the file is another's":    {func(_, f string) error { return os.Chown(f, malloryUID, 0) }, "another user (uid 60912)", ""},
		"the file is writable":     {func(_, f string) error { return os.Chmod(f, 0o646) }, "others can write", "chmod go-w"},
		"the file's group writes":  {func(_, f string) error { return errors.Join(os.Chown(f, 0, 7), os.Chmod(f, 0o664)) }, "group 7 can write", "chmod go-w"},
		"its directory's":          {func(_, f string) error { return os.Chown(filepath.Dir(f), malloryUID, 0) }, "another user (uid 60912)", ""},
		"its directory is open":    {func(_, f string) error { return os.Chmod(filepath.Dir(f), 0o777) }, "others can write", "chmod go-w"},
		"its directory is sticky":  {func(_, f string) error { return os.Chmod(filepath.Dir(f), 0o777|os.ModeSticky) }, "others can write", "chmod go-w"},
		"one above is another's":   {func(r, _ string) error { return os.Chown(r, malloryUID, 0) }, "another user (uid 60912)", ""},
		"one above is open":        {func(r, _ string) error { return os.Chmod(r, 0o757) }, "others can write", "chmod go-w"},
		"one above is sticky":      {func(r, _ string) error { return os.Chmod(r, 0o777|os.ModeSticky) }, "", ""},
		"a link":                   {relink("real"), "", ""},
		"a link of another's":      {chownLink, "another user (uid 60912)", ""},
		"a link to an open place":  {linkTo(func(dir string) error { return os.Chmod(dir, 0o777) }), "others can write", "chmod go-w"},
		"a link to another's file": {linkTo(func(dir string) error { return os.Chown(filepath.Join(dir, "to"), malloryUID, 0) }), "another user", ""},
		"a pipe":                   {func(_, f string) error { return errors.Join(os.Remove(f), unix.Mkfifo(f, 0o600)) }, "not a regular file", ""},
		"a device":                 {func(_, f string) error { return errors.Join(os.Remove(f), os.Symlink("/dev/zero", f)) }, "not a regular file", ""},
	} {
		t.Run(name, func(t *testing.T) {
			root, file := tree(t)
			must(t, tt.change(root, file))
			f, err := OpenTrusted(file)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if data, err := io.ReadAll(f); err != nil || string(data) != "text" {
					t.Errorf("%q, %v", data, err)
				}
				return
			}
			u, ok := errors.AsType[*UntrustedError](err)
			if !ok || !strings.Contains(u.Reason, tt.want) || !strings.HasPrefix(u.Fix, tt.fix) || tt.fix == "" && u.Fix != "" {
				t.Errorf("%v (%+v)", err, u)
			}
		})
	}
}

func relink(name string) func(_, file string) error {
	return func(_, file string) error {
		return errors.Join(os.Rename(file, file+name), os.Symlink(filepath.Base(file)+name, file))
	}
}

func chownLink(root, file string) error {
	return errors.Join(relink("real")(root, file), os.Lchown(file, malloryUID, 0))
}

// linkTo makes the file a link to one in a directory of its own, of which spoil changes something.
func linkTo(spoil func(dir string) error) func(root, file string) error {
	return func(root, file string) error {
		dir := filepath.Join(root, "elsewhere")
		to := filepath.Join(dir, "to")
		return errors.Join(os.Mkdir(dir, 0o755), os.Rename(file, to), os.Symlink("../../elsewhere/to", file), spoil(dir))
	}
}

// Root with another user's home directory takes that user's files, as sudo -E leaves it, and nobody else's.
func TestOpenTrustedForAnother(t *testing.T) {
	if !asRoot(t) {
		return
	}
	root, file := tree(t)
	home := filepath.Join(root, "home")
	must(t, os.Mkdir(home, 0o700), os.Chown(home, aliceUID, aliceUID), os.Chown(file, aliceUID, aliceUID))
	if f, err := OpenTrusted(file); err == nil {
		t.Errorf("without her home directory: %v", f)
	}
	t.Setenv("HOME", home)
	f, err := OpenTrusted(file)
	if err != nil {
		t.Fatal(err)
	}
	must(t, f.Close())
	must(t, os.Chown(file, malloryUID, aliceUID))
	if f, err := OpenTrusted(file); err == nil {
		t.Errorf("another's file: %v", f)
	}
}

// A file that is replaced between the look at the way to it and the read is not read: the open file is what counts.
func TestReplacedWhileOpened(t *testing.T) {
	_, file := tree(t)
	f, err := os.Open(file)
	must(t, err)
	defer f.Close()
	must(t, os.Rename(file, file+"old"), os.WriteFile(file, []byte("new"), 0o600))
	if err := checkTrusted(file, f); err == nil || !strings.Contains(err.Error(), "was replaced") {
		t.Error(err)
	}
}

func TestPrivateGroups(t *testing.T) {
	const accounts = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nbob:x:1001:100::/home/bob:/bin/sh\ncarol:x:1002:100::/x:/x\n"
	const groups = "root:x:0:\nalice:x:1000:\nusers:x:100:\nteam:x:200:alice,bob\nsolo:x:300:alice\n"
	for _, tt := range []struct {
		gid, name string
		want      bool
	}{
		{"1000", "alice", true},
		{"300", "alice", true},
		{"0", "root", true},
		{"200", "alice", false}, // bob is a member
		{"100", "bob", false},   // carol's group too
		{"1000", "bob", false},  // alice's
		{"999", "alice", false}, // of a source that is not read
	} {
		if got := aloneInGroup(tt.gid, tt.name, groups, accounts); got != tt.want {
			t.Errorf("group %s of %s: %v", tt.gid, tt.name, got)
		}
	}
}

// Root creates nothing below a directory of another user, by whatever way it is reached.
func TestCheckPlace(t *testing.T) {
	if !asRoot(t) {
		return
	}
	root, _ := tree(t)
	home := filepath.Join(root, "home")
	must(t, os.Mkdir(home, 0o755), os.Chown(home, aliceUID, aliceUID))
	must(t, os.Mkdir(filepath.Join(home, "by-root"), 0o755), os.Symlink(home, filepath.Join(root, "link")))
	must(t, os.Symlink(filepath.Join(root, "a"), filepath.Join(home, "out")))
	for _, path := range []string{"home/x", "home/x/y/z", "home/by-root/x", "link/x", "link/../home/x", "home/out/x"} {
		path = root + "/" + path
		for what, do := range map[string]func() error{
			"MkdirAll":   func() error { return MkdirAll(path, 0o755) },
			"PrivateDir": func() error { return PrivateDir(path) },
			"Replace":    func() error { return Replace(path, nil, 0o600) },
		} {
			if err := do(); !IsForeign(err) || !strings.Contains(err.Error(), "uid 60911") {
				t.Errorf("%s %s: %v", what, path, err)
			}
		}
	}
	must(t, MkdirAll(filepath.Join(root, "mine", "x"), 0o755))
}

// A replaced file keeps its owner, group, mode and attributes, a link to it stays, and nothing is left beside it.
func TestUpdateKeeps(t *testing.T) {
	for name, tt := range map[string]struct {
		uid, gid int
		mode     os.FileMode
		link     bool
	}{
		"mine":              {os.Geteuid(), os.Getegid(), 0o640, false},
		"another's":         {aliceUID, malloryUID, 0o664, false},
		"another's, a link": {aliceUID, aliceUID, 0o600, true},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.uid != os.Geteuid() && !asRoot(t) {
				return
			}
			dir := filepath.Join(t.TempDir(), "home")
			must(t, os.Mkdir(dir, 0o755), os.Chown(dir, tt.uid, tt.gid))
			file := filepath.Join(dir, "file")
			path := file
			must(t, os.WriteFile(file, []byte("old"), 0o600), os.Chown(file, tt.uid, tt.gid), os.Chmod(file, tt.mode))
			if tt.link {
				path = filepath.Join(dir, "link")
				must(t, os.Symlink("file", path), os.Lchown(path, tt.uid, tt.gid))
			}
			before, err := os.ReadDir(dir)
			must(t, err)
			changed, err := Update(path, 100, 0o644, func(old []byte) ([]byte, error) { return append(old, " and new"...), nil })
			if err != nil || !changed {
				t.Fatalf("%v, %v", changed, err)
			}
			data, err := os.ReadFile(file)
			must(t, err)
			info, err := os.Lstat(file)
			must(t, err)
			var st unix.Stat_t
			must(t, unix.Lstat(file, &st))
			if string(data) != "old and new" || info.Mode() != tt.mode || int(st.Uid) != tt.uid || int(st.Gid) != tt.gid {
				t.Errorf("%q, mode %v, uid %d, gid %d", data, info.Mode(), st.Uid, st.Gid)
			}
			if info, err := os.Lstat(path); err != nil || (info.Mode()&os.ModeSymlink != 0) != tt.link {
				t.Errorf("the link: %v, %v", info.Mode(), err)
			}
			if after, err := os.ReadDir(dir); err != nil || len(after) != len(before) {
				t.Errorf("left behind: %v, %v", after, err)
			}
		})
	}
}

// What cannot be replaced stays as it was, and nothing is left beside it.
func TestUpdateFails(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	must(t, os.WriteFile(file, []byte("old"), 0o600), os.Mkdir(filepath.Join(dir, "dir"), 0o700))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")), unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	boom := errors.New("boom")
	same := func(old []byte) ([]byte, error) { return old, nil }
	before, err := os.ReadDir(dir)
	must(t, err)
	for name, do := range map[string]func() error{
		"edit": func() error {
			_, err := Update(file, 10, 0o600, func([]byte) ([]byte, error) { return nil, boom })
			return err
		},
		"large":     func() error { _, err := Update(file, 2, 0o600, same); return err },
		"directory": func() error { return Replace(filepath.Join(dir, "dir"), nil, 0o600) },
		"dangling":  func() error { return Replace(filepath.Join(dir, "dangling"), nil, 0o600) },
		"pipe":      func() error { return Replace(filepath.Join(dir, "pipe"), nil, 0o600) },
		"missing":   func() error { return Replace(filepath.Join(dir, "none", "x"), nil, 0o600) },
		"always changes": func() error {
			_, err := Update(file, 1000, 0o600, func(old []byte) ([]byte, error) {
				must(t, os.WriteFile(file, append(bytes.Clone(old), 'x'), 0o600))
				return []byte("mine"), nil
			})
			return err
		},
	} {
		if err := do(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if data, err := os.ReadFile(file); err != nil || strings.Trim(string(data), "x") != "old" {
		t.Errorf("%q, %v", data, err)
	}
	if after, err := os.ReadDir(dir); err != nil || len(after) != len(before) {
		t.Errorf("left behind: %v, %v", after, err)
	}
	if changed, err := Update(file, 1000, 0o600, same); changed || err != nil {
		t.Errorf("the same content: %v, %v", changed, err)
	}
}

// Another user cannot lead root to a file that is not that user's.
func TestUpdateThroughAnothersLink(t *testing.T) {
	if !asRoot(t) {
		return
	}
	root, file := tree(t)
	home := filepath.Join(root, "home")
	link := filepath.Join(home, "config")
	must(t, os.Mkdir(home, 0o755), os.Symlink(file, link), os.Chown(home, malloryUID, malloryUID), os.Lchown(link, malloryUID, malloryUID))
	if err := Replace(link, []byte("evil"), 0o600); !IsForeign(err) {
		t.Error(err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "text" {
		t.Errorf("%q, %v", data, err)
	}
}
