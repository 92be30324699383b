package files

import (
	"errors"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// accessList is the extended attribute of a POSIX ACL.
const accessList = "system.posix_acl_access"

// maxAttribute is the kernel's bound on an attribute's value, and on all names of a file, in bytes.
const maxAttribute = 64 << 10

// hasACL reports whether a file has an ACL. It returns true if it cannot tell.
func hasACL(path string) bool {
	_, err := unix.Getxattr(path, accessList, nil)
	return !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.EOPNOTSUPP)
}

// copyAttributes copies the old file's extended attributes to the new file. Without its ACL the new file might be open to
// others, so a failure to set it is an error. It skips other attributes that it cannot set, such as a security label.
func copyAttributes(from, to *os.File) error {
	names, err := attributes(from)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		value, err := attribute(from, name)
		if err == nil {
			err = unix.Fsetxattr(int(to.Fd()), name, value, 0)
		}
		if err != nil && name == accessList {
			return &os.PathError{Op: "keep the access list of", Path: from.Name(), Err: err}
		}
	}
	return nil
}

func attributes(f *os.File) ([]string, error) {
	buf := make([]byte, maxAttribute)
	size, err := unix.Flistxattr(int(f.Fd()), buf)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(strings.Split(string(buf[:size]), "\x00"), func(name string) bool { return name == "" }), nil
}

func attribute(f *os.File, name string) ([]byte, error) {
	value := make([]byte, maxAttribute)
	size, err := unix.Fgetxattr(int(f.Fd()), name, value)
	return value[:max(size, 0)], err
}
