package hosts

import (
	"path/filepath"

	"golang.org/x/sys/windows"
)

const (
	defaultCRLF = true
	replaceable = false // an open file cannot be replaced, and a new one has other rights
	elevate     = "from a terminal that was started as administrator"
)

func defaultFile() string {
	dir, err := windows.GetSystemDirectory()
	if err != nil {
		dir = `C:\Windows\System32`
	}
	return filepath.Join(dir, "drivers", "etc", "hosts")
}
