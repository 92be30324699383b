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

func (a *app) socksCommand() *cli.Command {
	var o forwardFlags
	return &cli.Command{
		Name: "socks",
		Usage: "serve a proxy (SOCKS and HTTP) whose connections leave from the bastion, " +
			"until Ctrl-C or, with --detach, bastion stop",
		Category:  "Connect",
		ArgsUsage: "[BIND:]PORT",
		Description: text(`
			Serves SOCKS5, SOCKS4a and HTTP (CONNECT and http:// URLs) on one local port (0 or : picks a free one). Names are
			resolved at the bastion, so that private names work. The setting permit narrows what may be reached.

			Standard output gets the proxy's URLs, and that of a PAC file, by which browsers send only the names of
			proxy_domains and the addresses of proxy_cidrs through the bastion. With -o json that is one line of JSON.

			Who can reach the port uses the tunnel, unless proxy_auth_file sets a user and a password.`,
			"bastion socks 1080",
			"curl --socks5-hostname 127.0.0.1:1080 https://wiki.corp.internal/",
			"HTTPS_PROXY=http://127.0.0.1:1080 git clone https://git.corp.internal/tools.git",
			"bastion socks --proxy-domains corp.internal,'*.example.com' 1080   # what its PAC file sends here",
			"bastion socks -d --name proxy 1080    # until bastion stop proxy",
			"bastion socks --permit '*.corp.internal:443' :"),
		Flags: a.settingFlags([]string{
			config.GroupAWS, config.GroupGrant, config.GroupLink, config.GroupProxy, config.GroupOutput,
		}, detachFlag(&o.detach), &textFlag{
			names: []string{"name"}, value: "NAME", help: "name of the proxy for stop and wait",
			set: func(v string) { o.name = v },
		}),
		Action: func(c *cli.Context) error { return a.socks(c, o) },
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
	if s.ProxyAuthFile != "" {
		if s.ProxyAuthFile, err = filepath.Abs(s.ProxyAuthFile); err != nil {
			return "", err
		}
	}
	cfg, err := agent.ProxyConfig(*s)
	return cfg.User, err
}

// printProxy says on standard output how to use a proxy.
func (a *app) printProxy(p proxyInfo, s config.Settings) error {
	if s.Output == "json" {
		return a.printLine(p)
	}
	err := printf(a.out, "%s\n%s\n%s\n", p.Proxy, p.HTTP, p.PAC)
	return err
}
