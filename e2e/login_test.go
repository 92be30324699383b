//go:build linux

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/lab"
)

var (
	shortLife = flag.Duration("credentials-life", 10*time.Second, "life of the credentials of TestCredentialsExpire")
	shortRun  = flag.Duration("credentials-run", 45*time.Second, "duration of TestCredentialsExpire")
)

// ssoWorld is a world whose user signs in to the lab's Identity Center. Pages that commands open are kept in a file.
func ssoWorld(t *testing.T, newWorld func(*testing.T, func(*lab.Config)) *world, change func(*lab.Config)) (w *world, opened string) {
	t.Helper()
	w = newWorld(t, change)
	programs := filepath.Join(w.home, "programs")
	opened = filepath.Join(w.home, "opened")
	if err := os.Mkdir(programs, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, script := range map[string]string{
		"xdg-open":    `echo "$1" >> '` + opened + `'`,
		"notify-send": `printf '%s|' "$@" >> '` + opened + `-notes'; echo >> '` + opened + `-notes'`,
	} {
		if err := os.WriteFile(filepath.Join(programs, name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w.env = append(w.env, "AWS_PROFILE="+lab.SSOProfile, "DISPLAY=:0", "SSH_CONNECTION=", "SSH_CLIENT=", "SSH_TTY=", "WSL_DISTRO_NAME=", "WSL_INTEROP=",
		"PATH="+programs+":"+strings.Join([]string{bin, filepath.Join(rig.Root(), "build", "tools"), os.Getenv("PATH")}, ":"))
	return w, opened
}

// loginOutput is what `bastion login -o json` prints.
type loginOutput struct {
	Outcome, Identity, Source string
}

// ended waits for a login's end.
func (w *world) ended(p *rig.Proc, code int) loginOutput {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	got, err := p.Wait(ctx)
	if err != nil || got != code {
		w.t.Fatalf("exit code %d, %v; want %d\n%s", got, err, code, p.Output())
	}
	var out loginOutput
	if code == 0 {
		if err := json.Unmarshal([]byte(strings.Join(p.Stdout(), "\n")), &out); err != nil {
			w.t.Fatalf("%v in %s", err, p.Output())
		}
	}
	return out
}

// signIn signs in by a code, without a browser.
func (w *world) signIn() {
	w.t.Helper()
	p := w.bastion("login", "--no-browser", "-o", "json")
	code := w.userCode(p)
	if err := w.IdentityCenter().Decide(code, true); err != nil {
		w.t.Fatal(err)
	}
	if out := w.ended(p, 0); out.Outcome != "signed_in" || !strings.HasSuffix(out.Identity, "/"+lab.SSOUser) {
		w.t.Fatalf("%+v", out)
	}
}

var userCode = regexp.MustCompile(`enter the code ([0-9A-F-]+),`)

// userCode waits for the code that a login prints.
func (w *world) userCode(p *rig.Proc) string {
	w.t.Helper()
	var m []string
	if !w.within(time.Minute, func() bool {
		m = userCode.FindStringSubmatch(p.Output())
		return m != nil
	}) {
		w.t.Fatalf("no code\n%s", p.Output())
	}
	return m[1]
}

// A real browser brings the code: `bastion login` starts it with a page, the user allows the access, and the browser says that the
// user is signed in. The AWS CLI has the login too.
func TestLoginBrowser(t *testing.T) {
	w, opened := ssoWorld(t, newWorld, nil)
	browser := startBrowser(t)
	for _, decision := range []string{"deny", "allow"} {
		_ = os.Remove(opened)
		p := w.bastion("login", "-o", "json")
		if !w.within(time.Minute, func() bool {
			text, err := os.ReadFile(opened)
			return err == nil && bytes.HasSuffix(text, []byte("\n"))
		}) {
			t.Fatalf("no page was opened\n%s", p.Output())
		}
		page, err := os.ReadFile(opened)
		if err != nil {
			t.Fatal(err)
		}
		if err := chromedp.Do(browser, chromedp.Navigate("file://"+strings.TrimSpace(string(page))), chromedp.WaitVisible("#"+decision),
			chromedp.Click("#"+decision)); err != nil {
			t.Fatal(err)
		}
		if decision == "deny" {
			w.shows(browser, "Not signed in")
			w.ended(p, 4)
			continue
		}
		w.shows(browser, "You are signed in to AWS. You may close this window")
		w.picture(browser, "login.png")
		if out := w.ended(p, 0); out.Outcome != "signed_in" {
			t.Errorf("%+v", out)
		}
		if strings.Contains(p.Output(), "lab-sso-") {
			t.Errorf("a secret is printed: %s", p.Output())
		}
	}
	if left, err := filepath.Glob(filepath.Join(w.home, "bastion", "login-*", "login.html")); err != nil || len(left) > 0 {
		t.Errorf("%q are left, %v", left, err)
	}
	w.isSignedIn()
}

// shows waits until the browser shows a text.
func (w *world) shows(browser context.Context, want string) {
	w.t.Helper()
	var text string
	var err error
	if !w.within(30*time.Second, func() bool {
		text, err = bodyText(browser)
		return err == nil && strings.Contains(text, want)
	}) {
		w.t.Errorf("the browser shows %q, %v; want %q", text, err, want)
	}
}

// isSignedIn checks that bastion and the AWS CLI have a login.
func (w *world) isSignedIn() {
	w.t.Helper()
	if out := w.ended(w.bastion("login", "-o", "json"), 0); out.Outcome != "kept" {
		w.t.Errorf("%+v", out)
	}
	if out := w.ended(w.bastion("login", "--check", "-o", "json"), 0); out.Outcome != "works" || !strings.HasSuffix(out.Identity, "/"+lab.SSOUser) {
		w.t.Errorf("%+v", out)
	}
	code, out := w.run(time.Minute, rig.Need(w.t, "aws"), "sts", "get-caller-identity", "--profile", lab.SSOProfile)
	if code != 0 || !strings.Contains(out, lab.SSOUser) {
		w.t.Errorf("the AWS CLI: exit code %d\n%s", code, out)
	}
}

// A real browser enters a device's code. Before and after, --check says by its exit code whether there is a login.
func TestLoginDevice(t *testing.T) {
	w, opened := ssoWorld(t, newWorld, nil)
	w.env = append(w.env, "SSH_CONNECTION=127.0.0.1 1 127.0.0.1 22")
	p := w.bastion("login", "--check", "-o", "json")
	w.ended(p, 4)
	if !strings.Contains(p.Output(), "bastion login --profile "+lab.SSOProfile) {
		t.Error(p.Output())
	}
	p = w.bastion("login", "-o", "json")
	code := w.userCode(p)
	browser := startBrowser(t)
	if err := chromedp.Do(browser, chromedp.Navigate(w.URL()+"/start/device"), chromedp.SendKeys("#user_code", code), chromedp.Click("#next"),
		chromedp.WaitVisible("#allow"), chromedp.Click("#allow")); err != nil {
		t.Fatal(err)
	}
	w.shows(browser, "Request answered")
	if out := w.ended(p, 0); out.Outcome != "signed_in" || !strings.Contains(p.Output(), "this is an SSH session") {
		t.Errorf("%+v\n%s", out, p.Output())
	}
	if _, err := os.Stat(opened); err == nil {
		t.Error("a browser was started in an SSH session")
	}
	w.isSignedIn()
}

// Credentials that expire again and again are renewed in time: a transfer through one connection goes on, with every byte.
func TestCredentialsExpire(t *testing.T) {
	w, _ := ssoWorld(t, newAgentWorld, func(c *lab.Config) {
		c.IdentityCenter = lab.IdentityCenterConfig{RoleLife: *shortLife, TokenLife: 4 * *shortLife}
	})
	w.signIn()
	_, addrs := w.forward(w.far.Addr(), ":")
	conn := w.dialEcho(addrs[0])
	sent := w.echo(conn, *shortRun)
	calls := w.IdentityCenter().Calls()
	renewals := calls["sso:GetRoleCredentials"]
	t.Logf("%d bytes each way in %s; credentials of %s: %d roles, %d tokens", sent, *shortRun, *shortLife, renewals, calls["sso-oauth:CreateToken"])
	if want := int(*shortRun / *shortLife); renewals < want || calls["sso-oauth:CreateToken"] < 2 {
		t.Errorf("%d renewals, want at least %d; %v", renewals, want, calls)
	}
	for _, f := range w.agentState().Forwards {
		if f.Stats.Failed != 0 || f.Stats.Total != 1 {
			t.Errorf("%+v", f.Stats)
		}
	}
}

// When Identity Center's session is over, the agent asks once, and everything goes on: the link, its sessions and a connection, which
// waits once they are lost. After the login nothing is started again, and the next expiry asks again.
func TestSignInAgain(t *testing.T) {
	w, opened := ssoWorld(t, newAgentWorld, func(c *lab.Config) { c.IdentityCenter = lab.IdentityCenterConfig{RoleLife: 15 * time.Second} })
	w.signIn()
	_, addrs := w.forward(w.far.Addr(), ":")
	conn := w.dialEcho(addrs[0])
	w.echo(conn, time.Second)
	agent := w.agentState().PID

	w.IdentityCenter().EndSessions()
	asked := w.asked("bastion login --profile " + lab.SSOProfile)
	w.echo(conn, time.Second) // sessions go on
	code, out := w.run(time.Minute, filepath.Join(bin, "bastion"), "status")
	if code != 4 || !strings.Contains(out, "sign in again: bastion login --profile "+lab.SSOProfile) {
		t.Errorf("status: exit code %d\n%s", code, out)
	}
	if code, out := w.run(time.Minute, filepath.Join(bin, "bastion"), "top"); code != 0 || !strings.Contains(out, "sign in again: "+asked.Command) {
		t.Errorf("top: exit code %d\n%s", code, out)
	}
	_, page := w.dashboardLink()
	_, dashboard := rig.StartBrowser(t)
	dashboard.Do(chromedp.Navigate("file://" + page))
	dashboard.Until(fmt.Sprintf(`document.body?.innerText.includes(%q)`, "Sign in to AWS again: "+asked.Command))
	if !w.within(time.Minute, func() bool { return time.Now().After(asked.Expires) }) {
		t.Fatal("the credentials do not expire")
	}
	w.Gateway().Cut("", "reset")
	goesOn := make(chan error, 1)
	go func() {
		_, err := trips(conn, time.Second)
		goesOn <- err
	}()
	if !w.within(time.Minute, func() bool { return w.agentState().Links[0].State == "waiting" }) {
		t.Errorf("the link does not wait: %+v", w.agentState().Links)
	}
	if n := w.notifications(opened); n != 1 {
		t.Errorf("%d notifications", n)
	}

	w.signIn()
	began := time.Now()
	select {
	case err := <-goesOn:
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("the connection goes on %s after the login", time.Since(began).Round(time.Millisecond))
	case <-time.After(time.Minute):
		t.Fatalf("the connection does not go on: %+v", w.agentState().Links)
	}
	dashboard.Until(`!document.body?.innerText.includes("Sign in to AWS again")`)
	if !w.within(30*time.Second, func() bool { return w.agentState().Links[0].SignIn == nil }) {
		t.Errorf("the agent still asks: %+v", w.agentState().Links)
	}
	st := w.agentState()
	if st.PID != agent || len(st.Links) != 1 || st.Forwards[0].Stats.Total != 1 || st.Forwards[0].Stats.Failed != 0 {
		t.Errorf("%+v", st)
	}
	w.IdentityCenter().EndSessions()
	w.asked("bastion login --profile " + lab.SSOProfile)
	if !w.within(time.Minute, func() bool { return w.notifications(opened) == 2 }) {
		t.Errorf("%d notifications after the second expiry", w.notifications(opened))
	}
}

// asked waits until the agent asks for a login.
func (w *world) asked(command string) report.SignIn {
	w.t.Helper()
	var s *report.SignIn
	if !w.within(time.Minute, func() bool {
		links := w.agentState().Links
		if len(links) == 1 {
			s = links[0].SignIn
		}
		return s != nil
	}) {
		w.t.Fatalf("the agent asks for no login: %+v", w.agentState().Links)
	}
	if s.Command != command || s.Reason == "" || s.Since.IsZero() {
		w.t.Errorf("%+v", s)
	}
	return *s
}

// notifications counts the notifications.
func (w *world) notifications(opened string) int {
	text, err := os.ReadFile(opened + "-notes")
	if err != nil && !os.IsNotExist(err) {
		w.t.Error(err)
	}
	return strings.Count(string(text), "Sign in to AWS again|")
}

// dialEcho connects to the far end's echo through a forward, until the test ends.
func (w *world) dialEcho(addr string) net.Conn {
	w.t.Helper()
	conn, err := rig.Dial(w.t.Context(), addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Write([]byte("e")); err != nil {
		w.t.Fatal(err)
	}
	return conn
}

// echo sends random bytes to the far end's echo for a time, and checks that they all come back.
func (w *world) echo(conn net.Conn, during time.Duration) (sent int64) {
	w.t.Helper()
	sent, err := trips(conn, during)
	if err != nil {
		w.t.Fatal(err)
	}
	return sent
}

// trips is echo for goroutines.
func trips(conn net.Conn, during time.Duration) (sent int64, err error) {
	buf, back := make([]byte, 16<<10), make([]byte, 16<<10)
	for end := time.Now().Add(during); time.Now().Before(end); {
		_, _ = rand.Read(buf)
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			return sent, err
		}
		written := make(chan error, 1)
		go func() { _, err := conn.Write(buf); written <- err }()
		_, err := io.ReadFull(conn, back)
		if err != nil {
			return sent, fmt.Errorf("after %d bytes: %w", sent, err)
		}
		if err := <-written; err != nil {
			return sent, fmt.Errorf("after %d bytes: %w", sent, err)
		}
		if !bytes.Equal(buf, back) {
			return sent, fmt.Errorf("after %d bytes: others came back", sent)
		}
		sent += int64(len(buf))
	}
	return sent, nil
}
