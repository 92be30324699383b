package image

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// maxSize is the budget of an image, in bytes of compressed layers.
const maxSize = 12 << 20

// The digest of an image of given bytes is a constant. It changes with the root file system, the settings, the labels, the compressor
// or the library that writes the manifest, and with nothing else. A change that is meant changes it here.
func TestDigest(t *testing.T) {
	fixed := info
	fixed.Certificates = []byte("certificates")
	for arch, want := range map[string]string{
		"amd64": "sha256:41889f905c5dd359c64187a92a92de3fe7a08c8c225fff98940e474290e49601",
		"arm64": "sha256:7e806cfae8330ea948d8f704d02d109c767cbaca18a63dee7678cfa60678a234",
	} {
		img := must(newImage(arch, bytes.Repeat([]byte("bastiond "+arch), 10000), fixed))(t)
		if got := must(img.Digest())(t).String(); got != want {
			t.Errorf("%s: %s, want %s", arch, got, want)
		}
	}
}

// bastiond, built in two directories from sources with other times, gives the same image. The Go tool's cache is one: without
// -trimpath, or with -buildvcs, it would hold nothing for the other directory.
func TestReproducible(t *testing.T) {
	elsewhere := copyModule(t)
	again, err := buildBastionds(elsewhere, "amd64")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again["amd64"], must(bastionds())(t)["amd64"]) {
		t.Fatal("the two binaries differ")
	}
	one, two := must(must(realIndex())(t).IndexManifest())(t), must(must(Build(again, info))(t).IndexManifest())(t)
	if a, b := one.Manifests[0].Digest, two.Manifests[0].Digest; a != b {
		t.Errorf("%s and %s", a, b)
	}
}

// copyModule copies what bastiond is built from to another directory.
func copyModule(t *testing.T) string {
	t.Helper()
	root := must(filepath.Abs(filepath.Join("..", "..")))(t)
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if and .Module .Module.Main}}{{.Dir}}{{end}}", "./cmd/bastiond")
	list.Dir, list.Env = root, append(os.Environ(), "GOOS=linux", "CGO_ENABLED=0")
	dirs := strings.Fields(string(must(list.Output())(t)))
	to := t.TempDir()
	for _, name := range []string{"go.mod", "go.sum"} {
		copyFile(t, filepath.Join(root, name), filepath.Join(to, name))
	}
	for _, dir := range dirs {
		rel := must(filepath.Rel(root, dir))(t)
		if err := os.MkdirAll(filepath.Join(to, rel), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, entry := range must(os.ReadDir(dir))(t) {
			if entry.Type().IsRegular() {
				copyFile(t, filepath.Join(dir, entry.Name()), filepath.Join(to, rel, entry.Name()))
			}
		}
	}
	return to
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	if err := os.WriteFile(to, must(os.ReadFile(from))(t), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(to, time.Unix(1e9, 0), time.Unix(1e9, 0)); err != nil {
		t.Fatal(err)
	}
}

func TestTwoBuilds(t *testing.T) {
	again := must(Build(must(small())(t), info))(t)
	if a, b := must(testIndex(t).Digest())(t), must(again.Digest())(t); a != b {
		t.Errorf("%s and %s", a, b)
	}
}

func TestIndex(t *testing.T) {
	index := testIndex(t)
	checkIndex(t, index)
	manifest := must(index.IndexManifest())(t)
	var platforms []string
	for _, child := range manifest.Manifests {
		platforms = append(platforms, child.Platform.String())
		if child.MediaType != types.OCIManifestSchema1 {
			t.Errorf("an image is of type %s", child.MediaType)
		}
		if child.ArtifactType != "" {
			t.Errorf("an artifact of type %s", child.ArtifactType)
		}
	}
	if want := []string{"linux/amd64", "linux/arm64", "unknown/unknown", "unknown/unknown"}; !slices.Equal(platforms, want) {
		t.Errorf("platforms %q, want %q", platforms, want)
	}
	if manifest.MediaType != types.OCIImageIndex {
		t.Errorf("an index of type %s", manifest.MediaType)
	}
	labels := map[string]string{
		"org.opencontainers.image.title":       "bastiond",
		"org.opencontainers.image.description": "SSH server that leads granted keys to permitted destinations in a private network",
		"org.opencontainers.image.created":     "2026-11-01T12:00:00Z",
		"org.opencontainers.image.version":     "v1.2.3",
		"org.opencontainers.image.revision":    "0123456789abcdef0123456789abcdef01234567",
		"org.opencontainers.image.source":      "https://example.com/bastion",
		"org.opencontainers.image.licenses":    "Apache-2.0",
	}
	if d := cmp.Diff(labels, manifest.Annotations); d != "" {
		t.Errorf("the index's annotations: %s", d)
	}
	for i, arch := range architectures {
		t.Run(arch, func(t *testing.T) {
			img := must(index.Image(manifest.Manifests[i].Digest))(t)
			if d := cmp.Diff(labels, must(img.Manifest())(t).Annotations); d != "" {
				t.Errorf("annotations: %s", d)
			}
			got := must(img.ConfigFile())(t)
			want := v1.Config{
				User: "65532:65532", Entrypoint: []string{"/bastiond"}, Cmd: []string{"serve"},
				Volumes: map[string]struct{}{"/run/bastiond": {}}, Labels: labels,
			}
			if d := cmp.Diff(want, got.Config); d != "" {
				t.Errorf("settings: %s", d)
			}
			if got.OS != "linux" || got.Architecture != arch || !got.Created.Equal(info.Created) {
				t.Errorf("%s/%s, %v", got.OS, got.Architecture, got.Created)
			}
		})
	}
}

func TestSize(t *testing.T) {
	sizes := must(Sizes(must(realIndex())(t)))(t)
	if len(sizes) != 2 || sizes[0].Platform != "linux/amd64" || sizes[1].Platform != "linux/arm64" {
		t.Errorf("sizes: %v", sizes)
	}
	for _, size := range sizes {
		if size.Bytes > maxSize || size.Bytes < 2<<20 {
			t.Errorf("%s has %d bytes, with a budget of %d", size.Platform, size.Bytes, maxSize)
		}
	}
}

// The root file system that bastion-image/rootfs.sh makes is compared by that directory's tests.
func TestLayer(t *testing.T) {
	index := testIndex(t)
	bastiond := must(small())(t)
	for i, arch := range architectures {
		img := must(index.Image(must(index.IndexManifest())(t).Manifests[i].Digest))(t)
		layers := must(img.Layers())(t)
		if len(layers) != 1 || must(layers[0].MediaType())(t) != types.OCILayer {
			t.Fatalf("%d layers", len(layers))
		}
		var names []string
		archive := tar.NewReader(must(layers[0].Uncompressed())(t))
		for {
			h, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			names = append(names, h.Name)
			if h.ModTime.Unix() != 0 || h.Uname != "" || h.Gname != "" {
				t.Errorf("%s is of %v, of %q and %q", h.Name, h.ModTime, h.Uname, h.Gname)
			}
			content := must(io.ReadAll(archive))(t)
			switch h.Name {
			case "bastiond":
				if !bytes.Equal(content, bastiond[arch]) {
					t.Errorf("another bastiond for %s", arch)
				}
			case "etc/ssl/certs/ca-certificates.crt":
				if !x509.NewCertPool().AppendCertsFromPEM(content) || bytes.Count(content, []byte("BEGIN CERTIFICATE")) < 100 {
					t.Error("few CA certificates")
				}
			}
		}
		if !slices.IsSorted(names) || len(slices.Compact(names)) != 24 {
			t.Errorf("%d entries: %q", len(names), names)
		}
	}
}

func TestOneArchitecture(t *testing.T) {
	index := must(Build(map[string][]byte{"arm64": must(small())(t)["arm64"]}, Info{}))(t)
	manifest := must(index.IndexManifest())(t)
	if len(manifest.Manifests) != 2 || manifest.Manifests[0].Platform.Architecture != "arm64" {
		t.Errorf("%v", manifest.Manifests)
	}
	created := manifest.Annotations["org.opencontainers.image.created"]
	if _, ok := manifest.Annotations["org.opencontainers.image.licenses"]; ok || created != "1970-01-01T00:00:00Z" {
		t.Errorf("annotations %v", manifest.Annotations)
	}
}

func TestRefusedBinaries(t *testing.T) {
	good := must(small())(t)["amd64"]
	replaced := func(old, now string) []byte {
		if !bytes.Contains(good, []byte(old)) || len(old) != len(now) {
			t.Fatalf("%q is not there", old)
		}
		return bytes.ReplaceAll(good, []byte(old), []byte(now))
	}
	for name, tt := range map[string]struct {
		arch   string
		binary []byte
		text   string
	}{
		"nothing":              {"", nil, "there is no binary"},
		"another architecture": {"riscv64", good, `unknown architecture "riscv64"`},
		"for another one":      {"arm64", good, "linux/arm64: the binary is for EM_X86_64"},
		"a script":             {"amd64", []byte("#!/bin/sh\n"), "the binary is not a Linux program"},
		"cut off":              {"amd64", good[:100], "the binary is not a Linux program"},
		"dynamic":              {"amd64", withInterpreter(t, good), "the binary is not static"},
		"without modules":      {"amd64", replaced("\xff Go buildinf:", "\xff no buildinf:"), "does not list its modules"},
		"another program":      {"amd64", replaced("bastion/cmd/bastiond", "bastion/cmd/bastionx"), "cmd/bastionx, not bastiond"},
	} {
		t.Run(name, func(t *testing.T) {
			given := map[string][]byte{}
			if tt.arch != "" {
				given[tt.arch] = tt.binary
			}
			_, err := Build(given, info)
			if err == nil || !strings.Contains(err.Error(), tt.text) || !strings.HasPrefix(err.Error(), "build the image of bastiond: ") {
				t.Fatalf("error %v, want one with %q", err, tt.text)
			}
			if fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" {
				t.Errorf("%v, next %q", fail.KindOf(err), fail.NextOf(err))
			}
		})
	}
}

// withInterpreter makes a static 64-bit program claim a dynamic linker.
func withInterpreter(t *testing.T, program []byte) []byte {
	t.Helper()
	var header elf.Header64
	if err := binary.Read(bytes.NewReader(program), binary.LittleEndian, &header); err != nil {
		t.Fatal(err)
	}
	dynamic := slices.Clone(program)
	binary.LittleEndian.PutUint32(dynamic[header.Phoff:], uint32(elf.PT_INTERP))
	return dynamic
}
