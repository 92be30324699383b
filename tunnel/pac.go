package tunnel

import (
	_ "embed"
	"encoding/json"
	"net/netip"
	"strings"
)

//go:embed proxy.pac.js
var pacScript string

// PAC returns a proxy auto-configuration file. It sends browsers to the HTTP proxy at addr (host:port) for the domains and for
// literal addresses in cidrs, and directly to all other hosts. A domain stands for itself and all names below it; "*.domain" only
// for those below it. The file never makes the browser resolve names, which would ask this machine's DNS for the VPC's names.
//
// The file has no second choice after the proxy: while the proxy is away, the browser must not look for a VPC's name elsewhere. It
// names the HTTP proxy, which all systems can use from a PAC file, also with a password.
//
// PAC compares domains as browsers write them: in ASCII.
func PAC(addr string, domains []string, cidrs []netip.Prefix) string {
	names, below := []string{}, []string{}
	for _, d := range domains {
		d = strings.TrimSuffix(strings.ToLower(d), ".")
		if rest, ok := strings.CutPrefix(d, "*."); ok {
			below = append(below, rest)
		} else {
			names = append(names, d)
		}
	}
	type network struct {
		Bytes []int `json:"bytes"`
		Bits  int   `json:"bits"`
	}
	nets := []network{}
	for _, p := range cidrs {
		n := network{Bits: p.Bits()}
		for _, b := range p.Masked().Addr().AsSlice() {
			n.Bytes = append(n.Bytes, int(b))
		}
		nets = append(nets, n)
	}
	return strings.NewReplacer(
		`"PROXY"`, literal("PROXY "+addr),
		`"NAMES"`, literal(names),
		`"BELOW"`, literal(below),
		`"NETS"`, literal(nets),
	).Replace(pacScript)
}

// literal returns v as a JavaScript literal that cannot end the script.
func literal(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic("tunnel: " + err.Error()) // strings and numbers
	}
	return string(text)
}
