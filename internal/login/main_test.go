package login_test

import (
	"context"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/login"
	"github.com/bastion-ssm/bastion/lab"
)

// user is a user of the lab's Identity Center, with a home directory and a browser.
type user struct {
	*lab.Lab
	t      *testing.T
	origin awssdk.Origin
	cache  string
	clock  *clock
	login  *login.Login

	mu     sync.Mutex
	notes  []string
	prompt login.Prompt
	pages  []string // what the browser has shown
	tabs   sync.WaitGroup
}

// clock is the lab's and the user's.
type clock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

// newUser starts a lab, and returns its user with a profile.
func newUser(t *testing.T, profile string, c lab.IdentityCenterConfig) *user {
	t.Helper()
	clk := new(clock)
	l, err := lab.Start(t.Context(), lab.Config{Postgres: lab.Off, Redis: lab.Off, NoWeb: true, IdentityCenter: c, Now: clk.now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	home := t.TempDir()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, kv := range append(l.Env(), "HOME="+home, "AWS_PROFILE="+profile) {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	u := &user{Lab: l, t: t, cache: filepath.Join(home, ".aws", "sso", "cache"), clock: clk}
	if u.origin, err = awssdk.OriginOf(t.Context(), nil, ""); err != nil {
		t.Fatal(err)
	}
	cfg, err := awssdk.LoadUnsigned(t.Context(), awssdk.Source{Region: u.origin.SSO.Region, CallTimeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	u.login = &login.Login{
		Session: u.origin.SSO, Config: cfg, LockDir: t.TempDir(), Now: clk.now, Patience: 20 * time.Second,
		Tell: func(p login.Prompt) {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.prompt = p
		},
		Note: func(text string) {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.notes = append(u.notes, text)
		},
	}
	t.Cleanup(func() {
		u.tabs.Wait()
		if err := u.login.Close(); err != nil {
			t.Error(err)
		}
	})
	return u
}

var pageLink = regexp.MustCompile(`url=([^"]+)"`)

// opens makes the browser do something with the address that it is started with.
func (u *user) opens(do func(address string)) {
	u.login.Open = func(_ context.Context, file string) error {
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		if info.Mode().Perm() != 0o600 {
			u.t.Errorf("%s has the mode %v", file, info.Mode())
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		u.tabs.Go(func() { do(html.UnescapeString(pageLink.FindStringSubmatch(string(text))[1])) })
		return nil
	}
}

// decide presses a button of the page at an address, and returns what the browser then shows.
func (u *user) decide(address, decision string) string {
	return u.request(http.MethodPost, address, url.Values{"decision": {decision}}.Encode())
}

// get returns what the browser shows at an address.
func (u *user) get(address string) string {
	return u.request(http.MethodGet, address, "")
}

// web is the browser.
var web = &http.Client{Timeout: time.Minute}

func (u *user) request(method, address, form string) string {
	r, err := http.NewRequestWithContext(u.t.Context(), method, address, strings.NewReader(form))
	if err != nil {
		u.t.Error(err)
		return ""
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	got, err := web.Do(r)
	return u.shown(got, err)
}

func (u *user) shown(r *http.Response, err error) string {
	if err != nil {
		u.t.Error(err)
		return ""
	}
	defer func() { _ = r.Body.Close() }()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		u.t.Error(err)
	}
	page := fmt.Sprintf("%d %s", r.StatusCode, text)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.pages = append(u.pages, page)
	return page
}

// ensure calls Ensure and checks its outcome.
func (u *user) ensure(want login.Outcome) login.Token {
	u.t.Helper()
	token, outcome, err := u.login.Ensure(u.t.Context(), false)
	u.tabs.Wait()
	if err != nil || outcome != want {
		u.t.Fatalf("%q, %v; want %q\n%s", outcome, err, want, u.notes)
	}
	return token
}

// calls returns how often an action was called.
func (u *user) calls(action string) int { return u.IdentityCenter().Calls()["sso-oauth:"+action] }
