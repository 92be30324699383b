package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// attested returns the SBOM that is beside the n-th image of an index, and the descriptor of its attestation.
func attested(t *testing.T, index v1.ImageIndex, n int) (spdxDocument, statement) {
	t.Helper()
	manifests := must(index.IndexManifest())(t).Manifests
	of, by := manifests[n], manifests[len(manifests)/2+n]
	if by.Annotations["vnd.docker.reference.digest"] != of.Digest.String() ||
		by.Annotations["vnd.docker.reference.type"] != "attestation-manifest" {
		t.Errorf("annotations %v for %s", by.Annotations, of.Digest)
	}
	img := must(index.Image(by.Digest))(t)
	m := must(img.Manifest())(t)
	if len(m.Layers) != 1 || m.Layers[0].MediaType != "application/vnd.in-toto+json" ||
		m.Layers[0].Annotations["in-toto.io/predicate-type"] != "https://spdx.dev/Document" {
		t.Fatalf("layers %v", m.Layers)
	}
	text := must(io.ReadAll(must(must(img.Layers())(t)[0].Compressed())(t)))(t)
	var doc spdxDocument
	s := statement{Predicate: &doc}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		t.Fatal(err)
	}
	return doc, s
}

// The SBOM has what `go version -m` says of the binary.
func TestSBOM(t *testing.T) {
	bastiond := must(bastionds())(t)
	index := must(realIndex())(t)
	for i, arch := range architectures {
		t.Run(arch, func(t *testing.T) {
			doc, s := attested(t, index, i)
			digest := must(index.IndexManifest())(t).Manifests[i].Digest
			if s.PredicateType != "https://spdx.dev/Document" || len(s.Subject) != 1 || s.Subject[0].Digest["sha256"] != digest.Hex {
				t.Errorf("%s of %v", s.PredicateType, s.Subject)
			}
			want := listed(t, bastiond[arch])
			var got []string
			for _, p := range doc.Packages[2:] {
				got = append(got, p.Name+" "+p.Version+" "+strings.TrimPrefix(p.SourceInfo, "go.sum: "))
				if url := "pkg:golang/" + strings.ToLower(p.Name) + "@" + p.Version; p.ExternalRefs[0].Locator != url {
					t.Errorf("%s, want %s", p.ExternalRefs[0].Locator, url)
				}
			}
			if !slices.Equal(got, want) || len(got) < 3 {
				t.Errorf("modules %q, want %q", got, want)
			}
			sum := sha256.Sum256(bastiond[arch])
			program, std := doc.Packages[0], doc.Packages[1]
			if program.Version != "v1.2.3" || program.LicenseDeclared != "Apache-2.0" ||
				program.Checksums[0] != (spdxChecksum{"SHA256", hex.EncodeToString(sum[:])}) ||
				program.ExternalRefs[0].Locator != "pkg:golang/github.com/bastion-ssm/bastion@v1.2.3#cmd/bastiond" {
				t.Errorf("the program: %+v", program)
			}
			if std.Name != "stdlib" || !regexp.MustCompile(`^pkg:golang/stdlib@1\.\d+`).MatchString(std.ExternalRefs[0].Locator) {
				t.Errorf("the standard library: %+v", std)
			}
			checkSPDX(t, doc)
		})
	}
}

// listed returns a line for each module that the Go tool finds in a binary.
func listed(t *testing.T, binary []byte) (modules []string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "bastiond")
	if err := os.WriteFile(file, binary, 0o600); err != nil {
		t.Fatal(err)
	}
	out := must(exec.CommandContext(t.Context(), "go", "version", "-m", file).Output())(t)
	for line := range strings.Lines(string(out)) {
		if fields := strings.Fields(line); fields[0] == "dep" {
			modules = append(modules, strings.Join(fields[1:], " "))
		}
	}
	return modules
}

// checkSPDX makes sure of what SPDX 2.3 asks of a document.
func checkSPDX(t *testing.T, doc spdxDocument) {
	t.Helper()
	if doc.Version != "SPDX-2.3" || doc.DataLicense != "CC0-1.0" || doc.ID != "SPDXRef-DOCUMENT" || doc.Creation.Created != "2026-11-01T12:00:00Z" {
		t.Errorf("the document: %+v", doc)
	}
	if !regexp.MustCompile(`^https://[^#]+$`).MatchString(doc.Namespace) {
		t.Errorf("namespace %s", doc.Namespace)
	}
	ids := []string{doc.ID}
	for _, p := range doc.Packages {
		if slices.Contains(ids, p.ID) || !regexp.MustCompile(`^SPDXRef-[A-Za-z0-9.-]+$`).MatchString(p.ID) {
			t.Errorf("the id %s", p.ID)
		}
		ids = append(ids, p.ID)
		if p.Name == "" || p.DownloadLocation == "" || p.LicenseConcluded == "" || p.LicenseDeclared == "" || p.Copyright == "" || p.FilesAnalyzed {
			t.Errorf("incomplete: %+v", p)
		}
	}
	var related []string
	for _, r := range doc.Relationships {
		if !slices.Contains(ids, r.From) || !slices.Contains(ids, r.To) {
			t.Errorf("a relationship of strangers: %+v", r)
		}
		related = append(related, r.To)
	}
	slices.Sort(related)
	if len(slices.Compact(related)) != len(doc.Packages) {
		t.Errorf("packages without a relationship: %v", related)
	}
}

func TestPackageURL(t *testing.T) {
	p := newPackage(7, "github.com/BurntSushi/toml", "v1.6.0+incompatible", "")
	if got, want := p.ExternalRefs[0].Locator, "pkg:golang/github.com/burntsushi/toml@v1.6.0%2Bincompatible"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if p.SourceInfo != "" {
		t.Errorf("a sum of nothing: %s", p.SourceInfo)
	}
}
