//go:build unix

package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// maxLinks bounds the symbolic links on the way to a file; the kernel's bound is the same.
const maxLinks = 40

// step is a file, directory or symbolic link on the way to a file.
type step struct {
	path string
	info fs.FileInfo
	uid  int
	// holds says that the directory contains the file itself, or a symbolic link that leads to it.
	holds bool
}

// walk returns the steps from the root directory to path, which it makes absolute: every directory, every symbolic link, and
// their targets. It stops before the first step that does not exist; complete is then false.
func walk(path string) (steps []step, complete bool, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, false, err
	}
	at := "/"
	rest := split(path)
	add := func(path string) (fs.FileInfo, error) {
		info, err := os.Lstat(path)
		if err != nil {
			return nil, err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return nil, errors.ErrUnsupported
		}
		steps = append(steps, step{path: path, info: info, uid: int(st.Uid)})
		return info, nil
	}
	if _, err := add(at); err != nil {
		return nil, false, err
	}
	for links := 0; len(rest) > 0; {
		if rest[0] == ".." {
			at, rest = filepath.Dir(at), rest[1:]
			continue
		}
		if len(rest) == 1 {
			for i := range steps {
				steps[i].holds = steps[i].holds || steps[i].path == at
			}
		}
		next := filepath.Join(at, rest[0])
		rest = rest[1:]
		info, err := add(next)
		if errors.Is(err, fs.ErrNotExist) {
			return steps, false, nil
		}
		if err != nil {
			return nil, false, err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > maxLinks {
			return nil, false, fmt.Errorf("%s: too many symbolic links", path)
		}
		to, err := os.Readlink(next)
		if err != nil {
			return nil, false, err
		}
		if filepath.IsAbs(to) {
			at = "/"
		}
		rest = append(split(to), rest...)
	}
	return steps, true, nil
}

// split returns a path's components. It keeps "..": behind a symbolic link it is not the link's own parent.
func split(path string) []string {
	var out []string
	for part := range strings.SplitSeq(path, "/") {
		if part != "" && part != "." {
			out = append(out, part)
		}
	}
	return out
}
