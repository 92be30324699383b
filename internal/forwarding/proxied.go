package forwarding

import (
	"cmp"
	"context"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/request"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/linkview"
	"github.com/bastion-ssm/bastion/targets"
)

// Proxied are the environments that a proxy serves.
type Proxied struct {
	All    []config.Settings
	Routes []api.Route // of several, each with the domains and networks of its environment; else empty
}

// Proxied returns what a proxy of a command with settings s serves: the environments with domains or networks of their own, if there are
// several, nothing chooses an environment, and the settings outside of environments name no account. Otherwise it is s alone.
func (a *Forwarder) Proxied(s config.Settings) (Proxied, error) {
	alone := Proxied{All: []config.Settings{s}}
	outside := s.AWS.Profile != "" || s.AWS.Region != "" || a.Line.Settings["proxy_domains"] != "" || a.Line.Settings["proxy_cidrs"] != ""
	if s.Environment != "" || outside {
		return alone, nil
	}
	environments, err := a.Environments(s)
	if err != nil {
		return alone, err
	}
	var out Proxied
	for _, e := range environments {
		var own api.Route
		if !slices.Equal(e.Proxy.Domains, s.Proxy.Domains) {
			own.Domains = e.Proxy.Domains
		}
		if !slices.Equal(e.Proxy.CIDRs, s.Proxy.CIDRs) {
			own.CIDRs = e.Proxy.CIDRs
		}
		if len(own.Domains)+len(own.CIDRs) == 0 {
			continue
		}
		if _, err := CheckProxy(&e); err != nil {
			return alone, err
		}
		out.All, out.Routes = append(out.All, e), append(out.Routes, own)
	}
	if len(out.All) < 2 {
		return alone, nil
	}
	return out, out.check()
}

// names are the names of the environments.
func (p Proxied) names() []string {
	names := make([]string, len(p.All))
	for i, s := range p.All {
		names[i] = s.Environment
	}
	return names
}

// check refuses domains and networks that two environments have.
func (p Proxied) check() error {
	of := make(map[string]string)
	for i, name := range p.names() {
		var have []string
		for _, domain := range p.Routes[i].Domains {
			have = append(have, strings.TrimPrefix(domain, "*."))
		}
		for _, network := range p.Routes[i].CIDRs {
			have = append(have, network.String())
		}
		for _, text := range have {
			if other := of[text]; other != "" && other != name {
				return fail.Usagef("choose one environment with -e, or correct its proxy_domains or proxy_cidrs",
					"%s is of the environments %s and %s: a proxy of both cannot tell where it leads", text, other, name)
			}
			of[text] = name
		}
	}
	return nil
}

// CheckPage refuses a page that none of several environments has. "" is no page.
func (p Proxied) CheckPage(page string) error {
	u, err := url.Parse(page)
	if err != nil || page == "" || len(p.Routes) == 0 {
		return err
	}
	if _, ok := agent.RouteOf(p.Routes, u.Hostname()); ok {
		return nil
	}
	return fail.Usagef("choose the environment with -e, or add the host to its proxy_domains",
		"%s is in proxy_domains or proxy_cidrs of no environment (%s)", u.Hostname(), strings.Join(p.names(), ", "))
}

// OpenProxied does work with the group of the proxy's request. For several environments it first opens a proxy for each but the first, and the
// request has the routes to them. They end after work, unless they are detached.
func (a *Forwarder) OpenProxied(ctx context.Context, command string, p Proxied, r api.ForwardRequest, detached bool,
	do func(context.Context, []request.Group) error,
) error {
	first := p.All[0]
	if len(p.Routes) == 0 {
		return do(ctx, request.One(first, r))
	}
	if first.Local.NoAgent {
		return fail.Usagef("leave out --no-agent, or serve one environment: -e ENV", "a proxy of several environments needs the agent")
	}
	w := Wanted{Command: command}
	for i, s := range p.All[1:] {
		other := api.ForwardRequest{Kind: api.KindProxy, Name: cmp.Or(r.Name, command) + "-" + s.Environment, Listen: ":"}
		w.Groups = append(w.Groups, request.Group{Settings: s, Requests: []api.ForwardRequest{other}, At: []int{i}})
	}
	serve := func(ctx context.Context, others []api.Forward) error {
		r.Routes = slices.Clone(p.Routes)
		for i, f := range others {
			r.Routes[i+1].Via = f.Listen
		}
		return do(ctx, request.One(first, r))
	}
	if !detached {
		return a.OpenForwards(ctx, first, w, func(ctx context.Context, others []api.Forward, _ []*linkview.Watch) error { return serve(ctx, others) })
	}
	others, err := a.OpenDetached(ctx, first, w)
	if err != nil {
		return err
	}
	if err = serve(ctx, others); err != nil {
		var names []string
		for _, f := range others {
			names = append(names, targets.InEnvironment(f.Environment, f.Name))
		}
		a.Note(first, "open, and kept by the agent: %s", strings.Join(names, ", "))
	}
	return err
}

// CheckProxy checks a proxy's settings before anything starts. It makes paths absolute for the agent, which runs in another
// directory. It returns the user that clients must say, if any.
func CheckProxy(s *config.Settings) (user string, err error) {
	if s.Proxy.AuthFile != "" {
		if s.Proxy.AuthFile, err = filepath.Abs(s.Proxy.AuthFile); err != nil {
			return "", err
		}
	}
	cfg, err := agent.ProxyConfig(*s)
	return cfg.User, err
}
