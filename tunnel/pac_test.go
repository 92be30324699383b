package tunnel

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/dop251/goja"
)

// pacFunc runs a PAC file in a JavaScript engine that has nothing of a browser: a call of dnsResolve would fail.
func pacFunc(t testing.TB, script string) func(url, host string) string {
	t.Helper()
	vm := goja.New()
	if _, err := vm.RunString(script); err != nil {
		t.Fatalf("%v in\n%s", err, script)
	}
	var find func(url, host string) (string, error)
	if err := vm.ExportTo(vm.Get("FindProxyForURL"), &find); err != nil {
		t.Fatal(err)
	}
	return func(url, host string) string {
		t.Helper()
		got, err := find(url, host)
		if err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		return got
	}
}

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, s := range texts {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestPAC(t *testing.T) {
	find := pacFunc(t, PAC("127.0.0.1:1080", []string{"corp.internal", "*.rds.amazonaws.com", "xn--bcher-kva.example", "Upper.EXAMPLE."},
		prefixes("10.0.0.0/8", "192.0.2.128/25", "198.51.100.7/32", "fd00:1::/32", "2001:db8::5/128")))
	const proxy, direct = "PROXY 127.0.0.1:1080", "DIRECT"
	for host, want := range map[string]string{
		"corp.internal": proxy, "wiki.corp.internal": proxy, "a.b.corp.internal": proxy, "WIKI.Corp.Internal": proxy,
		"wiki.corp.internal.": proxy, "corp.internal.": proxy,
		"orders.abc.eu-west-1.rds.amazonaws.com": proxy, "xn--bcher-kva.example": proxy, "a.upper.example": proxy,

		"evilcorp.internal": direct, "corp.internal.evil.example": direct, "internal": direct, "corp": direct,
		"rds.amazonaws.com": direct, "xrds.amazonaws.com": direct, "amazonaws.com": direct, "": direct, ".": direct,
		".corp.internal": direct, "corpxinternal": direct, "localhost": direct, "example.com": direct,

		"10.0.0.1": proxy, "10.255.255.255": proxy, "11.0.0.0": direct, "9.255.255.255": direct, "127.0.0.1": direct,
		"192.0.2.127": direct, "192.0.2.128": proxy, "198.51.100.7": proxy, "198.51.100.6": direct,
		"10.0.0.1.": proxy, "10.0.0.256": direct, "10.0.0": direct, "0x0a.0.0.1": direct, "10.0.0.1.example": direct,
		"a00::1":    direct, // its first byte is 10
		"fd00:1::5": proxy, "[fd00:1::5]": proxy, "FD00:1:0:0:0:0:0:5": proxy, "fd00:2::5": direct, "2001:db8::5": proxy,
		"2001:db8::6": direct, "::1": direct, "::": direct, ":::": direct, "fd00:1::5::6": direct, "fd00:1:2:3:4:5:6:7:8": direct,
		"fd00:1::5%eth0": proxy, "fd00:1::10.0.0.1": proxy, "::10.0.0.1": direct, "fd00:1::g": direct, "fd00:1:2": direct,
	} {
		if got := find("http://"+host+"/", host); got != want {
			t.Errorf("%q: %s, want %s", host, got, want)
		}
	}
	if got := pacFunc(t, PAC("[::1]:80", nil, nil))("http://corp.internal/", "corp.internal"); got != direct {
		t.Errorf("with nothing configured: %s", got)
	}
}

// Whatever a domain holds, it stays a string of the script.
func TestPACInjection(t *testing.T) {
	for _, domain := range []string{`"];throw 1;//`, `\"];throw 1;//`, "</script><script>", "a\nthrow 1", "a\u2028throw 1", `NAMES`, `"NETS"`} {
		script := PAC("127.0.0.1:1", []string{domain, "*." + domain}, nil)
		if got := pacFunc(t, script)("http://x/", "x"); got != "DIRECT" {
			t.Errorf("%q: %s", domain, got)
		}
	}
}

// The arithmetic with addresses agrees with net/netip's.
func TestPACNetworks(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2)) // #nosec G404 -- a test
	address := func(v6 bool) netip.Addr {
		if !v6 {
			// Few bits, so that networks do contain addresses.
			return netip.AddrFrom4([4]byte{10, byte(random.IntN(4)), byte(random.IntN(256)), byte(random.IntN(256))})
		}
		var b [16]byte
		for i := range b {
			if random.IntN(2) == 0 {
				b[i] = byte(random.IntN(256))
			}
		}
		b[0] = 0xfd
		return netip.AddrFrom16(b)
	}
	inside := 0
	for range 300 {
		v6 := random.IntN(2) == 0
		ip := address(v6)
		near := ip
		if random.IntN(2) == 0 {
			near = address(v6)
		}
		p, err := near.Prefix(random.IntN(near.BitLen() + 1))
		if err != nil {
			t.Fatal(err)
		}
		find := pacFunc(t, PAC("p:1", nil, []netip.Prefix{p}))
		for _, text := range []string{ip.String(), strings.ToUpper(ip.StringExpanded())} {
			want := "DIRECT"
			if p.Contains(ip) {
				want = "PROXY p:1"
				inside++
			}
			if got := find("", text); got != want {
				t.Errorf("%s in %s: %s, want %s", text, p, got, want)
			}
		}
	}
	if inside < 100 || inside > 500 {
		t.Errorf("%d of 600 are inside: the test tests little", inside)
	}
}

func ExamplePAC() {
	script := PAC("127.0.0.1:1080", []string{"corp.internal"}, prefixes("10.20.0.0/16"))
	for line := range strings.Lines(script) {
		if strings.HasPrefix(line, "var") {
			fmt.Print(line)
		}
	}
	// Output:
	// var proxy = "PROXY 127.0.0.1:1080";
	// var names = ["corp.internal"]; // these, and all below them
	// var below = []; // only what is below these
	// var nets = [{"bytes":[10,20,0,0],"bits":16}];
}
