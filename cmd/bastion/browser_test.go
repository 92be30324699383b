package main

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

	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// machine is a system with some programs.
func machine(goos string, programs ...string) system {
	return system{
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

func TestFindBrowser(t *testing.T) {
	for _, tc := range []struct {
		wanted  string
		sys     system
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
		b, err := findBrowser(tc.wanted, tc.sys)
		if err != nil || b.program != tc.program || b.name != tc.name || b.firefox != tc.firefox {
			t.Errorf("%q on %s: %+v, %v; want %+v", tc.wanted, tc.sys.goos, b, err, tc)
		}
	}
	for wanted, kind := range map[string]fail.Kind{"": fail.Other, "edge": fail.Usage, "/opt/none": fail.Usage} {
		_, err := findBrowser(wanted, machine("linux"))
		if fail.KindOf(err) != kind || fail.NextOf(err) == "" {
			t.Errorf("%q: %v, next %q", wanted, err, fail.NextOf(err))
		}
	}
}

func TestBrowserArgs(t *testing.T) {
	for _, tc := range []struct {
		args    []string
		page    string
		options []string
	}{
		{nil, "", nil},
		{[]string{"https://wiki.corp.internal/a?b=c#d"}, "https://wiki.corp.internal/a?b=c#d", nil},
		{[]string{"wiki.corp.internal:8080"}, "http://wiki.corp.internal:8080", nil},
		{[]string{"--incognito", "x"}, "", []string{"--incognito", "x"}},
		{[]string{"wiki", "--screenshot", "x"}, "http://wiki", []string{"--screenshot", "x"}},
	} {
		page, options, err := browserArgs(tc.args)
		if err != nil || page != tc.page || !slices.Equal(options, tc.options) {
			t.Errorf("%q: %q, %q, %v", tc.args, page, options, err)
		}
	}
	for _, args := range [][]string{
		{"file:///etc/passwd"}, {"javascript://alert"}, {"ftp://wiki/"}, {"http://"}, {"http://a b/"}, {"one", "two"}, {""},
	} {
		if _, _, err := browserArgs(args); fail.KindOf(err) != fail.Usage || fail.NextOf(err) == "" {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestBrowserProxy(t *testing.T) {
	s := config.Settings{ProxyDomains: []string{"corp.internal", "*.corp.example"}, ProxyCIDRs: []string{"10.0.0.0/8"}}
	for page, want := range map[string]string{
		"":                              "corp.internal, *.corp.example, 10.0.0.0/8",
		"https://wiki.corp.internal/":   "corp.internal, *.corp.example, 10.0.0.0/8",
		"https://a.corp.example:8443/":  "corp.internal, *.corp.example, 10.0.0.0/8",
		"https://Wiki.Other.example./x": "corp.internal, *.corp.example, wiki.other.example, 10.0.0.0/8",
		"http://[fd00::5]:80/":          "corp.internal, *.corp.example, 10.0.0.0/8, fd00::5/128",
	} {
		p, err := browserProxy(s, "127.0.0.1:1", page, false)
		if err != nil || !strings.HasPrefix(p.what(), want+" through") || !strings.Contains(p.pac, "127.0.0.1:1") {
			t.Errorf("%q: %s, %v; want %s", page, p.what(), err, want)
		}
	}
	if p, err := browserProxy(s, "127.0.0.1:1", "", true); err != nil || p.pac != "" {
		t.Errorf("all: %+v, %v", p, err)
	}
}

// What browsers are told: no way leads around the proxy.
func TestBrowserSettings(t *testing.T) {
	pac := &proxyOfBrowser{addr: "127.0.0.1:1080", pac: "// \"a\"\n", cidrs: []netip.Prefix{}}
	all := &proxyOfBrowser{addr: "127.0.0.1:1080"}
	locked := &proxyOfBrowser{addr: "127.0.0.1:1080", password: true}
	url := "data:application/x-ns-proxy-autoconfig;base64," + base64.StdEncoding.EncodeToString([]byte(pac.pac))
	for _, tc := range []struct {
		p    *proxyOfBrowser
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
		p    *proxyOfBrowser
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

func TestBrowserProfile(t *testing.T) {
	s := config.Settings{StateDir: filepath.Join(t.TempDir(), "state")}
	b := &installedBrowser{name: "chromium", program: "/usr/bin/chromium"}
	open := func(fresh bool) *profile {
		t.Helper()
		p, err := openProfile(b, s, fresh)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	first, second := open(false), open(false)
	if first.inUse() || !second.inUse() || first.dir != second.dir {
		t.Errorf("%+v, %+v", first, second)
	}
	if err := errors.Join(second.close(), first.close()); err != nil {
		t.Error(err)
	}
	if third := open(false); third.inUse() {
		t.Error("the lock stays")
	} else if err := third.close(); err != nil {
		t.Error(err)
	}

	fresh, other := open(true), open(true)
	if fresh.inUse() || other.inUse() || fresh.dir == other.dir {
		t.Errorf("%+v, %+v", fresh, other)
	}
	if err := os.WriteFile(filepath.Join(fresh.dir, "Cookies"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := fresh.close(); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(fresh.dir + "*"); err != nil || len(left) != 0 {
		t.Errorf("left of a fresh profile: %q, %v", left, err)
	}
	// One whose process was killed is removed by the next, one that is in use is not.
	base := filepath.Dir(other.dir)
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
	for _, dir := range []string{killed, other.dir} {
		if err := os.Chtimes(dir+".lock", old, old); err != nil {
			t.Fatal(err)
		}
	}
	again := open(false)
	if _, err := os.Stat(killed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a killed one's profile is left: %v", err)
	}
	if _, err := os.Stat(other.dir); err != nil {
		t.Errorf("a profile in use is gone: %v", err)
	}
	if err := errors.Join(again.close(), other.close()); err != nil {
		t.Error(err)
	}
	snap := &installedBrowser{name: "chromium", program: "/snap/bin/chromium"}
	t.Setenv("HOME", "/home/ann")
	if base, err := profileBase(snap, s); err != nil ||
		filepath.ToSlash(base) != "/home/ann/snap/chromium/common/bastion" {
		t.Errorf("a snap's profile: %s, %v", base, err)
	}
}

func TestBrowserEnvironment(t *testing.T) {
	got := withoutSecrets([]string{"HOME=/h", "AWS_SECRET_ACCESS_KEY=x", "AWS_PROFILE=p", "BASTION_CONFIG=c", "PATH=/bin"})
	if !slices.Equal(got, []string{"HOME=/h", "PATH=/bin"}) {
		t.Errorf("%q", got)
	}
}
