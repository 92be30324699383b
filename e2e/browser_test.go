//go:build linux

package e2e

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
)

const (
	webTitle = "The internal wiki"
	webText  = "You are reading this through the bastion"
)

// curl and a browser read a page whose name only the bastion can resolve, through `bastion socks`.
func TestSOCKSClients(t *testing.T) {
	curl, chromium := rig.Need(t, "curl"), rig.Need(t, "chromium")
	w := newWorld(t, func(c *lab.Config) { c.NoWeb = false })
	site, err := url.Parse(w.WebURL())
	if err != nil {
		t.Fatal(err)
	}
	if addrs, err := lookupHere(t, site.Hostname()); err == nil {
		t.Fatalf("this machine resolves %s as well: %v", site.Hostname(), addrs)
	}
	task := w.up()
	p := w.bastion("socks", ":")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	line, err := p.Line(ctx, 0)
	proxy, ok := strings.CutPrefix(line, "socks5h://")
	if err != nil || !ok {
		t.Fatalf("%q, %v", line, err)
	}

	// --noproxy: the user's environment may except the name from proxies.
	code, out := w.run(time.Minute, curl, "-sS", "--fail", "--max-time", "50", "--noproxy", "",
		"--socks5-hostname", proxy, w.WebURL())
	if code != 0 || !strings.Contains(out, webText) {
		t.Errorf("curl: exit code %d\n%s", code, out)
	}

	browser := startBrowser(t, chromium, proxy)
	if err := chromedp.Do(browser, chromedp.Navigate(w.WebURL())); err != nil {
		t.Fatal(err)
	}
	title, err := chromedp.Run(browser, chromedp.Title())
	if err != nil || title != webTitle {
		t.Errorf("title %q, %v", title, err)
	}
	text, err := chromedp.Run(browser, chromedp.Text(chromedp.CSS("p")))
	if err != nil || !strings.Contains(text, webText) {
		t.Errorf("text %q, %v", text, err)
	}

	// The name came to the bastion as a name. (The browser asks for hosts of its own too, which do not exist there.)
	want := net.JoinHostPort(site.Hostname(), "80")
	if port := site.Port(); port != "" {
		want = site.Host
	}
	seen := 0
	for _, e := range w.audit(task, "connect") {
		if e["result"] != "ok" {
			continue
		}
		seen++
		if e["destination"] != want {
			t.Errorf("a connection to %v", e["destination"])
		}
	}
	if seen < 2 {
		t.Errorf("%d connections in the audit, want one for each client", seen)
	}
	w.interrupt(p)
}

// lookupHere resolves a name as this machine does by its files, and by its DNS server where that is on loopback: the
// test asks nobody else (.internal is a private domain, which no public server knows).
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

// startBrowser starts a browser that uses a SOCKS5 proxy for everything and resolves no name itself. The context is
// that of its first tab; the browser ends with the test.
func startBrowser(t *testing.T, program, proxy string) context.Context {
	t.Helper()
	home := t.TempDir()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(program), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Env("HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_CACHE_HOME="+home),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("proxy-server", "socks5://"+proxy), chromedp.Flag("proxy-bypass-list", "<-loopback>"),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
	)
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
