package sshconfig

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/bastion-ssm/bastion/internal/block"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// maxFile bounds the file that Edit rewrites, in bytes.
const maxFile = 4 << 20

// File returns the absolute path of the file to change: the given one, or ~/.ssh/config.
func File(given string) (string, error) {
	if given != "" {
		return filepath.Abs(given)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fail.New(fail.Usage, "find ~/.ssh/config", err, "name the file with --file")
	}
	return filepath.Join(home, ".ssh", "config"), nil
}

// Edit puts stanzas into the file at path. They replace the present block, or else go to the top, before every other Host or Match.
// Without stanzas Edit removes the block. It reports whether the file has changed.
func Edit(path string, stanzas []byte) (bool, error) {
	op := "change " + path
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if len(stanzas) == 0 {
			return false, nil
		}
		if err := files.MkdirAll(dir, 0o700); err != nil {
			return false, cannotWrite(op, dir, err)
		}
	}
	var wrong error // of the present file
	changed, err := files.Update(path, maxFile, 0o600, func(old []byte) ([]byte, error) {
		text, err := files.Text(old)
		if err != nil {
			wrong = fail.New(fail.Usage, op, err, "")
			return nil, wrong
		}
		mark := old[:len(old)-len(text)] // the mark stays at the beginning
		b, err := block.Only(string(text))
		if err != nil {
			wrong = fail.New(fail.Usage, op, err, "correct the marks by hand: one "+block.Begin("")+" and one "+block.End(""))
			return nil, wrong
		}
		return slices.Concat(mark, text[:b.From], stanzas, text[b.To:]), nil
	})
	if err != nil && wrong == nil {
		err = cannotWrite(op, dir, err)
	}
	return changed, err
}

func cannotWrite(op, dir string, err error) error {
	switch {
	case files.IsForeign(err):
		return fail.New(fail.Usage, op, err, "run the command as that user, without sudo")
	case errors.Is(err, fs.ErrPermission):
		return fail.New(fail.Other, op, err, "check that you may write in "+dir)
	}
	return fail.New(fail.Usage, op, err, "check the path, or name another file with --file")
}
