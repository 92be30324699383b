package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/adrg/xdg"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// Found is a project file, a bastion.yaml that the search found and that the user did not name; or the shared configuration in AWS.
type Found struct {
	Path   string // where the search found it; of a shared one, SharedPath and its name
	Real   string // Path without symbolic links, or the ARN; trust is recorded for it
	Data   []byte
	Shared bool
}

// opened is a configuration file's text.
type opened struct {
	path  string // "": there is no file
	data  []byte
	found *Found // which the user did not name
	// unread is why the shared configuration could not be read; nil if it was, or if a file counts.
	unread error
}

// open returns the text of the configuration file in force. The order is: the named file, the nearest project file that only the user
// and root can write, the user's own file, the shared configuration.
func (src Source) open(env func(string) (string, bool)) (opened, error) {
	if src.NoFile {
		return opened{}, nil
	}
	named := src.File
	if named == "" {
		named, _ = env("BASTION_CONFIG")
	}
	if named != "" {
		data, err := readFile(named, os.Open)
		if err != nil {
			return opened{}, fail.New(fail.Usage, "read the configuration", err, "check the path of --config or BASTION_CONFIG")
		}
		return opened{path: named, data: data}, nil
	}
	found, err := src.find()
	if err != nil {
		return opened{}, err
	}
	if found != nil {
		return opened{path: found.Path, data: found.Data, found: found}, nil
	}
	own, err := xdg.SearchConfigFile(userFile)
	if err != nil { // it does not exist
		return src.shared()
	}
	data, err := readFile(own, files.OpenTrusted)
	if err != nil {
		next := "name it if you trust it: --config " + own + ", or BASTION_CONFIG"
		if u, ok := errors.AsType[*files.UntrustedError](err); ok && u.Fix != "" {
			next = u.Fix + "; or " + next
		}
		return opened{}, fail.New(fail.Usage, "read the configuration", err, next)
	}
	return opened{path: own, data: data}, nil
}

// read returns the configuration file in force; an empty one if there is none.
func (src Source) read(env func(string) (string, bool)) (*File, error) {
	o, err := src.open(env)
	if err != nil || o.path == "" {
		return &File{unread: o.unread}, err
	}
	f, err := parseFile(o.path, o.data)
	if err != nil || o.found == nil {
		return f, err
	}
	if o.found.Shared {
		f.id = o.found.Real
		if err := f.CheckShared(); err != nil {
			return nil, fail.New(fail.Usage, "", err, "an administrator corrects it with bastion config share; until then, set BASTION_SHARED_CONFIG=off")
		}
	}
	trusted, err := src.isTrusted(env, o.found)
	if err != nil {
		return nil, err
	}
	if trusted != trustedAsIs {
		f.found = o.found
		f.changed = trusted == trustedBefore
	}
	return f, nil
}

func parseFile(path string, data []byte) (*File, error) {
	f, err := Parse(display(path), data)
	if err != nil {
		return nil, fail.New(fail.Usage, "", err, "docs/configuration.md lists every key; bastion help settings does too")
	}
	f.Path = path
	return f, nil
}

// FindProject returns the project file that a command in the working directory would use; nil if there is none. ignored
// receives the error of each file that is passed over.
func FindProject(ignored func(error)) (*Found, error) { return Source{Ignored: ignored}.find() }

// find returns the first usable bastion.yaml in the start directory or above it. A file that another user wrote, or could
// write, must not keep commands from working: find passes it over and tells Ignored.
func (src Source) find() (*Found, error) {
	if src.NoProject {
		return nil, nil
	}
	dir := src.Dir
	if dir == "" {
		wd, err := os.Getwd()
		if err != nil {
			return nil, fail.New(fail.Usage, "find the configuration", err, "name the file with --config")
		}
		dir = wd
	}
	for {
		path := filepath.Join(dir, FileName)
		if info, err := os.Stat(path); err == nil && !info.IsDir() {
			found, err := OpenProject(path)
			if err == nil {
				return found, nil
			}
			if src.Ignored != nil {
				src.Ignored(err)
			}
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return nil, nil
		}
		dir = parent
	}
}

// OpenProject reads the project file at path. Its error says why the file is not used, with a hint.
func OpenProject(path string) (*Found, error) {
	data, err := readFile(path, files.OpenTrusted)
	if err != nil {
		next := "if you trust what it says, name it: --config " + path
		if u, ok := errors.AsType[*files.UntrustedError](err); ok && u.Fix != "" {
			next = u.Fix + "; or " + next
		}
		return nil, fail.New(fail.Usage, path+" is not used", err, next)
	}
	found := &Found{Path: path, Data: data}
	if found.Path, err = filepath.Abs(path); err == nil {
		found.Real, err = filepath.EvalSymlinks(found.Path)
	}
	if err != nil {
		return nil, fail.New(fail.Usage, path+" is not used", plainPathError(err), "")
	}
	return found, nil
}

// readFile reads a file of at most maxFile bytes.
func readFile(path string, open func(string) (*os.File, error)) ([]byte, error) {
	f, err := open(path)
	if err != nil {
		return nil, plainPathError(err)
	}
	defer func() { _ = f.Close() }()
	data, err := files.ReadAll(f, maxFile)
	return data, plainPathError(err)
}

// plainPathError drops the system call's name from err.
func plainPathError(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", p.Path, p.Err)
	}
	return err
}
