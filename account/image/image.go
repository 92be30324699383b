package image

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// Info says what is in an image. Its zero value is valid.
type Info struct {
	Version  string // bastiond's version, such as "v1.2.3"
	Revision string // the commit that bastiond was built from
	Source   string // the URL of the source code
	Licenses string // an SPDX license expression

	// Created is the time that the image claims. The zero time stands for the beginning of 1970, so that a build without a time is
	// reproducible too.
	Created time.Time

	// Allow has the destinations that any bastion of the image may connect to at most, in bastiond's syntax, which Build does not
	// check. Empty means that the image sets no limit.
	Allow string

	// Certificates are the CA certificates in the image, in PEM. Without them the image has Mozilla's, as of the module
	// golang.org/x/crypto/x509roots/fallback.
	Certificates []byte
}

// architectures are those that Fargate has, in the index's order.
var architectures = []string{"amd64", "arm64"}

// compression is a level of klauspost/compress. It needs a quarter of the time of the highest one for an image that is 0.3% larger.
const compression = 8

// Build makes the index of the images of bastiond. binaries are static Linux programs by architecture, "amd64" or "arm64". An index
// with one of them alone is possible.
func Build(binaries map[string][]byte, info Info) (v1.ImageIndex, error) {
	index, err := build(binaries, info)
	if err != nil {
		return nil, fmt.Errorf("build the image of bastiond: %w", err)
	}
	return index, nil
}

func build(binaries map[string][]byte, info Info) (v1.ImageIndex, error) {
	if len(binaries) == 0 {
		return nil, fail.Usagef("build bastiond for linux/amd64 or linux/arm64", "there is no binary")
	}
	for _, arch := range slices.Sorted(maps.Keys(binaries)) {
		if !slices.Contains(architectures, arch) {
			return nil, fail.Usagef("use amd64 or arm64", "unknown architecture %q", arch)
		}
	}
	if info.Created.IsZero() {
		info.Created = time.Unix(0, 0)
	}
	info.Created = info.Created.UTC().Truncate(time.Second)
	if info.Certificates == nil {
		info.Certificates = mozilla()
	}
	var images, attestations []mutate.IndexAddendum
	for _, arch := range architectures {
		binary, ok := binaries[arch]
		if !ok {
			continue
		}
		image, attestation, err := pair(arch, binary, info)
		if err != nil {
			return nil, fmt.Errorf("linux/%s: %w", arch, err)
		}
		images, attestations = append(images, image), append(attestations, attestation)
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), append(images, attestations...)...)
	return mutate.Annotations(index, info.labels()).(v1.ImageIndex), nil
}

// pair returns an architecture's image and the attestation with its SBOM, as the index has them.
func pair(arch string, binary []byte, info Info) (image, attestation mutate.IndexAddendum, err error) {
	modules, err := inspect(arch, binary)
	if err != nil {
		return image, attestation, err
	}
	img, err := newImage(arch, binary, info)
	if err != nil {
		return image, attestation, err
	}
	digest, err := img.Digest()
	if err != nil {
		return image, attestation, err
	}
	sbom, err := newAttestation(digest, newSBOM(arch, binary, modules, info))
	if err != nil {
		return image, attestation, err
	}
	image = mutate.IndexAddendum{
		Add: plain{img}, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}},
	}
	attestation = mutate.IndexAddendum{Add: plain{sbom}, Descriptor: v1.Descriptor{
		Platform:    &v1.Platform{OS: unknown, Architecture: unknown},
		Annotations: map[string]string{referenceType: attestationManifest, referenceDigest: digest.String()},
	}}
	return image, attestation, nil
}

// plain is an image whose descriptor has no artifact type. The library would give it that of its configuration, which older tools
// drop when they copy an index, so that its digest changes.
type plain struct{ v1.Image }

// ArtifactType returns the artifact type, which is none.
func (plain) ArtifactType() (string, error) { return "", nil }

// newImage makes the image of one architecture. It takes any bytes for bastiond.
func newImage(arch string, binary []byte, info Info) (v1.Image, error) {
	layer, err := newLayer(rootFS(binary, info))
	if err != nil {
		return nil, err
	}
	created := v1.Time{Time: info.Created}
	config := &v1.ConfigFile{
		OS: "linux", Architecture: arch, Created: created,
		Config: v1.Config{
			User: owner, Entrypoint: []string{"/bastiond"}, Cmd: []string{"serve"},
			// ECS mounts a volume there. It takes its owner and mode from the image where the image declares it.
			Volumes: map[string]struct{}{"/" + controlDir: {}},
			Labels:  info.labels(),
		},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{}},
	}
	img, err := mutate.ConfigFile(oci(), config)
	if err != nil {
		return nil, err
	}
	img, err = mutate.Append(img, mutate.Addendum{
		Layer:     layer,
		History:   v1.History{Created: created, CreatedBy: "bastion", Comment: "bastiond " + info.Version},
		MediaType: types.OCILayer,
	})
	if err != nil {
		return nil, err
	}
	return mutate.Annotations(img, info.labels()).(v1.Image), nil
}

// oci returns an empty image with the media types of OCI, not Docker's.
func oci() v1.Image {
	return mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
}

// labels returns what the OCI specification has names for, as labels of the image and as annotations.
func (i Info) labels() map[string]string {
	const prefix = "org.opencontainers.image."
	all := map[string]string{
		prefix + "title":       "bastiond",
		prefix + "description": "SSH server that leads granted keys to permitted destinations in a private network",
		prefix + "created":     i.Created.Format(time.RFC3339),
		prefix + "version":     i.Version,
		prefix + "revision":    i.Revision,
		prefix + "source":      i.Source,
		prefix + "licenses":    i.Licenses,
	}
	maps.DeleteFunc(all, func(_, value string) bool { return value == "" })
	return all
}

// compressed is a compressed layer that knows the digest of its content.
type compressed struct {
	partial.CompressedLayer
	diffID v1.Hash
}

// DiffID returns the digest of the uncompressed layer.
func (c compressed) DiffID() (v1.Hash, error) { return c.diffID, nil }

// newLayer packs and compresses a root file system.
func newLayer(root []file) (v1.Layer, error) {
	var archive, zipped bytes.Buffer
	if err := writeTar(&archive, root); err != nil {
		return nil, err
	}
	diffID, _, err := v1.SHA256(bytes.NewReader(archive.Bytes()))
	if err != nil {
		return nil, err
	}
	w, err := gzip.NewWriterLevel(&zipped, compression)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(archive.Bytes())
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	return partial.CompressedToLayer(compressed{static.NewLayer(zipped.Bytes(), types.OCILayer), diffID})
}

// Size is the size of an image of an index.
type Size struct {
	Platform string // "linux/amd64"
	Bytes    int64  // of the compressed layers
}

// Sizes returns the sizes of an index's images, without attestations.
func Sizes(index v1.ImageIndex) ([]Size, error) {
	var sizes []Size
	err := eachImage(index, func(child v1.Descriptor, m *v1.Manifest) {
		if child.Annotations[referenceType] != "" {
			return
		}
		size := Size{Platform: child.Platform.String()}
		for _, layer := range m.Layers {
			size.Bytes += layer.Size
		}
		sizes = append(sizes, size)
	})
	return sizes, err
}

// eachImage calls f for each image of an index, the attestations too.
func eachImage(index v1.ImageIndex, f func(v1.Descriptor, *v1.Manifest)) error {
	manifest, err := index.IndexManifest()
	if err != nil {
		return err
	}
	for _, child := range manifest.Manifests {
		img, err := index.Image(child.Digest)
		if err != nil {
			return err
		}
		m, err := img.Manifest()
		if err != nil {
			return err
		}
		f(child, m)
	}
	return nil
}
