package files

import (
	"io/fs"
	"os"
)

// keep does nothing: the new file has the ACL that its directory gives it.
func keep(_, _ *os.File) error { return nil }

func uidOf(fs.FileInfo) int { return -1 }
