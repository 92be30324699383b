package admin

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/account/deploy"
	"github.com/bastion-ssm/bastion/account/image"
	"github.com/bastion-ssm/bastion/account/image/carried"
	"github.com/bastion-ssm/bastion/account/setup"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/words"
)

// imageOptions say what the image is made of.
type imageOptions struct {
	bastiond map[string][]byte // by architecture; nil: those that the program carries
}

func (o *imageOptions) imageFlag() cli.Option {
	return cli.Func("ARCH=FILE", "bastiond for amd64 or arm64 (default: those that this program carries)", o.binary, "bastiond")
}

func (o *imageOptions) binary(text string) error {
	arch, file, ok := strings.Cut(text, "=")
	if !ok || arch != "amd64" && arch != "arm64" {
		return fail.Usagef("write --bastiond amd64=FILE or arm64=FILE", "--bastiond %q names no architecture", text)
	}
	binary, err := os.ReadFile(file) // before anything is done without it
	if err != nil {
		return fail.New(fail.Usage, "read bastiond", err, "name a file: --bastiond "+arch+"=FILE")
	}
	if o.bastiond == nil {
		o.bastiond = make(map[string][]byte)
	}
	o.bastiond[arch] = binary
	return nil
}

// binaries are bastiond's: those that are named, or those that the program carries.
func (o *imageOptions) binaries() (map[string][]byte, error) {
	if o.bastiond == nil {
		return carried.Binaries()
	}
	return o.bastiond, nil
}

// newImage is the image that a class of a stack will have, and the tag of the one that it has.
type newImage struct {
	Class string `json:"class"` // empty: the only one
	Now   string `json:"now"`
	Tag   string `json:"tag"`
}

// newImages are the images of a stack's classes after an upgrade: with the given tag, or made of this program's bastiond. A program that
// carries none leaves the images as they are.
func (a *program) newImages(s config.Settings, state deploy.State, o imageOptions, tag string) (
	all []newImage, made []setup.Image, err error,
) {
	tags := make(map[string]string)
	if tag == "" {
		binaries, err := o.binaries()
		switch {
		case err != nil && o.bastiond == nil && fail.KindOf(err) == fail.Usage:
			a.Note(s, "this program carries no bastiond: the images stay as they are (--bastiond and --image-tag name others)")
			return nil, nil, nil
		case err != nil:
			return nil, nil, err
		}
		if made, err = setup.Images(binaries, a.Version, state.Inputs.Classes); err != nil {
			return nil, nil, err
		}
		for _, i := range made {
			tags[i.Class] = i.Tag
		}
	}
	for _, c := range state.Inputs.Classes {
		one := newImage{Class: c.Name, Now: state.Parameters[account.ImageParameter(c.Name)], Tag: tag}
		if made != nil {
			one.Tag = tags[c.Name]
		}
		all = append(all, one)
	}
	return slices.DeleteFunc(all, func(i newImage) bool { return i.Now == i.Tag }), made, nil
}

// parameters are the stack's parameters that name images.
func parameters(images []newImage) map[string]string {
	params := make(map[string]string)
	for _, i := range images {
		params[account.ImageParameter(i.Class)] = i.Tag
	}
	return params
}

// push sends images to a stack's repository. What is there already is not sent again.
func (a *program) push(ctx context.Context, d *stackSession, images []setup.Image, outputs deploy.Outputs) error {
	if len(images) == 0 {
		return nil
	}
	d.progress.Step("pushing the image")
	return d.registry.Push(ctx, images, outputs[setup.RepositoryOutput], pushing(d.progress))
}

// pushing shows how far a push is.
func pushing(p *console.Progress) func(image.Progress) {
	return func(done image.Progress) {
		p.Step(fmt.Sprintf("pushing the image: %s of %s", words.Bytes(float64(done.Present+done.Sent)), words.Bytes(float64(done.Total))))
	}
}
