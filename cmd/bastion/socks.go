package main

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/targets"
	"github.com/bastion-ssm/bastion/tunnel"
)

func (a *app) socksCommand() *cli.Command {
	return &cli.Command{
		Name:      "socks",
		Usage:     "serve a proxy (SOCKS and HTTP) whose connections leave from the bastion, until Ctrl-C",
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
			"bastion socks --permit '*.corp.internal:443' :"),
		Flags: a.settingFlags([]string{
			config.GroupAWS, config.GroupGrant, config.GroupLink, config.GroupProxy, config.GroupOutput,
		}),
		Action: a.socks,
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

func newProxyInfo(addr, user string) proxyInfo {
	return proxyInfo{
		Listen: addr, Proxy: "socks5h://" + addr, HTTP: "http://" + addr, PAC: "http://" + addr + "/proxy.pac", User: user,
	}
}

// socks runs `bastion socks`.
func (a *app) socks(c *cli.Context) error {
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
	return a.withProxy(c.Context, s, "socks", local.Address("127.0.0.1", 0), func(_ context.Context, p proxyInfo) error {
		return a.printProxy(p, s)
	}, nil)
}

// printProxy says on standard output how to use a proxy.
func (a *app) printProxy(p proxyInfo, s config.Settings) error {
	if s.Output == "json" {
		return json.NewEncoder(a.out).Encode(p)
	}
	_, err := fmt.Fprintf(a.out, "%s\n%s\n%s\n", p.Proxy, p.HTTP, p.PAC)
	return err
}

// withProxy serves a proxy, calls ready once it is, and then work, until work has ended; nil does not end by itself.
func (a *app) withProxy(ctx context.Context, s config.Settings, command, listen string,
	ready, work func(context.Context, proxyInfo) error,
) error {
	cfg, err := agent.ProxyConfig(s)
	if err != nil {
		return err
	}
	ln, err := tunnel.Listen(ctx, listen, s.AllowRemote)
	if err != nil {
		return remoteHint(err)
	}
	defer func() { _ = ln.Close() }()
	run, err := a.open(ctx, command, s)
	if err != nil {
		return err
	}
	defer run.close()
	link, err := run.link(ctx, s.Permit)
	if err != nil {
		return err
	}
	defer func() { _ = link.Close() }()
	cfg.Logger = a.connectionLog(s, run.progress)
	return serve(ctx, link, func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		served := make(chan error, 1)
		go func() {
			served <- tunnel.ServeProxy(ctx, ln, link, cfg)
			cancel()
		}()
		info := newProxyInfo(ln.Addr().String(), cfg.User)
		workErr := ready(ctx, info)
		if workErr == nil {
			run.watch.tell(a.out, s)
			if work != nil {
				workErr = work(ctx, info)
			} else {
				<-ctx.Done()
			}
		}
		cancel()
		if err := <-served; err != nil {
			return err
		}
		return workErr
	})
}
