package carried

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// architectures are those of Fargate, as Go names them.
var architectures = []string{"amd64", "arm64"}

// largest bounds a binary's size: a damaged program must not take all memory.
const largest = 64 << 20

// Binaries returns the static Linux programs of bastiond by architecture, "amd64" and "arm64", as account/image takes them.
func Binaries() (map[string][]byte, error) { return read(files) }

func read(files fs.FS) (map[string][]byte, error) {
	binaries := make(map[string][]byte)
	for _, arch := range architectures {
		binary, err := unpack(files, "bastiond-linux-"+arch+".gz")
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fail.New(fail.Usage, "take bastiond from this program", errors.New("it carries none"),
				"use a program that `make build` has built, or name binaries by --bastiond")
		}
		if err != nil {
			return nil, fmt.Errorf("take bastiond for %s from this program: %w", arch, err)
		}
		binaries[arch] = binary
	}
	return binaries, nil
}

func unpack(files fs.FS, name string) ([]byte, error) {
	f, err := files.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, err
	}
	binary, err := io.ReadAll(io.LimitReader(z, largest+1))
	if err == nil && len(binary) > largest {
		err = fmt.Errorf("it has more than %d bytes", largest)
	}
	return binary, err
}
