package main

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/targets"
)

func (a *app) tokenCommand() *cli.Command {
	return &cli.Command{
		Name:      "token",
		Usage:     "print an RDS IAM token, a password that is good for 15 minutes",
		Category:  "Databases",
		ArgsUsage: "SPEC",
		Description: text(`
			Prints a token for a user of an RDS database, and nothing else, on standard output. It is the user's password for new
			connections of the next 15 minutes; treat it as one. It is made for the database's real name and port, and good through any
			forward.

			The database must have IAM authentication enabled, the user the role rds_iam (PostgreSQL) or AWSAuthenticationPlugin (MySQL), and
			you the permission rds-db:connect for the user. Databases take tokens over TLS alone.`,
			"bastion token rds:orders --user app",
			"PGPASSWORD=$(bastion token rds:orders --user app) psql \"$(bastion url orders --format kv --user app)\"",
			"bastion token orders.abc123.eu-central-1.rds.amazonaws.com:5432 --user app"),
		Flags: a.settingFlags(showCommon, &textFlag{
			names: []string{"user"}, value: "USER", help: "database user", set: func(v string) { a.login.user = v },
		}),
		Action: a.token,
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
		return usage("name the user that has the role rds_iam: --user USER", "token: no database user is given")
	}
	e, token, err := a.makeToken(c.Context, s, spec, a.login.user)
	if err != nil {
		return err
	}
	if s.Output == "json" {
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
	endpoints, err := run.agent.Resolve(ctx, []targets.Spec{spec})
	if err != nil {
		return targets.Endpoint{}, "", err
	}
	token, err := run.agent.Token(ctx, endpoints[0], user)
	return endpoints[0], token, err
}
