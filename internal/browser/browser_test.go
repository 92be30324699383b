package browser

import (
	"encoding/base64"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// machine is a system with some programs.
func machine(goos string, programs ...string) System {
	return System{
		goos: goos,
		look: func(name string) (string, error) {
			for _, p := range programs {
				if p == name || strings.HasSuffix(p, "/bin/"+name) {
					return p, nil
				}
			}
			return "", errors.New(name + ": not found")
		},
		env: func(name string) string {
			return map[string]string{
				"HOME": "/Users/ann", "ProgramFiles": `C:\Program Files`,
				"ProgramFiles(x86)": `C:\x86`,
			}[name]
		},
	}
}

func TestFind(t *testing.T) {
	for _, tc := range []struct {
		wanted  string
		sys     System
		program string
		name    string
		firefox bool
	}{
		{"", machine("linux", "/usr/bin/firefox", "/usr/bin/google-chrome"), "/usr/bin/google-chrome", "chrome", false},
		{"", machine("linux", "/usr/bin/firefox-esr"), "/usr/bin/firefox-esr", "firefox", true},
		{"Firefox", machine("linux", "/usr/bin/firefox", "/usr/bin/chromium"), "/usr/bin/firefox", "firefox", true},
		{
			"chromium", machine("linux", "/snap/bin/chromium", "/usr/bin/chromium-browser"), "/snap/bin/chromium", "chromium",
			false,
		},
		{
			"", machine("darwin", "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge"),
			"/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge", "edge", false,
		},
		{
			"firefox", machine("darwin", "/Users/ann/Applications/Firefox.app/Contents/MacOS/firefox"),
			"/Users/ann/Applications/Firefox.app/Contents/MacOS/firefox", "firefox", true,
		},
		{
			"", machine("windows", `C:\x86\Google\Chrome\Application\chrome.exe`),
			`C:\x86\Google\Chrome\Application\chrome.exe`, "chrome", false,
		},
		{"/opt/vivaldi", machine("linux", "/opt/vivaldi", "/usr/bin/chromium"), "/opt/vivaldi", "other-vivaldi", false},
		{"librewolf", machine("linux", "/usr/bin/librewolf"), "/usr/bin/librewolf", "other-librewolf", true},
	} {
		b, err := Find(tc.wanted, tc.sys)
		if err != nil || b.Program != tc.program || b.name != tc.name || b.firefox != tc.firefox {
			t.Errorf("%q on %s: %+v, %v; want %+v", tc.wanted, tc.sys.goos, b, err, tc)
		}
	}
	for wanted, kind := range map[string]fail.Kind{"": fail.Other, "edge": fail.Usage, "/opt/none": fail.Usage} {
		_, err := Find(wanted, machine("linux"))
		if fail.KindOf(err) != kind || fail.NextOf(err) == "" {
			t.Errorf("%q: %v, next %q", wanted, err, fail.NextOf(err))
		}
	}
}

func TestProxy(t *testing.T) {
	domains, cidrs := []string{"corp.internal", "*.corp.example"}, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	for page, want := range map[string]string{
		"":                              "corp.internal, *.corp.example, 10.0.0.0/8",
		"https://wiki.corp.internal/":   "corp.internal, *.corp.example, 10.0.0.0/8",
		"https://a.corp.example:8443/":  "corp.internal, *.corp.example, 10.0.0.0/8",
		"https://Wiki.Other.example./x": "corp.internal, *.corp.example, wiki.other.example, 10.0.0.0/8",
		"http://[fd00::5]:80/":          "corp.internal, *.corp.example, 10.0.0.0/8, fd00::5/128",
	} {
		p := NewProxy("127.0.0.1:1", false, domains, cidrs, page, false)
		if !strings.HasPrefix(p.What(), want+" through") || !strings.Contains(p.pac, "127.0.0.1:1") {
			t.Errorf("%q: %s; want %s", page, p.What(), want)
		}
	}
	if p := NewProxy("127.0.0.1:1", false, domains, cidrs, "", true); p.pac != "" {
		t.Errorf("all: %+v", p)
	}
}

// What browsers are told: no way leads around the proxy.
func TestSettings(t *testing.T) {
	pac := &Proxy{addr: "127.0.0.1:1080", pac: "// \"a\"\n", cidrs: []netip.Prefix{}}
	all := &Proxy{addr: "127.0.0.1:1080"}
	locked := &Proxy{addr: "127.0.0.1:1080", password: true}
	url := "data:application/x-ns-proxy-autoconfig;base64," + base64.StdEncoding.EncodeToString([]byte(pac.pac))
	for _, tc := range []struct {
		p    *Proxy
		want []string
		not  string
	}{
		{
			pac,
			[]string{"--proxy-pac-url=" + url, "--disable-quic", "--webrtc-ip-handling-policy=disable_non_proxied_udp"},
			"--proxy-server=",
		},
		{all, []string{
			"--proxy-server=socks5://127.0.0.1:1080", "--proxy-bypass-list=<-loopback>", "--disable-quic",
			"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
		}, "--proxy-pac-url="},
		{locked, []string{"--proxy-server=http://127.0.0.1:1080", "--proxy-bypass-list=<-loopback>"}, "socks5"},
		{nil, []string{"--no-first-run"}, "proxy"},
	} {
		args := chromiumArgs(tc.p)
		for _, w := range tc.want {
			if !slices.Contains(args, w) {
				t.Errorf("%+v: %q lacks %s", tc.p, args, w)
			}
		}
		if strings.Contains(strings.Join(args, " "), tc.not) {
			t.Errorf("%+v: %q has %s", tc.p, args, tc.not)
		}
	}
	for _, tc := range []struct {
		p    *Proxy
		want []string
	}{
		{pac, []string{`"network.proxy.type", 2`, `"network.proxy.autoconfig_url", "` + url + `"`}},
		{all, []string{
			`"network.proxy.type", 1`, `"network.proxy.socks", "127.0.0.1"`, `"network.proxy.socks_port", 1080`,
			`"network.proxy.socks_remote_dns", true`, `"network.proxy.allow_hijacking_localhost", true`,
			`"network.proxy.http", ""`,
		}},
		{locked, []string{
			`"network.proxy.http", "127.0.0.1"`, `"network.proxy.ssl_port", 1080`,
			`"network.proxy.socks", ""`,
		}},
	} {
		prefs := firefoxPrefs(tc.p)
		for _, w := range append(tc.want, `"network.proxy.failover_direct", false`, `"network.trr.mode", 5`,
			`"network.http.http3.enable", false`, `"media.peerconnection.ice.proxy_only", true`) {
			if !strings.Contains(prefs, "user_pref("+w+");\n") {
				t.Errorf("%+v: %s lacks %s", tc.p, prefs, w)
			}
		}
	}
}

func TestProfile(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	b := &Browser{name: "chromium", Program: "/usr/bin/chromium"}
	open := func(fresh bool) *Profile {
		t.Helper()
		p, err := OpenProfile(b, state, fresh)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	first, second := open(false), open(false)
	if first.InUse() || !second.InUse() || first.Dir != second.Dir {
		t.Errorf("%+v, %+v", first, second)
	}
	if err := errors.Join(second.Close(), first.Close()); err != nil {
		t.Error(err)
	}
	if third := open(false); third.InUse() {
		t.Error("the lock stays")
	} else if err := third.Close(); err != nil {
		t.Error(err)
	}

	fresh, other := open(true), open(true)
	if fresh.InUse() || other.InUse() || fresh.Dir == other.Dir {
		t.Errorf("%+v, %+v", fresh, other)
	}
	if err := os.WriteFile(filepath.Join(fresh.Dir, "Cookies"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fresh.Close(); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(fresh.Dir + "*"); err != nil || len(left) != 0 {
		t.Errorf("left of a fresh profile: %q, %v", left, err)
	}
	// One whose process was killed is removed by the next, one that is in use is not.
	base := filepath.Dir(other.Dir)
	killed := filepath.Join(base, "fresh-1")
	if err := os.Mkdir(killed, 0o700); err != nil {
		t.Fatal(err)
	}
	lock, err := files.TryLock(killed + ".lock")
	if err != nil || lock == nil {
		t.Fatal(lock, err)
	}
	_ = lock.Close()
	old := time.Now().Add(-time.Hour)
	for _, dir := range []string{killed, other.Dir} {
		if err := os.Chtimes(dir+".lock", old, old); err != nil {
			t.Fatal(err)
		}
	}
	again := open(false)
	if _, err := os.Stat(killed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a killed one's profile is left: %v", err)
	}
	if _, err := os.Stat(other.Dir); err != nil {
		t.Errorf("a profile in use is gone: %v", err)
	}
	if err := errors.Join(again.Close(), other.Close()); err != nil {
		t.Error(err)
	}
	snap := &Browser{name: "chromium", Program: "/snap/bin/chromium"}
	t.Setenv("HOME", "/home/ann")
	if base, err := profileBase(snap, state); err != nil ||
		filepath.ToSlash(base) != "/home/ann/snap/chromium/common/bastion" {
		t.Errorf("a snap's profile: %s, %v", base, err)
	}
}

func TestEnvironment(t *testing.T) {
	got := withoutSecrets([]string{"HOME=/h", "AWS_SECRET_ACCESS_KEY=x", "AWS_PROFILE=p", "BASTION_CONFIG=c", "PATH=/bin"})
	if !slices.Equal(got, []string{"HOME=/h", "PATH=/bin"}) {
		t.Errorf("%q", got)
	}
}
