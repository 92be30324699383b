package kubeconfig

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/sleep"
)

// maxFile bounds a file's size.
const maxFile = 4 << 20

const (
	lockLimit = 5 * time.Second        // for another program to end its edit
	lockPause = 100 * time.Millisecond // between two attempts to lock
)

// Path returns the file for a cluster: the first one of KUBECONFIG's list whose text has it, else the first one of the list, else the
// default in the home directory.
func Path(list, home string, has func(text []byte) bool) (string, error) {
	var paths []string
	for _, p := range filepath.SplitList(list) {
		if p != "" {
			paths = append(paths, p)
		}
	}
	for _, p := range paths {
		if text, err := read(p); err == nil && has(text) {
			return p, nil
		}
	}
	switch {
	case len(paths) > 0:
		return paths[0], nil
	case home == "":
		return "", fail.New(fail.Usage, "find the kubeconfig", errors.New("the home directory is unknown"), "name it: --kubeconfig FILE")
	}
	return filepath.Join(home, ".kube", "config"), nil
}

// read returns a file's text; none if it does not exist.
func read(path string) ([]byte, error) {
	text, err := files.Read(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return text, err
}

// Update replaces a file's text with edit's result, under kubectl's lock. A new file is for the user alone.
func Update(ctx context.Context, path string, edit func(text []byte) ([]byte, error)) (err error) {
	op := "write the kubeconfig " + path
	if err := files.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fail.New(fail.Other, op, err, "name another file: --kubeconfig FILE")
	}
	unlock, err := lock(ctx, path+".lock")
	if err != nil {
		return fail.New(fail.Other, op, err, "")
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if _, err := files.Update(path, maxFile, 0o600, edit); err != nil {
		return fail.New(fail.Usage, op, err, "mend the file, or name another one: --kubeconfig FILE")
	}
	return nil
}

// lock creates a lock file, as kubectl does, and returns what removes it.
func lock(ctx context.Context, path string) (unlock func() error, err error) {
	limit := time.Now().Add(lockLimit)
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err == nil {
			return func() error { return os.Remove(path) }, f.Close()
		}
		if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if time.Now().After(limit) {
			stays := fmt.Errorf("%s has been there for %s: another program edits the file, or was killed", path, lockLimit)
			return nil, fail.New(fail.Other, "", stays, "remove "+path+" if no kubectl runs")
		}
		if err := sleep.For(ctx, lockPause); err != nil {
			return nil, err
		}
	}
}
