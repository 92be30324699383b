package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/targets"
)

func (a *app) tokenCommand() *command {
	return &command{
		name:    "token",
		summary: "print an RDS IAM token, a password that is valid for 15 minutes",
		group:   groupDatabases,
		args:    "SPEC",
		about: []passage{
			para(`Prints a token for a user of an RDS database on standard output. It is the user's password for new connections in the
				next 15 minutes; treat it as one. It is made for the database's real name and port, and works through every forward.`),
			para(`The database must have IAM authentication enabled. The user needs the role rds_iam (PostgreSQL) or
				AWSAuthenticationPlugin (MySQL). You need the permission rds-db:connect for the user. Databases take tokens only over
				TLS.`),
		},
		examples: []string{
			"bastion token rds:orders --user app",
			"export PGPASSWORD=$(bastion token rds:orders --user app)",
		},
		flags: []option{&textFlag{
			names: []string{"user"}, form: "USER", help: "database user", set: func(v string) { a.login.user = v },
		}},
		settings: showCommon,
		complete: func([]string) []candidate {
			return slices.DeleteFunc(a.targetCandidates(), func(c candidate) bool { return c.value == cacheSpec })
		},
		run: a.token,
	}
}

// token runs `bastion token`.
func (a *app) token(c *cli.Context) error {
	if err := argCount(c, 1, 1); err != nil {
		return err
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	spec, err := targets.Parse(c.Args().First())
	if err != nil {
		return err
	}
	if a.login.user == "" {
		return usage("name the user with the role rds_iam: --user USER", "token: the database user is missing")
	}
	e, token, err := a.makeToken(c.Context, s, spec, a.login.user)
	if err != nil {
		return err
	}
	if s.Output.Format == "json" {
		return a.printLine(map[string]any{
			"token": token, "user": a.login.user, "host": e.Host, "port": e.Port,
			"expires_at": time.Now().Add(targets.TokenLifetime).UTC().Truncate(time.Second),
		})
	}
	_, err = fmt.Fprintln(a.out, token)
	return err
}

// makeToken finds a database and makes a token for it.
func (a *app) makeToken(ctx context.Context, s config.Settings, spec targets.Spec, user string,
) (targets.Endpoint, string, error) {
	run, err := a.open(ctx, "token", s)
	if err != nil {
		return targets.Endpoint{}, "", err
	}
	defer run.close()
	run.progress.Step("looking up " + spec.String())
	ctx, cancel := bounded(ctx, s)
	defer cancel()
	endpoints, err := run.access.Resolve(ctx, []targets.Spec{spec})
	if err != nil {
		return targets.Endpoint{}, "", err
	}
	token, err := run.access.Token(ctx, endpoints[0], user)
	return endpoints[0], token, err
}
