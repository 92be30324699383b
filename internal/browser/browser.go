// Package browser finds an installed browser and runs it with its own profile. The browser reaches the private network through
// a proxy and cannot bypass it.
package browser

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// Browser is an installed browser and its kind.
type Browser struct {
	name    string // profile name
	Program string
	firefox bool // Firefox's kind; otherwise Chromium's
	Options []string
}

// Prepare writes the browser's settings into its profile. Chromium takes them on its command line.
func (b *Browser) Prepare(profile string, p *Proxy) error {
	if !b.firefox {
		return nil
	}
	return files.Replace(filepath.Join(profile, "user.js"), []byte(firefoxPrefs(p)), 0o600)
}

// Args returns the browser's command line. p is nil for a browser that already runs.
func (b *Browser) Args(profile string, p *Proxy, page string) []string {
	var args []string
	if b.firefox {
		args = []string{"--profile", profile}
		if runtime.GOOS == "windows" {
			args = append(args, "--wait-for-browser")
		}
	} else {
		args = append([]string{"--user-data-dir=" + profile}, chromiumArgs(p)...)
	}
	args = append(args, b.Options...)
	if page != "" {
		args = append(args, page)
	}
	return args
}

// chromiumArgs returns Chromium's switches. The proxy does not carry UDP, so they disable QUIC and keep WebRTC on the proxy.
func chromiumArgs(p *Proxy) []string {
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
		scheme = "http" // Chromium does not support SOCKS passwords
	}
	host, _, err := net.SplitHostPort(p.addr)
	if err != nil {
		host = p.addr
	}
	return append(args, "--proxy-server="+scheme+"://"+p.addr,
		"--proxy-bypass-list=<-loopback>", // loopback addresses are the bastion's, not this machine's
		"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE "+host,
		// The browser's own background requests, which the bastion would refuse.
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-domain-reliability")
}

// firefoxPrefs returns the settings for the profile's user.js.
func firefoxPrefs(p *Proxy) string {
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
		{"network.trr.mode", 5}, // disables DNS over HTTPS, which cannot resolve private names
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

const browserEnd = 10 * time.Second // for a browser to end after SIGTERM

// Run runs the browser until it ends. When ctx ends, Run ends the browser.
func (b *Browser) Run(ctx context.Context, p *Profile, args []string) error {
	// #nosec G204 -- the user's browser
	cmd := exec.CommandContext(ctx, b.Program, args...)
	cmd.Env = withoutSecrets(os.Environ())
	log, err := os.OpenFile(p.log(), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return fail.New(fail.Other, "write the browser's log", err, "check state_dir")
	}
	defer func() { _ = log.Close() }()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return cmd.Process.Kill() // Windows lacks SIGTERM
		}
		return nil
	}
	cmd.WaitDelay = browserEnd
	err = cmd.Run()
	isExit := errors.As(err, new(*exec.ExitError))
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil:
		return nil
	case isExit && p.InUse():
		return fail.New(fail.Other, "hand the page to the browser that runs", err,
			"open it there, or use --fresh for another one")
	case isExit:
		return fail.New(fail.Other, "run "+b.Program, fmt.Errorf("%w: %s", err, lastLine(log)),
			"read "+p.log()+", or use another one: --browser NAME")
	}
	return fail.New(fail.Other, "start the browser", err, "use another one: --browser NAME")
}

// withoutSecrets returns the environment without the variables of AWS and bastion, which the browser does not need.
func withoutSecrets(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		return strings.HasPrefix(kv, "AWS_") || strings.HasPrefix(kv, "BASTION_")
	})
}

// lastLine returns the last line of the last 1000 bytes of a log.
func lastLine(f *os.File) string {
	buf := make([]byte, 1000)
	size, err := f.Seek(0, 2)
	if err != nil {
		return ""
	}
	n, _ := f.ReadAt(buf, max(0, size-int64(len(buf)))) // a short read suffices
	lines := strings.Split(strings.TrimSpace(string(buf[:n])), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
