package sshconfig

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/pattern"
)

// checkPatterns refuses patterns that ssh_config's Host cannot hold, that would send every connection through the bastion, or that
// never match. ssh compares the name as typed, without user and port, and knows only "*", "?" and a leading "!".
func checkPatterns(patterns []string) error {
	var positive, negative []string
	for _, p := range patterns {
		if err := checkPattern(p); err != nil {
			return err
		}
		if except, ok := strings.CutPrefix(p, "!"); ok {
			negative = append(negative, except)
		} else {
			positive = append(positive, p)
		}
	}
	if len(negative) > 0 && len(positive) == 0 {
		return fail.Usagef("add the pattern that it is an exception from: '*.internal' '!db.internal'", "%s alone matches no host", patterns[0])
	}
	for _, p := range positive {
		for _, n := range negative {
			if covers(n, p) {
				return fail.Usagef("leave out one of them", "the pattern %s never matches: !%s excepts all of it", p, n)
			}
		}
	}
	return nil
}

var (
	hostPattern = pattern.Lazy(`^[A-Za-z0-9_.*?-]+$`)
	ipv6Pattern = pattern.Lazy(`^[0-9A-Fa-f:.*?]+$`)
	portSuffix  = pattern.Lazy(`^(.+):([0-9]+|\*)$`)
	dottedQuad  = pattern.Lazy(`^[0-9.]+$`)
	oneRange    = pattern.Lazy(`^.-.$`)
	charRange   = pattern.Lazy(`\[[^\]]*\]`)
)

// checkPattern checks one pattern, with its "!".
func checkPattern(pattern string) error {
	const next = "give patterns such as '*.corp.internal', '10.*' or 'fd00:*', as many as it takes"
	p := strings.TrimPrefix(pattern, "!")
	propose := func(better, more string) string {
		if better = accepted(better); better == "" {
			return next
		}
		return fmt.Sprintf("give '%s%s'%s", pattern[:len(pattern)-len(p)], better, more)
	}
	never := func(next, why string) error {
		return fail.Usagef(next, "the pattern %s never matches a host: %s", pattern, why)
	}
	if p == "" || strings.ContainsFunc(p, func(r rune) bool {
		return r > '~' || r <= ' ' || strings.ContainsRune(`"'#\%$,;`, r)
	}) {
		return fail.Usagef(next, "%q is not a pattern of hosts", pattern)
	}
	if strings.Trim(p, "*?") == "" {
		if pattern != p {
			return never("leave it out", "nothing is left after the exception")
		}
		return fail.Usagef(next, "the pattern %s would send every ssh through the bastion", p)
	}
	if network, err := netip.ParsePrefix(p); err == nil {
		return never(propose(globOf(network), ""), "ssh_config has no networks")
	}
	host, isPort := "", false
	if m := portSuffix().FindStringSubmatch(p); m != nil && strings.Count(p, ":") == 1 {
		host, isPort = m[1], m[2] != "*" || !ipv6Pattern().MatchString(m[1])
	}
	switch {
	case strings.Contains(p, "/"):
		return never("give the name alone; of a network its beginning: '10.20.*'", "a name has no /")
	case strings.Contains(p, "@"):
		return never(propose(p[strings.LastIndex(p, "@")+1:], ", and the user to ssh or in a User line"), "the user is no part of it")
	case strings.ContainsAny(p, "[]"):
		return never(propose(withoutBrackets(p), "; there are no ranges of characters"), "a name has no brackets")
	case isPort:
		return never(propose(host, ", which matches it with any port"), "the port is no part of it")
	case strings.Contains(p, ":"):
		if !possibleIPv6(p) {
			return never("give an IPv6 address, or its beginning: 'fd00:*'", "only IPv6 addresses have a colon")
		}
	case !hostPattern().MatchString(p):
		return never(next, "names have letters, digits, '.', '-' and '_' alone")
	case p[0] == '.':
		return never(propose("*"+p, ""), "a name does not begin with a dot")
	case p[0] == '-':
		return never(next, "a name does not begin with '-'")
	case strings.Contains(p, ".."):
		return never(next, "a name does not have two dots in a row")
	case dottedQuad().MatchString(p[strings.LastIndex(p, ".")+1:]) && !strings.ContainsAny(p, "*?"):
		// If the last part is a number, the pattern must be a whole address.
		if _, err := netip.ParseAddr(p); err != nil {
			return never("give a whole address, or its beginning and *: '10.20.*'", "it is no address")
		}
	}
	return nil
}

// accepted returns p without its user, brackets and port, if the rest is a valid pattern; else "".
func accepted(p string) string {
	for {
		better := strings.TrimPrefix(withoutBrackets(p[strings.LastIndex(p, "@")+1:]), "!")
		if m := portSuffix().FindStringSubmatch(better); m != nil && strings.Count(better, ":") == 1 && !possibleIPv6(better) {
			better = m[1]
		}
		if better == p || better == "" {
			break
		}
		p = better
	}
	if p == "" || checkPattern(p) != nil {
		return ""
	}
	return p
}

// globOf returns the pattern of a network; "" if the network needs several.
func globOf(network netip.Prefix) string {
	addr, bits := network.Masked().Addr(), network.Bits()
	if bits == addr.BitLen() {
		return addr.String()
	}
	var glob strings.Builder
	switch b := addr.AsSlice(); {
	case bits == 0:
	case addr.Is4() && bits%8 == 0:
		for _, octet := range b[:bits/8] {
			fmt.Fprintf(&glob, "%d.", octet)
		}
	case addr.Is6() && bits%16 == 0:
		for i := 0; i < bits/8; i += 2 {
			fmt.Fprintf(&glob, "%x:", int(b[i])<<8|int(b[i+1]))
		}
	}
	if glob.Len() == 0 {
		return ""
	}
	return glob.String() + "*"
}

// possibleIPv6 reports whether p can match an IPv6 address, judged by its parts.
func possibleIPv6(p string) bool {
	if !strings.ContainsAny(p, "*?") {
		addr, err := netip.ParseAddr(p)
		return err == nil && addr.Is6()
	}
	if !ipv6Pattern().MatchString(p) || strings.Contains(p, ":::") || strings.Count(p, ":") > 7 || strings.Count(p, "::") > 1 {
		return false
	}
	for part := range strings.SplitSeq(p, ":") {
		if len(strings.ReplaceAll(part, "*", "")) > 4 && !strings.Contains(part, ".") {
			return false
		}
	}
	return true
}

// covers reports whether the pattern wide matches every name that narrow matches. It may wrongly return false, but never true.
func covers(wide, narrow string) bool {
	switch {
	case wide == "":
		return narrow == ""
	case wide[0] == '*':
		return covers(wide[1:], narrow) || narrow != "" && covers(wide, narrow[1:])
	case narrow == "" || narrow[0] == '*':
		return false
	case wide[0] == '?', wide[0] == narrow[0]:
		return covers(wide[1:], narrow[1:])
	}
	return false
}

// instancePatterns returns patterns that match only the ids of EC2 instances and managed nodes. Exclusions remove names with
// anything but hexadecimal digits after the first "-".
func instancePatterns() string {
	words := []string{"i-" + strings.Repeat("?", 8), "i-" + strings.Repeat("?", 17), "mi-" + strings.Repeat("?", 17)}
	for _, r := range "ghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-._:" {
		words = append(words, "!*-*"+string(r)+"*")
	}
	return strings.Join(words, " ")
}

// withoutBrackets returns the pattern that p most likely means: the host of [HOST]:PORT, or one character in place of a range.
func withoutBrackets(p string) string {
	host, rest, ok := strings.Cut(strings.TrimPrefix(p, "["), "]")
	if ok && p[0] == '[' && (rest == "" || rest[0] == ':') && !oneRange().MatchString(host) {
		return host
	}
	return strings.NewReplacer("[", "", "]", "").Replace(charRange().ReplaceAllString(p, "?"))
}
