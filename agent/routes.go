package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/agent/forwards"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/tunnel"
)

// RouteOf returns the index of the route that matches a host most closely: the longest of its domains, or the smallest of its networks.
func RouteOf(routes []api.Route, host string) (index int, ok bool) {
	best := -1
	match := func(i, closeness int) {
		if closeness > best {
			index, ok, best = i, true, closeness
		}
	}
	ip, err := netip.ParseAddr(host)
	if err == nil {
		ip = ip.Unmap().WithZone("")
	} else if host, err = config.Domain(host); err != nil || strings.HasPrefix(host, "*") {
		return 0, false
	}
	for i, r := range routes {
		for _, network := range r.CIDRs {
			if ip.IsValid() && network.Contains(ip) {
				match(i, network.Bits())
			}
		}
		for _, domain := range r.Domains {
			name, below := strings.CutPrefix(domain, "*.")
			if !ip.IsValid() && (strings.HasSuffix(host, "."+name) || host == name && !below) {
				match(i, len(name))
			}
		}
	}
	return index, ok
}

// checkRoutes checks the routes of a request.
func checkRoutes(r api.ForwardRequest) error {
	if len(r.Routes) > 0 && r.Kind != api.KindProxy {
		return fail.New(fail.Usage, "", errors.New("only a proxy has routes"), "leave the routes out")
	}
	if len(r.Routes) > forwards.Max {
		return fail.New(fail.Usage, "", fmt.Errorf("%d routes of a proxy", len(r.Routes)), fmt.Sprintf("give at most %d", forwards.Max))
	}
	for _, route := range r.Routes {
		for _, domain := range route.Domains {
			if _, err := config.Domain(domain); err != nil {
				return fail.New(fail.Usage, "", err, "")
			}
		}
	}
	return nil
}

// WithRoutes makes the PAC file of a proxy that of its routes.
func WithRoutes(cfg tunnel.ProxyConfig, routes []api.Route) tunnel.ProxyConfig {
	if len(routes) == 0 {
		return cfg
	}
	cfg.Domains, cfg.CIDRs = nil, nil
	for _, r := range routes {
		cfg.Domains, cfg.CIDRs = append(cfg.Domains, r.Domains...), append(cfg.CIDRs, r.CIDRs...)
	}
	return cfg
}

// routed dials for a proxy with routes.
type routed struct {
	*controller
	routes []api.Route
}

// Dial opens a connection by the bastion of the route that matches addr. It never tries another one, where the name may mean another
// host.
func (d routed) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	op := "open a connection to " + addr
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fail.New(fail.Usage, op, err, "give the destination as host:port")
	}
	i, ok := RouteOf(d.routes, host)
	if !ok {
		return nil, fail.New(fail.NoTarget, op, errors.New("no environment has it in proxy_domains or proxy_cidrs"),
			"add it to those of its environment, or serve one environment: -e ENV")
	}
	via := d.routes[i].Via
	if via == "" {
		return d.controller.Dial(ctx, network, addr)
	}
	a := d.agent
	a.mu.Lock()
	var other *controller
	if f := a.registry.At(via); f != nil && f.Record().Request.Kind == api.KindProxy {
		other = a.controllers[f]
	}
	a.mu.Unlock()
	if other == nil || other == d.controller {
		return nil, fail.New(fail.Lost, op, errors.New("the proxy of its environment, at "+via+", has ended"), "open the proxies again")
	}
	return other.Dial(ctx, network, addr)
}
