package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/account/deploy"
	"github.com/bastion-ssm/bastion/account/setup"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/process"
	"github.com/bastion-ssm/bastion/internal/words"
)

// ExitChanges is the exit code of `bastion plan --exit-code` where something differs; see docs/exit-codes.md.
const ExitChanges = 10

// stackOptions are the options that all commands about a stack have.
type stackOptions struct{ name string }

func (o *stackOptions) flags() []cli.Option {
	o.name = account.Inputs{}.Defaults().Name
	return []cli.Option{nameOption(&o.name, "name of the stack (default: "+o.name+")")}
}

// nameOption is the option --name. It refuses an empty name, which a script passes from a variable that is not set: CloudFormation takes it
// for every stack, and Inputs.Defaults for the default one.
func nameOption(into *string, help string) cli.Option {
	return cli.Func("NAME", help, func(v string) error {
		if v == "" {
			return errors.New("the name is empty: give a stack's name, or leave the option out")
		}
		*into = v
		return nil
	}, "name")
}

// planOptions are the options of plan that are no settings.
type planOptions struct {
	stackOptions
	imageOptions
	noDrift, exitCode bool
}

func (a *program) planCommand() *cli.Command {
	var o planOptions
	return &cli.Command{
		Name:    "plan",
		Summary: "show what bastion upgrade would change, and what others have changed",
		About: []cli.Passage{
			cli.Para(`Compares the stack that bastion init has deployed with the one that this program makes of the same choices, by a change
				set that it deletes again. Then CloudFormation compares the deployed resources with the stack (drift), as far as it can:
				those that it cannot compare are named.`),
			cli.Para(`It changes nothing. With --exit-code it ends with 10 if there is a change or drift, and with 0 only if there is none.`),
		},
		Examples: []string{"bastion plan", "bastion plan --exit-code --quiet", "bastion plan -o json | jq '.drift.resources'"},
		Flags: append(o.flags(), o.imageFlag(),
			cli.Switch(&o.noDrift, "do not look for drift", "no-drift"),
			cli.Switch(&o.exitCode, "end with 10 if there is a change or drift", "exit-code")),
		Settings: invocation.CommonSettings,
		Run:      a.With(func(ctx context.Context, s config.Settings, _ []string) error { return a.plan(ctx, s, o) }),
	}
}

// PlanOutput is the JSON output of plan.
type PlanOutput struct {
	Stack   string          `json:"stack"`
	Region  string          `json:"region"`
	Version string          `json:"version"` // that deployed it
	Program string          `json:"program"` // this one's version
	Images  []newImage      `json:"images"`  // that classes would get
	Changes []deploy.Change `json:"changes"`
	Drift   *deploy.Drift   `json:"drift"` // null: not looked for, or not found out

	pushes bool // upgrade would push the images that the repository lacks
}

// plan runs `bastion plan`.
func (a *program) plan(ctx context.Context, s config.Settings, o planOptions) error {
	d, err := a.openStack(ctx, s, o.stackOptions)
	if err != nil {
		return err
	}
	defer d.progress.Close()
	d.progress.Step("comparing the stack " + o.name)
	state, err := d.ready(ctx)
	if err != nil {
		return err
	}
	out := PlanOutput{Stack: o.name, Region: d.region, Version: state.Version, Program: d.Version}
	images, made, err := a.newImages(s, state, o.imageOptions, "")
	if err != nil {
		return err
	}
	out.Images, out.pushes = images, made != nil
	p, err := d.preview(ctx, state, parameters(out.Images))
	if err != nil {
		return err
	}
	out.Changes = p.Changes
	err = d.Discard(ctx, p)
	if !o.noDrift {
		d.progress.Step("looking for drift of the stack " + o.name)
		drift, driftErr := d.Drift(ctx)
		if driftErr == nil {
			out.Drift = &drift
		}
		err = errors.Join(err, driftErr)
	}
	d.progress.Idle()
	if s.Output.Format == "json" {
		err = errors.Join(a.PrintJSON(out), err)
	} else {
		err = errors.Join(writePlan(a.Out, out, o.noDrift), err)
	}
	if err == nil && o.exitCode && out.differs() {
		return &process.ExitError{Code: ExitChanges}
	}
	return err
}

func (p *PlanOutput) differs() bool {
	return len(p.Changes) > 0 || len(p.Images) > 0 || p.Drift != nil && (len(p.Drift.Resources) > 0 || p.Drift.Incomplete != "")
}

// writePlan writes a plan for a reader.
func writePlan(out io.Writer, p PlanOutput, noDrift bool) error {
	var b strings.Builder
	_ = console.Printf(&b, "stack %s in %s, deployed by bastion %s; this is %s\n", p.Stack, p.Region, p.Version, p.Program)
	if len(p.Changes) == 0 && len(p.Images) == 0 {
		_ = console.Printf(&b, "bastion upgrade would change nothing\n")
	} else {
		_ = console.Printf(&b, "bastion upgrade would change %s:\n", words.Count(len(p.Changes), "resource"))
		writeChanges(&b, p.Changes, p.Images)
	}
	if p.pushes { // a push may have failed after the stack was made
		_ = console.Printf(&b, "the image in the repository is not looked at: bastion upgrade pushes it if it is missing\n")
	}
	switch {
	case p.Drift != nil:
		writeDrift(&b, *p.Drift)
	case !noDrift:
		_ = console.Printf(&b, "the drift could not be found out\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// writeChanges writes a line for each change, and for each class that gets another image.
func writeChanges(out io.Writer, changes []deploy.Change, images []newImage) {
	setup.WriteChanges(out, changes)
	for _, i := range images {
		of := ""
		if i.Class != "" {
			of = " of " + i.Class
		}
		_ = console.Printf(out, "  image%s: %s, now %s\n", of, i.Tag, words.Dash(i.Now))
	}
}

// writeDrift writes what differs, and what could not be compared.
func writeDrift(out io.Writer, d deploy.Drift) {
	if len(d.Resources) == 0 {
		_ = console.Printf(out, "no drift was found\n")
	} else {
		_ = console.Printf(out, "%s changed outside CloudFormation:\n", words.Count(len(d.Resources), "resource"))
	}
	for _, r := range d.Resources {
		_ = console.Printf(out, "  %s (%s) %s: %s\n", r.ID, r.Type, r.PhysicalID, strings.ToLower(r.Status))
		for _, p := range r.Differences {
			_ = console.Printf(out, "    %s: %s in the stack, now %s\n", p.Property, words.Dash(p.Expected), words.Dash(p.Actual))
		}
	}
	if d.Incomplete != "" {
		_ = console.Printf(out, "CloudFormation could not compare everything: %s\n", d.Incomplete)
	}
	if len(d.Unchecked) > 0 {
		var names []string
		for _, r := range d.Unchecked {
			names = append(names, r.ID)
		}
		_ = console.Printf(out, "not compared: %s\n", strings.Join(names, ", "))
	}
}

// stackSession is a stack of a command, with the command's progress.
type stackSession struct {
	*deploy.Deployer
	name, region string
	registry     *setup.Registry
	progress     *console.Progress
}

// named are the default inputs with exactly this name.
func named(name string) account.Inputs {
	in := account.Inputs{}.Defaults()
	in.Name = name
	return in
}

// openStack returns the stack that a command is about. The caller closes its progress.
func (a *program) openStack(ctx context.Context, s config.Settings, o stackOptions) (*stackSession, error) {
	if err := named(o.name).Validate(); err != nil {
		return nil, fail.New(fail.Usage, "", err, "give the name that bastion init was given (--name)")
	}
	cfg, p, err := a.LoadAWS(ctx, s)
	if err != nil {
		return nil, err
	}
	d := &stackSession{
		Deployer: deploy.New(deploy.Bind(cfg), o.name), name: o.name, region: cfg.Region,
		registry: setup.NewRegistry(cfg, a.Registry), progress: p,
	}
	d.Version = a.Version
	return d, nil
}

// ready returns the state of a stack that has been made, once CloudFormation has done what it is doing to it.
func (d *stackSession) ready(ctx context.Context) (deploy.State, error) {
	state, err := d.Follow(ctx, d.tell)
	if err != nil {
		return state, err
	}
	switch state.Phase {
	case deploy.None, deploy.Review:
		return state, fail.New(fail.Usage, "", fmt.Errorf("there is no stack %s in %s", d.name, d.region),
			"bastion init makes it; check --name, --region and --profile")
	case deploy.Unmade, deploy.Undeleted:
		return state, fail.New(fail.Usage, "", fmt.Errorf("the stack %s in %s is in the state %s", d.name, d.region, state.Status),
			"bastion init makes it anew, bastion destroy removes it")
	}
	return state, nil
}

// preview is what the stack would become by this program, with the same choices and the deployed values of parameters, save those given.
func (d *stackSession) preview(ctx context.Context, state deploy.State, values map[string]string) (deploy.Preview, error) {
	stack, err := account.New(state.Inputs)
	if err != nil {
		return deploy.Preview{}, err
	}
	params := make(map[string]string)
	maps.Copy(params, state.Parameters)
	maps.Copy(params, values)
	return d.Preview(ctx, stack, params)
}

// goesOn says, if ctx has ended while CloudFormation was at work on a stack, that it goes on.
func (a *program) goesOn(ctx context.Context, p *console.Progress, err error) error {
	if err != nil && ctx.Err() != nil {
		p.Idle()
		_ = console.Printf(a.Err, "bastion: what CloudFormation has begun goes on; run the command again to follow it\n")
	}
	return err
}

// tell shows an event of CloudFormation's.
func (d *stackSession) tell(e deploy.Event) { setup.Tell(d.progress, e) }
