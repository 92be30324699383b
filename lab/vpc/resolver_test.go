package vpc

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func startResolver(t *testing.T) *Resolver {
	t.Helper()
	r, err := StartResolver(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	r.Set("orders.abc123.eu-central-1.rds.amazonaws.com", netip.MustParseAddr("127.3.4.5"))
	r.Set("both.lab.internal.", netip.MustParseAddr("127.3.4.6"), netip.MustParseAddr("::1"),
		netip.MustParseAddr("::ffff:127.3.4.7"))
	r.Set("metadata.lab.internal", netip.MustParseAddr("169.254.169.254"))
	r.Set("gone.lab.internal", netip.MustParseAddr("127.3.4.8"))
	r.Set("GONE.lab.internal")
	return r
}

// TestResolverGo asks by Go's own resolver, the one that bastiond uses.
func TestResolverGo(t *testing.T) {
	r := startResolver(t)
	for _, network := range []string{"udp", "tcp"} {
		res := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, r.Addr().String())
		}}
		for name, want := range map[string]string{
			"Orders.ABC123.eu-central-1.rds.amazonaws.com": "127.3.4.5",
			"both.lab.internal":                            "127.3.4.6 127.3.4.7 ::1",
			"metadata.lab.internal":                        "169.254.169.254",
			"gone.lab.internal":                            "no such host",
			"elsewhere.example":                            "no such host",
		} {
			addrs, err := res.LookupHost(t.Context(), name+".")
			slices.Sort(addrs)
			got := strings.Join(addrs, " ")
			if err != nil {
				got = err.Error()
			}
			if got != want && !strings.HasSuffix(got, want) {
				t.Errorf("%s %s: %s, want %s", network, name, got, want)
			}
		}
	}
}

func TestResolverMessages(t *testing.T) {
	r := startResolver(t)
	question := func(name string, qtype, class uint16) *dns.Msg {
		m := new(dns.Msg)
		m.SetQuestion(name, qtype)
		m.Question[0].Qclass = class
		return m
	}
	update := question("both.lab.internal.", dns.TypeSOA, dns.ClassINET)
	update.Opcode = dns.OpcodeUpdate
	none := new(dns.Msg)
	none.Id = dns.Id()

	for _, tt := range []struct {
		name    string
		req     *dns.Msg
		rcode   int
		answers int
	}{
		{"A", question("BOTH.lab.internal.", dns.TypeA, dns.ClassINET), dns.RcodeSuccess, 2},
		{"AAAA", question("both.lab.internal.", dns.TypeAAAA, dns.ClassINET), dns.RcodeSuccess, 1},
		{"no AAAA is not no name", question("metadata.lab.internal.", dns.TypeAAAA, dns.ClassINET), dns.RcodeSuccess, 0},
		{"another type", question("both.lab.internal.", dns.TypeTXT, dns.ClassINET), dns.RcodeSuccess, 0},
		{"another class", question("both.lab.internal.", dns.TypeA, dns.ClassCHAOS), dns.RcodeSuccess, 0},
		{"no such name", question("missing.", dns.TypeA, dns.ClassINET), dns.RcodeNameError, 0},
		{"the root", question(".", dns.TypeA, dns.ClassINET), dns.RcodeNameError, 0},
		{"an update", update, dns.RcodeNotImplemented, 0},
		{"no question", none, dns.RcodeFormatError, 0},
	} {
		for _, network := range []string{"udp", "tcp"} {
			c := &dns.Client{Net: network}
			m, _, err := c.ExchangeContext(t.Context(), tt.req, r.Addr().String())
			if err != nil {
				t.Errorf("%s by %s: %v", tt.name, network, err)
				continue
			}
			if m.Rcode != tt.rcode || len(m.Answer) != tt.answers {
				t.Errorf("%s by %s: %s", tt.name, network, m)
			}
			if tt.answers == 0 && tt.rcode != dns.RcodeNotImplemented && tt.rcode != dns.RcodeFormatError && len(m.Ns) != 1 {
				t.Errorf("%s by %s: no SOA", tt.name, network)
			}
		}
	}

	t.Run("a long answer is cut for UDP and whole over TCP", func(t *testing.T) {
		var many []netip.Addr
		for i := range 100 {
			many = append(many, netip.AddrFrom4([4]byte{127, 9, 9, byte(i)}))
		}
		r.Set("many.lab.internal", many...)
		req := question("many.lab.internal.", dns.TypeA, dns.ClassINET)
		m, _, err := (&dns.Client{Net: "udp"}).ExchangeContext(t.Context(), req, r.Addr().String())
		if err != nil || !m.Truncated || len(m.Answer) == 100 {
			t.Errorf("%v, %v", m, err)
		}
		m, _, err = (&dns.Client{Net: "tcp"}).ExchangeContext(t.Context(), req, r.Addr().String())
		if err != nil || m.Truncated || len(m.Answer) != 100 {
			t.Errorf("%v, %v", m, err)
		}
	})
}

func TestResolverListensOnLoopbackOnly(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "192.0.2.1:53", "localhost:0", "[::]:0"} {
		if r, err := StartResolver(t.Context(), addr); err == nil {
			t.Errorf("%s: started %v", addr, r.Close())
		}
	}
	r := startResolver(t)
	if other, err := StartResolver(t.Context(), r.Addr().String()); err == nil {
		t.Error("two on one address", other.Close())
	}
}
