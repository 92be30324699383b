package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

// CheckPlace always succeeds: on Windows new files belong to the user or to the administrators, who have all rights anyway.
func CheckPlace(string) error { return nil }

// ActsForAnother is for systems with root.
func ActsForAnother() bool { return false }

// checkPrivate relies on the ACL of the user's profile directory.
func checkPrivate(string, fs.FileInfo) error { return nil }

func checkOwned(string, fs.FileInfo) error { return nil }

// rootsGroupSearches is for systems with root.
func rootsGroupSearches(fs.FileInfo) bool { return false }

// nonBlock is for pipes, which are not files here.
const nonBlock = 0

// trustedInstaller owns the system's own directories.
const trustedInstaller = "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"

// OpenTrusted opens a regular file that belongs, like its directory, to the user, the administrators or the system. It does not
// check ACLs. A violation is an *UntrustedError.
func OpenTrusted(path string) (*os.File, error) {
	f, err := OpenRegular(path)
	if err != nil {
		return nil, err
	}
	if err := checkTrusted(f, path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func checkTrusted(f *os.File, path string) error {
	const what = windows.OWNER_SECURITY_INFORMATION
	sd, err := windows.GetSecurityInfo(windows.Handle(f.Fd()), windows.SE_FILE_OBJECT, what)
	if err != nil {
		return err
	}
	if err := checkOwner(path, sd); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if sd, err = windows.GetNamedSecurityInfo(dir, windows.SE_FILE_OBJECT, what); err != nil {
		return err
	}
	return checkOwner(dir, sd)
}

func checkOwner(path string, sd *windows.SECURITY_DESCRIPTOR) error {
	owner, _, err := sd.Owner()
	if err != nil {
		return err
	}
	me, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return err
	}
	if owner.Equals(me.User.Sid) || owner.IsWellKnown(windows.WinBuiltinAdministratorsSid) ||
		owner.IsWellKnown(windows.WinLocalSystemSid) || owner.String() == trustedInstaller {
		return nil
	}
	return &UntrustedError{Path: path, Reason: fmt.Sprintf("%s belongs to another user (%s)", path, owner)}
}

func resolve(path string) (target string, owner int, err error) {
	target, err = filepath.EvalSymlinks(path)
	return target, -1, err
}
