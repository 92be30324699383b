package image

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// info is that of the tests' images.
var info = Info{
	Version: "v1.2.3", Revision: "0123456789abcdef0123456789abcdef01234567", Source: "https://example.com/bastion",
	Licenses: "Apache-2.0", Created: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC), Allow: "*.internal:5432",
}

// bastionds are bastiond as `make image` builds it, once for all tests.
var bastionds = sync.OnceValues(func() (map[string][]byte, error) {
	return buildBastionds(filepath.Join("..", ".."), architectures...)
})

// realIndex is that of bastionds, once for all tests.
var realIndex = sync.OnceValues(func() (v1.ImageIndex, error) {
	all, err := bastionds()
	if err != nil {
		return nil, err
	}
	return Build(all, info)
})

// small are programs that do nothing and pass for bastiond, once for all tests. Most tests need no more.
var small = sync.OnceValues(func() (map[string][]byte, error) {
	module, err := os.MkdirTemp("", "small")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(module)
	dir := filepath.Join(module, "cmd", "bastiond")
	if err := errors.Join(os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(module, "go.mod"), []byte("module example.com/bastion\n\ngo 1.26\n"), 0o644),
		os.WriteFile(filepath.Join(dir, "main.go"), []byte("package main\n\nfunc main() {}\n"), 0o644)); err != nil {
		return nil, err
	}
	return buildBastionds(module, architectures...)
})

// buildBastionds builds bastiond in the module of a directory.
func buildBastionds(module string, archs ...string) (map[string][]byte, error) {
	dir, err := os.MkdirTemp("", "bastiond")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	binaries := map[string][]byte{}
	for _, arch := range archs {
		out := filepath.Join(dir, arch)
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.buildVersion="+info.Version,
			"-o", out, "./cmd/bastiond")
		cmd.Dir = module
		cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+arch, "GOAMD64=v1", "GOARM64=v8.0", "CGO_ENABLED=0")
		if text, err := cmd.CombinedOutput(); err != nil {
			return nil, &exec.Error{Name: string(text), Err: err}
		}
		if binaries[arch], err = os.ReadFile(out); err != nil {
			return nil, err
		}
	}
	return binaries, nil
}

// theIndex is that of the small programs, once for all tests.
var theIndex = sync.OnceValues(func() (v1.ImageIndex, error) {
	all, err := small()
	if err != nil {
		return nil, err
	}
	return Build(all, info)
})

func testIndex(t *testing.T) v1.ImageIndex {
	t.Helper()
	return must(theIndex())(t)
}

// checkIndex makes sure that what an index says of its images is so.
func checkIndex(t *testing.T, index v1.ImageIndex) {
	t.Helper()
	for _, child := range must(index.IndexManifest())(t).Manifests {
		img := must(index.Image(child.Digest))(t)
		if child.Annotations[referenceType] == "" {
			if err := validate.Image(img); err != nil {
				t.Errorf("%s: %v", child.Platform, err)
			}
			continue
		}
		// The validator counts layers of tar archives alone.
		layer := must(img.Layers())(t)[0]
		content := must(read(layer))(t)
		digest, _, err := v1.SHA256(bytes.NewReader(content))
		if err != nil || digest != must(layer.Digest())(t) || !slices.Equal(must(img.ConfigFile())(t).RootFS.DiffIDs, []v1.Hash{digest}) {
			t.Errorf("an attestation of %s, %v", digest, err)
		}
	}
}

// must returns a value whose making must not fail.
func must[T any](value T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}
