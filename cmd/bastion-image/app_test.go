package main

import (
	"archive/tar"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// program builds a program that passes for bastiond.
func program(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/bastion\n\ngo 1.26\n", "cmd/bastiond/main.go": "package main\n\nfunc main() {}\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", "bastiond", "./cmd/bastiond")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOOS=linux", "GOARCH=arm64", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return filepath.Join(dir, "bastiond")
}

// indexOf returns the index.json of an archive.
func indexOf(t *testing.T, archive string) (index v1.IndexManifest) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == "index.json" {
			if err := json.NewDecoder(r).Decode(&index); err != nil {
				t.Fatal(err)
			}
			return index
		}
	}
}

func TestRun(t *testing.T) {
	bastiond, dir := program(t), t.TempDir()
	out, bundle := filepath.Join(dir, "image.tar"), filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(bundle, []byte("certificates"), 0o644); err != nil {
		t.Fatal(err)
	}
	digests := map[string]bool{}
	for _, options := range [][]string{
		{},
		{"-version", "v2"},
		{"-revision", "0123"},
		{"-source", "https://example.com"},
		{"-licenses", "Apache-2.0"},
		{"-created", "1000000000"},
		{"-allow", "*.internal:5432"},
		{"-ca-bundle", bundle},
	} {
		var stdout, stderr strings.Builder
		args := append([]string{"-o", out, "-tag", "v1.2.3"}, options...)
		if code := run(append(args, "arm64="+bastiond), &stdout, &stderr); code != 0 || stderr.Len() > 0 {
			t.Fatalf("exit code %d: %s", code, &stderr)
		}
		top := indexOf(t, out).Manifests[0]
		if top.Annotations["org.opencontainers.image.ref.name"] != "v1.2.3" {
			t.Errorf("annotations %v", top.Annotations)
		}
		digest := top.Digest.String()
		want := out + ": " + digest + "\n  linux/arm64: "
		if got := stdout.String(); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "B compressed\n") || strings.Count(got, "\n") != 2 {
			t.Errorf("output %q, want %q and the size", got, want)
		}
		if digests[digest] {
			t.Errorf("%q changes nothing", options)
		}
		digests[digest] = true
	}
}

func TestRunRefuses(t *testing.T) {
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args string
		code int
		text string
	}{
		{"-h", 0, "Usage: bastion-image"},
		{"--odd", 2, "flag provided but not defined"},
		{"bastiond", 2, `"bastiond" is not ARCHITECTURE=FILE`},
		{"", 1, "there is no binary\n  build bastiond for linux/amd64"},
		{"arm64=" + script, 1, "linux/arm64: the binary is not a Linux program"},
		{"arm64=" + dir + "/none", 1, "none: no such file"},
		{"-ca-bundle " + dir + "/none arm64=" + script, 1, "none: no such file"},
	} {
		var stdout, stderr strings.Builder
		args := append([]string{"-o", filepath.Join(dir, "image.tar")}, strings.Fields(tt.args)...)
		if code := run(args, &stdout, &stderr); code != tt.code || !strings.Contains(stderr.String(), tt.text) || stdout.Len() > 0 {
			t.Errorf("%q: exit code %d, want %d; %q, want %q", tt.args, code, tt.code, &stderr, tt.text)
		}
		if _, err := os.Stat(filepath.Join(dir, "image.tar")); err == nil {
			t.Errorf("%q wrote an archive", tt.args)
		}
	}
}
