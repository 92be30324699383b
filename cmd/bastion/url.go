package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/dsn"
	"github.com/bastion-ssm/bastion/agent/launch"
	"github.com/bastion-ssm/bastion/agent/lookup"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
)

// urlOptions are the options of url that are no settings.
type urlOptions struct {
	login

	format string
}

func (a *app) urlCommand() *cli.Command {
	var o urlOptions
	var list []string
	for _, f := range dsn.FormatsByName() {
		list = append(list, f.Name, f.Help)
	}
	return &cli.Command{
		Name:    "url",
		Summary: "print a running forward's connection string",
		Group:   groupDatabases,
		Args:    "NAME", MinArgs: 1, MaxArgs: 1,
		About: []cli.Passage{
			cli.Para(`Prints the connection string with which a client reaches a forward of the agent. NAME is the forward's name, as bastion
				ls forwards shows it, or its target, of the command's profile and region; NAME@LINK names one exactly. The string has a
				password only with --iam-user: an RDS token, valid for 15 minutes. The formats are:`),
			cli.Terms(list...),
			cli.Para(`The string asks for TLS if the database is RDS or DocumentDB, and with a token. --tls-ca makes clients verify the
				certificate; with libpq (kv, python) or --hosts they verify the name too. docs/clients.md has the table.`),
		},
		Examples: []string{
			"bastion forward -d rds:orders; bastion url rds:orders",
			"psql \"$(bastion url rds:orders --format kv --user app --tls-ca global-bundle.pem)\"",
			"bastion url cache:sessions -o json | jq -r .url",
		},
		Flags: append(o.options(), cli.Text(&o.format, "FORMAT", "format of the connection string (default: uri)", "format").
			Choices(cli.Words(dsn.FormatNames(dsn.FormatsByName())...)...)),
		Settings: []string{config.GroupAWS, config.GroupLocal, config.GroupOutput},
		Complete: func([]string) []cli.Candidate { return append(a.forwardCandidates(), a.targets()...) },
		Run:      a.WithLocal(func(ctx context.Context, s config.Settings, args []string) error { return a.url(ctx, s, args[0], o) }),
	}
}

// url runs `bastion url`.
func (a *app) url(ctx context.Context, s config.Settings, name string, o urlOptions) error {
	format, err := dsn.Choose(dsn.FormatsByName(), o.format, "url", "--format ")
	if err != nil {
		return err
	}
	if err := errors.Join(o.check(), checkCA(s)); err != nil {
		return err
	}
	s, name, err = a.Scoped(s, name)
	if err != nil {
		return err
	}
	f, err := a.runningForward(ctx, s, name)
	if err != nil {
		return err
	}
	if f.State == api.ForwardWaiting {
		a.Note(s, "connections to %s wait %s", f.Name, f.Trouble(time.Now()))
	}
	d, err := dsn.New(name, f, s)
	if err != nil {
		return err
	}
	d.Getenv = os.Getenv
	d.User = o.user
	if o.database != "" {
		d.Database = o.database
	}
	if o.iamUser != "" {
		d.User = o.iamUser
		if d.Password, err = a.forwardToken(ctx, s, f, o.iamUser); err != nil {
			return err
		}
	}
	text, ok := format.Of(d)
	if !ok {
		return dsn.NoFormat("url", format.Name, d)
	}
	if s.Output.Format == "json" {
		return a.PrintLine(urlOutput{
			Name: f.Name, URL: text, Format: format.Name, Protocol: string(d.Protocol), Host: d.Host(),
			Address: d.Listen.Addr().String(), Port: int(d.Listen.Port()),
			ServerName: d.ServerName, User: d.User, Database: d.Database,
		})
	}
	return a.PrintExact("the connection string", text, "add -o json, which escapes them")
}

// urlOutput is the JSON output of url.
type urlOutput struct {
	Name       string `json:"name"`
	URL        string `json:"url"`
	Format     string `json:"format"`
	Protocol   string `json:"protocol,omitempty"`
	Host       string `json:"host"`    // what clients connect to
	Address    string `json:"address"` // the same as an address
	Port       int    `json:"port"`
	ServerName string `json:"server_name"` // what the certificate is for
	User       string `json:"user,omitempty"`
	Database   string `json:"database,omitempty"`
}

// runningForward returns the forward of the user's agent that name means in the command's scope. It starts nothing.
func (a *app) runningForward(ctx context.Context, s config.Settings, name string) (api.Forward, error) {
	st, err := launch.State(ctx, s)
	if err != nil {
		return api.Forward{}, err
	}
	return lookup.Find(ctx, st.Forwards, name, a.LookupScope(s))
}

// forwardToken makes a token for the user that --iam-user names, for the database that a forward leads to.
func (a *app) forwardToken(ctx context.Context, s config.Settings, f api.Forward, iamUser string) (string, error) {
	spec, err := targets.Parse(f.Spec)
	if err != nil {
		return "", err
	}
	// The database is of the forward's account, which the command need not have named.
	m := a.LookupScope(s)
	switch {
	case f.Owner != "" && !m.ByVariables:
		return "", fail.New(fail.Credentials, "", fmt.Errorf("the forward %s has the credentials of %s", f.Name, f.Owner),
			"set the variables that it was opened with, for the token")
	case f.Owner == "" && m.Profile == "":
		s.AWS.Profile = f.Profile
	}
	if m.Region == "" {
		s.AWS.Region = f.Region
	}
	_, token, err := a.makeToken(ctx, s, spec, iamUser)
	return token, err
}
