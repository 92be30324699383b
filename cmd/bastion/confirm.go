package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// yesFlag is the option of commands that open or start something in an environment.
func yesFlag(into *bool) cli.Option {
	return cli.Switch(into, "do not ask before an environment with confirm: true", "yes", "y")
}

// confirm asks the user before a command opens or starts something in environments that want it. Anything but yes is an error.
func (a *app) confirm(ctx context.Context, yes bool, all ...config.Settings) error {
	var names, what []string
	for _, s := range all {
		if s.Confirm && !slices.Contains(names, s.Environment) {
			names = append(names, s.Environment)
			what = append(what, s.Environment+inParentheses(s.AWS.Profile, s.AWS.Region))
		}
	}
	if yes || len(names) == 0 {
		return nil
	}
	if !console.CanAsk(a.in) {
		return fail.Usagef("add --yes if you mean it",
			"the environment %s asks before it is used (confirm: true), and standard input is not a terminal", strings.Join(names, ", "))
	}
	question := "Go on in the environment "
	if len(names) > 1 {
		question = "Go on in the environments "
	}
	if err := console.Printf(a.err, "%s%s? [y/N] ", question, strings.Join(what, ", ")); err != nil {
		return err
	}
	agreed, err := console.Confirm(ctx, a.in, a.err, "")
	if err == nil && !agreed {
		err = fail.New(fail.Other, "", errors.New("not confirmed; nothing was opened"), "")
	}
	return err
}

// confirmGroups is confirm for the environments of forwards.
func (a *app) confirmGroups(ctx context.Context, yes bool, groups []request.Group) error {
	all := make([]config.Settings, len(groups))
	for i, g := range groups {
		all[i] = g.Settings
	}
	return a.confirm(ctx, yes, all...)
}

// inParentheses lists what is not empty.
func inParentheses(parts ...string) string {
	parts = slices.DeleteFunc(parts, func(p string) bool { return p == "" })
	if len(parts) == 0 {
		return ""
	}
	return fmt.Sprintf(" (%s)", strings.Join(parts, ", "))
}
