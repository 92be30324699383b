package main

import (
	"context"
	"fmt"
	"time"

	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/targets"
)

// tokenOptions are the options of token that are no settings.
type tokenOptions struct{ user string }

func (a *app) tokenCommand() *cli.Command {
	var o tokenOptions
	return &cli.Command{
		Name:    "token",
		Summary: "print an RDS IAM token, a password that is valid for 15 minutes",
		Group:   groupDatabases,
		Args:    "SPEC", MinArgs: 1, MaxArgs: 1,
		About: []cli.Passage{
			cli.Para(`Prints a token for a user of an RDS database on standard output. It is the user's password for new connections in the
				next 15 minutes; treat it as one. It is made for the database's real name and port, and works through every forward.`),
			cli.Para(`The database must have IAM authentication enabled. The user needs the role rds_iam (PostgreSQL) or
				AWSAuthenticationPlugin (MySQL). You need the permission rds-db:connect for the user. Databases take tokens only over
				TLS.`),
		},
		Examples: []string{
			"bastion token rds:orders --user app",
			"export PGPASSWORD=$(bastion token rds:orders --user app)",
		},
		Flags:    []cli.Option{cli.Text(&o.user, "USER", "database user", "user")},
		Settings: invocation.CommonSettings,
		Complete: func([]string) []cli.Candidate {
			return a.inventory().Candidates(func(d targets.Description) bool { return d.Tokens })
		},
		Run: a.With(func(ctx context.Context, s config.Settings, args []string) error { return a.token(ctx, s, args, o) }),
	}
}

// token runs `bastion token`.
func (a *app) token(ctx context.Context, s config.Settings, args []string, o tokenOptions) error {
	pair, err := targets.ParseTarget(args[0])
	if err != nil {
		return err
	}
	if o.user == "" {
		return fail.Usagef("name the user with the role rds_iam: --user USER", "token: the database user is missing")
	}
	pairs, err := a.WorkOut(ctx, "token", s, []targets.Pair{pair})
	if err != nil {
		return err
	}
	if s, err = request.SettingsOf(pairs[0], s, a.SettingsOf); err != nil {
		return err
	}
	e, token, err := a.makeToken(ctx, s, pair.Target, o.user)
	if err != nil {
		return err
	}
	if s.Output.Format == "json" {
		return a.PrintLine(map[string]any{
			"token": token, "user": o.user, "host": e.Host, "port": e.Port,
			"expires_at": time.Now().Add(targets.TokenLifetime).UTC().Truncate(time.Second),
		})
	}
	_, err = fmt.Fprintln(a.Out, token)
	return err
}

// makeToken finds a database and makes a token for it.
func (a *app) makeToken(ctx context.Context, s config.Settings, spec targets.Spec, user string,
) (targets.Endpoint, string, error) {
	run, err := a.Open(ctx, "token", s)
	if err != nil {
		return targets.Endpoint{}, "", err
	}
	defer run.Close()
	run.Progress.Step("looking up " + spec.String())
	ctx, cancel := invocation.Bounded(ctx, s)
	defer cancel()
	endpoints, err := run.Access.Resolve(ctx, []targets.Spec{spec})
	if err != nil {
		return targets.Endpoint{}, "", err
	}
	token, err := run.Access.Token(ctx, endpoints[0], user)
	return endpoints[0], token, err
}
