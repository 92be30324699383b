package targets

import (
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/fail"
)

func pair(t *testing.T, target string, local Local) Pair {
	t.Helper()
	spec, err := Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	return Pair{Target: spec, Local: local}
}

func TestParsePair(t *testing.T) {
	free := Local{Free: true}
	for _, tt := range []struct {
		args string
		want []Pair
	}{
		{"rds", []Pair{pair(t, "rds", Local{})}},
		{"rds 12345", []Pair{pair(t, "rds", Local{Port: 12345})}},
		{"rds:5432 12345 cache:6379 16379", []Pair{
			pair(t, "rds:5432", Local{Port: 12345}), pair(t, "cache:6379", Local{Port: 16379}),
		}},
		{"rds:5432 cache:6379", []Pair{pair(t, "rds:5432", Local{}), pair(t, "cache:6379", Local{})}},
		{"rds : cache 0", []Pair{pair(t, "rds", free), pair(t, "cache", free)}},
		{"rds :12345", []Pair{pair(t, "rds", Local{Port: 12345})}},
		{"orders localhost:1 stock", []Pair{pair(t, "orders", Local{Host: "localhost", Port: 1}), pair(t, "stock", Local{})}},
		{"db.internal:5432 127.0.0.2:5432", []Pair{pair(t, "db.internal:5432", Local{Host: "127.0.0.2", Port: 5432})}},
		{"db.internal:5432 127.0.0.2:", []Pair{pair(t, "db.internal:5432", Local{Host: "127.0.0.2", Free: true})}},
		{"db.internal:5432 [::1]:0", []Pair{pair(t, "db.internal:5432", Local{Host: "::1", Free: true})}},
		{"db.internal:5432 *:1", []Pair{pair(t, "db.internal:5432", Local{Host: "*", Port: 1})}},
		{"db.internal:5432 0.0.0.0:1", []Pair{pair(t, "db.internal:5432", Local{Host: "0.0.0.0", Port: 1})}},
		// A routable address is a target wherever it stands.
		{"rds 10.0.0.1:80 8080", []Pair{pair(t, "rds", Local{}), pair(t, "10.0.0.1:80", Local{Port: 8080})}},
		// A loopback address is one where no local port can stand.
		{"127.0.0.1:80", []Pair{pair(t, "127.0.0.1:80", Local{})}},
		{"rds 1 127.0.0.1:80 2", []Pair{pair(t, "rds", Local{Port: 1}), pair(t, "127.0.0.1:80", Local{Port: 2})}},
		{"127.0.0.1:80 127.0.0.1:81", []Pair{pair(t, "127.0.0.1:80", Local{Host: "127.0.0.1", Port: 81})}},
		// The same port at two addresses, or free ones, are no conflict.
		{"rds 127.0.0.2:1 cache 127.0.0.3:1", []Pair{
			pair(t, "rds", Local{Host: "127.0.0.2", Port: 1}), pair(t, "cache", Local{Host: "127.0.0.3", Port: 1}),
		}},
	} {
		got, err := ParsePair(strings.Fields(tt.args))
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("ParsePair(%s) = %+v, %v; want %+v", tt.args, got, err, tt.want)
		}
	}
}

func TestParsePairErrors(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"", "no target given"},
		{"12345", "no target before this local port"},
		{":", "no target before this local port"},
		{"rds 1 2", "rds already has a local port"},
		{"rds 1 :", "rds already has a local port"},
		{"rds 65536", "port 65536 is out of range"},
		{"rds 99999999999999999999", "out of range"},
		{"rds :x", `"x" is not a port number`},
		{"rds 127.0.0.1:70000", "port 70000 is out of range"},
		{"rds localhost:x", `"x" is not a port number`},
		{"rds 1 cache 1", "local port 1 is asked for twice, for rds and for cache"},
		{"rds 1 cache :1", "local port 1 is asked for twice"},
		{"rds 1 localhost", ""}, // a name: only resolving can tell
		{"rds 1 cache:", "identifier is empty"},
	} {
		got, err := ParsePair(strings.Fields(tt.args))
		if tt.want == "" {
			if err != nil {
				t.Errorf("ParsePair(%s): %v", tt.args, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || fail.KindOf(err) != fail.Usage {
			t.Errorf("ParsePair(%s) = %+v, %v; want an error with %q", tt.args, got, err, tt.want)
		}
	}
}

func TestParseLocal(t *testing.T) {
	for _, tt := range []struct {
		in      string
		want    Local
		address string // for default host 127.0.0.1 and target port 5432
		exposed bool
	}{
		{"12345", Local{Port: 12345}, "127.0.0.1:12345", false},
		{"0", Local{Free: true}, "127.0.0.1:0", false},
		{":", Local{Free: true}, "127.0.0.1:0", false},
		{":80", Local{Port: 80}, "127.0.0.1:80", false},
		{"localhost:80", Local{Host: "localhost", Port: 80}, "localhost:80", false},
		{"127.0.0.2:80", Local{Host: "127.0.0.2", Port: 80}, "127.0.0.2:80", false},
		{"[::1]:80", Local{Host: "::1", Port: 80}, "[::1]:80", false},
		{"[::1]:", Local{Host: "::1", Free: true}, "[::1]:0", false},
		{"*:80", Local{Host: "*", Port: 80}, ":80", true},
		{"0.0.0.0:80", Local{Host: "0.0.0.0", Port: 80}, "0.0.0.0:80", true},
		{"192.0.2.1:80", Local{Host: "192.0.2.1", Port: 80}, "192.0.2.1:80", true},
	} {
		got, err := ParseLocal(tt.in)
		if err != nil || got != tt.want {
			t.Errorf("ParseLocal(%q) = %+v, %v; want %+v", tt.in, got, err, tt.want)
		}
		if a := got.Address("127.0.0.1", 5432); a != tt.address {
			t.Errorf("ParseLocal(%q).Address = %q, want %q", tt.in, a, tt.address)
		}
		if got.Exposed() != tt.exposed {
			t.Errorf("ParseLocal(%q).Exposed() = %v", tt.in, got.Exposed())
		}
		if again, err := ParseLocal(got.String()); err != nil || again != got {
			t.Errorf("ParseLocal(%q): its text %q parses to %+v, %v", tt.in, got, again, err)
		}
	}
	if a := (Local{}).Address("127.0.0.1", 5432); a != "127.0.0.1:5432" {
		t.Errorf("zero Local: address %q", a)
	}
	for _, bad := range []string{
		"", "x", "-1", "65536", "::1", "[::1]", "[127.0.0.1]:80", "host.example:80", "1:2:3",
		"[fe80::1%lo]:1",
	} {
		if got, err := ParseLocal(bad); err == nil || fail.KindOf(err) != fail.Usage {
			t.Errorf("ParseLocal(%q) = %+v, %v; want a usage error", bad, got, err)
		}
	}
}

func TestParseL(t *testing.T) {
	for _, tt := range []struct {
		in     string
		local  Local
		target string
	}{
		{"8080:web.internal:80", Local{Port: 8080}, "web.internal:80"},
		{"8080:web:80", Local{Port: 8080}, "web:80"},
		{"0:web:80", Local{Free: true}, "web:80"},
		{"127.0.0.2:8080:web:80", Local{Host: "127.0.0.2", Port: 8080}, "web:80"},
		{"localhost:8080:localhost:80", Local{Host: "localhost", Port: 8080}, "localhost:80"},
		{"*:8080:web:80", Local{Host: "*", Port: 8080}, "web:80"},
		{":8080:web:80", Local{Host: "*", Port: 8080}, "web:80"},
		{"[::1]:8080:[2001:db8::1]:5432", Local{Host: "::1", Port: 8080}, "[2001:db8::1]:5432"},
		{"8080:[2001:db8::1]:5432", Local{Port: 8080}, "[2001:db8::1]:5432"},
		{"8080:rds:80", Local{Port: 8080}, "rds:80"}, // a host, not the kind of target
	} {
		got, err := ParseL(tt.in)
		if err != nil || got.Local != tt.local || got.Target.Kind != Host || got.Target.String() != tt.target {
			t.Errorf("ParseL(%q) = %+v, %v; want %+v, %s", tt.in, got, err, tt.local, tt.target)
		}
	}
	for in, want := range map[string]string{ // with the local side written out
		"15432:rds:orders": "15432 rds:orders", "192.0.2.1:15432:rds:orders": "192.0.2.1:15432 rds:orders",
		"[2001:db8::5]:0:cache:sessions": "[2001:db8::5]: cache:sessions", ":5432:rds:orders:5433": "*:5432 rds:orders:5433",
		"1:rds:orders:5433": "1 rds:orders:5433",
	} {
		got, err := ParseL(in)
		if err != nil || got.Local.String()+" "+got.Target.String() != want {
			t.Errorf("ParseL(%q) = %+v, %v; want %s", in, got, err, want)
		}
	}
	for _, tt := range []struct{ in, want string }{
		{"", "has 1 parts"},
		{"rds:orders", "has 2 parts"},
		{"a:b:c:rds:orders", "has 5 parts"},
		{"1:rds:o_rders", ""},
		{"8080", "has 1 parts"},
		{"8080:web", "has 2 parts"},
		{"1:2:3:4:5", "has 5 parts"},
		{"8080:2001:db8::1:5432", "has 6 parts"},
		{"x:web:80", `"x" is not a port number`},
		{"8080:web:x", `"x" is not a port number`},
		{"8080:web:0", "port 0"},
		{"8080:web:65536", "out of range"},
		{"65536:web:80", "out of range"},
		{"8080::80", "host is empty"},
		{"8080:w b:80", "is not a host name"},
		{"8080:[::1:80", "not closed"},
		{"8080:[::1]x:80", "a colon must follow"},
		{"8080:[web]:80", "is not an IPv6 address"},
		{"8080:[::1]", "has 2 parts"},
		{"web:8080:web:80", "is not an address to listen on"},
	} {
		got, err := ParseL(tt.in)
		if err == nil || !strings.Contains(err.Error(), tt.want) || fail.KindOf(err) != fail.Usage {
			t.Errorf("ParseL(%q) = %+v, %v; want an error with %q", tt.in, got, err, tt.want)
		}
	}
}

func FuzzParsePair(f *testing.F) {
	for _, s := range []string{
		"rds:5432 12345 cache:6379 16379", "rds :", "rds 127.0.0.1:0 [::1]:1 2", "12345", "rds 1 2", "a *:1 b localhost:1",
		"rds 0 0",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, " ")
		pairs, err := ParsePair(args)
		if err != nil {
			return
		}
		// Every argument is one target or one local side, in order, and writing the pairs out and reading them again changes
		// nothing.
		var again []string
		locals := 0
		for _, p := range pairs {
			checkSpec(t, p.Target)
			again = append(again, p.Target.String())
			if p.Local != (Local{}) {
				locals++
				if !IsLocal(p.Local.String()) {
					t.Fatalf("%q: the local side %q is none", line, p.Local)
				}
				again = append(again, p.Local.String())
			}
		}
		if len(pairs)+locals != len(args) {
			t.Fatalf("%q: %d arguments gave %d targets and %d local sides", line, len(args), len(pairs), locals)
		}
		same, err := ParsePair(again)
		if err != nil || !slices.Equal(same, pairs) {
			t.Fatalf("%q: %v reads as %+v, %v; want %+v", line, again, same, err, pairs)
		}
	})
}

func FuzzParseL(f *testing.F) {
	for _, s := range []string{"8080:web:80", "[::1]:0:[2001:db8::1]:5432", ":1:h:2", "*:1:h:2", "1:2:3:4:5", "[:1:h:2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseL(s)
		if err != nil {
			return
		}
		checkSpec(t, p.Target)
		text := p.Local.String()
		if p.Local.Host == "" && p.Local.Free {
			text = "0"
		} else if p.Local.Free {
			text += "0"
		}
		again, err := ParseL(text + ":" + p.Target.String())
		if err != nil || again != p {
			t.Fatalf("ParseL(%q) = %+v, written out %q: %+v, %v", s, p, text, again, err)
		}
	})
}
