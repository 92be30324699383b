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
	cannot := fail.Usagef("add --yes if you mean it",
		"the environment %s asks before it is used (confirm: true), and standard input is not a terminal", strings.Join(names, ", "))
	question := "Go on in the environment "
	if len(names) > 1 {
		question = "Go on in the environments "
	}
	var whole strings.Builder
	_ = console.Printf(&whole, "%s%s? [y/N] ", question, strings.Join(what, ", "))
	return in.Agree(ctx, whole.String(), cannot, "not confirmed; nothing was opened")
}

// Agreed asks a question that ends in "[y/N] ". cannot is its error where standard input is no terminal.
func (in *Invocation) Agreed(ctx context.Context, question string, cannot error) (bool, error) {
	if !console.CanAsk(in.In) {
		return false, cannot
	}
	return console.Confirm(ctx, in.In, in.Err, question)
}

// Agree is Agreed for a command that anything but yes ends, with the error refused.
func (in *Invocation) Agree(ctx context.Context, question string, cannot error, refused string) error {
	agreed, err := in.Agreed(ctx, question, cannot)
	if err == nil && !agreed {
		err = fail.New(fail.Other, "", errors.New(refused), "")
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
