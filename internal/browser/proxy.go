package browser

import (
	"encoding/base64"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/tunnel"
)

// Proxy is a browser's proxy.
type Proxy struct {
	addr     string
	password bool   // it requires one
	pac      string // PAC file; "": all traffic uses the proxy
	domains  []string
	cidrs    []netip.Prefix
}

// NewProxy returns a Proxy with a PAC file for the domains, the networks and page's host. With all, every request uses the
// proxy.
func NewProxy(addr string, password bool, domains []string, cidrs []netip.Prefix, page string, all bool) *Proxy {
	p := &Proxy{addr: addr, password: password, domains: slices.Clone(domains), cidrs: slices.Clone(cidrs)}
	if all {
		return p
	}
	if u, err := url.Parse(page); err == nil && u.Hostname() != "" {
		if prefix, err := config.CIDR(u.Hostname()); err == nil {
			p.cidrs = append(p.cidrs, prefix)
		} else if d, err := config.Domain(u.Hostname()); err == nil && !slices.ContainsFunc(p.domains, func(of string) bool {
			return d == of || strings.HasSuffix(d, "."+strings.TrimPrefix(of, "*."))
		}) {
			p.domains = append(p.domains, d)
		}
	}
	p.pac = tunnel.PAC(addr, p.domains, p.cidrs)
	return p
}

// What describes the traffic that uses the proxy.
func (p *Proxy) What() string {
	if p.pac == "" {
		return "everything goes through the bastion"
	}
	names := slices.Clone(p.domains)
	for _, c := range p.cidrs {
		names = append(names, c.String())
	}
	return strings.Join(names, ", ") + " through the bastion, all else directly"
}

// pacURL returns the PAC file as a URL. Unlike the proxy's own PAC file, it includes page's host.
func (p *Proxy) pacURL() string {
	return "data:application/x-ns-proxy-autoconfig;base64," + base64.StdEncoding.EncodeToString([]byte(p.pac))
}
