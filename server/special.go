package server

import (
	"encoding/binary"
	"net/netip"
)

type addrRange struct {
	prefix netip.Prefix
	what   string
}

// neverRanges are refused whatever the allow-list says.
var neverRanges = []addrRange{
	{netip.MustParsePrefix("169.254.0.0/16"), "link-local: instance metadata and task credentials"},
	{netip.MustParsePrefix("fd00:ec2::/32"), "instance metadata and services of the VPC"},
	{netip.MustParsePrefix("fe80::/10"), "link-local"},
	{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
	{netip.MustParsePrefix("ff00::/8"), "multicast"},
	{netip.MustParsePrefix("255.255.255.255/32"), "broadcast"},
	{netip.MustParsePrefix("0.0.0.0/8"), "unspecified"}, // Linux connects 0.0.0.0 to itself
	{netip.MustParsePrefix("::/128"), "unspecified"},
}

// loopbackRanges are refused unless an entry wholly inside one names the address.
var loopbackRanges = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// neverPermitted reports whether addr (unmapped) is in one of neverRanges. It also reports an IPv6 address that a translator or
// tunnel would turn into a special IPv4 address. Such addresses have no honest use.
func neverPermitted(addr netip.Addr) (what string, never bool) {
	switch {
	case !addr.IsValid():
		return "no address", true
	case addr.Zone() != "":
		return "an address with a zone", true
	}
	for _, r := range neverRanges {
		if r.prefix.Contains(addr) {
			return r.what, true
		}
	}
	if addr.Is4() || addr == netip.IPv6Loopback() {
		return "", false
	}
	for _, inner := range embedded(addr) {
		for _, r := range neverRanges {
			if r.prefix.Contains(inner) {
				return "it stands for " + inner.String() + ", " + r.what, true
			}
		}
		if inner.IsLoopback() {
			return "it stands for " + inner.String() + ", loopback", true
		}
	}
	return "", false
}

var (
	prefixCompatible = netip.MustParsePrefix("::/96")           // RFC 4291 2.5.5.1, deprecated
	prefixTranslated = netip.MustParsePrefix("::ffff:0:0:0/96") // RFC 2765
	prefixNAT64      = netip.MustParsePrefix("64:ff9b::/96")    // RFC 6052
	prefixLocalNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")  // RFC 8215: any of RFC 6052's forms inside
	prefix6to4       = netip.MustParsePrefix("2002::/16")       // RFC 3056
	prefixTeredo     = netip.MustParsePrefix("2001::/32")       // RFC 4380: server in clear, client inverted
)

// embedded returns the IPv4 addresses that the IPv6 address addr may stand for.
func embedded(addr netip.Addr) []netip.Addr {
	b := addr.As16()
	at := func(i0, i1, i2, i3 int) netip.Addr { return netip.AddrFrom4([4]byte{b[i0], b[i1], b[i2], b[i3]}) }
	last := at(12, 13, 14, 15)
	var inner []netip.Addr
	switch {
	case prefixCompatible.Contains(addr), prefixTranslated.Contains(addr), prefixNAT64.Contains(addr):
		inner = append(inner, last)
	case prefixLocalNAT64.Contains(addr):
		for _, guess := range []netip.Addr{at(6, 7, 9, 10), at(7, 9, 10, 11), at(9, 10, 11, 12), last} {
			if guess.As4()[0] != 0 { // the other forms' zeros
				inner = append(inner, guess)
			}
		}
	case prefix6to4.Contains(addr):
		inner = append(inner, at(2, 3, 4, 5))
	case prefixTeredo.Contains(addr):
		var client [4]byte
		binary.BigEndian.PutUint32(client[:], ^binary.BigEndian.Uint32(b[12:]))
		inner = append(inner, at(4, 5, 6, 7), netip.AddrFrom4(client))
	}
	if iface := binary.BigEndian.Uint64(b[8:]) >> 32; iface&^0x0200_0000 == 0x0000_5efe { // RFC 5214, ISATAP
		inner = append(inner, last)
	}
	return inner
}
