package account

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/bastion-ssm/bastion/internal/pattern"
)

// nevers are ranges that bastiond connects to in no case: an entry that lies in one keeps it from starting.
var nevers = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("fe80::/10"), // metadata, link-local
	netip.MustParsePrefix("224.0.0.0/4"), netip.MustParsePrefix("ff00::/8"), netip.MustParsePrefix("255.255.255.255/32"),
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("::/128"),
}

// maxDestination is the most bytes of a destination, and maxHost of the name in it.
const (
	maxDestination = 300
	maxHost        = 253
)

var (
	hostForm   = pattern.Lazy(`^([A-Za-z0-9_*?-]{1,63}\.)*[A-Za-z0-9_*?-]{1,63}\.?$`)
	letterForm = pattern.Lazy(`[A-Za-z]`)
	numberForm = pattern.Lazy(`(^|\.)([0-9]+|0[xX][0-9A-Fa-f]+)\.?$`) // the last label is a number: part of an address
)

// checkDestination returns why bastiond would refuse an entry HOST:PORT of its list, or nil.
func checkDestination(s string) error {
	colon := strings.LastIndexByte(s, ':')
	if colon < 1 || strings.ContainsAny(s, ", \t\r\n") || len(s) > maxDestination {
		return errors.New("want HOST:PORT, CIDR:PORT or *:PORT")
	}
	if err := checkPorts(s[colon+1:]); err != nil {
		return err
	}
	host := s[:colon]
	inner, bracketed := strings.CutPrefix(host, "[")
	if bracketed {
		if inner, bracketed = strings.CutSuffix(inner, "]"); !bracketed || !strings.Contains(inner, ":") {
			return errors.New("want an IPv6 address or CIDR in the brackets")
		}
		host = inner
	} else if strings.Contains(host, ":") {
		return errors.New("want an IPv6 address or CIDR in brackets, such as [2001:db8::1]:443")
	}
	if host == "*" {
		return nil
	}
	return checkHost(host)
}

// checkHost returns what is wrong with an address, a CIDR or a pattern of names.
func checkHost(host string) error {
	prefix, err := netip.ParsePrefix(host)
	if strings.Contains(host, "/") {
		if err != nil || prefix != prefix.Masked() {
			return errors.New("want a CIDR without host bits, such as 10.0.0.0/8")
		}
	} else {
		addr, err := netip.ParseAddr(host)
		if err != nil {
			if !hostForm().MatchString(host) || len(host) > maxHost || !letterForm().MatchString(host) || numberForm().MatchString(host) {
				return errors.New("neither an address nor a host name; want a CIDR for a range of addresses")
			}
			return nil
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
		if addr.Zone() != "" {
			return errors.New("bastiond permits no address with a zone")
		}
	}
	if prefix.Addr().Is4In6() {
		return errors.New("want an IPv4 address in IPv4 form")
	}
	for _, never := range nevers {
		if prefix.Bits() >= never.Bits() && never.Contains(prefix.Addr()) {
			return fmt.Errorf("bastiond never permits %v", never)
		}
	}
	return nil
}

// checkPorts returns what is wrong with a port, a range FROM-TO of ports, or *.
func checkPorts(s string) error {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	from, to := port(first), port(last)
	if s != "*" && (from == 0 || to < from) {
		return errors.New("want a port from 1 to 65535, a range FROM-TO, or *")
	}
	return nil
}

// port is the number of a port, 0 if the text is none.
func port(s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || s[0] == '0' {
		return 0
	}
	return n
}
