package files

import (
	"io/fs"
	"os"
)

// keep leaves a new file the access list that its directory gives it.
func keep(_, _ *os.File) error { return nil }

func uidOf(fs.FileInfo) int { return -1 }
