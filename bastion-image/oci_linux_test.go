package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	oci "github.com/bastion-ssm/bastion/account/image"
)

// ociImage returns the image that account/image makes of what a root file system of rootfs.sh was made of.
func ociImage(t *testing.T, root string) v1.Image {
	t.Helper()
	content := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil && (name != "etc/bastiond/allow" || !errors.Is(err, fs.ErrNotExist)) {
			t.Fatal(err)
		}
		return text
	}
	index, err := oci.Build(map[string][]byte{runtime.GOARCH: content("bastiond")}, oci.Info{
		Allow: strings.TrimSuffix(string(content("etc/bastiond/allow")), "\n"), Certificates: content("etc/ssl/certs/ca-certificates.crt"),
	})
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// extract unpacks an image's layers as a container engine does.
func extract(t *testing.T, img v1.Image) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "rootfs")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	reachable(t, root)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		archive, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		unpack(t, archive, root)
	}
	return root
}

func unpack(t *testing.T, archive io.ReadCloser, root string) {
	t.Helper()
	defer archive.Close()
	for r := tar.NewReader(archive); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(root, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.Mkdir(path, 0o700)
		} else {
			var content []byte
			if content, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, content, 0o600)
			}
		}
		if err == nil && os.Geteuid() == 0 {
			err = os.Lchown(path, h.Uid, h.Gid)
		}
		if err = errors.Join(err, os.Chmod(path, h.FileInfo().Mode())); err != nil {
			t.Fatal(err)
		}
	}
}

// account/image makes the same image as rootfs.sh and the Dockerfile, of the same bastiond, certificates and list.
func TestImageIsTheDockerfiles(t *testing.T) {
	root := build(t, "ALLOW=*.internal:5432, 10.0.0.0/8:*")
	img := ociImage(t, root)
	t.Run("files", func(t *testing.T) { sameFiles(t, root, extract(t, img)) })
	t.Run("settings", func(t *testing.T) { dockerfileSettings(t, img) })
}

func sameFiles(t *testing.T, want, got string) {
	lines := listing(t, want)
	if d := cmp.Diff(lines, listing(t, got)); d != "" {
		t.Error(d)
	}
	for _, line := range lines {
		path := line[strings.LastIndex(line, " ")+1:]
		if !strings.HasPrefix(line, "-") {
			continue
		}
		a, err := os.ReadFile(want + path)
		b, otherErr := os.ReadFile(got + path)
		if err != nil || otherErr != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs: %v, %v", path, err, otherErr)
		}
	}
}

func dockerfileSettings(t *testing.T, img v1.Image) {
	text, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	file, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	array := func(values ...string) string {
		list, err := json.Marshal(values)
		if err != nil {
			t.Fatal(err)
		}
		return strings.ReplaceAll(string(list), ",", ", ")
	}
	var volumes []string
	for volume := range file.Config.Volumes {
		volumes = append(volumes, volume)
	}
	got := []string{
		"VOLUME " + array(volumes...), "USER " + file.Config.User, "ENTRYPOINT " + array(file.Config.Entrypoint...),
		"CMD " + array(file.Config.Cmd...),
	}
	want := regexp.MustCompile(`(?m)^[A-Z]+ .*$`).FindAllString(string(text), -1)
	want = slices.DeleteFunc(want, func(line string) bool { return strings.HasPrefix(line, "FROM ") || strings.HasPrefix(line, "COPY ") })
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}
