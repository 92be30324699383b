package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/bastion-ssm/bastion/account/image"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/words"
)

const usage = `Usage: bastion-image [options] amd64=FILE arm64=FILE

Writes an OCI image layout, as a tar archive, with an image of each bastiond: FILE is a static binary for Linux. The same
files and options give the same archive.

`

// options are the command's.
type options struct {
	out, tag, caBundle string
	created            int64 // seconds since 1970
	info               image.Info
	binaries           map[string]string // file by architecture
}

// run is the program. It returns the exit code: 1 after a failure, 2 for wrong arguments.
func run(args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0 // asked for
	case err != nil:
		return 2 // parse has said why
	}
	if err := o.write(stdout); err != nil {
		fmt.Fprintln(stderr, "bastion-image:", err)
		if next := fail.NextOf(err); next != "" {
			fmt.Fprintln(stderr, "  "+next)
		}
		return 1
	}
	return 0
}

// parse reads the arguments. It prints what is wrong with them.
func parse(args []string, stderr io.Writer) (*options, error) {
	o := &options{binaries: map[string]string{}}
	set := flag.NewFlagSet("bastion-image", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.Usage = func() {
		fmt.Fprint(stderr, usage)
		set.PrintDefaults()
	}
	set.StringVar(&o.out, "o", "build/image.tar", "the archive to write")
	set.StringVar(&o.tag, "tag", "", "name of the image in the archive")
	set.StringVar(&o.info.Version, "version", "", "bastiond's version")
	set.StringVar(&o.info.Revision, "revision", "", "commit that bastiond was built from")
	set.StringVar(&o.info.Source, "source", "", "URL of the source code")
	set.StringVar(&o.info.Licenses, "licenses", "", "SPDX license expression")
	set.Int64Var(&o.created, "created", 0, "the image's time, in seconds since 1970")
	set.StringVar(&o.info.Allow, "allow", "", "destinations that the image allows at most (default: no limit of the image's)")
	set.StringVar(&o.caBundle, "ca-bundle", "", "CA certificates of the image, a PEM file (default: Mozilla's)")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	for _, arg := range set.Args() {
		arch, file, ok := strings.Cut(arg, "=")
		if !ok {
			err := fmt.Errorf("%q is not ARCHITECTURE=FILE", arg)
			fmt.Fprintln(stderr, "bastion-image:", err)
			return nil, err
		}
		o.binaries[arch] = file
	}
	return o, nil
}

// write makes the image and prints its digest and sizes.
func (o *options) write(stdout io.Writer) error {
	o.info.Created = time.Unix(o.created, 0)
	binaries := map[string][]byte{}
	for arch, file := range o.binaries {
		binary, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		binaries[arch] = binary
	}
	if o.caBundle != "" {
		certificates, err := os.ReadFile(o.caBundle)
		if err != nil {
			return err
		}
		o.info.Certificates = certificates
	}
	index, err := image.Build(binaries, o.info)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := image.Write(&archive, index, o.tag); err != nil {
		return err
	}
	if err := files.Replace(o.out, archive.Bytes(), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", o.out, err)
	}
	return o.report(stdout, index)
}

func (o *options) report(stdout io.Writer, index v1.ImageIndex) error {
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "%s: %s\n", o.out, digest)
	sizes, err := image.Sizes(index)
	for _, size := range sizes {
		fmt.Fprintf(stdout, "  %s: %s compressed\n", size.Platform, words.Bytes(float64(size.Bytes)))
	}
	return err
}
