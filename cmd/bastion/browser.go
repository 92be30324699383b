package main

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/browser"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
)

func (a *app) browserCommand() *command {
	var o browserFlags
	return &command{
		name:    "browser",
		summary: "start a browser that reaches the private network",
		group:   groupConnect,
		args:    "[URL] [-- BROWSER-OPTION...]",
		about: []passage{
			para(`Starts an installed Chromium, Chrome, Edge, Brave or Firefox with its own profile: your other windows, cookies and
				settings stay as they are. The host of URL, the names of proxy_domains and the addresses of proxy_cidrs go through the
				bastion, all other destinations directly. The bastion resolves the names.`),
			para(`The profile stays in state_dir for the next time. While the browser runs, another bastion browser opens its URL there.
				The proxy ends with the last window.`),
		},
		examples: []string{
			"bastion browser https://wiki.corp.internal/",
			"bastion browser --browser firefox --fresh https://wiki.corp.internal/",
			"bastion browser --proxy-domains corp.example https://wiki.corp.example/ -- --incognito",
		},
		flags: []option{
			switchFlag(&o.all, "send all traffic through the bastion, not only the private network's", "all"),
			switchFlag(&o.fresh, "use a new profile, and remove it at the end", "fresh"),
		},
		settings: []string{config.GroupAWS, config.GroupGrant, config.GroupLink, config.GroupProxy, config.GroupOutput},
		run:      func(c *cli.Context) error { return a.browser(c, o) },
	}
}

// browserFlags are the flags of browser that are no settings.
type browserFlags struct{ all, fresh bool }

// browser runs `bastion browser`. What can be wrong on this machine is found before anything is asked of AWS.
func (a *app) browser(c *cli.Context, o browserFlags) error {
	s, err := a.settings()
	if err != nil {
		return err
	}
	page, options, err := browserArgs(c.Args().Slice())
	if err != nil {
		return err
	}
	if _, err := checkProxy(&s); err != nil {
		return err
	}
	b, err := browser.Find(s.Proxy.Browser, browser.ThisSystem())
	if err != nil {
		return err
	}
	b.Options = options
	profile, err := browser.OpenProfile(b, s.Local.StateDir, o.fresh)
	if err != nil {
		return err
	}
	defer func() {
		if err := profile.Close(); err != nil && !s.Output.Quiet {
			_ = printf(a.err, "bastion: the browser's profile is left behind: %s\n", err)
		}
	}()
	if profile.InUse() {
		if !s.Output.Quiet {
			fmt.Fprintln(a.err, "bastion: the browser runs already, "+
				"and opens the page with the settings that it was started with")
		}
		return b.Run(c.Context, profile, b.Args(profile.Dir, nil, page))
	}
	requests := []api.ForwardRequest{{Kind: api.KindProxy, Name: "browser", Listen: ":"}}
	if o.fresh {
		requests[0].Name = filepath.Base(profile.Dir) // there may be several
	}
	work := func(ctx context.Context, forwards []api.Forward, watch *linkWatch) error {
		cfg, err := agent.ProxyConfig(s)
		if err != nil {
			return err
		}
		p := browser.NewProxy(forwards[0].Listen, cfg.User != "", cfg.Domains, cfg.CIDRs, page, o.all)
		if err := b.Prepare(profile.Dir, p); err != nil {
			return fail.New(fail.Other, "write the browser's settings", err, "check state_dir, or use --fresh")
		}
		watch.progress.Note(fmt.Sprintf("%s: %s; the proxy ends with its last window", b.Program, p.What()))
		return b.Run(ctx, profile, b.Args(profile.Dir, p, page))
	}
	return a.openForwards(c.Context, s, "browser", requests, work)
}

// browserArgs reads the arguments: the page, which may be missing, and options of the browser.
func browserArgs(args []string) (page string, options []string, err error) {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return "", args, nil
	}
	page, options = args[0], args[1:]
	if len(options) > 0 && !strings.HasPrefix(options[0], "-") {
		return "", nil, usage("usage: bastion browser [URL] [-- BROWSER-OPTION...]",
			"browser: one page at a time, not %q too", options[0])
	}
	if !strings.Contains(page, "://") {
		page = "http://" + page
	}
	u, err := url.Parse(page)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return "", nil, usage("give a URL such as https://wiki.corp.internal/", "%q is no page", args[0])
	}
	return u.String(), options, nil
}
