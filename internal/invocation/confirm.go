package invocation

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/words"
)

// YesFlag is the option of commands that open or start something in an environment.
func YesFlag(into *bool) cli.Option {
	return cli.Switch(into, "do not ask before an environment with confirm: true", "yes", "y")
}

// Confirm asks the user before a command opens or starts something in environments that want it. Anything but yes is an error.
func (in *Invocation) Confirm(ctx context.Context, yes bool, all ...config.Settings) error {
	var names, what []string
	for _, s := range all {
		if s.Confirm && !slices.Contains(names, s.Environment) {
			names = append(names, s.Environment)
			what = append(what, s.Environment+words.InParentheses(s.AWS.Profile, s.AWS.Region))
		}
	}
	if yes || len(names) == 0 {
		return nil
	}
	if !console.CanAsk(in.In) {
		return fail.Usagef("add --yes if you mean it",
			"the environment %s asks before it is used (confirm: true), and standard input is not a terminal", strings.Join(names, ", "))
	}
	question := "Go on in the environment "
	if len(names) > 1 {
		question = "Go on in the environments "
	}
	if err := console.Printf(in.Err, "%s%s? [y/N] ", question, strings.Join(what, ", ")); err != nil {
		return err
	}
	agreed, err := console.Confirm(ctx, in.In, in.Err, "")
	if err == nil && !agreed {
		err = fail.New(fail.Other, "", errors.New("not confirmed; nothing was opened"), "")
	}
	return err
}

// ConfirmGroups is Confirm for the environments of forwards.
func (in *Invocation) ConfirmGroups(ctx context.Context, yes bool, groups []request.Group) error {
	all := make([]config.Settings, len(groups))
	for i, g := range groups {
		all[i] = g.Settings
	}
	return in.Confirm(ctx, yes, all...)
}
