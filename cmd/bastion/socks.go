package main

import (
	"context"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/forwarding"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/targets"
)

func (a *app) socksCommand() *cli.Command {
	var o socksOptions
	return &cli.Command{
		Name:    "socks",
		Summary: "serve a SOCKS and HTTP proxy whose connections leave from the bastion",
		Group:   groupConnect,
		Args:    "[BIND:]PORT", MinArgs: 1, MaxArgs: 1,
		About: []cli.Passage{
			cli.Para(`Serves SOCKS5, SOCKS4a and HTTP (CONNECT and http:// URLs) on one local port; 0 or : picks a free one. The bastion
				resolves names, so that private names work. The setting permit narrows the destinations.`),
			cli.Para(`Standard output has the URLs of the proxy and of a PAC file. With the PAC file browsers send only the names of
				proxy_domains and the addresses of proxy_cidrs through the bastion. With -o json it is one line of JSON.`),
			cli.Para(`While no environment counts, and several have proxy_domains or proxy_cidrs of their own, the proxy serves all of
				these: each name leaves from the bastion of its environment, and others are refused (docs/environments.md).`),
			cli.Para(`Every user of this machine can use the proxy, unless proxy_auth_file sets a user and a password. The proxy ends with
				this command; with --detach the agent keeps it until bastion stop.`),
		},
		Examples: []string{
			"bastion socks 1080",
			"curl --socks5-hostname 127.0.0.1:1080 https://wiki.corp.internal/",
			"bastion socks -d --name proxy 1080    # until bastion stop proxy",
		},
		Flags: append([]cli.Option{
			forwarding.DetachFlag(&o.detach),
			cli.Text(&o.name, "NAME", "name of the proxy for stop and wait", "name"),
			invocation.YesFlag(&o.yes),
		}, o.ready.Options()...),
		Settings: []string{config.GroupAWS, config.GroupGrant, config.GroupLink, config.GroupProxy, config.GroupOutput},
		Run:      a.With(func(ctx context.Context, s config.Settings, args []string) error { return a.socks(ctx, s, args, o) }),
	}
}

// socksOptions are the options of socks that are no settings.
type socksOptions struct {
	detach bool
	name   string
	ready  forwarding.ScriptOptions
	yes    bool
}

// socks runs `bastion socks`.
func (a *app) socks(ctx context.Context, s config.Settings, args []string, o socksOptions) error {
	local, err := targets.ParseLocal(args[0])
	if err != nil {
		return err
	}
	of, err := a.Proxied(s)
	if err != nil {
		return err
	}
	user, err := forwarding.CheckProxy(&of.All[0])
	if err != nil {
		return err
	}
	if err := a.Confirm(ctx, o.yes, of.All...); err != nil {
		return err
	}
	s = of.All[0]
	p, err := o.ready.Open(o.detach)
	if err != nil {
		return err
	}
	defer p.Close()
	r := api.ForwardRequest{Kind: api.KindProxy, Name: o.name, Listen: local.String()}
	return a.OpenProxied(ctx, "socks", of, r, o.detach, func(ctx context.Context, groups []request.Group) error {
		w := forwarding.Wanted{Command: "socks", Groups: groups, Named: o.name != ""}
		return a.ServeForScript(ctx, s, w, p, forwarding.Served{Detached: o.detach, Show: func(_ context.Context, forwards []api.Forward) error {
			return a.printProxy(forwarding.NewProxyInfo(forwards[0].Listen, user), s)
		}})
	})
}

// printProxy says on standard output how to use a proxy.
func (a *app) printProxy(p forwarding.ProxyInfo, s config.Settings) error {
	if s.Output.Format == "json" {
		return a.PrintLine(p)
	}
	return console.Printf(a.Out, "%s\n%s\n%s\n", p.Proxy, p.HTTP, p.PAC)
}
