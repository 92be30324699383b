//go:build unix

package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// CheckPlace returns a *ForeignError to root for a path below another user's directory or link. For other users the kernel's
// permissions suffice.
func CheckPlace(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	steps, _, err := walk(path)
	if err != nil {
		return err
	}
	for _, s := range steps {
		if s.uid != 0 {
			return &ForeignError{Path: path, Of: s.path, UID: s.uid}
		}
	}
	return nil
}

// ActsForAnother reports whether root runs with another user's home directory, as under sudo -E, su -m and doas.
func ActsForAnother() bool { return os.Geteuid() == 0 && len(owners()) > 2 }

// checkPrivate returns an error if the directory belongs to another user or if others can enter it.
func checkPrivate(dir string, info fs.FileInfo) error {
	if err := checkOwned(dir, info); err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("others can enter %s (mode %04o)", dir, mode)
	}
	return nil
}

func checkOwned(dir string, info fs.FileInfo) error {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to another user (uid %d)", dir, st.Uid)
	}
	return nil
}

// rootsGroupSearches reports whether the directory lets root's group search it, and nobody but its owner do anything else.
func rootsGroupSearches(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && st.Gid == 0 && info.Mode().Perm()&0o077 == 0o010
}

// owners returns the users whose files this process trusts: root, the user, and for root the owner of HOME. With that home
// directory, root also uses the owner's AWS configuration, which can name programs to run.
func owners() []int {
	out := []int{0, os.Geteuid()}
	if out[1] != 0 {
		return out
	}
	if info, err := os.Stat(os.Getenv("HOME")); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
			out = append(out, int(st.Uid))
		}
	}
	return out
}

// OpenTrusted opens a regular file that only the user and root could have written. All of these must belong to them: the file, its
// directories up to the root directory, and the symbolic links on the way. Others must not be able to write to any. A directory
// with the sticky bit, such as /tmp, may contain the user's directory, but not the file itself. A violation is an *UntrustedError.
//
// OpenTrusted opens the file before it checks it, so the caller reads the checked file.
func OpenTrusted(path string) (*os.File, error) {
	f, err := OpenRegular(path)
	if err != nil {
		return nil, err
	}
	if err := checkTrusted(path, f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// nonBlock keeps open from waiting for a pipe's writer.
const nonBlock = unix.O_NONBLOCK

func checkTrusted(path string, f *os.File) error {
	opened, err := f.Stat()
	if err != nil {
		return err
	}
	steps, complete, err := walk(path)
	if err != nil {
		return err
	}
	if !complete || !os.SameFile(opened, steps[len(steps)-1].info) {
		return &UntrustedError{Path: path, Reason: path + " was replaced while it was opened"}
	}
	users := owners()
	for _, s := range slices.Backward(steps) { // the file itself first: its owner tells most
		if !slices.Contains(users, s.uid) {
			return &UntrustedError{Path: s.path, Reason: fmt.Sprintf("%s belongs to another user (uid %d)", s.path, s.uid)}
		}
	}
	for _, s := range slices.Backward(steps) {
		if err := s.closed(); err != nil {
			return err
		}
	}
	return nil
}

// closed returns an error if others can write to the file or directory.
func (s *step) closed() error {
	mode := s.info.Mode()
	if mode&fs.ModeSymlink != 0 || mode.IsDir() && mode&fs.ModeSticky != 0 && !s.holds {
		return nil // a link has no mode, and in a sticky directory others cannot replace the user's files
	}
	if who := s.writers(); who != "" {
		return &UntrustedError{
			Path: s.path, Reason: fmt.Sprintf("%s can write to %s (mode %04o)", who, s.path, mode.Perm()),
			Fix: "chmod go-w " + s.path,
		}
	}
	return nil
}

// writers returns the others who can write to the file; "" for none. With an ACL, the group bits are the mask of its
// permissions.
func (s *step) writers() string {
	mode := s.info.Mode().Perm()
	if mode&0o002 != 0 {
		return "others"
	}
	if mode&0o020 == 0 {
		return ""
	}
	if hasACL(s.path) {
		return "others, by its access list,"
	}
	st, ok := s.info.Sys().(*syscall.Stat_t)
	if ok && isPrivateGroup(int(st.Gid), s.uid) {
		return ""
	}
	if !ok {
		return "others"
	}
	return fmt.Sprintf("group %d", st.Gid)
}

// The files with the groups' members. A group from another source, such as a directory service, never counts as private.
const (
	groupFile  = "/etc/group"
	passwdFile = "/etc/passwd"
)

// isPrivateGroup reports whether a user is a group's only member, as in the user private groups of many systems.
func isPrivateGroup(gid, uid int) bool {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return false
	}
	groups, err := os.ReadFile(groupFile)
	if err != nil {
		return false
	}
	accounts, err := os.ReadFile(passwdFile)
	if err != nil {
		return false
	}
	return aloneInGroup(strconv.Itoa(gid), u.Username, string(groups), string(accounts))
}

func aloneInGroup(gid, name, groups, accounts string) bool {
	known := false
	for line := range strings.Lines(groups) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) < 4 || fields[2] != gid {
			continue
		}
		known = true
		for member := range strings.SplitSeq(fields[3], ",") {
			if member != "" && member != name {
				return false
			}
		}
	}
	for line := range strings.Lines(accounts) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) >= 4 && fields[3] == gid && fields[0] != name {
			return false
		}
	}
	return known
}

// resolve returns the file that path leads to. For root, owner is the user who must own that file, because a part of the way to
// it belongs to that user; -1 if everything on the way is root's.
func resolve(path string) (target string, owner int, err error) {
	owner = -1
	if target, err = filepath.EvalSymlinks(path); err != nil || os.Geteuid() != 0 {
		return target, owner, err
	}
	steps, _, err := walk(path)
	if err != nil {
		return target, owner, err
	}
	for _, s := range steps[:len(steps)-1] {
		if s.uid == 0 {
			continue
		}
		if owner >= 0 && owner != s.uid {
			return target, owner, &ForeignError{Path: path, Of: s.path, UID: s.uid}
		}
		owner = s.uid
	}
	return target, owner, nil
}
