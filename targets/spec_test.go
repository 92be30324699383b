package targets

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Spec
		text string // canonical form, where it differs from in
	}{
		{"rds", Spec{Kind: RDS}, ""},
		{"RDS", Spec{Kind: RDS}, "rds"},
		{"rds:5432", Spec{Kind: RDS, Port: 5432}, ""},
		{"rds:orders", Spec{Kind: RDS, ID: "orders"}, ""},
		{"rds:Orders-2", Spec{Kind: RDS, ID: "orders-2"}, "rds:orders-2"},
		{"rds:orders:5433", Spec{Kind: RDS, ID: "orders", Port: 5433}, ""},
		{"rds:shop/reader", Spec{Kind: RDS, ID: "shop", Role: Reader}, ""},
		{"rds:shop/writer", Spec{Kind: RDS, ID: "shop", Role: Writer}, ""},
		{"rds:shop/reader:5433", Spec{Kind: RDS, ID: "shop", Role: Reader, Port: 5433}, ""},
		{"cache", Spec{Kind: Cache}, ""},
		{"cache:6379", Spec{Kind: Cache, Port: 6379}, ""},
		{"cache:sessions", Spec{Kind: Cache, ID: "sessions"}, ""},
		{
			"cache:sessions/primary:6380",
			Spec{Kind: Cache, ID: "sessions", Role: Writer, Port: 6380},
			"cache:sessions/writer:6380",
		},
		{"orders", Spec{Kind: Name, ID: "orders"}, ""},
		{"orders_eu-1", Spec{Kind: Name, ID: "orders_eu-1"}, ""},
		{"2nd", Spec{Kind: Name, ID: "2nd"}, ""},
		{"orders:5433", Spec{Kind: Name, ID: "orders", Port: 5433}, ""},
		{"localhost:8080", Spec{Kind: Name, ID: "localhost", Port: 8080}, ""},
		{"db.internal:5432", Spec{Kind: Host, Host: "db.internal", Port: 5432}, ""},
		{"rds.:5432", Spec{Kind: Host, Host: "rds.", Port: 5432}, ""},
		{"10.0.0.1:1", Spec{Kind: Host, Host: "10.0.0.1", Port: 1}, ""},
		{"10.0.0.1:00080", Spec{Kind: Host, Host: "10.0.0.1", Port: 80}, "10.0.0.1:80"},
		{"[2001:DB8::1]:65535", Spec{Kind: Host, Host: "2001:db8::1", Port: 65535}, "[2001:db8::1]:65535"},
		{"_x._tcp.example:80", Spec{Kind: Host, Host: "_x._tcp.example", Port: 80}, ""},
	} {
		got, err := Parse(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("Parse(%q) = %+v, %v; want %+v", tt.in, got, err, tt.want)
		}
		text := tt.text
		if text == "" {
			text = tt.in
		}
		if got.String() != text {
			t.Errorf("Parse(%q).String() = %q, want %q", tt.in, got, text)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", "is empty"},
		{"5432", "is a port, not a target"},
		{"rds:", "identifier is empty"},
		{"rds::5432", "identifier is empty"},
		{"rds:/reader", "identifier is empty"},
		{"rds:0", "port 0"},
		{"rds:65536", "port 65536 is out of range"},
		{"rds:099999", "out of range"},
		{"rds:000080", "out of range"},
		{"rds:orders:", "port is missing"},
		{"rds:orders:x", `"x" is not a port number`},
		{"rds:orders:99999", "port 99999 is out of range"},
		{"rds:orders:1:2", `"1:2" is not a port number`},
		{"rds:2nd", "is not an identifier"},
		{"rds:a_b", "is not an identifier"},
		{"rds:a.b", "is not an identifier"},
		{"rds:orders/ro", `"ro" is not a role`},
		{"rds:orders/", `"" is not a role`},
		{"rds:" + strings.Repeat("a", 64), "longer than 63"},
		{"rds/reader", "neither a name nor HOST:PORT"},
		{"cache:-1", "is not an identifier"},
		{"db.internal", "a host needs a port"},
		{"10.0.0.1", "a host needs a port"},
		{"db.internal:", "port is missing"},
		{"db.internal:http", `"http" is not a port number`},
		{"db.internal:-1", "is not a port number"},
		{"db.internal:+1", "is not a port number"},
		{"db..internal:1", "is not a host name"},
		{"-db.internal:1", "is not a host name"},
		{"-oProxyCommand=x:1", "is not a host name"},
		{"db internal:1", "is not a host name"},
		{"bücher.example:1", "is not a host name"},
		{"10.0.0.300:1", "is not an IPv4 address"},
		{"10.1:1", "is not an IPv4 address"},
		{":5432", "host is empty"},
		{"::1", "needs brackets"},
		{"2001:db8::1:5432", "needs brackets"},
		{"mysql:orders:3306", `too many colons: "mysql" is not a kind`},
		{"[::1", "not closed"},
		{"[::1]", "needs a port"},
		{"[::1]5432", "needs a port"},
		{"[::1]:", "port is missing"},
		{"[10.0.0.1]:80", "is not an IPv6 address"},
		{"[fe80::1%eth0]:80", "is not an IPv6 address"},
		{"[rds]:80", "is not an IPv6 address"},
		{"a/b", "neither a name"},
		{strings.Repeat("a", 300) + ".b:1", "longer than 254"},
	} {
		spec, err := Parse(tt.in)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Parse(%q) = %+v, %v; want an error with %q", tt.in, spec, err, tt.want)
			continue
		}
		if fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" {
			t.Errorf("Parse(%q): kind %v, next %q", tt.in, fail.KindOf(err), fail.NextOf(err))
		}
		if len(err.Error()) > 400 {
			t.Errorf("Parse of %d bytes: an error of %d bytes", len(tt.in), len(err.Error()))
		}
	}
}

func TestSpecText(t *testing.T) {
	var s Spec
	if err := s.UnmarshalText([]byte("rds:orders:1")); err != nil || s != (Spec{Kind: RDS, ID: "orders", Port: 1}) {
		t.Errorf("UnmarshalText: %+v, %v", s, err)
	}
	if err := s.UnmarshalText([]byte("rds:")); err == nil || s.ID != "orders" {
		t.Errorf("UnmarshalText of an invalid target: %+v, %v", s, err)
	}
	if text, err := s.MarshalText(); err != nil || string(text) != "rds:orders:1" {
		t.Errorf("MarshalText: %q, %v", text, err)
	}
}

func TestCheckName(t *testing.T) {
	for _, good := range []string{"a", "orders", "A_b-3", "3a", "rdsx", strings.Repeat("x", 63)} {
		if err := CheckName(good); err != nil {
			t.Errorf("CheckName(%q) = %v", good, err)
		}
	}
	for _, bad := range []string{"", "rds", "Cache", "123", "-a", "a.b", "a:b", "a/b", "a b", "é", strings.Repeat("x",
		64)} {
		if CheckName(bad) == nil {
			t.Errorf("CheckName(%q) = nil", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"rds", "rds:5432", "rds:orders:5432", "rds:shop/reader:1", "cache:s/primary", "orders:1", "db.internal:5432",
		"10.0.0.1:80",
		"[2001:db8::1]:443", "[::ffff:1.2.3.4]:1", "rds::1", "rds:0", "a.:1", "1.2.3.4.:5", "[::1%lo]:1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		spec, err := Parse(s)
		if err != nil {
			if spec != (Spec{}) || fail.KindOf(err) != fail.Usage {
				t.Fatalf("Parse(%q) = %+v, %v (kind %v)", s, spec, err, fail.KindOf(err))
			}
			return
		}
		checkSpec(t, spec)
		again, err := Parse(spec.String())
		if err != nil || again != spec {
			t.Fatalf("Parse(%q) = %+v, but its text %q parses to %+v, %v", s, spec, spec, again, err)
		}
	})
}

// checkSpec fails the test if a parsed Spec is not what the grammar allows, restated from the outside.
func checkSpec(t *testing.T, s Spec) {
	t.Helper()
	if s.Port < 0 || s.Port > 65535 {
		t.Fatalf("%+v: port", s)
	}
	switch s.Kind {
	case RDS, Cache:
		if s.Host != "" || s.ID != strings.ToLower(s.ID) || strings.ContainsAny(s.ID, ":/. \x00") ||
			s.Role != Anyone && s.ID == "" {
			t.Fatalf("%+v: database", s)
		}
	case Name:
		if s.Host != "" || s.Role != Anyone || CheckName(s.ID) != nil {
			t.Fatalf("%+v: name", s)
		}
	case Host:
		if s.ID != "" || s.Role != Anyone || s.Port == 0 || s.Host == "" || strings.ContainsAny(s.Host, "[]/%@ \t\n\x00") ||
			s.Host[0] == '-' {
			t.Fatalf("%+v: host", s)
		}
		if addr, err := netip.ParseAddr(s.Host); strings.Contains(s.Host, ":") && (err != nil || !addr.Is6()) {
			t.Fatalf("%+v: address", s)
		}
	default:
		t.Fatalf("%+v: kind", s)
	}
}
