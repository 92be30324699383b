package main

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/browser"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/forwarding"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/internal/linkview"
)

func (a *app) browserCommand() *cli.Command {
	var o browserOptions
	return &cli.Command{
		Name:    "browser",
		Summary: "start a browser that reaches the private network",
		Group:   groupConnect,
		Args:    "[URL] [-- BROWSER-OPTION...]", MaxArgs: cli.AnyNumber,
		About: []cli.Passage{
			cli.Para(`Starts an installed Chromium, Chrome, Edge, Brave or Firefox with its own profile: your other windows, cookies and
				settings stay as they are. The host of URL, the names of proxy_domains and the addresses of proxy_cidrs go through the
				bastion, all other destinations directly. The bastion resolves the names.`),
			cli.Para(`While no environment counts, and several have proxy_domains or proxy_cidrs of their own, one window reaches all of
				these (docs/environments.md).`),
			cli.Para(`The profile stays in state_dir for the next time. While the browser runs, another bastion browser opens its URL there.
				The proxy ends with the last window.`),
		},
		Examples: []string{
			"bastion browser https://wiki.corp.internal/",
			"bastion browser --browser firefox --fresh https://wiki.corp.internal/",
			"bastion browser --proxy-domains corp.example https://wiki.corp.example/ -- --incognito",
		},
		Flags:    o.options(),
		Settings: []string{config.GroupAWS, config.GroupGrant, config.GroupLink, config.GroupProxy, config.GroupOutput},
		Run:      a.With(func(ctx context.Context, s config.Settings, args []string) error { return a.browser(ctx, s, args, o) }),
	}
}

// browserOptions are the options of browser that are no settings.
type browserOptions struct{ all, fresh, yes bool }

// options are the options that fill o in.
func (o *browserOptions) options() []cli.Option {
	return []cli.Option{
		cli.Switch(&o.all, "send all traffic through the bastion, not only the private network's", "all"),
		cli.Switch(&o.fresh, "use a new profile, and remove it at the end", "fresh"),
		invocation.YesFlag(&o.yes),
	}
}

// browser runs `bastion browser`.
func (a *app) browser(ctx context.Context, s config.Settings, args []string, o browserOptions) error {
	page, options, err := browserArgs(args)
	if err != nil {
		return err
	}
	of, err := a.Proxied(s)
	if err != nil {
		return err
	}
	if o.all && len(of.Routes) > 0 {
		return fail.Usagef("choose one with -e", "--all sends everything through one environment, and the configuration has several")
	}
	if err := of.CheckPage(page); err != nil {
		return err
	}
	b, err := findBrowser(&of.All[0], options)
	if err != nil {
		return err
	}
	return a.browse(ctx, of, b, page, o)
}

// findBrowser finds what can be wrong on this machine, before anything is asked of AWS.
func findBrowser(s *config.Settings, options []string) (*browser.Browser, error) {
	if _, err := forwarding.CheckProxy(s); err != nil {
		return nil, err
	}
	b, err := browser.Find(s.Proxy.Browser, browser.ThisSystem())
	if err != nil {
		return nil, err
	}
	b.Options = options
	return b, nil
}

// browse runs the browser with a page, and a proxy of some environments, or of one, until its last window closes.
func (a *app) browse(ctx context.Context, of forwarding.Proxied, b *browser.Browser, page string, o browserOptions) error {
	s := of.All[0]
	profile, err := browser.OpenProfile(b, s.Local.StateDir, o.fresh)
	if err != nil {
		return err
	}
	defer func() {
		if err := profile.Close(); err != nil {
			a.Note(s, "the browser's profile is left behind: %s", err)
		}
	}()
	if profile.InUse() {
		a.Note(s, "the browser runs already, and opens the page with the settings that it was started with")
		return b.Run(ctx, profile, b.Args(profile.Dir, nil, page))
	}
	if err := a.Confirm(ctx, o.yes, of.All...); err != nil {
		return err
	}
	proxy := api.ForwardRequest{Kind: api.KindProxy, Name: "browser", Listen: ":"}
	if o.fresh {
		proxy.Name = filepath.Base(profile.Dir) // there may be several
	}
	work := func(ctx context.Context, forwards []api.Forward, watches []*linkview.Watch) error {
		cfg, err := agent.ProxyConfig(s)
		if err != nil {
			return err
		}
		cfg = agent.WithRoutes(cfg, of.Routes)
		p := browser.NewProxy(forwards[0].Listen, cfg.User != "", cfg.Domains, cfg.CIDRs, page, o.all)
		if err := b.Prepare(profile.Dir, p); err != nil {
			return fail.New(fail.Other, "write the browser's settings", err, "check state_dir, or use --fresh")
		}
		watches[0].Progress.Note(fmt.Sprintf("%s: %s; the proxy ends with its last window", b.Program, p.What()))
		return b.Run(ctx, profile, b.Args(profile.Dir, p, page))
	}
	return a.OpenProxied(ctx, "browser", of, proxy, false, func(ctx context.Context, groups []request.Group) error {
		return a.OpenForwards(ctx, s, forwarding.Wanted{Command: "browser", Groups: groups}, work)
	})
}

// browserArgs reads the arguments: the page, which may be missing, and options of the browser.
func browserArgs(args []string) (page string, options []string, err error) {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return "", args, nil
	}
	page, options = args[0], args[1:]
	if len(options) > 0 && !strings.HasPrefix(options[0], "-") {
		return "", nil, fail.Usagef("usage: bastion browser [URL] [-- BROWSER-OPTION...]",
			"browser: one page at a time, not %q too", options[0])
	}
	if !strings.Contains(page, "://") {
		page = "http://" + page
	}
	u, err := url.Parse(page)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return "", nil, fail.Usagef("give a URL such as https://wiki.corp.internal/", "%q is no page", args[0])
	}
	return u.String(), options, nil
}
