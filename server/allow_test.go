package server

import (
	"net/netip"
	"strings"
	"testing"
)

func mustAllow(t testing.TB, s string) Allow {
	t.Helper()
	a, err := ParseAllow(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestParseAllow(t *testing.T) {
	for in, want := range map[string]string{
		"":                           "",
		" , \n\t":                    "",
		"db.example:5432":            "db.example:5432",
		"DB.Example.:5432":           "db.example:5432",
		"*.rds.amazonaws.com:5432":   "*.rds.amazonaws.com:5432",
		"a:1,b:2 c:3\nd:4":           "a:1,b:2,c:3,d:4",
		"db-?.internal:1-65535":      "db-?.internal:*",
		"db:1024-2048":               "db:1024-2048",
		"10.0.0.0/8:*":               "10.0.0.0/8:*",
		"10.1.2.3:22":                "10.1.2.3:22",
		"10.1.2.3/32:22":             "10.1.2.3:22",
		"127.0.0.0/8:80":             "127.0.0.0/8:80",
		"[::1]:80":                   "[::1]:80",
		"[fd12::/16]:443":            "[fd12::/16]:443",
		"[2001:DB8::1]:443":          "[2001:db8::1]:443",
		"*:443":                      "*:443",
		"0.0.0.0/0:443":              "0.0.0.0/0:443",
		"[::/0]:443":                 "[::/0]:443",
		"xn--bcher-kva.example:80":   "xn--bcher-kva.example:80",
		"_ldap._tcp.dc.example:1-2":  "_ldap._tcp.dc.example:1-2",
		"3.example:80":               "3.example:80",
		"i-0123.compute.internal:22": "i-0123.compute.internal:22",
	} {
		a, err := ParseAllow(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if a.String() != want || a.Empty() != (want == "") {
			t.Errorf("%q: got %q (empty: %v), want %q", in, a.String(), a.Empty(), want)
		}
	}
}

func TestParseAllowRefuses(t *testing.T) {
	for _, in := range []string{
		"db", "db:", ":5432", "db:0", "db:65536", "db:+1", "db:01", "db:-1", "db:1-", "db:2-1", "db:1-2-3", "db:http",
		"db:1 :2",
		"a..b:1", ".a:1", "-:", "a/b:1", "db[0]:1", `db\*:1`, "caf\u00e9:1", "a b:1", strings.Repeat("a", 64) + ":1",
		strings.Repeat("a.", 127) + "a:1", strings.Repeat("*", maxEntryText) + ":1",
		"10.0.0.0/33:1", "10.0.0.1/8:1", "10.0.0:1", "10.*:1", "10.0.0.*:1", "**:1", "?:1", "127.1:1", "0x7f.1:1",
		"2130706433:1",
		"::1:80", "fd00::/8:1", "[10.0.0.1]:1", "[db]:1", "[::1]", "[::1:80", "::1]:80", "[fe80::1%eth0]:1", "[fd00::1%1]:1",
		"[::ffff:10.0.0.1]:1", "[::ffff:10.0.0.0/104]:1",
		// What can never be permitted is said so, rather than listed in vain.
		"169.254.169.254:80", "169.254.170.2:*", "169.254.0.0/16:*", "169.254.170.0/24:80", "[fd00:ec2::254]:80",
		"[fe80::/64]:1",
		"224.0.0.1:1", "[ff02::1]:1", "0.0.0.0:1", "[::]:1", "255.255.255.255:1",
		strings.Repeat("a:1,", maxEntries) + "a:1",
	} {
		if a, err := ParseAllow(in); err == nil {
			t.Errorf("%q: got %q, want an error", in, a)
		} else if len(err.Error()) > 1000 {
			t.Errorf("%.20q: an error of %d bytes", in, len(err.Error()))
		}
	}
}

func TestAllowCheck(t *testing.T) {
	type request struct {
		name, addr string
		port       uint16
	}
	for _, tt := range []struct {
		allow string
		yes   []request
		no    []request
	}{
		{
			allow: "",
			no:    []request{{"", "10.0.0.1", 1}, {"a", "10.0.0.1", 80}, {"", "2001:db8::1", 443}},
		},
		{
			allow: "*.rds.amazonaws.com:5432",
			yes: []request{{"orders.abc.eu-central-1.rds.amazonaws.com", "10.0.0.1", 5432}, {
				"x.rds.amazonaws.com",
				"2001:db8::1", 5432,
			}},
			no: []request{
				{"rds.amazonaws.com", "10.0.0.1", 5432},
				{"x.rds.amazonaws.com.example", "10.0.0.1", 5432},
				{"x.rds.amazonaws.com", "10.0.0.1", 5433},
				{"", "10.0.0.1", 5432},
			},
		},
		{
			allow: "db-?.internal:1-10",
			yes:   []request{{"db-1.internal", "10.0.0.1", 1}, {"db-x.internal", "10.0.0.1", 10}},
			no: []request{{"db-.internal", "10.0.0.1", 1}, {"db-12.internal", "10.0.0.1", 1}, {
				"db-1.internal",
				"10.0.0.1", 11,
			}},
		},
		{
			allow: "10.0.0.0/8:*,[2001:db8::/32]:443",
			yes: []request{
				{"", "10.255.255.255", 1},
				{"any.name", "10.0.0.1", 65535},
				{"", "::ffff:10.0.0.1", 22},
				{"", "2001:db8:ffff::1", 443},
			},
			no: []request{
				{"", "11.0.0.0", 1},
				{"any.name", "11.0.0.1", 1},
				{"", "2001:db9::", 443},
				{"", "2001:db8::1", 80},
				{"", "64:ff9b::10.0.0.1", 1},
			},
		},
		{
			allow: "*:80",
			yes: []request{{"a", "10.0.0.1", 80}, {"", "10.0.0.1", 80}, {"", "2001:db8::1", 80}, {
				"", "64:ff9b::10.0.0.1",
				80,
			}},
			no: []request{{"a", "10.0.0.1", 81}, {"a", "127.0.0.1", 80}, {"", "::1", 80}, {"", "10.0.0.2", 80}},
		},
		{ // 10.0.0.2 is the resolver
			allow: "10.0.0.0/8:53,10.0.0.2/31:80,10.0.0.2:8080",
			yes:   []request{{"", "10.0.0.1", 53}, {"", "10.0.0.3", 80}, {"", "10.0.0.2", 8080}, {"dns", "10.0.0.2", 8080}},
			no:    []request{{"", "10.0.0.2", 53}, {"", "10.0.0.2", 80}, {"", "::ffff:10.0.0.2", 53}},
		},
		{ // what covers loopback by the way does not name it
			allow: "0.0.0.0/0:*,[::/0]:*,*:*,localhost:*,126.0.0.0/7:80",
			no: []request{
				{"localhost", "127.0.0.1", 80},
				{"", "127.0.0.1", 80},
				{"", "127.255.255.254", 80},
				{"localhost", "::1", 80},
				{"", "::ffff:127.0.0.1", 80},
			},
		},
		{
			allow: "127.0.7.0/24:5432,[::1]:80,127.0.0.1:22",
			yes: []request{
				{"orders.rds", "127.0.7.9", 5432}, {"", "127.0.7.9", 5432}, {"", "::1", 80}, {"", "127.0.0.1", 22}, {
					"x",
					"::ffff:127.0.0.1", 22,
				},
			},
			no: []request{{"", "127.0.8.1", 5432}, {"", "127.0.7.9", 22}, {"", "127.0.0.1", 80}, {"", "::1", 22}},
		},
	} {
		a := mustAllow(t, tt.allow)
		resolvers := []netip.Addr{netip.MustParseAddr("10.0.0.2")}
		for _, r := range tt.yes {
			if err := a.check(r.name, netip.MustParseAddr(r.addr), r.port, resolvers); err != nil {
				t.Errorf("%q: %v: %v", tt.allow, r, err)
			}
			if r.name != "" && !a.mayPermit(r.name, r.port) {
				t.Errorf("%q: %v is permitted, but the name would not be resolved", tt.allow, r)
			}
		}
		for _, r := range tt.no {
			if a.check(r.name, netip.MustParseAddr(r.addr), r.port, resolvers) == nil {
				t.Errorf("%q: %v is permitted", tt.allow, r)
			}
		}
	}
}

func TestMayPermitSavesQueries(t *testing.T) {
	a := mustAllow(t, "*.internal:80,10.0.0.0/8:22")
	for _, tt := range []struct {
		name string
		port uint16
		want bool
	}{{"db.internal", 80, true}, {"secret.attacker.example", 80, false}, {"db.internal", 81, false}, {
		"any.example",
		22, true,
	}} {
		if got := a.mayPermit(tt.name, tt.port); got != tt.want {
			t.Errorf("%s:%d: %v", tt.name, tt.port, got)
		}
	}
}

// everything is a list that permits all that can be permitted.
const everything = "*:*,0.0.0.0/0:*,[::/0]:*,127.0.0.0/8:*,[::1]:*,*a*:*"

func TestNeverPermitted(t *testing.T) {
	a := mustAllow(t, everything)
	for _, addr := range []string{
		"169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.169.253", "169.254.0.0", "169.254.255.255",
		"169.254.1.1",
		"fd00:ec2::254", "fd00:ec2::253", "fd00:ec2::23", "fd00:ec2:ffff:ffff::1",
		"fe80::1", "febf::1", "fe80::1%eth0", "fd00::1%eth0", "10.0.0.1%0",
		"224.0.0.1", "239.255.255.250", "ff02::1", "ff05::2", "255.255.255.255",
		"0.0.0.0", "0.0.0.1", "0.255.255.255", "::",
		"::ffff:169.254.169.254", "::ffff:0.0.0.0", "::ffff:224.0.0.1", "::ffff:a9fe:aa02", "::ffff:169.254.169.254%lo",
		"64:ff9b::169.254.169.254", "64:ff9b::127.0.0.1", "64:ff9b::0.0.0.0",
		"64:ff9b:1::169.254.169.254",         // /96
		"64:ff9b:1:a9fe:a9:fe00::",           // /48
		"64:ff9b:1:a9:fe:a9fe::",             // /56
		"64:ff9b:1:0:a9:fea9:fe00:0",         // /64
		"2002:a9fe:a9fe::1", "2002:7f00:1::", // 6to4
		"2001:0:a9fe:a9fe::1",                     // Teredo, server
		"2001:0:0a00:1:0:0:5601:5601",             // Teredo, client 169.254.169.254
		"::169.254.169.254", "::127.0.0.1", "::2", // IPv4-compatible
		"::ffff:0:169.254.169.254",                                    // IPv4-translated
		"2001:db8::5efe:169.254.169.254", "2001:db8::200:5efe:7f00:1", // ISATAP
	} {
		parsed, err := netip.ParseAddr(addr)
		if err != nil {
			if addr == "10.0.0.1%0" {
				continue // an IPv4 address has no zone; then it is no address
			}
			t.Fatal(err)
		}
		for _, name := range []string{"", "a.example"} {
			if a.Check(name, parsed, 80) == nil {
				t.Errorf("%q at %s is permitted", name, addr)
			}
		}
	}
	if a.Check("a", netip.Addr{}, 80) == nil {
		t.Error("no address is permitted")
	}
	for _, addr := range []string{
		"10.0.0.1", "127.0.0.1", "::1", "::ffff:10.0.0.1", "169.253.255.255", "169.255.0.0", "fd00:ec3::1", "fec0::1",
		"fd00::1", "1.0.0.0",
		"223.255.255.255", "64:ff9b::10.0.0.1", "64:ff9b:1::a00:1", "2002:a00:1::1", "2001:db8::1",
		"2001:0:a00:1:0:0:f5ff:fffe", "240.0.0.1",
	} {
		if err := a.Check("a", netip.MustParseAddr(addr), 80); err != nil {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

func TestParseName(t *testing.T) {
	for in, want := range map[string]string{
		"DB.Internal": "db.internal", "db.internal.": "db.internal", "a": "a", "_x._tcp.a": "_x._tcp.a", "1a": "1a",
		"3.example": "3.example",
	} {
		if got, err := parseName(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{
		"", ".", "a..", "a..b", ".a", "a b", "a\x00b", "a\n", "caf\u00e9", "a/b", "a:1", "[::1]", "*", "a,b", "127.1",
		"1", "0x7f000001", "0x7f.1",
		"017700000001", "1.2.3.4.5", "a.1", "99999999999999999999", strings.Repeat("a", 64), strings.Repeat("a.", 127) + "a",
	} {
		if got, err := parseName(in); err == nil {
			t.Errorf("%q: got %q, want an error", in, got)
		}
	}
}

// An accepted list survives writing and parsing, and no list permits the addresses that are never permitted.
func FuzzParseAllow(f *testing.F) {
	f.Add(everything)
	f.Add("db-?.internal:1-10,10.0.0.0/8:* [2001:db8::1]:443")
	never := []netip.Addr{
		netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("::ffff:169.254.170.2"),
		netip.MustParseAddr("fd00:ec2::254"),
		netip.MustParseAddr("fe80::1"), netip.MustParseAddr("64:ff9b::a9fe:a9fe"), netip.MustParseAddr("0.0.0.0"),
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAllow(s)
		if err != nil {
			return
		}
		again, err := ParseAllow(a.String())
		if err != nil || again.String() != a.String() || len(again.entries) != len(a.entries) {
			t.Errorf("%q is written %q, which gives %q, %v", s, a, again, err)
		}
		for i, e := range a.entries {
			if again.entries[i] != e {
				t.Errorf("%q: entry %d: %+v, then %+v", s, i, e, again.entries[i])
			}
		}
		for _, addr := range never {
			for _, name := range []string{"", "a.example", s} {
				if a.Check(name, addr, 80) == nil {
					t.Errorf("%q permits %v", s, addr)
				}
			}
		}
	})
}
