package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/bastion-ssm/bastion/agent"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
	"github.com/bastion-ssm/bastion/tunnel"
)

func (a *app) browserCommand() *command {
	var o browserFlags
	return &command{
		name:    "browser",
		summary: "start a browser that reaches the private network",
		group:   groupConnect,
		args:    "[URL] [-- BROWSER-OPTION...]",
		about: []passage{
			para(`Starts an installed Chromium, Chrome, Edge, Brave or Firefox with its own profile: your other windows, cookies and
				settings stay as they are. The host of URL, the names of proxy_domains and the addresses of proxy_cidrs go through the
				bastion, all other destinations directly. The bastion resolves the names.`),
			para(`The profile stays in state_dir for the next time. While the browser runs, another bastion browser opens its URL there.
				The proxy ends with the last window.`),
		},
		examples: []string{
			"bastion browser https://wiki.corp.internal/",
			"bastion browser --browser firefox --fresh https://wiki.corp.internal/",
			"bastion browser --proxy-domains corp.example https://wiki.corp.example/ -- --incognito",
		},
		flags: []option{
			switchFlag(&o.all, "send all traffic through the bastion, not only the private network's", "all"),
			switchFlag(&o.fresh, "use a new profile, and remove it at the end", "fresh"),
		},
		settings: []string{config.GroupAWS, config.GroupGrant, config.GroupLink, config.GroupProxy, config.GroupOutput},
		run:      func(c *cli.Context) error { return a.browser(c, o) },
	}
}

// browserFlags are the flags of browser that are no settings.
type browserFlags struct{ all, fresh bool }

// browser runs `bastion browser`. What can be wrong on this machine is found before anything is asked of AWS.
func (a *app) browser(c *cli.Context, o browserFlags) error {
	s, err := a.settings()
	if err != nil {
		return err
	}
	page, options, err := browserArgs(c.Args().Slice())
	if err != nil {
		return err
	}
	if _, err := checkProxy(&s); err != nil {
		return err
	}
	b, err := findBrowser(s.Browser, thisSystem())
	if err != nil {
		return err
	}
	b.options, b.all = options, o.all
	profile, err := openProfile(b, s, o.fresh)
	if err != nil {
		return err
	}
	defer func() {
		if err := profile.close(); err != nil && !s.Quiet {
			_ = printf(a.err, "bastion: the browser's profile is left behind: %s\n", err)
		}
	}()
	if profile.inUse() {
		if !s.Quiet {
			fmt.Fprintln(a.err, "bastion: the browser runs already, "+
				"and opens the page with the settings that it was started with")
		}
		return b.run(c.Context, profile, b.args(profile.dir, nil, page))
	}
	requests := []api.ForwardRequest{{Kind: api.KindProxy, Name: "browser", Listen: ":"}}
	if o.fresh {
		requests[0].Name = filepath.Base(profile.dir) // there may be several
	}
	work := func(ctx context.Context, forwards []api.Forward, watch *linkWatch) error {
		p, err := browserProxy(s, forwards[0].Listen, page, o.all)
		if err != nil {
			return err
		}
		if err := b.prepare(profile.dir, p); err != nil {
			return fail.New(fail.Other, "write the browser's settings", err, "check state_dir, or use --fresh")
		}
		watch.progress.Note(fmt.Sprintf("%s: %s; the proxy ends with its last window", b.program, p.what()))
		return b.run(ctx, profile, b.args(profile.dir, p, page))
	}
	return a.openForwards(c.Context, s, "browser", requests, work)
}

// browserArgs reads the arguments: the page, which may be missing, and options of the browser.
func browserArgs(args []string) (page string, options []string, err error) {
	if len(args) == 0 || strings.HasPrefix(args[0], "-") {
		return "", args, nil
	}
	page, options = args[0], args[1:]
	if len(options) > 0 && !strings.HasPrefix(options[0], "-") {
		return "", nil, usage("usage: bastion browser [URL] [-- BROWSER-OPTION...]",
			"browser: one page at a time, not %q too", options[0])
	}
	if !strings.Contains(page, "://") {
		page = "http://" + page
	}
	u, err := url.Parse(page)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" {
		return "", nil, usage("give a URL such as https://wiki.corp.internal/", "%q is no page", args[0])
	}
	return u.String(), options, nil
}

// proxyOfBrowser is what a browser must know of its proxy.
type proxyOfBrowser struct {
	addr     string
	password bool   // it wants one
	pac      string // "": everything goes through the proxy
	domains  []string
	cidrs    []netip.Prefix
}

// browserProxy makes a PAC file for the settings and the host of page, unless all is wanted.
func browserProxy(s config.Settings, addr, page string, all bool) (*proxyOfBrowser, error) {
	cfg, err := agent.ProxyConfig(s)
	if err != nil {
		return nil, err
	}
	p := &proxyOfBrowser{addr: addr, password: cfg.User != "", domains: cfg.Domains, cidrs: cfg.CIDRs}
	if all {
		return p, nil
	}
	if u, err := url.Parse(page); err == nil && u.Hostname() != "" {
		if prefix, err := config.CIDR(u.Hostname()); err == nil {
			p.cidrs = append(p.cidrs, prefix)
		} else if d, err := config.Domain(u.Hostname()); err == nil && !slices.ContainsFunc(p.domains, func(of string) bool {
			return d == of || strings.HasSuffix(d, "."+strings.TrimPrefix(of, "*."))
		}) {
			p.domains = append(p.domains, d)
		}
	}
	p.pac = tunnel.PAC(addr, p.domains, p.cidrs)
	return p, nil
}

// what says what goes through the proxy.
func (p *proxyOfBrowser) what() string {
	if p.pac == "" {
		return "everything goes through the bastion"
	}
	names := slices.Clone(p.domains)
	for _, c := range p.cidrs {
		names = append(names, c.String())
	}
	return strings.Join(names, ", ") + " through the bastion, all else directly"
}

// pacURL is the PAC file in a URL. Unlike the proxy's own it has the host of the page.
func (p *proxyOfBrowser) pacURL() string {
	return "data:application/x-ns-proxy-autoconfig;base64," + base64.StdEncoding.EncodeToString([]byte(p.pac))
}

// installedBrowser is a browser and how it is to be started.
type installedBrowser struct {
	name    string // of its profile
	program string
	firefox bool // else of Chromium's kind
	options []string
	all     bool
}

// prepare writes what the browser reads from its profile.
func (b *installedBrowser) prepare(profile string, p *proxyOfBrowser) error {
	if !b.firefox {
		return nil
	}
	return files.Replace(filepath.Join(profile, "user.js"), []byte(firefoxPrefs(p)), 0o600)
}

// args is the command line of the browser. p is nil for one that runs already.
func (b *installedBrowser) args(profile string, p *proxyOfBrowser, page string) []string {
	var args []string
	if b.firefox {
		args = []string{"--profile", profile}
		if runtime.GOOS == "windows" {
			args = append(args, "--wait-for-browser")
		}
	} else {
		args = append([]string{"--user-data-dir=" + profile}, chromiumArgs(p)...)
	}
	args = append(args, b.options...)
	if page != "" {
		args = append(args, page)
	}
	return args
}

// chromiumArgs are Chromium's switches. UDP would not go through the proxy: so there is no QUIC, and WebRTC goes
// through it.
func chromiumArgs(p *proxyOfBrowser) []string {
	args := []string{"--no-first-run", "--no-default-browser-check"}
	if p == nil {
		return args
	}
	args = append(args, "--disable-quic",
		"--webrtc-ip-handling-policy=disable_non_proxied_udp", "--force-webrtc-ip-handling-policy=disable_non_proxied_udp")
	if p.pac != "" {
		return append(args, "--proxy-pac-url="+p.pacURL())
	}
	scheme := "socks5"
	if p.password {
		scheme = "http" // Chromium knows no password of SOCKS
	}
	host, _, err := net.SplitHostPort(p.addr)
	if err != nil {
		host = p.addr
	}
	return append(args, "--proxy-server="+scheme+"://"+p.addr,
		"--proxy-bypass-list=<-loopback>", // the bastion's loopback, not this machine's
		"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE "+host,
		// The browser's own errands, which the bastion would only refuse.
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-domain-reliability")
}

// firefoxPrefs are Firefox's settings, which its profile has in user.js.
func firefoxPrefs(p *proxyOfBrowser) string {
	type pref struct {
		name  string
		value any
	}
	prefs := []pref{
		{"browser.shell.checkDefaultBrowser", false},
		{"browser.aboutwelcome.enabled", false},
		{"datareporting.policy.dataSubmissionEnabled", false},
		{"termsofuse.bypassNotification", true},
		{"network.proxy.failover_direct", false},
		{"network.proxy.no_proxies_on", ""},
		{"network.dns.disablePrefetch", true},
		{"network.predictor.enabled", false},
		{"network.trr.mode", 5}, // no DNS over HTTPS, which knows no private names
		{"network.http.http3.enable", false},
		{"media.peerconnection.ice.proxy_only", true},
	}
	host, port, err := net.SplitHostPort(p.addr)
	if err != nil {
		host, port = p.addr, "0"
	}
	switch {
	case p.pac != "":
		prefs = append(prefs, pref{"network.proxy.type", 2}, pref{"network.proxy.autoconfig_url", p.pacURL()})
	case p.password:
		prefs = append(prefs, pref{"network.proxy.type", 1}, pref{"network.proxy.allow_hijacking_localhost", true},
			pref{"network.proxy.socks", ""},
			pref{"network.proxy.http", host}, pref{"network.proxy.http_port", json.Number(port)},
			pref{"network.proxy.ssl", host}, pref{"network.proxy.ssl_port", json.Number(port)})
	default:
		prefs = append(prefs, pref{"network.proxy.type", 1}, pref{"network.proxy.allow_hijacking_localhost", true},
			pref{"network.proxy.http", ""}, pref{"network.proxy.ssl", ""},
			pref{"network.proxy.socks", host}, pref{"network.proxy.socks_port", json.Number(port)},
			pref{"network.proxy.socks_version", 5}, pref{"network.proxy.socks_remote_dns", true})
	}
	var b strings.Builder
	b.WriteString("// Written by bastion browser at each start.\n")
	for _, p := range prefs {
		value, err := json.Marshal(p.value)
		if err != nil {
			panic("bastion: " + err.Error()) // strings, numbers and booleans
		}
		fmt.Fprintf(&b, "user_pref(%q, %s);\n", p.name, value)
	}
	return b.String()
}

const browserEnd = 10 * time.Second // for a browser that is asked to end

// run runs the browser to its end. The end of ctx ends it.
func (b *installedBrowser) run(ctx context.Context, p *profile, args []string) error {
	// #nosec G204 -- the user's browser
	cmd := exec.CommandContext(ctx, b.program, args...)
	cmd.Env = withoutSecrets(os.Environ())
	log, err := os.OpenFile(p.log(), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return fail.New(fail.Other, "write the browser's log", err, "check state_dir")
	}
	defer func() { _ = log.Close() }()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return cmd.Process.Kill() // Windows has no such signal
		}
		return nil
	}
	cmd.WaitDelay = browserEnd
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil:
		return nil
	case errors.As(err, &exit) && p.inUse():
		return fail.New(fail.Other, "hand the page to the browser that runs", err,
			"open it there, or use --fresh for another one")
	case errors.As(err, &exit):
		return fail.New(fail.Other, "run "+b.program, fmt.Errorf("%w: %s", err, lastLine(log)),
			"see what it says: "+p.log()+"; or use another one: --browser NAME")
	}
	return fail.New(fail.Other, "start the browser", err, "use another one: --browser NAME")
}

// withoutSecrets is the environment of a browser: it has no business with AWS.
func withoutSecrets(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		return strings.HasPrefix(kv, "AWS_") || strings.HasPrefix(kv, "BASTION_")
	})
}

// lastLine returns the last line of a log.
func lastLine(f *os.File) string {
	buf := make([]byte, 1000)
	size, err := f.Seek(0, 2)
	if err != nil {
		return ""
	}
	n, _ := f.ReadAt(buf, max(0, size-int64(len(buf)))) // what there is
	lines := strings.Split(strings.TrimSpace(string(buf[:n])), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// profile is a directory in which a browser keeps its state. While a bastion browser runs with it, it has its lock.
type profile struct {
	dir   string
	lock  *os.File // nil: another has it
	fresh bool
}

func (p *profile) inUse() bool { return p.lock == nil }

// log is where the browser's own messages go: beside the profile, because one that runs already has its own.
func (p *profile) log() string {
	if p.inUse() {
		return os.DevNull
	}
	return p.dir + ".log"
}

// openProfile makes the profile of a browser, or a fresh one.
func openProfile(b *installedBrowser, s config.Settings, fresh bool) (*profile, error) {
	base, err := profileBase(b, s)
	if err != nil {
		return nil, err
	}
	wrong := func(err error) (*profile, error) {
		return nil, fail.New(fail.Other, "make the browser's profile", err, "check "+base+", or set another state_dir")
	}
	if err := files.PrivateDir(base); err != nil {
		return wrong(err)
	}
	removeStale(base)
	p := &profile{dir: filepath.Join(base, b.name), fresh: fresh}
	if fresh {
		if p.dir, err = os.MkdirTemp(base, freshPrefix); err != nil {
			return wrong(err)
		}
	} else if err := files.PrivateDir(p.dir); err != nil {
		return wrong(err)
	}
	if p.lock, err = files.TryLock(p.dir + lockSuffix); err != nil {
		return wrong(err)
	}
	return p, nil
}

const (
	freshPrefix = "fresh-"
	lockSuffix  = ".lock"
)

// profileBase is the directory of the profiles. A snap's browser may not use hidden directories of the user's.
func profileBase(b *installedBrowser, s config.Settings) (string, error) {
	if rest, ok := strings.CutPrefix(b.program, "/snap/bin/"); ok {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fail.New(fail.Other, "find the browser's profile", err, "set HOME")
		}
		return filepath.Join(home, "snap", rest, "common", "bastion"), nil
	}
	state, err := dirs.State(s.StateDir)
	return filepath.Join(state, "browser"), err
}

// close removes a fresh profile. The lock file of the other stays: to remove it would let two processes hold locks of
// one name.
func (p *profile) close() error {
	var err error
	if p.fresh && !p.inUse() {
		err = removeFresh(p.dir)
	}
	if p.lock != nil {
		_ = p.lock.Close()
	}
	return err
}

// removeFresh removes a fresh profile and what is beside it. Processes of the browser may write to it until they have
// seen that it has ended.
func removeFresh(dir string) error {
	var err error
	for range 10 {
		if err = os.RemoveAll(dir); err == nil {
			break
		}
	}
	_ = os.Remove(dir + ".log")
	_ = os.Remove(dir + lockSuffix) // no other process ever uses its name
	return err
}

// removeStale removes fresh profiles whose bastion browser was killed.
func removeStale(base string) {
	const young = time.Minute // it may have been made and not been locked yet
	dirs, err := filepath.Glob(filepath.Join(base, freshPrefix+"*"+lockSuffix))
	if err != nil {
		return
	}
	for _, path := range dirs {
		if info, err := os.Stat(path); err != nil || time.Since(info.ModTime()) < young {
			continue
		}
		if lock, err := files.TryLock(path); err == nil && lock != nil {
			_ = removeFresh(strings.TrimSuffix(path, lockSuffix))
			_ = lock.Close()
		}
	}
}

// system is what findBrowser looks at.
type system struct {
	goos string
	look func(string) (string, error) // as exec.LookPath
	env  func(string) string
}

func thisSystem() system { return system{runtime.GOOS, exec.LookPath, os.Getenv} }

// browsers are those that are looked for, in this order, with their places.
var browsers = []struct {
	name    string
	linux   []string
	darwin  string // below Applications
	windows string // below the folders of programs
}{
	{
		"chromium",
		[]string{"chromium", "/snap/bin/chromium", "chromium-browser"},
		"Chromium.app/Contents/MacOS/Chromium",
		`Chromium\Application\chrome.exe`,
	},
	{
		"chrome",
		[]string{"google-chrome", "google-chrome-stable"},
		"Google Chrome.app/Contents/MacOS/Google Chrome",
		`Google\Chrome\Application\chrome.exe`,
	},
	{
		"edge",
		[]string{"microsoft-edge", "microsoft-edge-stable"},
		"Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
		`Microsoft\Edge\Application\msedge.exe`,
	},
	{
		"brave",
		[]string{"brave-browser", "brave"},
		"Brave Browser.app/Contents/MacOS/Brave Browser",
		`BraveSoftware\Brave-Browser\Application\brave.exe`,
	},
	{"firefox", []string{"firefox", "firefox-esr"}, "Firefox.app/Contents/MacOS/firefox", `Mozilla Firefox\firefox.exe`},
}

// findBrowser returns the browser that is wanted: a name of the list, a program, or "" for the first that is there.
func findBrowser(wanted string, sys system) (*installedBrowser, error) {
	var names []string
	for _, b := range browsers {
		names = append(names, b.name)
		if wanted != "" && !strings.EqualFold(wanted, b.name) {
			continue
		}
		for _, place := range sys.places(b.linux, b.darwin, b.windows) {
			if path, err := sys.look(place); err == nil {
				return &installedBrowser{name: b.name, program: path, firefox: b.name == "firefox"}, nil
			}
		}
		if wanted != "" {
			return nil, fail.New(fail.Usage, "", fmt.Errorf("%s is not installed", b.name),
				"install it, name its program by --browser PATH, or leave --browser out for another one")
		}
	}
	if wanted == "" {
		return nil, fail.New(fail.Other, "", errors.New("no browser is installed where one is looked for"),
			"install Chromium, Chrome, Edge, Brave or Firefox, name another by --browser PATH, "+
				"or set up your own: bastion socks 1080")
	}
	path, err := sys.look(wanted)
	if err != nil {
		return nil, fail.New(fail.Usage, "--browser", err, "name a program, or one of: "+strings.Join(names, ", "))
	}
	base := strings.TrimSuffix(strings.ToLower(filepath.Base(path)), ".exe")
	isFirefox := strings.Contains(base, "firefox") || strings.Contains(base, "librewolf")
	return &installedBrowser{name: "other-" + base, program: path, firefox: isFirefox}, nil
}

// places are where a browser may be.
func (sys system) places(linux []string, darwin, windows string) []string {
	switch sys.goos {
	case "darwin":
		return []string{"/Applications/" + darwin, sys.env("HOME") + "/Applications/" + darwin}
	case "windows":
		var out []string
		for _, folder := range []string{"ProgramFiles", "ProgramFiles(x86)", "LocalAppData"} {
			if dir := sys.env(folder); dir != "" {
				out = append(out, dir+`\`+windows)
			}
		}
		return out
	}
	return linux
}
