// Package image makes bastiond's OCI image without a container engine, and takes it to a registry.
//
// Build puts the binaries of bastiond, one for each architecture, into an image index. The images have the root file system and the
// settings of bastion-image/rootfs.sh and its Dockerfile, so that both ways lead to the same task. Push sends the index to a
// registry. Write makes an OCI layout of it, for those who push by a program of their own.
//
// # Reproducible
//
// The index's digest depends on the arguments of Build alone. Files have no time, entries are in order, and the compressor and the
// CA certificates are modules, whose versions go.sum pins. A Go release or another machine changes none of them.
//
// # The SBOM
//
// Each image has an SPDX document, which lists the modules that its bastiond was linked from. It is in the index, beside the image, in
// the form of BuildKit's attestations. Thus one digest names both, whatever copies the index copies it, and it takes neither a
// file of the root file system, nor a second tag of a repository whose tags are immutable, nor a registry with the referrers API.
package image
