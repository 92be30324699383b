package forwarding

import (
	"net/netip"
)

// ProxyInfo is what socks prints.
type ProxyInfo struct {
	Listen string `json:"listen"`
	Proxy  string `json:"proxy"` // SOCKS
	HTTP   string `json:"http_proxy"`
	PAC    string `json:"pac"`
	User   string `json:"user,omitempty"` // clients must say it, and the password
}

// NewProxyInfo says how to use the proxy that listens at addr. One that listens on all addresses is reached on loopback
// too.
func NewProxyInfo(addr, user string) ProxyInfo {
	at := addr
	if ap, err := netip.ParseAddrPort(addr); err == nil && ap.Addr().IsUnspecified() {
		at = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), ap.Port()).String()
	}
	return ProxyInfo{
		Listen: addr, Proxy: "socks5h://" + at, HTTP: "http://" + at, PAC: "http://" + at + "/proxy.pac",
		User: user,
	}
}
