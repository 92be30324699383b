package config

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// dnsNames converts names as browsers do: to lower case, with IDNs in their ASCII form.
var dnsNames = idna.New(idna.MapForLookup(), idna.BidiRule(), idna.StrictDomainName(true), idna.VerifyDNSLength(true),
	idna.Transitional(false))

// Domain returns a domain of proxy_domains in lower-case ASCII, as browsers write it. "corp.internal" covers that name and all
// names below it; "*.corp.internal" covers only those below it.
func Domain(text string) (string, error) {
	name, isBelow := strings.CutPrefix(text, "*.")
	name = strings.TrimSuffix(name, ".")
	wrong := func(why string) (string, error) {
		return "", fmt.Errorf("%q is not a domain such as corp.internal or *.corp.internal: %s", text, why)
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return wrong("an address belongs in proxy_cidrs")
	}
	switch {
	case name == "":
		return wrong("there is no name")
	case strings.Contains(name, "*"):
		return wrong("* may only stand at the beginning, before a dot")
	case strings.HasPrefix(name, "."):
		return wrong("it begins with a dot")
	}
	ascii, err := dnsNames.ToASCII(name)
	if err != nil || !utf8.ValidString(name) {
		return wrong("it has characters, or a length, that names do not have")
	}
	if isBelow {
		ascii = "*." + ascii
	}
	return ascii, nil
}

// CIDR parses a network of proxy_cidrs; a single address is a network of one.
func CIDR(text string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(text); err == nil && ip.Zone() == "" {
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return p, fmt.Errorf("%q is not a network such as 10.20.0.0/16 or fd00:1::/48", text)
	case p.Addr().Is4In6():
		return p, fmt.Errorf("%q: write the IPv4 network itself", text)
	case p != p.Masked():
		return p, fmt.Errorf("%q has bits after the network's: say %s", text, p.Masked())
	}
	return p, nil
}
