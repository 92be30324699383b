package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Before accepts files that were last written before a time, for Sweep.
func Before(t time.Time) func(fs.FileInfo) bool {
	return func(info fs.FileInfo) bool { return info.ModTime().Before(t) }
}

// Sweep removes the files of a directory that stale accepts and whose names begin with one of the prefixes, also those that Replace has
// left. It ends at the first file that it cannot remove.
func Sweep(dir string, stale func(fs.FileInfo) bool, prefixes ...string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		name := strings.TrimPrefix(e.Name(), ".") // temporaryName
		if !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			continue
		}
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || !stale(info) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
}
