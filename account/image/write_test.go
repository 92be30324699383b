package image

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
)

func TestWrite(t *testing.T) {
	index := testIndex(t)
	var archive, again bytes.Buffer
	for _, w := range []io.Writer{&archive, &again} {
		if err := Write(w, index, "v1.2.3"); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archive.Bytes(), again.Bytes()) {
		t.Error("two archives of the same index differ")
	}
	dir := t.TempDir()
	unpack(t, &archive, dir)
	top := must(must(layout.FromPath(dir))(t).ImageIndex())(t)
	manifests := must(top.IndexManifest())(t).Manifests
	if len(manifests) != 1 || manifests[0].Digest != must(index.Digest())(t) ||
		manifests[0].Annotations["org.opencontainers.image.ref.name"] != "v1.2.3" {
		t.Errorf("index.json: %+v", manifests)
	}
	checkIndex(t, must(top.ImageIndex(manifests[0].Digest))(t))
	if files := must(filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*")))(t); len(files) != 13 {
		// the index; and of two images and two attestations the manifest, the configuration and the layer
		t.Errorf("%d blobs", len(files))
	}
}

func unpack(t *testing.T, archive io.Reader, dir string) {
	t.Helper()
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeDir {
			err = os.Mkdir(filepath.Join(dir, h.Name), 0o755)
		} else {
			err = os.WriteFile(filepath.Join(dir, h.Name), must(io.ReadAll(r))(t), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestWriteSaysWhatFailed(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	err = Write(w, testIndex(t), "")
	if err == nil || !strings.HasPrefix(err.Error(), "write the image of bastiond: ") || !errors.Is(err, os.ErrClosed) && !strings.Contains(err.Error(), "pipe") {
		t.Errorf("%v", err)
	}
}
