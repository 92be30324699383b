package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/bastion-ssm/bastion/account/deploy"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/words"
)

// destroyOptions are the options of destroy that are no settings.
type destroyOptions struct {
	stackOptions
	deploy.DestroyOptions
	yes, dryRun bool
}

func (a *program) destroyCommand() *cli.Command {
	var o destroyOptions
	return &cli.Command{
		Name:    "destroy",
		Summary: "remove what bastion init has made, running bastions first",
		About: []cli.Passage{
			cli.Para(`Shows what it will remove and asks. Then it stops the bastions in the stack's cluster, and deletes the stack, with the
				images in its repository. It removes nothing that the stack does not have. Interrupted, it goes on when it runs again.`),
			cli.Para(`The audit outlives the stack: log groups, their KMS key, and the bucket with transcripts. A later bastion init of the same
				name takes log groups and key over. With --audit delete they go too, at once or later, as long as CloudFormation
				remembers the stack (90 days): log groups are deleted, and keys after 30 days, until which aws kms cancel-key-deletion
				saves them. The bucket stays until its owner empties it.`),
		},
		Examples: []string{"bastion destroy --dry-run", "bastion destroy", "bastion destroy --audit delete --yes"},
		Flags: append(o.flags(),
			cli.Func("keep|delete", "what becomes of the audit (default: keep)", func(v string) error {
				if v != "keep" && v != "delete" {
					return fmt.Errorf("%q is neither keep nor delete", v)
				}
				o.Audit = v == "delete"
				return nil
			}, "audit").Choices(cli.Candidate{Value: "keep"}, cli.Candidate{Value: "delete"}),
			cli.Switch(&o.dryRun, "show what would be removed and end", "dry-run"),
			cli.Switch(&o.yes, "do not ask", "yes", "y")),
		Settings: invocation.CommonSettings,
		Run:      a.With(func(ctx context.Context, s config.Settings, _ []string) error { return a.destroy(ctx, s, o) }),
	}
}

// DestroyOutput is the JSON output of destroy --dry-run.
type DestroyOutput struct {
	Stack  string            `json:"stack"`
	Region string            `json:"region"`
	Tasks  []string          `json:"tasks"`
	Remove []deploy.Resource `json:"remove"`
	Keep   []deploy.Resource `json:"keep"`
	Others []string          `json:"in_the_way"` // tasks in the cluster that are not the stack's
}

func destroyOutput(d *stackSession, p deploy.DestroyPlan) DestroyOutput {
	return DestroyOutput{Stack: d.name, Region: d.region, Tasks: p.Tasks, Remove: p.Remove, Keep: p.Keep, Others: p.Others}
}

// destroy runs `bastion destroy`.
func (a *program) destroy(ctx context.Context, s config.Settings, o destroyOptions) error {
	d, err := a.openStack(ctx, s, o.stackOptions)
	if err != nil {
		return err
	}
	defer d.progress.Close()
	d.progress.Step("looking at the stack " + o.name)
	p, err := d.PlanDestroy(ctx, d.tell)
	if err != nil {
		return a.goesOn(ctx, d.progress, err)
	}
	d.progress.Idle()
	nothing := p.Nothing() && (!o.Audit || len(p.Keep) == 0)
	if o.dryRun && s.Output.Format == "json" {
		return a.PrintJSON(destroyOutput(d, p))
	}
	if o.dryRun || nothing && s.Output.Format != "json" {
		return writeDestroyPlan(a.Out, d, p, o.Audit)
	}
	var done deploy.Destroyed
	if !nothing {
		if err := writeDestroyPlan(a.Err, d, p, o.Audit); err != nil {
			return err
		}
		agreed, err := a.agreed(ctx, o.yes, "Remove this? [y/N] ")
		if err == nil && !agreed {
			err = fail.New(fail.Other, "", errors.New("nothing was removed"), "")
		}
		if err != nil {
			return err
		}
	}
	if done, err = d.Destroy(ctx, p, o.DestroyOptions, d.tell); err != nil {
		return a.goesOn(ctx, d.progress, err)
	}
	d.progress.Idle()
	if s.Output.Format == "json" {
		return a.PrintJSON(done)
	}
	return writeDestroyed(a.Out, d, done)
}

// writeDestroyPlan writes what will be removed, and what will stay.
func writeDestroyPlan(out io.Writer, d *stackSession, p deploy.DestroyPlan, withAudit bool) error {
	var b strings.Builder
	if p.Nothing() {
		_ = console.Printf(&b, "there is no stack %s in %s\n", d.name, d.region)
	} else {
		_ = console.Printf(&b, "the stack %s in %s will be removed, with %s:\n", d.name, d.region, words.Count(len(p.Remove), "resource"))
	}
	for _, arn := range p.Tasks {
		_ = console.Printf(&b, "  bastion that runs: %s\n", arn)
	}
	writeResources(&b, p.Remove)
	if len(p.Keep) > 0 {
		what := "stays, with the audit (--audit delete removes it)"
		if withAudit {
			what = "will be removed, with the audit: log groups at once, keys after 30 days; a bucket stays"
		}
		_ = console.Printf(&b, "%s:\n", what)
		writeResources(&b, p.Keep)
	}
	for _, arn := range p.Others {
		_ = console.Printf(&b, "in the way, because it is no bastion of the stack: %s\n", arn)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func writeResources(out io.Writer, all []deploy.Resource) {
	for _, r := range all {
		_ = console.Printf(out, "  %s (%s) %s\n", r.ID, r.Type, r.PhysicalID)
	}
}

// writeDestroyed writes what was removed, and what has stayed.
func writeDestroyed(out io.Writer, d *stackSession, done deploy.Destroyed) error {
	var b strings.Builder
	_ = console.Printf(&b, "%s of the stack %s removed, %s stopped\n", words.Count(len(done.Removed), "resource"), d.name,
		words.Count(len(done.Tasks), "bastion"))
	for _, r := range done.Scheduled {
		_ = console.Printf(&b, "the key %[1]s will be deleted in %[2]d days: aws kms cancel-key-deletion --key-id %[1]s saves it\n",
			r.PhysicalID, done.KeyDays)
	}
	for _, r := range done.Kept {
		if r.Type == "AWS::S3::Bucket" {
			_ = console.Printf(&b, "empty the bucket %[1]s in the S3 console, all versions, and then: aws s3 rb s3://%[1]s\n", r.PhysicalID)
		}
	}
	if len(done.Kept) > 0 {
		_ = console.Printf(&b, "what stays in %s:\n", d.region)
		writeResources(&b, done.Kept)
	}
	_, err := io.WriteString(out, b.String())
	return err
}
