package main

import (
	"context"
	"net/netip"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/targets"
)

func (a *app) socksCommand() *command {
	var o forwardFlags
	return &command{
		name:    "socks",
		summary: "serve a SOCKS and HTTP proxy whose connections leave from the bastion",
		group:   groupConnect,
		args:    "[BIND:]PORT",
		about: []passage{
			para(`Serves SOCKS5, SOCKS4a and HTTP (CONNECT and http:// URLs) on one local port; 0 or : picks a free one. The bastion
				resolves names, so that private names work. The setting permit narrows the destinations.`),
			para(`Standard output has the URLs of the proxy and of a PAC file. With the PAC file browsers send only the names of
				proxy_domains and the addresses of proxy_cidrs through the bastion. With -o json it is one line of JSON.`),
			para(`Every user of this machine can use the proxy, unless proxy_auth_file sets a user and a password. The proxy ends with
				this command; with --detach the agent keeps it until bastion stop.`),
		},
		examples: []string{
			"bastion socks 1080",
			"curl --socks5-hostname 127.0.0.1:1080 https://wiki.corp.internal/",
			"bastion socks -d --name proxy 1080    # until bastion stop proxy",
		},
		flags: []option{
			detachFlag(&o.detach), &textFlag{
				names: []string{"name"}, form: "NAME", help: "name of the proxy for stop and wait", set: func(v string) { o.name = v },
			},
		},
		settings: []string{config.GroupAWS, config.GroupGrant, config.GroupLink, config.GroupProxy, config.GroupOutput},
		run:      func(c *cli.Context) error { return a.socks(c, o) },
	}
}

// proxyInfo is what socks prints.
type proxyInfo struct {
	Listen string `json:"listen"`
	Proxy  string `json:"proxy"` // SOCKS
	HTTP   string `json:"http_proxy"`
	PAC    string `json:"pac"`
	User   string `json:"user,omitempty"` // clients must say it, and the password
}

// newProxyInfo says how to use the proxy that listens at addr. One that listens on all addresses is reached on loopback
// too.
func newProxyInfo(addr, user string) proxyInfo {
	at := addr
	if ap, err := netip.ParseAddrPort(addr); err == nil && ap.Addr().IsUnspecified() {
		at = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), ap.Port()).String()
	}
	return proxyInfo{
		Listen: addr, Proxy: "socks5h://" + at, HTTP: "http://" + at, PAC: "http://" + at + "/proxy.pac",
		User: user,
	}
}

// socks runs `bastion socks`.
func (a *app) socks(c *cli.Context, o forwardFlags) error {
	if err := argCount(c, 1, 1); err != nil {
		return err
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	local, err := targets.ParseLocal(c.Args().First())
	if err != nil {
		return err
	}
	user, err := checkProxy(&s)
	if err != nil {
		return err
	}
	a.named = o.name != ""
	requests := []api.ForwardRequest{{Kind: api.KindProxy, Name: o.name, Listen: local.String()}}
	show := func(forwards []api.Forward) error { return a.printProxy(newProxyInfo(forwards[0].Listen, user), s) }
	if o.detach {
		forwards, err := a.openDetached(c.Context, s, "socks", requests)
		if err != nil {
			return err
		}
		return show(forwards)
	}
	return a.openForwards(c.Context, s, "socks", requests, func(
		ctx context.Context, forwards []api.Forward, watch *linkWatch,
	) error {
		if err := show(forwards); err != nil {
			return err
		}
		watch.tell(a.out, s)
		<-ctx.Done()
		return context.Cause(ctx)
	})
}

// checkProxy finds what is wrong with the settings of a proxy before anything is started, and makes them what the agent
// understands too, which is in another directory. It returns the user that clients must say, if any.
func checkProxy(s *config.Settings) (user string, err error) {
	if s.Proxy.AuthFile != "" {
		if s.Proxy.AuthFile, err = filepath.Abs(s.Proxy.AuthFile); err != nil {
			return "", err
		}
	}
	cfg, err := agent.ProxyConfig(*s)
	return cfg.User, err
}

// printProxy says on standard output how to use a proxy.
func (a *app) printProxy(p proxyInfo, s config.Settings) error {
	if s.Output.Format == "json" {
		return a.printLine(p)
	}
	err := printf(a.out, "%s\n%s\n%s\n", p.Proxy, p.HTTP, p.PAC)
	return err
}
