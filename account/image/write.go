package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Write writes an index as a tar archive of an OCI image layout, which skopeo, podman, crane and others read. Unpacked, it is the
// layout's directory. tag is the name of the index in it, and may be empty. The same index and tag give the same bytes.
func Write(w io.Writer, index v1.ImageIndex, tag string) error {
	files, err := layoutFiles(index, tag)
	if err == nil {
		err = writeTar(w, files)
	}
	if err != nil {
		return fmt.Errorf("write the image of bastiond: %w", err)
	}
	return nil
}

// layoutFiles returns the files of the OCI image layout of an index.
func layoutFiles(index v1.ImageIndex, tag string) ([]file, error) {
	blobs, err := contents(index)
	if err != nil {
		return nil, err
	}
	var files []file
	for digest, open := range blobs {
		content, err := open()
		if err != nil {
			return nil, err
		}
		files = append(files, file{name: "blobs/" + digest.Algorithm + "/" + digest.Hex, mode: 0o644, content: content})
	}
	descriptor, err := partial.Descriptor(index)
	if err != nil {
		return nil, err
	}
	if tag != "" {
		descriptor.Annotations = map[string]string{"org.opencontainers.image.ref.name": tag}
	}
	top, err := json.Marshal(v1.IndexManifest{
		SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{*descriptor},
	})
	if err != nil {
		return nil, err
	}
	files = append(files,
		file{name: "index.json", mode: 0o644, content: top},
		file{name: "oci-layout", mode: 0o644, content: []byte(`{"imageLayoutVersion":"1.0.0"}`)})
	return sorted(withParents(files)), nil
}

// contents returns all that an index consists of, itself too, each once.
func contents(index v1.ImageIndex) (map[v1.Hash]func() ([]byte, error), error) {
	blobs := map[v1.Hash]func() ([]byte, error){}
	add := func(of interface{ Digest() (v1.Hash, error) }, open func() ([]byte, error)) error {
		digest, err := of.Digest()
		if err == nil {
			blobs[digest] = open
		}
		return err
	}
	if err := add(index, index.RawManifest); err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	for _, child := range manifest.Manifests {
		img, err := index.Image(child.Digest)
		if err != nil {
			return nil, err
		}
		if err := add(img, img.RawManifest); err != nil {
			return nil, err
		}
		layers, err := uploads(img)
		if err != nil {
			return nil, err
		}
		for _, layer := range layers {
			if err := add(layer, func() ([]byte, error) { return read(layer) }); err != nil {
				return nil, err
			}
		}
	}
	return blobs, nil
}

// uploads returns an image's blobs: its layers and its configuration.
func uploads(img v1.Image) ([]v1.Layer, error) {
	layers, err := img.Layers()
	if err != nil {
		return nil, err
	}
	config, err := partial.ConfigLayer(img)
	if err != nil {
		return nil, err
	}
	return append(layers, config), nil
}

// read returns a layer as a registry has it.
func read(layer v1.Layer) ([]byte, error) {
	r, err := layer.Compressed()
	if err != nil {
		return nil, err
	}
	content, err := io.ReadAll(r)
	return content, errors.Join(err, r.Close())
}
