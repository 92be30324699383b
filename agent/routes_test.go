package agent

import (
	"net/netip"
	"testing"

	"github.com/bastion-ssm/bastion/agent/api"
)

func TestRouteOf(t *testing.T) {
	routes := []api.Route{
		{Domains: []string{"corp", "*.prod.internal"}, CIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}},
		{Domains: []string{"prod.corp", "xn--bcher-kva.corp"}, CIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")}},
	}
	for host, want := range map[string]int{
		"corp": 0, "db.corp": 0, "prod.corp": 1, "db.PROD.corp": 1, "db.prod.corp.": 1, "xprod.corp": 0, "bücher.corp": 1, "a.prod.internal": 0,
		"10.2.0.1": 0, "10.1.0.1": 1, "::ffff:10.1.0.1": 1, "fd00::1": 1, "fd00::1%eth0": 1,
		"prod.internal": -1, "internal": -1, "mycorp": -1, "192.0.2.1": -1, "": -1, "*.corp": -1, "a..corp": -1,
	} {
		got, ok := RouteOf(routes, host)
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%q takes the route %d, want %d", host, got, want)
		}
	}
}

func TestCheckRoutes(t *testing.T) {
	fine := api.Route{Domains: []string{"corp.internal"}}
	for _, tt := range []struct {
		r  api.ForwardRequest
		ok bool
	}{
		{api.ForwardRequest{Kind: api.KindProxy, Routes: []api.Route{fine}}, true},
		{api.ForwardRequest{Kind: api.KindProxy, Routes: []api.Route{{Domains: []string{"a b"}}}}, false},
		{api.ForwardRequest{Kind: api.KindTCP, Routes: []api.Route{fine}}, false},
		{api.ForwardRequest{Kind: api.KindProxy, Routes: make([]api.Route, 1000)}, false},
	} {
		if err := checkRoutes(tt.r); (err == nil) != tt.ok {
			t.Errorf("%+v: %v", tt.r.Kind, err)
		}
	}
}
