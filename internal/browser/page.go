package browser

import (
	"net"
	"net/url"
	"strconv"
	"strings"
)

// tlsPorts are the ports whose pages are https.
var tlsPorts = map[int]bool{443: true, 4443: true, 6443: true, 8443: true, 9443: true, 10443: true}

// PageOf returns the URL of the page that a host serves at a port. secure says that it accepts TLS only.
func PageOf(host string, port int, secure bool, path string) string {
	u := url.URL{Scheme: "http", Host: net.JoinHostPort(host, strconv.Itoa(port))}
	usual := 80
	if secure || tlsPorts[port] {
		u.Scheme, usual = "https", 443
	}
	if port == usual {
		u.Host = host
		if strings.Contains(host, ":") {
			u.Host = "[" + host + "]"
		}
	}
	path = "/" + strings.TrimLeft(path, "/")
	ref, err := url.Parse(path)
	if err != nil {
		u.Path = path
		return u.String()
	}
	u.Path, u.RawQuery, u.Fragment = ref.Path, ref.RawQuery, ref.Fragment
	return u.String()
}
