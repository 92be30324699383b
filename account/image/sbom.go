package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// The names of BuildKit's attestations: docs/attestations/attestation-storage.md in github.com/moby/buildkit.
const (
	unknown             = "unknown" // platform of what no engine shall run
	referenceType       = "vnd.docker.reference.type"
	referenceDigest     = "vnd.docker.reference.digest"
	attestationManifest = "attestation-manifest"

	inTotoType      = "application/vnd.in-toto+json"
	inTotoStatement = "https://in-toto.io/Statement/v0.1"
	inTotoPredicate = "in-toto.io/predicate-type"
	spdxPredicate   = "https://spdx.dev/Document"
)

// statement says that its predicate is about its subject (in-toto's attestation format).
type statement struct {
	Type          string    `json:"_type"`
	Subject       []subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     any       `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"`
}

// spdxDocument is the part of an SPDX 2.3 document that an SBOM of a Go program uses.
type spdxDocument struct {
	Version       string             `json:"spdxVersion"`
	DataLicense   string             `json:"dataLicense"`
	ID            string             `json:"SPDXID"`
	Name          string             `json:"name"`
	Namespace     string             `json:"documentNamespace"`
	Creation      spdxCreation       `json:"creationInfo"`
	Packages      []spdxPackage      `json:"packages"`
	Relationships []spdxRelationship `json:"relationships"`
}

type spdxCreation struct {
	Created  string   `json:"created"`
	Creators []string `json:"creators"`
}

type spdxPackage struct {
	ID               string         `json:"SPDXID"`
	Name             string         `json:"name"`
	Version          string         `json:"versionInfo,omitempty"`
	Purpose          string         `json:"primaryPackagePurpose"`
	DownloadLocation string         `json:"downloadLocation"`
	FilesAnalyzed    bool           `json:"filesAnalyzed"`
	Checksums        []spdxChecksum `json:"checksums,omitempty"`
	SourceInfo       string         `json:"sourceInfo,omitempty"`
	LicenseConcluded string         `json:"licenseConcluded"`
	LicenseDeclared  string         `json:"licenseDeclared"`
	Copyright        string         `json:"copyrightText"`
	ExternalRefs     []spdxRef      `json:"externalRefs"`
}

type spdxChecksum struct {
	Algorithm string `json:"algorithm"`
	Value     string `json:"checksumValue"`
}

type spdxRef struct {
	Category string `json:"referenceCategory"`
	Type     string `json:"referenceType"`
	Locator  string `json:"referenceLocator"`
}

type spdxRelationship struct {
	From string `json:"spdxElementId"`
	Type string `json:"relationshipType"`
	To   string `json:"relatedSpdxElement"`
}

const (
	spdxDocumentID = "SPDXRef-DOCUMENT"
	noAssertion    = "NOASSERTION"
)

// newSBOM lists what a bastiond was linked from: its own module, those that it depends on, and Go's standard library.
func newSBOM(arch string, binary []byte, modules *debug.BuildInfo, info Info) spdxDocument {
	sum := sha256.Sum256(binary)
	digest := hex.EncodeToString(sum[:])
	program := newPackage(0, modules.Main.Path, info.Version, "")
	program.Purpose = "APPLICATION"
	program.Checksums = []spdxChecksum{{"SHA256", digest}}
	program.ExternalRefs[0].Locator += "#cmd/bastiond"
	if info.Licenses != "" {
		program.LicenseDeclared = info.Licenses
	}
	doc := spdxDocument{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: spdxDocumentID,
		Name:      strings.TrimSpace("bastiond "+info.Version) + " linux/" + arch,
		Namespace: fmt.Sprintf("https://%s/spdx/%s/%d", modules.Main.Path, digest, info.Created.Unix()),
		Creation: spdxCreation{
			Created: info.Created.Format(time.RFC3339), Creators: []string{"Tool: bastion"},
		},
		Packages:      []spdxPackage{program, newPackage(1, "stdlib", strings.TrimPrefix(modules.GoVersion, "go"), "")},
		Relationships: []spdxRelationship{{spdxDocumentID, "DESCRIBES", program.ID}},
	}
	for i, dep := range modules.Deps {
		if dep.Replace != nil {
			dep = dep.Replace
		}
		doc.Packages = append(doc.Packages, newPackage(i+2, dep.Path, dep.Version, dep.Sum))
	}
	for _, p := range doc.Packages[1:] {
		doc.Relationships = append(doc.Relationships, spdxRelationship{program.ID, "DEPENDS_ON", p.ID})
	}
	return doc
}

// newPackage describes a Go module. sum is its line of go.sum.
func newPackage(n int, path, version, sum string) spdxPackage {
	p := spdxPackage{
		ID: fmt.Sprintf("SPDXRef-Package-%d", n), Name: path, Version: version, Purpose: "LIBRARY",
		DownloadLocation: noAssertion, LicenseConcluded: noAssertion, LicenseDeclared: noAssertion, Copyright: noAssertion,
	}
	if sum != "" {
		p.SourceInfo = "go.sum: " + sum
	}
	url := "pkg:golang/" + strings.ToLower(path)
	if version != "" {
		url += "@" + strings.ReplaceAll(version, "+", "%2B")
	}
	p.ExternalRefs = []spdxRef{{"PACKAGE-MANAGER", "purl", url}}
	return p
}

// newAttestation wraps the SBOM of an image as BuildKit does: an image that has the SBOM for its layer, and that no engine runs.
func newAttestation(of v1.Hash, sbom spdxDocument) (v1.Image, error) {
	text, err := json.Marshal(statement{
		Type: inTotoStatement, Subject: []subject{{"bastiond", map[string]string{of.Algorithm: of.Hex}}},
		PredicateType: spdxPredicate, Predicate: sbom,
	})
	if err != nil {
		return nil, err
	}
	img, err := mutate.ConfigFile(oci(), &v1.ConfigFile{
		OS: unknown, Architecture: unknown, RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{}},
	})
	if err != nil {
		return nil, err
	}
	return mutate.Append(img, mutate.Addendum{
		Layer:       static.NewLayer(text, inTotoType),
		MediaType:   types.MediaType(inTotoType),
		Annotations: map[string]string{inTotoPredicate: spdxPredicate},
	})
}
