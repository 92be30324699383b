package main

import (
	"context"
	"os"

	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/doctor"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/process"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/internal/shared"
)

// doctorOptions are the options of doctor that are no settings.
type doctorOptions struct {
	all, fix, yes bool
	share         string
}

func (a *app) doctorCommand() *cli.Command {
	var o doctorOptions
	return &cli.Command{
		Name:    "doctor",
		Summary: "find out what is wrong on the way to AWS, to your bastion and to a target",
		Group:   groupOther,
		Args:    "[TARGET]", MaxArgs: 1,
		About: []cli.Passage{
			cli.Para(`Looks at this machine, the configuration, the network to AWS, the credentials, the bastion's set-up in AWS, the bastion that
				runs, and the way to TARGET. Each finding says what it means and what mends it: + in order, ! warning, x error, - skipped. One
				cause gives one finding: what builds on it is skipped.`),
			cli.Para(`It changes nothing and starts no task. If a bastion runs, it connects to it and measures. It ends with 0 without warnings and
				errors, with 11 if there are warnings, and otherwise with the first error's code. docs/doctor.md lists the checks.`),
		},
		Examples: []string{
			"bastion doctor",
			"bastion doctor prod/orders",
			"bastion doctor --share report.txt      # without names, accounts and addresses",
		},
		Flags: []cli.Option{
			cli.Switch(&o.all, "show the skipped checks too", "all", "a"),
			cli.Text(&o.share, "FILE", "write a report without names, accounts, addresses and secrets", "share"),
			cli.Switch(&o.fix, "offer to mend what is safe to mend on this machine", "fix"),
			cli.Switch(&o.yes, "with --fix: do not ask", "yes", "y"),
		},
		Settings: invocation.CommonSettings,
		Run:      func(ctx context.Context, args []string) error { return a.doctor(ctx, cli.Optional(args), o) },
	}
}

// doctor runs `bastion doctor`. Settings that cannot be used are a finding.
func (a *app) doctor(ctx context.Context, target string, o doctorOptions) error {
	if o.yes && !o.fix {
		return fail.Usagef("add --fix", "--yes is for --fix")
	}
	s, settingsErr := a.Settings(ctx, shared.Cached) // the look-up may hang where something is broken
	if settingsErr == nil && target != "" {          // it may have an environment, or settings of its own
		if own, name, err := a.Scoped(s, target); err != nil {
			settingsErr = err
		} else {
			s, target = own, name
		}
	}
	p := a.NewProgress(s)
	defer p.Close()
	program, err := a.Program()
	if err != nil {
		return err
	}
	r := doctor.Run(ctx, doctor.Options{
		Settings: s, SettingsErr: settingsErr, Target: target, Version: a.Version, Program: program, MFA: a.MFA(ctx, s, p),
		Progress: p.Step, Serving: func(ctx context.Context, at report.Place) string { return a.Serving(ctx, s, at) },
	})
	p.Idle()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := a.showDoctor(s, &r, o); err != nil {
		return err
	}
	if o.fix {
		if err := a.mend(ctx, s, r.Fixes, o.yes); err != nil {
			return err
		}
	}
	switch err := r.Failure(); {
	case err != nil:
		return &invocation.Told{Kind: fail.KindOf(err)}
	case r.Worst == doctor.Warning:
		return &process.ExitError{Code: doctor.ExitWarnings}
	}
	return nil
}

func (a *app) showDoctor(s config.Settings, r *doctor.Report, o doctorOptions) error {
	if o.share != "" {
		if err := files.Replace(o.share, []byte(r.Share()), 0o600); err != nil {
			return fail.New(fail.Usage, "write "+o.share, err, "name another file with --share")
		}
		a.Note(s, "%s is for others; what follows has names and account numbers", o.share)
	}
	if s.Output.Format == "json" || a.WantsJSON() {
		return a.PrintJSON(r)
	}
	colour := console.IsTerminal(a.Raw.Out) && os.Getenv("NO_COLOR") == ""
	w := a.Out
	if colour {
		w = a.Raw.Out // Show makes what others wrote printable itself
	}
	return r.Show(w, doctor.Style{Colour: colour, All: o.all})
}

// mend makes the changes that the user agrees to.
func (a *app) mend(ctx context.Context, s config.Settings, all []doctor.Fix, yes bool) error {
	if len(all) == 0 {
		a.Note(s, "there is nothing that --fix mends")
		return nil
	}
	for _, f := range all {
		if !yes {
			agreed, err := a.Agreed(ctx, f.Does+"? [y/N] ", fail.Usagef("add --yes", "--fix asks before each change, and this is not a terminal"))
			if err != nil {
				return err
			}
			if !agreed {
				continue
			}
		}
		if err := f.Apply(ctx, s); err != nil {
			return fail.New(fail.Other, f.Does, err, fail.NextOf(err))
		}
		a.Note(s, "done: %s", f.Does)
	}
	return nil
}
