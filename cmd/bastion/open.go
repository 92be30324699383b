package main

import (
	"context"
	"strings"

	"github.com/bastion-ssm/bastion/agent/dsn"
	"github.com/bastion-ssm/bastion/internal/browser"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/forwarding"
	"github.com/bastion-ssm/bastion/targets"
)

// openOptions are the options of open that are no settings.
type openOptions struct {
	browserOptions

	path string
}

func (a *app) openCommand() *cli.Command {
	var o openOptions
	return &cli.Command{
		Name:    "open",
		Summary: "open a target's web page in a browser that reaches the private network",
		Group:   groupConnect,
		Args:    "SPEC [-- BROWSER-OPTION...]", MinArgs: 1, MaxArgs: cli.AnyNumber,
		About: []cli.Passage{
			cli.Para(`Starts the browser of bastion browser with the page of a target: a name from the configuration's targets, HOST:PORT
				or another target of bastion forward that serves web pages. The page is https at ports such as 443 and 8443, and where the
				target takes TLS alone; else it is http.`),
			cli.Para(`The target's host, the names of proxy_domains and the addresses of proxy_cidrs go through the bastion. The proxy ends
				with the browser's last window.`),
		},
		Examples: []string{
			"bastion open wiki                  # targets: {wiki: wiki.corp.internal:443}",
			"bastion open grafana.corp.internal:3000 --path /d/orders",
			"bastion open wiki --browser firefox --fresh",
		},
		Flags: append(o.options(), cli.Text(&o.path, "PATH", "path of the page, with its query (default: the target's start page)", "path")),
		Settings: []string{
			config.GroupAWS, config.GroupGrant, config.GroupLink, config.GroupProxy, config.GroupOutput,
		},
		Complete: func([]string) []cli.Candidate { return a.targets() },
		Run: a.WithLocal(func(ctx context.Context, s config.Settings, args []string) error {
			return a.openTarget(ctx, s, args, o)
		}),
	}
}

// openTarget runs `bastion open`.
func (a *app) openTarget(ctx context.Context, s config.Settings, args []string, o openOptions) error {
	if len(args) > 1 && !strings.HasPrefix(args[1], "-") {
		return fail.Usagef("usage: bastion open SPEC [-- BROWSER-OPTION...]", "open: one target at a time, not %q too", args[1])
	}
	groups, _, err := a.Groups(ctx, "open", s, args[:1], nil)
	if err != nil {
		return err
	}
	s = groups[0].Settings
	spec, err := targets.Parse(groups[0].Requests[0].Target)
	if err != nil {
		return err
	}
	groups[0].Pairs[0].Target = spec
	b, err := findBrowser(&s, args[1:])
	if err != nil {
		return err
	}
	e := targets.Endpoint{Host: spec.Host, Port: spec.Port}
	if spec.Kind == targets.Name { // a host without a dot
		e.Host = spec.ID
	} else if spec.Kind != targets.Host {
		endpoints, _, err := a.LookUp(ctx, "open", groups, "")
		if err != nil {
			return err
		}
		e = endpoints[0]
	}
	if p := dsn.ProtocolOf(e.Engine, e.Port); p != "" {
		return fail.Usagef("use bastion exec "+args[0]+" -- PROGRAM, or bastion forward "+args[0],
			"%s is a database (%s) and has no web page", args[0], p)
	}
	return a.browse(ctx, forwarding.Proxied{All: []config.Settings{s}}, b, browser.PageOf(e.Host, e.Port, e.TLS, o.path), o.browserOptions)
}
