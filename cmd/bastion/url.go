package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/dsn"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/targets"
)

func (a *app) urlCommand() *cli.Command {
	var list strings.Builder
	for _, f := range formats() {
		fmt.Fprintf(&list, "\n\t\t\t  %-8s%s", f.Name, f.Help)
	}
	return &cli.Command{
		Name:      "url",
		Usage:     "print the connection string of a running forward",
		Category:  "Databases",
		ArgsUsage: "NAME",
		Description: text(`
			Prints what a client takes to connect to a forward of the agent. NAME is the forward's, as bastion ls forwards shows it, or
			its target. There is no password in it, unless --iam-user asks for a token of RDS, which is one for 15 minutes.

			The formats are:`+list.String()+`

			TLS is asked for where the database is RDS's. Certificates are checked where --tls-ca names them and the client can
			reach the database by its real name: libpq always (--format kv), others with --hosts.`,
			"bastion forward -d rds:orders; bastion url rds:orders",
			"psql \"$(bastion url rds:orders --format kv --user app --tls-ca global-bundle.pem)\"",
			"bastion url rds:orders --format jdbc --user app",
			"eval \"$(bastion url rds:orders --format env)\"",
			"bastion url cache:sessions -o json | jq -r .url"),
		Flags: a.settingFlags([]string{config.GroupAWS, config.GroupLocal, config.GroupOutput},
			append(a.loginFlags(), &textFlag{
				names: []string{"format"}, value: strings.Join(formatNames(), "|"),
				help: "form of the connection string (default: uri)",
				set:  func(v string) { a.format = v },
			})...),
		Action: a.url,
	}
}

// url runs `bastion url`.
func (a *app) url(c *cli.Context) error {
	if err := argCount(c, 1, 1); err != nil {
		return err
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	if a.format == "" {
		a.format = "uri"
	}
	i := slices.IndexFunc(formats(), func(f dsn.Format) bool { return f.Name == a.format })
	if i < 0 {
		next := "choose one of: " + strings.Join(formatNames(), ", ")
		if near := config.Nearest(a.format, formatNames()); near != "" {
			next = "did you mean --format " + near + "?"
		}
		return usage(next, "url: there is no format %q", a.format)
	}
	if err := errors.Join(a.login.check(), checkCA(s)); err != nil {
		return err
	}
	name := c.Args().First()
	f, err := runningForward(c.Context, s, name)
	if err != nil {
		return err
	}
	d, err := dsn.New(name, f, s)
	if err != nil {
		return err
	}
	d.Getenv = os.Getenv
	d.User = a.login.user
	if a.login.database != "" {
		d.Database = a.login.database
	}
	if a.login.iamUser != "" {
		if d.User, d.Password, err = a.forwardToken(c.Context, s, f); err != nil {
			return err
		}
	}
	text, ok := formats()[i].Of(d)
	if !ok {
		var can []string
		for _, f := range formats() {
			if _, ok := f.Of(d); ok {
				can = append(can, f.Name)
			}
		}
		what := cmp.Or(string(d.Protocol), d.Engine, "hosts whose engine is not known")
		return usage("choose one of: "+strings.Join(can, ", "), "url: there is no format %s for %s", a.format, what)
	}
	if s.Output == "json" {
		return json.NewEncoder(a.out).Encode(urlOutput{
			Name: f.Name, URL: text, Format: a.format, Protocol: string(d.Protocol), Host: d.Host(),
			Address: d.Listen.Addr().String(), Port: int(d.Listen.Port()),
			ServerName: d.ServerName, User: d.User, Database: d.Database,
		})
	}
	_, err = fmt.Fprintln(a.out, text)
	return err
}

// formats are the forms of a connection string, by name.
func formats() []dsn.Format {
	all := dsn.Formats()
	slices.SortFunc(all, func(x, y dsn.Format) int { return strings.Compare(x.Name, y.Name) })
	return all
}

func formatNames() []string {
	var names []string
	for _, f := range formats() {
		names = append(names, f.Name)
	}
	return names
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

// runningForward returns the forward of the user's agent that name means. It starts nothing.
func runningForward(ctx context.Context, s config.Settings, name string) (api.Forward, error) {
	var st api.State
	path, err := api.SocketPath(s)
	if err == nil {
		st, err = api.NewClient(path).State(ctx)
	}
	if err != nil && !errors.Is(err, api.ErrNotRunning) {
		return api.Forward{}, err
	}
	return findForward(st.Forwards, name)
}

func findForward(all []api.Forward, name string) (api.Forward, error) {
	var tcp []api.Forward
	for _, f := range all {
		if f.Kind != api.KindProxy {
			tcp = append(tcp, f)
		}
	}
	// Names are unique; several forwards may have the same target.
	for _, of := range []func(api.Forward) string{
		func(f api.Forward) string { return f.Name },
		func(f api.Forward) string { return f.Spec },
		func(f api.Forward) string { return withoutPort(f.Spec) },
	} {
		if i := slices.IndexFunc(tcp, func(f api.Forward) bool { return of(f) == name }); i >= 0 {
			f := tcp[i]
			if f.State != api.ForwardReady {
				return f, fail.New(fail.NoTarget, "", fmt.Errorf("the forward %s is not ready: %s", name,
					cmp.Or(f.Error, string(f.State))),
					"wait for it: bastion wait "+name)
			}
			return f, nil
		}
	}
	next := "start one: bastion forward -d " + name
	var names []string
	for _, f := range tcp {
		names = append(names, f.Name)
	}
	if len(names) > 0 {
		slices.Sort(names)
		next += "; these run: " + strings.Join(names, ", ")
	}
	return api.Forward{}, fail.New(fail.NoTarget, "", fmt.Errorf("no forward of %s is running", name), next)
}

func withoutPort(text string) string {
	spec, err := targets.Parse(text)
	if err != nil {
		return text
	}
	return execName(spec)
}

// forwardToken makes a token for the user that --iam-user names, for the database that a forward leads to.
func (a *app) forwardToken(ctx context.Context, s config.Settings, f api.Forward) (user, token string, err error) {
	spec, err := targets.Parse(f.Spec)
	if err != nil {
		return "", "", err
	}
	_, token, err = a.makeToken(ctx, s, spec, a.login.iamUser)
	return a.login.iamUser, token, err
}
