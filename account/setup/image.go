package setup

import (
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/account/image"
	"github.com/bastion-ssm/bastion/internal/pattern"
)

// Image is the image of a class of bastions. The class's list of destinations is built into it.
type Image struct {
	Class string // account.Class's name
	Tag   string // in the stack's repository
	index v1.ImageIndex
}

// notInTag is what a tag of an image cannot hold, such as the "+" of a version.
var notInTag = pattern.Lazy(`[^A-Za-z0-9_.-]+`)

// Images makes the images of classes from bastiond's binaries, by architecture. version is bastiond's. A tag names the content: the
// same binaries and list give the same tag, and others another one, because the repository lets no tag be moved.
func Images(binaries map[string][]byte, version string, classes []account.Class) ([]Image, error) {
	images := make([]Image, 0, len(classes))
	for _, class := range classes {
		index, err := image.Build(binaries, image.Info{
			Version: version, Source: "https://github.com/bastion-ssm/bastion", Allow: strings.Join(class.Allow, ","),
		})
		if err != nil {
			return nil, err
		}
		digest, err := index.Digest()
		if err != nil {
			return nil, fmt.Errorf("digest of the image of bastiond: %w", err)
		}
		images = append(images, Image{class.Name, tagOf(version, digest), index})
	}
	return images, nil
}

// tagOf is the version, as far as a tag can hold it, and the begin of the digest. A tag has at most 128 characters.
func tagOf(version string, digest v1.Hash) string {
	version = strings.TrimLeft(notInTag().ReplaceAllString(version, "-"), ".-")
	return version[:min(len(version), 100)] + "-" + digest.Hex[:12]
}
