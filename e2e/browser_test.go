//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/remote"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
)

const (
	webTitle = "The internal wiki"
	webText  = "You are reading this through the bastion"
)

// browserPictures is where the tests keep what the browser shows.
var browserPictures = flag.String("browser-pictures", "", "write pictures of what a browser shows into this directory")

// webWorld is a world with an internal web site, whose name this machine does not resolve.
func webWorld(t *testing.T, newWorld func(*testing.T, func(*lab.Config)) *world) (w *world, site *url.URL) {
	t.Helper()
	w = newWorld(t, func(c *lab.Config) { c.NoWeb = false })
	site, err := url.Parse(w.WebURL())
	if err != nil {
		t.Fatal(err)
	}
	if addrs, err := lookupHere(t, site.Hostname()); err == nil {
		t.Fatalf("this machine resolves %s as well: %v", site.Hostname(), addrs)
	}
	return w, site
}

// proxyURLs is what `bastion socks` prints.
type proxyURLs struct {
	Listen string
	Proxy  string
	HTTP   string `json:"http_proxy"`
	PAC    string
	User   string
}

// proxy starts `bastion socks`.
func (w *world) proxy(args ...string) (*rig.Proc, proxyURLs) {
	w.t.Helper()
	p := w.bastion(append([]string{"socks", "-o", "json"}, args...)...)
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	line, err := p.Line(ctx, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	var urls proxyURLs
	if err := json.Unmarshal([]byte(line), &urls); err != nil {
		w.t.Fatalf("%v in %q", err, line)
	}
	return p, urls
}

// connected returns the destinations of the connections that the bastion has made.
func (w *world) connected(task lab.Task) (out []string) {
	w.t.Helper()
	for _, e := range w.audit(task, "connect") {
		if e["result"] == "ok" {
			out = append(out, fmt.Sprint(e["destination"]))
		}
	}
	return out
}

// hostPort is the destination of a page.
func hostPort(u *url.URL) string {
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "80")
	}
	return u.Host
}

// Every client that people have reads a page whose name only the bastion can resolve, through the one port of `bastion socks`.
func TestProxyClients(t *testing.T) {
	curl := rig.Need(t, "curl")
	for name, newWorld := range map[string]func(*testing.T, func(*lab.Config)) *world{"agent": newAgentWorld, "alone": newWorld} {
		t.Run(name, func(t *testing.T) {
			w, site := webWorld(t, newWorld)
			task := w.up()
			secret := filepath.Join(w.home, "auth")
			if err := os.WriteFile(secret, []byte("ann:s3cret%\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			open, at := w.proxy(":")
			closed, locked := w.proxy("--proxy-auth-file", secret, ":")
			if locked.User != "ann" || at.User != "" {
				t.Errorf("%+v, %+v", at, locked)
			}
			ways := [][]string{
				{"-x", at.Proxy},
				{"--socks5-hostname", at.Listen},
				{"--socks4a", at.Listen},
				{"-x", at.HTTP},
				{"-x", at.HTTP, "-p"},
				{"-x", locked.Proxy, "-U", "ann:s3cret%"},
				{"-x", locked.HTTP, "-U", "ann:s3cret%"},
				{"-x", locked.HTTP, "-U", "ann:s3cret%", "-p"},
			}
			for _, way := range ways {
				// --noproxy: the user's environment may except the name from proxies.
				args := append([]string{"-sS", "--fail", "--max-time", "50", "--noproxy", ""}, way...)
				if code, out := w.run(time.Minute, curl, append(args, w.WebURL())...); code != 0 || !strings.Contains(out, webText) {
					t.Errorf("curl %q: exit code %d\n%s", way, code, out)
				}
			}
			for _, way := range [][]string{{"-x", locked.HTTP}, {"-x", locked.Proxy}, {"-x", locked.HTTP, "-U", "ann:x"}, {"--socks4a", locked.Listen}} {
				args := append([]string{"-sS", "--fail", "--max-time", "50", "--noproxy", ""}, way...)
				if code, out := w.run(time.Minute, curl, append(args, w.WebURL())...); code == 0 {
					t.Errorf("curl %q got in\n%s", way, out)
				}
			}
			// The bastion's refusal is told in words.
			code, out := w.run(time.Minute, curl, "-sS", "--max-time", "50", "--noproxy", "", "-x", at.HTTP, "http://10.9.9.9/")
			if code != 0 || !strings.Contains(out, "hint: ask the bastion's operator to allow 10.9.9.9:80") {
				t.Errorf("a refusal: exit code %d\n%s", code, out)
			}
			// The name came to the bastion as a name.
			if got := w.connected(task); len(got) != len(ways) || slices.ContainsFunc(got, func(d string) bool { return d != hostPort(site) }) {
				t.Errorf("connections %q, want %d to %s", got, len(ways), hostPort(site))
			}
			for _, p := range []*rig.Proc{open, closed} {
				if code, err := p.Stop(syscall.SIGINT); err != nil || code != 130 {
					t.Errorf("interrupted: exit code %d, %v\n%s", code, err, p.Output())
				}
			}
			for _, addr := range []string{at.Listen, locked.Listen} {
				if !w.within(20*time.Second, func() bool { return !listens(t, addr) }) {
					t.Errorf("%s is still served", addr)
				}
			}
		})
	}
}

func listens(t *testing.T, addr string) bool {
	c, err := rig.Dial(t.Context(), addr)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// A detached proxy stays when its command has ended, and goes on when the agent has been started again.
func TestProxyDetached(t *testing.T) {
	curl := rig.Need(t, "curl")
	w, _ := webWorld(t, newAgentWorld)
	p, at := w.proxy("-d", "--name", "web", ":")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if code, err := p.Wait(ctx); err != nil || code != 0 {
		t.Fatalf("exit code %d, %v\n%s", code, err, p.Output())
	}
	read := func() {
		t.Helper()
		code, out := w.run(time.Minute, curl, "-sS", "--fail", "--max-time", "50", "--noproxy", "", "-x", at.HTTP, w.WebURL())
		if code != 0 || !strings.Contains(out, webText) {
			t.Errorf("curl: exit code %d\n%s", code, out)
		}
	}
	read()
	// Another one with a password is another proxy, and not let in by what this one has.
	secret := filepath.Join(w.home, "auth")
	if err := os.WriteFile(secret, []byte("ann:s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out := w.run(time.Minute, filepath.Join(bin, "bastion"), "socks", "-d", "--proxy-auth-file", secret, at.Listen); code != 7 {
		t.Errorf("the same port with a password: exit code %d\n%s", code, out)
	}
	st := w.agentState()
	if len(st.Forwards) != 1 || st.Forwards[0].Name != "web" || st.Forwards[0].Listen != at.Listen || st.Forwards[0].Stats.Total != 1 ||
		st.Forwards[0].Stats.BytesDown == 0 {
		t.Errorf("forwards %+v", st.Forwards)
	}
	for _, command := range []string{"stop", "start"} {
		if code, out := w.run(time.Minute, filepath.Join(bin, "bastion"), "agent", command); code != 0 {
			t.Fatalf("bastion agent %s: exit code %d\n%s", command, code, out)
		}
	}
	read()
	if code, out := w.run(time.Minute, filepath.Join(bin, "bastion"), "stop", "web"); code != 0 || listens(t, at.Listen) {
		t.Errorf("bastion stop: exit code %d\n%s", code, out)
	}
}

// A browser reads the page through SOCKS.
func TestBrowserSOCKS(t *testing.T) {
	rig.Need(t, "chromium")
	w, site := webWorld(t, newWorld)
	task := w.up()
	p, at := w.proxy(":")
	browser := startBrowser(t, chromedp.Flag("proxy-server", "socks5://"+at.Listen), chromedp.Flag("proxy-bypass-list", "<-loopback>"),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"))
	readsWiki(browser, t, w.WebURL())
	w.onlyWiki(task, site)
	w.interrupt(p)
}

// readsWiki opens the internal site and looks at it.
func readsWiki(browser context.Context, t *testing.T, page string) {
	t.Helper()
	if err := chromedp.Do(browser, chromedp.Navigate(page)); err != nil {
		t.Fatal(err)
	}
	isWiki(browser, t)
}

func isWiki(browser context.Context, t *testing.T) {
	t.Helper()
	title, err := chromedp.Run(browser, chromedp.Title())
	if err != nil || title != webTitle {
		t.Errorf("title %q, %v", title, err)
	}
	text, err := bodyText(browser)
	if err != nil || !strings.Contains(text, webText) {
		t.Errorf("text %q, %v", text, err)
	}
}

// bodyText returns the text that the browser shows. It is asked of the page at once: nodes found first may be those of the page
// before.
func bodyText(browser context.Context) (string, error) {
	return chromedp.Run(browser, chromedp.Evaluate[string]("document.body.innerText"))
}

// onlyWiki checks that the bastion has connected to the internal site, and to nothing else. (A browser asks for hosts of its own
// too, which do not exist there.)
func (w *world) onlyWiki(task lab.Task, site *url.URL) {
	w.t.Helper()
	got := w.connected(task)
	if len(got) == 0 || slices.ContainsFunc(got, func(d string) bool { return d != hostPort(site) }) {
		w.t.Errorf("connections %q, want some to %s alone", got, hostPort(site))
	}
}

// outside is a web site that is not in the VPC. It notes the hosts that it was asked for.
func outside(t *testing.T) (port string, asked func() []string) {
	t.Helper()
	var mu sync.Mutex
	var hosts []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		hosts = append(hosts, r.Host)
		mu.Unlock()
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<title>Outside</title><p>The wide world</p>")
	}))
	t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(hosts)
	}
}

// A browser that has the PAC file sends the VPC's names through the bastion, and reaches all else directly.
func TestBrowserPAC(t *testing.T) {
	rig.Need(t, "chromium")
	w, site := webWorld(t, newAgentWorld)
	task := w.up()
	p, at := w.proxy("--proxy-domains", "corp.internal,*.corp.example", "--proxy-cidrs", "198.51.100.0/24", ":")
	port, asked := outside(t)
	browser := startBrowser(t, chromedp.Flag("proxy-pac-url", at.PAC),
		chromedp.Flag("host-resolver-rules", "MAP outside.example 127.0.0.1, MAP corp.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"))
	readsWiki(browser, t, w.WebURL())
	w.picture(browser, "browser-pac.png")
	for _, host := range []string{"outside.example", "corp.example"} { // *.corp.example are only the names below it
		if err := chromedp.Do(browser, chromedp.Navigate("http://"+net.JoinHostPort(host, port)+"/")); err != nil {
			t.Fatal(err)
		}
		if title, err := chromedp.Run(browser, chromedp.Title()); err != nil || title != "Outside" {
			t.Errorf("%s: title %q, %v", host, title, err)
		}
		if !slices.Contains(asked(), net.JoinHostPort(host, port)) {
			t.Errorf("%s was not reached directly: the site saw %q", host, asked())
		}
	}
	// The proxy says why it has no such page; that it is asked at all shows that the file sends these there.
	for _, host := range []string{"nowhere.corp.internal", "a.corp.example", "198.51.100.7"} {
		if err := chromedp.Do(browser, chromedp.Navigate("http://"+host+"/")); err != nil {
			t.Fatal(err)
		}
		text, err := bodyText(browser)
		if err != nil || !strings.HasPrefix(text, "bastion: open a connection to "+host+":80") || !strings.Contains(text, "hint: ") {
			t.Errorf("%s: %q, %v", host, text, err)
		}
	}
	w.picture(browser, "browser-refused.png")
	w.onlyWiki(task, site)
	if code, err := p.Stop(syscall.SIGINT); err != nil || code != 130 {
		t.Errorf("exit code %d, %v", code, err)
	}
}

// picture keeps what the browser shows, if pictures are wanted.
func (w *world) picture(browser context.Context, name string) {
	w.t.Helper()
	if *browserPictures == "" {
		return
	}
	data, err := chromedp.Run(browser, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(*browserPictures, name), data, 0o644)
	}
	if err != nil {
		w.t.Error(err)
	}
}

// unseen are the options of a Chromium that a test steers. It has windows, but no display.
var unseen = []string{
	"--ozone-platform=headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--disable-component-update",
}

// steer connects to a browser that somebody else has started. The context is that of its first tab.
func (w *world) steer(p *rig.Proc, profile string) context.Context {
	w.t.Helper()
	var port string
	if !w.within(2*time.Minute, func() bool {
		found, err := filepath.Glob(filepath.Join(profile, "DevToolsActivePort"))
		if err != nil || len(found) == 0 {
			return false
		}
		text, err := os.ReadFile(found[0])
		port, _, _ = strings.Cut(string(text), "\n")
		return err == nil && port != ""
	}) {
		w.t.Fatalf("the browser never started\n%s", p.Output())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	w.t.Cleanup(cancel)
	ctx, cancelAllocator := remote.NewAllocator(ctx, "ws://127.0.0.1:"+port)
	w.t.Cleanup(cancelAllocator)
	ctx, cancelTab := chromedp.NewContext(ctx)
	w.t.Cleanup(cancelTab)
	if err := chromedp.Do(ctx); err != nil {
		w.t.Fatal(err)
	}
	return ctx
}

// `bastion browser` starts a browser that reads the page, and ends its proxy with it.
func TestBrowserCommand(t *testing.T) {
	rig.Need(t, "chromium")
	t.Run("PAC", func(t *testing.T) {
		w, site := webWorld(t, newAgentWorld)
		task := w.up()
		port, asked := outside(t)
		// The setting is another domain than the site's: the command line's domain counts too.
		p := w.bastion(append([]string{
			"browser", "--fresh", "--proxy-domains", "other.example", w.WebURL(), "--",
			"--host-resolver-rules=MAP outside.example 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
		}, unseen...)...)
		browser := w.steer(p, filepath.Join(w.stateDir(), "browser", "fresh-*"))
		readsWiki(browser, t, w.WebURL())
		if err := chromedp.Do(browser, chromedp.Navigate("http://"+net.JoinHostPort("outside.example", port)+"/")); err != nil {
			t.Fatal(err)
		}
		if len(asked()) == 0 {
			t.Error("the site outside was not reached directly")
		}
		w.noUDP(browser)
		w.noSecrets(p)
		forwards := w.agentState().Forwards
		if len(forwards) != 1 || forwards[0].Command != "browser" {
			t.Errorf("forwards %+v", forwards)
		}
		// The last window is closed.
		w.closeTabs(browser)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if code, err := p.Wait(ctx); err != nil || code != 0 {
			t.Errorf("exit code %d, %v\n%s", code, err, p.Output())
		}
		if forwards := w.agentState().Forwards; len(forwards) != 0 {
			t.Errorf("forwards left: %+v", forwards)
		}
		w.noFresh()
		w.onlyWiki(task, site)
	})
	t.Run("all", func(t *testing.T) {
		w, site := webWorld(t, newWorld)
		task := w.up()
		port, asked := outside(t)
		state := filepath.Join(w.home, "state")
		args := append([]string{"browser", "--all", "--browser", "chromium", "--state-dir", state, w.WebURL(), "--"}, unseen...)
		p := w.bastion(args...)
		profile := filepath.Join(state, "browser", "chromium")
		browser := w.steer(p, profile)
		readsWiki(browser, t, w.WebURL())
		// Even this machine's own addresses are the bastion's, which refuses them.
		_ = chromedp.Do(browser, chromedp.Navigate("http://127.0.0.1:"+port+"/"))
		if got := asked(); len(got) > 0 {
			t.Errorf("the site outside was asked for %q", got)
		}
		if info, err := os.Stat(profile); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("the profile: %v, %v", info, err)
		}
		// A second one has no proxy of its own: it gives its page to the first.
		before := w.tabs(browser)
		code, out := w.run(time.Minute, filepath.Join(bin, "bastion"), args...)
		if code != 0 || !strings.Contains(out, "runs already") {
			t.Errorf("the second: exit code %d\n%s", code, out)
		}
		if !w.within(time.Minute, func() bool { return len(w.tabs(browser)) > len(before) }) {
			t.Errorf("the page of the second was not opened: %+v", w.tabs(browser))
		}
		if code, err := p.Stop(syscall.SIGTERM); err != nil || code != 143 {
			t.Errorf("exit code %d, %v\n%s", code, err, p.Output())
		}
		if _, err := os.Stat(profile); err != nil {
			t.Errorf("the profile has not been kept: %v", err)
		}
		if left := w.Gateway().Sessions(); len(left) > 0 {
			t.Errorf("sessions left behind: %+v", left)
		}
		w.onlyWiki(task, site)
	})
}

// The preferences that `bastion browser` writes are understood by Firefox: it reads the page by them, through the PAC file and
// through SOCKS.
func TestBrowserCommandFirefox(t *testing.T) {
	rig.Need(t, "firefox-esr")
	w, site := webWorld(t, newWorld)
	task := w.up()
	for _, option := range []string{"--fresh", "--all"} {
		picture := filepath.Join(w.home, "firefox"+option+".png")
		before := len(w.connected(task))
		code, out := w.run(3*time.Minute, filepath.Join(bin, "bastion"), "browser", "--browser", "firefox", option,
			"--state-dir", filepath.Join(w.home, "state"), w.WebURL(), "--", "--headless", "--screenshot", picture)
		if code != 0 {
			t.Errorf("%s: exit code %d\n%s", option, code, out)
		}
		if info, err := os.Stat(picture); err != nil || info.Size() == 0 {
			t.Errorf("%s: no picture: %v", option, err)
		}
		if len(w.connected(task)) <= before {
			t.Errorf("%s: the page was not read through the bastion", option)
		}
	}
	w.onlyWiki(task, site)
}

// tabs are the browser's pages.
func (w *world) tabs(browser context.Context) (out []target.ID) {
	w.t.Helper()
	all, err := chromedp.Targets(browser)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, one := range all {
		if one.Type == "page" {
			out = append(out, one.TargetID)
		}
	}
	return out
}

// closeTabs closes the browser's windows as a user does.
func (w *world) closeTabs(browser context.Context) {
	w.t.Helper()
	for _, id := range w.tabs(browser) {
		if _, err := chromedp.CallBrowser(browser, target.CloseTarget, target.CloseTargetParams{TargetID: id}); err != nil {
			w.t.Logf("close a tab: %v", err) // the last one takes the connection with it
		}
	}
}

// noUDP checks that pages find no way around the proxy by WebRTC.
func (w *world) noUDP(browser context.Context) {
	w.t.Helper()
	const gather = `new Promise((done) => {
		const c = new RTCPeerConnection(), found = [];
		c.createDataChannel('x');
		c.onicecandidate = (e) => { if (e.candidate) found.push(e.candidate.candidate); };
		c.onicegatheringstatechange = () => { if (c.iceGatheringState === 'complete') done(found.join('|')); };
		c.createOffer().then((o) => c.setLocalDescription(o));
	})`
	got, err := chromedp.Run(browser, chromedp.Evaluate[string](gather, chromedp.EvalAwaitPromise))
	if err != nil || strings.Contains(strings.ToLower(got), " udp ") {
		w.t.Errorf("WebRTC would use %q, %v", got, err)
	}
}

// noSecrets checks that the children of a command have nothing of AWS in their environment or their arguments.
func (w *world) noSecrets(p *rig.Proc) {
	w.t.Helper()
	pid := strconv.Itoa(p.Cmd.Process.Pid)
	tasks, err := filepath.Glob("/proc/" + pid + "/task/*/children")
	if err != nil {
		w.t.Fatal(err)
	}
	seen := 0
	for _, path := range tasks {
		children, err := os.ReadFile(path)
		if err != nil {
			w.t.Fatal(err)
		}
		for child := range strings.FieldsSeq(string(children)) {
			if command, err := os.ReadFile("/proc/" + child + "/cmdline"); err != nil || !strings.Contains(string(command), "--user-data-dir=") {
				continue // the agent, which the command may have started
			}
			seen++
			for _, name := range []string{"environ", "cmdline"} {
				text, err := os.ReadFile("/proc/" + child + "/" + name)
				if err != nil || strings.Contains(string(text), "AWS_") || strings.Contains(string(text), "BASTION_") {
					w.t.Errorf("%s of the browser: %q, %v", name, text, err)
				}
			}
		}
	}
	if seen == 0 {
		w.t.Error("the command has no children")
	}
}

// noFresh checks that no fresh profile is left.
func (w *world) noFresh() {
	w.t.Helper()
	if left, err := filepath.Glob(filepath.Join(w.stateDir(), "browser", "fresh-*")); err != nil || len(left) > 0 {
		w.t.Errorf("left behind: %q, %v", left, err)
	}
}

// lookupHere resolves a name by this machine's files, and by its DNS server if that is on loopback. The test asks no other server
// (.internal is a private domain, which no public server knows).
func lookupHere(t *testing.T, name string) ([]string, error) {
	t.Helper()
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if err := rig.Guard(addr); err != nil {
			return nil, err
		}
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return r.LookupHost(ctx, name)
}

// startBrowser starts a browser with options. The context is that of its first tab; the browser ends with the test.
func startBrowser(t *testing.T, more ...chromedp.ExecAllocatorOption) context.Context {
	t.Helper()
	home := t.TempDir()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(rig.Need(t, "chromium")), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Env("HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
	)
	options = append(options, more...)
	limit, cancelLimit := context.WithTimeout(context.Background(), 2*time.Minute)
	allocator, cancelAllocator := chromedp.NewExecAllocator(limit, options...)
	ctx, cancel := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		err := chromedp.Cancel(ctx)
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("end the browser: %v", err)
		}
		cancel()
		cancelAllocator() // waits
		cancelLimit()
	})
	if err := chromedp.Do(ctx); err != nil { // starts it
		t.Fatal(err)
	}
	return ctx
}
