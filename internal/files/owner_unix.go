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

// CheckPlace refuses, for root, a path below anything that belongs to another user. Other users have the kernel's permissions.
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

// ActsForAnother reports whether root runs with the home directory of another user, as sudo -E, su -m and doas leave it.
func ActsForAnother() bool { return os.Geteuid() == 0 && len(owners()) > 2 }

// checkPrivate refuses a directory that belongs to another user or that others can enter.
func checkPrivate(dir string, info fs.FileInfo) error {
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to another user (uid %d)", dir, st.Uid)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("others can enter %s (mode %04o)", dir, mode)
	}
	return nil
}

// owners are the users whose files this process takes as its own user's: root, the user, and for root the owner of HOME. With
// that home directory root takes the owner's AWS configuration too, which can name programs to run.
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

// OpenTrusted opens a regular file that only the user and root could have written: the file, the directories up to the root
// directory and the symbolic links on the way belong to them, and others can write to none of these. A directory with the
// sticky bit, such as /tmp, may hold a directory of the user's, but not the file. What is wrong comes as an *UntrustedError.
//
// The file is opened first and looked at then: what is checked is what the caller reads.
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

// nonBlock keeps the opening of a pipe from waiting for its writer.
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
	for _, s := range slices.Backward(steps) { // the file itself first: its owner says most
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

// closed refuses what others can write to.
func (s *step) closed() error {
	mode := s.info.Mode()
	if mode&fs.ModeSymlink != 0 || mode.IsDir() && mode&fs.ModeSticky != 0 && !s.holds {
		return nil // a link has no mode, and in a sticky directory others cannot replace what is not theirs
	}
	if who := s.writers(); who != "" {
		return &UntrustedError{
			Path: s.path, Reason: fmt.Sprintf("%s can write to %s (mode %04o)", who, s.path, mode.Perm()),
			Fix: "chmod go-w " + s.path,
		}
	}
	return nil
}

// writers says who can write to the file besides its owner; "" if nobody can. With an access list the group's bits are the most
// that the list gives to anybody.
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

// The files that say who is in a group. Groups of other sources, such as a directory service, are never taken for private.
const (
	groupFile  = "/etc/group"
	passwdFile = "/etc/passwd"
)

// isPrivateGroup reports whether a user is alone in a group, as with the user private groups that many systems make.
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

// resolve returns the file that path leads to, and the owner whom that file must have because something on the way is that
// user's and not root's; -1 if nothing is.
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
