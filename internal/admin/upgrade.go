package admin

import (
	"context"
	"errors"

	"github.com/bastion-ssm/bastion/account/deploy"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/pattern"
)

// upgradeOptions are the options of upgrade that are no settings.
type upgradeOptions struct {
	stackOptions
	imageOptions
	tag string
	yes bool
}

// tagForm is a tag as registries take it.
var tagForm = pattern.Lazy(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)

// imageTag takes the tag of --image-tag.
func (o *upgradeOptions) imageTag(tag string) error {
	if !tagForm().MatchString(tag) {
		return fail.Usagef("write 1 to 128 letters, digits, and _ . - after the first", "%q is no tag of an image", tag)
	}
	o.tag = tag
	return nil
}

func (a *program) upgradeCommand() *cli.Command {
	var o upgradeOptions
	return &cli.Command{
		Name:    "upgrade",
		Summary: "take the stack of bastion init to this program's template and image",
		About: []cli.Passage{
			cli.Para(`Makes the stack anew of the choices that it was deployed with, shows what changes and asks. What the operator has chosen
				stays; bastion init changes that. The image of this program's bastiond is pushed first. Bastions that run are not touched: the
				next one is of the new kind.`),
			cli.Para(`CloudFormation goes on by itself if the command is interrupted: run it again to follow. A change that fails is rolled
				back, with the reason of the resource that failed.`),
		},
		Examples: []string{"bastion upgrade", "bastion upgrade --image-tag 2 --yes"},
		Flags: append(o.flags(), o.imageFlag(),
			cli.Func("TAG", "push nothing, use the repository's image with this tag; that it is there is not checked", o.imageTag, "image-tag"),
			cli.Switch(&o.yes, "do not ask", "yes", "y")),
		Settings: invocation.CommonSettings,
		Run:      a.With(func(ctx context.Context, s config.Settings, _ []string) error { return a.upgrade(ctx, s, o) }),
	}
}

// upgradeOutput is the JSON output of upgrade.
type upgradeOutput struct {
	Stack   string            `json:"stack"`
	Region  string            `json:"region"`
	Images  []newImage        `json:"images"` // that classes got
	Changes []deploy.Change   `json:"changes"`
	Outputs map[string]string `json:"outputs"`
}

// upgrade runs `bastion upgrade`.
func (a *program) upgrade(ctx context.Context, s config.Settings, o upgradeOptions) error {
	d, err := a.openStack(ctx, s, o.stackOptions)
	if err != nil {
		return err
	}
	defer d.progress.Close()
	d.progress.Step("comparing the stack " + o.name)
	if _, err := d.ready(ctx); err != nil {
		return a.goesOn(ctx, d.progress, err)
	}
	state, err := d.Settle(ctx, d.tell)
	if err != nil {
		return a.goesOn(ctx, d.progress, err)
	}
	images, made, err := a.newImages(s, state, o.imageOptions, o.tag)
	if err != nil {
		return err
	}
	p, err := d.preview(ctx, state, parameters(images))
	if err != nil {
		return err
	}
	d.progress.Idle()
	out := upgradeOutput{Stack: o.name, Region: d.region, Images: images, Changes: p.Changes, Outputs: state.Outputs}
	if p.Empty { // a push may have been interrupted
		if err := a.push(ctx, d, made, state.Outputs); err != nil {
			return err
		}
		d.progress.Idle()
		return a.Outcome(s, out, "the stack "+o.name+" is up to date")
	}
	if err := a.confirmChanges(ctx, d, p, images, o.yes); err != nil {
		return err
	}
	if err := a.push(ctx, d, made, state.Outputs); err != nil { // first: the new task definition names it
		return errors.Join(err, d.Discard(context.WithoutCancel(ctx), p))
	}
	if out.Outputs, err = d.Apply(ctx, p, d.tell); err != nil {
		return a.goesOn(ctx, d.progress, err)
	}
	d.progress.Idle()
	return a.Outcome(s, out, "the stack "+o.name+" is of bastion "+d.Version+" now")
}

// confirmChanges shows a preview and asks. Without agreement the preview is discarded.
func (a *program) confirmChanges(ctx context.Context, d *stackSession, p deploy.Preview, images []newImage, yes bool) error {
	_ = console.Printf(a.Err, "changes to the stack %s in %s:\n", d.name, d.region)
	writeChanges(a.Err, p.Changes, images)
	agreed, err := a.agreed(ctx, yes, "Change it? [y/N] ")
	if agreed {
		return nil
	}
	if err == nil {
		err = fail.New(fail.Other, "", errors.New("nothing was changed"), "")
	}
	return errors.Join(err, d.Discard(context.WithoutCancel(ctx), p))
}

// agreed asks a question at the terminal, unless the options agree to it.
func (a *program) agreed(ctx context.Context, yes bool, question string) (bool, error) {
	if yes {
		return true, nil
	}
	return a.Agreed(ctx, question, fail.Usagef("add --yes to do it", "standard input is not a terminal, at which to agree to this"))
}
