package carried

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/fail"
)

func packed(t *testing.T, content []byte) *fstest.MapFile {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return &fstest.MapFile{Data: b.Bytes()}
}

func TestBinaries(t *testing.T) {
	amd, arm := packed(t, []byte("amd64's")), packed(t, []byte("arm64's"))
	cut := &fstest.MapFile{Data: amd.Data[:len(amd.Data)-4]} // without the end of its checksum
	for name, test := range map[string]struct {
		files fstest.MapFS
		err   string
		kind  fail.Kind
	}{
		"both":      {files: fstest.MapFS{"bastiond-linux-amd64.gz": amd, "bastiond-linux-arm64.gz": arm}},
		"none":      {err: "it carries none", kind: fail.Usage},
		"one":       {files: fstest.MapFS{"bastiond-linux-amd64.gz": amd}, err: "it carries none", kind: fail.Usage},
		"cut":       {files: fstest.MapFS{"bastiond-linux-amd64.gz": cut, "bastiond-linux-arm64.gz": arm}, err: "for amd64 from this program: unexpected EOF"},
		"too large": {files: fstest.MapFS{"bastiond-linux-amd64.gz": packed(t, make([]byte, largest+1)), "bastiond-linux-arm64.gz": arm}, err: "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			binaries, err := read(test.files)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("error %v, want one with %q", err, test.err)
				}
				if test.kind != 0 && fail.KindOf(err) != test.kind {
					t.Errorf("kind %v, want %v", fail.KindOf(err), test.kind)
				}
				return
			}
			if err != nil || string(binaries["amd64"]) != "amd64's" || string(binaries["arm64"]) != "arm64's" || len(binaries) != 2 {
				t.Errorf("binaries %q, error %v", binaries, err)
			}
		})
	}
}

// The tag "carry" embeds the files under the names that Binaries reads.
func TestEmbeddedFiles(t *testing.T) {
	dir := t.TempDir()
	replace := make(map[string]string)
	var want []string
	for _, arch := range architectures {
		name := "bastiond-linux-" + arch + ".gz"
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, packed(t, nil).Data, 0o600); err != nil {
			t.Fatal(err)
		}
		here, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		replace[here], want = file, append(want, name)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	for tags, want := range map[string][]string{"carry": want, "": nil} {
		list := exec.Command("go", "list", "-tags="+tags, "-overlay", overlayFile, "-f", `{{range .EmbedFiles}}{{.}} {{end}}`, ".")
		list.Stderr = t.Output()
		out, err := list.Output()
		if got := strings.Fields(string(out)); err != nil || !slices.Equal(got, want) {
			t.Errorf("with the tags %q the program carries %q, want %q (error %v)", tags, got, want, err)
		}
	}
}

// What the program carries is built as what make image puts into an image: a person who builds both gets one digest.
func TestMakeBuildsOneBastiond(t *testing.T) {
	built := func(target string) (lines []string) {
		list := exec.Command(rig.Need(t, "make"), "-n", "-B", "VERSION=v1.0.0", target)
		list.Dir, list.Stderr = rig.Root(), t.Output()
		out, err := list.Output()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "-o build/bastiond-linux-") {
				lines = append(lines, line)
			}
		}
		return lines
	}
	carried, image := built("build/bastion"), built("image")
	if len(carried) != len(architectures) || !slices.Equal(carried, image) {
		t.Errorf("make build/bastion runs %q, and make image %q", carried, image)
	}
}
