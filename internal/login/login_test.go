package login_test

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/login"
	"github.com/bastion-ssm/bastion/lab"
)

// A login by the browser writes a token that the SDK uses. The next one has nothing to do, and a later one uses the registration again.
func TestByCode(t *testing.T) {
	u := newUser(t, lab.SSOProfile, lab.IdentityCenterConfig{})
	u.opens(func(address string) { u.decide(address, "allow") })
	u.ensure(login.SignIn)
	if len(u.pages) != 1 || !strings.HasPrefix(u.pages[0], "200 ") || !strings.Contains(u.pages[0], "You are signed in to AWS") {
		t.Errorf("the browser shows %q", u.pages)
	}
	u.ensure(login.Kept)
	u.isCached()
	u.isSignedIn()

	path, err := u.origin.SSO.TokenFile()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	u.ensure(login.SignIn)
	if n := u.calls("RegisterClient"); n != 1 {
		t.Errorf("%d registrations", n)
	}
	u.clock.pass(90*24*time.Hour - 30*time.Minute) // before the registration's end, yet too late for a login
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	u.ensure(login.SignIn)
	if n := u.calls("RegisterClient"); n != 2 {
		t.Errorf("%d registrations after the first one's end", n)
	}
}

// isCached checks the form of the token's file: the AWS CLI's, for the user alone.
func (u *user) isCached() {
	u.t.Helper()
	sum := sha1.Sum([]byte(lab.SSOSession))
	data, err := os.ReadFile(filepath.Join(u.cache, hex.EncodeToString(sum[:])+".json"))
	if err != nil {
		u.t.Fatal(err)
	}
	var got map[string]string // with fields of other tools besides
	if err := json.Unmarshal(data, &got); err != nil && !strings.Contains(err.Error(), "cannot unmarshal object") {
		u.t.Fatal(err)
	}
	for _, field := range []string{"accessToken", "refreshToken", "clientId", "clientSecret"} {
		if got[field] == "" {
			u.t.Errorf("no %s", field)
		}
	}
	if got["startUrl"] != u.IdentityCenter().StartURL() || got["region"] != u.Region() {
		u.t.Errorf("startUrl %q, region %q", got["startUrl"], got["region"])
	}
	for _, field := range []string{"expiresAt", "registrationExpiresAt"} {
		if at, err := time.Parse("2006-01-02T15:04:05Z", got[field]); err != nil || at.Before(u.clock.now()) {
			u.t.Errorf("%s is %q: %v", field, got[field], err)
		}
	}
	entries, err := os.ReadDir(u.cache)
	if err != nil {
		u.t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			u.t.Errorf("%s has the mode %v: %v", e.Name(), info.Mode(), err)
		}
	}
}

// isSignedIn checks that the SDK gets credentials by the token.
func (u *user) isSignedIn() {
	u.t.Helper()
	cfg, err := awssdk.Load(u.t.Context(), awssdk.Source{CallTimeout: 20 * time.Second})
	if err != nil {
		u.t.Fatal(err)
	}
	who, err := sts.NewFromConfig(cfg).GetCallerIdentity(u.t.Context(), &sts.GetCallerIdentityInput{})
	if err != nil || !strings.HasSuffix(*who.Arn, "/"+lab.SSOUser) {
		u.t.Errorf("%v, %v", who, err)
	}
}

// The listener takes one answer, at its own address and path, with the login's own state. Everything else is refused, and the login
// goes on waiting.
func TestForeignAnswers(t *testing.T) {
	u := newUser(t, lab.SSOProfile, lab.IdentityCenterConfig{})
	u.opens(func(address string) {
		page, err := url.Parse(address)
		if err != nil {
			t.Error(err)
			return
		}
		back := page.Query().Get("redirect_uri")
		if !strings.HasPrefix(back, "http://127.0.0.1:") || !strings.HasSuffix(back, "/oauth/callback") {
			t.Errorf("the answer goes to %s", back)
		}
		state := page.Query().Get("state")
		for query, want := range map[string]string{
			"?code=x":                    "400 ",
			"?code=x&state=":             "400 ",
			"?code=x&state=" + state[1:]: "400 ",
			"?code=x&state=x" + state:    "400 ",
			"?error=access_denied":       "400 ",
			"?state=" + state:            "400 ",
			"?state=" + state + "&code=": "400 ",
			"x?code=x&state=" + state:    "404 ",
			"?code=x&state=" + state + strings.Repeat("x", 9<<10): "400 ",
		} {
			if got := u.get(back + query); !strings.HasPrefix(got, want) {
				t.Errorf("%q: %s, want %s", query, got, want)
			}
		}
		u.otherRequests(back + "?code=x&state=" + state)
		u.decide(address, "allow")
	})
	u.ensure(login.SignIn)
	u.isSignedIn()
}

// otherRequests sends the right answer in wrong ways.
func (u *user) otherRequests(answer string) {
	for _, change := range []func(*http.Request){
		func(r *http.Request) { r.Host = "localhost:" + r.URL.Port() }, // a name that was bound to the address
		func(r *http.Request) { r.Host = "attacker.example" },
		func(r *http.Request) { r.Method = http.MethodPost },
	} {
		r, err := http.NewRequestWithContext(u.t.Context(), http.MethodGet, answer, http.NoBody)
		if err != nil {
			u.t.Error(err)
			return
		}
		change(r)
		got, err := web.Do(r)
		if page := u.shown(got, err); !strings.HasPrefix(page, "4") {
			u.t.Errorf("%s with the host %s: %s", r.Method, r.Host, page)
		}
	}
}

// A code of another login is worth nothing: its verifier is missing.
func TestStolenCode(t *testing.T) {
	u := newUser(t, lab.SSOProfile, lab.IdentityCenterConfig{})
	u.opens(func(address string) {
		page, err := url.Parse(address)
		if err != nil {
			t.Error(err)
			return
		}
		query := page.Query()
		query.Set("code_challenge", "0123456789012345678901234567890123456789012") // of the attacker's verifier
		page.RawQuery = query.Encode()
		if got := u.decide(page.String(), "allow"); !strings.HasPrefix(got, "403 ") || !strings.Contains(got, "Not signed in") {
			t.Errorf("the browser shows %s", got)
		}
	})
	_, _, err := u.login.Ensure(t.Context(), false)
	u.tabs.Wait()
	if fail.KindOf(err) != fail.Credentials || !strings.Contains(err.Error(), "InvalidGrantException") {
		t.Errorf("%v", err)
	}
}

// A denial ends the login, by either way.
func TestDenied(t *testing.T) {
	for _, device := range []bool{false, true} {
		u := newUser(t, lab.SSOProfile, lab.IdentityCenterConfig{})
		u.login.Device = device
		u.opens(func(address string) { u.decide(address, "deny") })
		_, _, err := u.login.Ensure(t.Context(), false)
		u.tabs.Wait()
		if fail.KindOf(err) != fail.Credentials || !strings.Contains(err.Error(), "the login was refused") || fail.NextOf(err) == "" {
			t.Errorf("device code %v: %v (%s)", device, err, fail.NextOf(err))
		}
		if len(u.pages) != 1 || !device && !strings.Contains(u.pages[0], "Not signed in") {
			t.Errorf("the browser shows %q", u.pages)
		}
		if token, err := login.Cached(u.origin.SSO); err != nil || token.AccessToken != "" {
			t.Errorf("a token is cached: %v", err)
		}
	}
}

// A browser that is closed, or that nobody looks at, ends the login at its deadline; Ctrl-C at once.
func TestBrowserClosed(t *testing.T) {
	u := newUser(t, lab.SSOProfile, lab.IdentityCenterConfig{})
	u.login.Patience = 50 * time.Millisecond
	u.opens(func(address string) { u.get(address) })
	_, _, err := u.login.Ensure(t.Context(), false)
	if fail.KindOf(err) != fail.Timeout || !strings.Contains(err.Error(), "the browser brought no answer within 50ms") ||
		!strings.Contains(fail.NextOf(err), "--no-browser") {
		t.Errorf("%v (%s)", err, fail.NextOf(err))
	}
	u.login.Patience = time.Minute
	ctx, cancel := context.WithCancelCause(t.Context())
	interrupted := errors.New("interrupted")
	u.opens(func(string) { cancel(interrupted) })
	if _, _, err = u.login.Ensure(ctx, false); !errors.Is(err, interrupted) {
		t.Error(err)
	}
	u.tabs.Wait()
}

// Without a port for the answer, and without a browser, a code does.
func TestPortTaken(t *testing.T) {
	u := newUser(t, lab.SSOProfile, lab.IdentityCenterConfig{})
	u.login.Listen = func(context.Context) (net.Listener, error) {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Err: syscall.EADDRINUSE}
	}
	u.opens(func(address string) { u.decide(address, "allow") })
	u.ensure(login.SignIn)
	if len(u.notes) != 1 || !strings.Contains(u.notes[0], "address already in use") || u.prompt.Code == "" {
		t.Errorf("%q, %+v", u.notes, u.prompt)
	}
	u.isSignedIn()
}

// A missing browser leaves the address to the user.
func TestNoBrowserStarts(t *testing.T) {
	u := newUser(t, lab.SSOProfile, lab.IdentityCenterConfig{})
	u.login.Open = func(context.Context, string) error {
		u.tabs.Go(func() { u.decide(u.prompt.URL, "allow") })
		return errors.New("no program")
	}
	u.ensure(login.SignIn)
	if len(u.notes) != 1 || !strings.Contains(u.notes[0], "no browser was started (no program)") {
		t.Errorf("%q", u.notes)
	}
}

// The device code is asked about in the rhythm that Identity Center names, and more slowly after each slow_down.
func TestDevice(t *testing.T) {
	u := newUser(t, lab.SSOProfile, lab.IdentityCenterConfig{Interval: 5})
	u.login.Device = true
	u.IdentityCenter().SlowDown(2)
	var pauses []time.Duration
	u.login.Sleep = func(ctx context.Context, d time.Duration) error {
		pauses = append(pauses, d)
		u.clock.pass(d)
		if len(pauses) == 4 {
			if page := u.get(u.prompt.WithCode); !strings.Contains(page, "Authorization requested") {
				t.Errorf("the page of the code: %s", page)
			}
			if err := u.IdentityCenter().Decide(u.prompt.Code, true); err != nil {
				t.Error(err)
			}
		}
		return ctx.Err()
	}
	u.ensure(login.SignIn)
	if want := []time.Duration{5 * time.Second, 10 * time.Second, 15 * time.Second, 15 * time.Second}; !slices.Equal(pauses, want) {
		t.Errorf("pauses %v, want %v", pauses, want)
	}
	if u.prompt.Lasts != 10*time.Minute || !strings.HasSuffix(u.prompt.URL, "/device") {
		t.Errorf("%+v", u.prompt)
	}
	u.isCached()
	u.isSignedIn()
}

// A device code that nobody enters expires, by Identity Center's word or by the clock.
func TestDeviceExpires(t *testing.T) {
	for name, pass := range map[string]time.Duration{"by the answer": 11 * time.Minute, "by the clock": 0} {
		t.Run(name, func(t *testing.T) {
			u := newUser(t, lab.SSOProfile, lab.IdentityCenterConfig{DeviceLife: 2 * time.Second})
			u.login.Device = true
			if pass > 0 {
				u.login.Sleep = func(ctx context.Context, _ time.Duration) error {
					u.clock.pass(pass)
					return ctx.Err()
				}
			}
			_, _, err := u.login.Ensure(t.Context(), false)
			if fail.KindOf(err) != fail.Timeout || !strings.Contains(err.Error(), "has expired before it was entered") {
				t.Error(err)
			}
		})
	}
}

// An expired token is renewed without the user, and its file keeps what other tools have put there. Once the session has ended, the
// user signs in again.
func TestRenewal(t *testing.T) {
	u := newUser(t, lab.SSOProfile, lab.IdentityCenterConfig{})
	u.opens(func(address string) { u.decide(address, "allow") })
	first := u.ensure(login.SignIn)
	path, err := u.origin.SSO.TokenFile()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(`{"ofAnother":{"tool":1},`+strings.TrimPrefix(string(data), "{")), 0o644); err != nil {
		t.Fatal(err)
	}
	u.clock.pass(time.Hour)
	second := u.ensure(login.Renewed)
	if second.AccessToken == first.AccessToken || second.RefreshToken == first.RefreshToken {
		t.Error("the token is the old one")
	}
	if data, err = os.ReadFile(path); err != nil || !strings.Contains(string(data), `"ofAnother":{"tool":1}`) {
		t.Errorf("%s, %v", data, err)
	}
	u.isCached()
	u.clock.pass(time.Hour)
	u.IdentityCenter().EndSessions()
	u.ensure(login.SignIn)

	// AWS has refused the token although it has not expired.
	u.IdentityCenter().EndSessions()
	u.ensure(login.Kept)
	if _, outcome, err := u.login.Ensure(t.Context(), true); err != nil || outcome != login.SignIn {
		t.Errorf("%q, %v", outcome, err)
	}
}

// A renewal that gets no answer is an error: the user need not sign in.
func TestRenewalUnanswered(t *testing.T) {
	u := newUser(t, lab.SSOProfile, lab.IdentityCenterConfig{})
	u.opens(func(address string) { u.decide(address, "allow") })
	u.ensure(login.SignIn)
	u.clock.pass(time.Hour)
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
	cfg, err := awssdk.LoadUnsigned(t.Context(), awssdk.Source{Region: u.origin.SSO.Region, CallTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	u.login.Config = cfg
	if _, _, err := u.login.Ensure(t.Context(), false); err == nil || len(u.pages) != 1 {
		t.Errorf("%v, pages %q", err, u.pages)
	}
}

// A registration that Identity Center no longer knows is made again: at once where the answer says so, and otherwise after the page
// has said so to the user alone.
func TestForgottenClient(t *testing.T) {
	for _, device := range []bool{false, true} {
		u := newUser(t, lab.SSOProfile, lab.IdentityCenterConfig{})
		u.login.Device = device
		u.opens(func(address string) { u.decide(address, "allow") })
		u.ensure(login.SignIn)
		u.clock.pass(time.Hour)
		u.IdentityCenter().ForgetClients()
		if !device {
			u.login.Patience = 200 * time.Millisecond
			_, _, err := u.login.Ensure(t.Context(), false)
			u.tabs.Wait()
			if page := u.pages[len(u.pages)-1]; fail.KindOf(err) != fail.Timeout || !strings.Contains(page, "Invalid request") {
				t.Errorf("%v; the browser shows %s", err, page)
			}
			u.login.Patience = time.Minute
		}
		u.ensure(login.SignIn)
		if n := u.calls("RegisterClient"); n != 2 {
			t.Errorf("device code %v: %d registrations", device, n)
		}
	}
}

// A legacy profile's login works by a code, and the lines to change are a configuration that works.
func TestLegacy(t *testing.T) {
	u := newUser(t, lab.SSOLegacy, lab.IdentityCenterConfig{})
	u.opens(func(address string) { u.decide(address, "allow") })
	token := u.ensure(login.SignIn)
	if token.RefreshToken != "" || u.prompt.Code == "" {
		t.Errorf("a refresh token %q, a code %q", token.RefreshToken, u.prompt.Code)
	}
	u.isSignedIn()
	lines := login.LegacyLines(&u.origin)
	if !strings.Contains(lines, "[profile sso-legacy]") || !strings.Contains(lines, u.origin.Config) {
		t.Errorf("%s", lines)
	}
	config := "[profile sso-legacy]\nsso_account_id = " + lab.Account + "\nsso_role_name = " + lab.SSORole + "\nregion = eu-central-1\n"
	for line := range strings.Lines(lines) {
		if strings.HasPrefix(line, "  ") {
			config += strings.TrimLeft(line, " ")
		}
	}
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CONFIG_FILE", path)
	origin, err := awssdk.OriginOf(t.Context(), nil, "")
	if err != nil || origin.SSO.Name != "corp" || origin.SSO.StartURL != u.IdentityCenter().StartURL() || login.LegacyLines(&origin) != "" {
		t.Errorf("%+v, %v", origin, err)
	}
	u.origin, u.login.Session = origin, origin.SSO
	u.ensure(login.SignIn)
	u.isSignedIn()
}

// The AWS CLI uses the token, and its logout ends it.
func TestAWSCLI(t *testing.T) {
	cli := rig.Need(t, "aws")
	u := newUser(t, lab.SSOProfile, lab.IdentityCenterConfig{})
	u.opens(func(address string) { u.decide(address, "allow") })
	token := u.ensure(login.SignIn)
	run := func(args ...string) (string, error) {
		out, err := exec.CommandContext(t.Context(), cli, args...).CombinedOutput()
		return string(out), err
	}
	version, err := run("--version")
	if err != nil {
		t.Fatal(err)
	}
	t.Log(version)
	who, err := run("sts", "get-caller-identity", "--profile", lab.SSOProfile)
	if err != nil || !strings.Contains(who, "assumed-role/AWSReservedSSO_developer_0123456789abcdef/"+lab.SSOUser) {
		t.Errorf("%s, %v", who, err)
	}
	// A token that has expired is the CLI's to renew, by the registration in its file.
	old, err := os.ReadFile(must(u.origin.SSO.TokenFile()))
	if err != nil {
		t.Fatal(err)
	}
	expired := strings.Replace(string(old), `"expiresAt":"`, `"expiresAt":"2020-01-01T00:00:00Z","was":"`, 1)
	if err := os.WriteFile(must(u.origin.SSO.TokenFile()), []byte(expired), 0o600); err != nil {
		t.Fatal(err)
	}
	if who, err := run("sts", "get-caller-identity", "--profile", lab.SSOProfile); err != nil {
		t.Errorf("with an expired token: %s, %v", who, err)
	}
	renewed, err := login.Cached(u.origin.SSO)
	if err != nil || renewed.AccessToken == token.AccessToken || !renewed.Valid(time.Now()) || !renewed.Renewable(time.Now()) {
		t.Errorf("the CLI's token: valid %v, %v", renewed.Valid(time.Now()), err)
	}
	logout := []string{"sso", "logout"}
	if strings.HasPrefix(version, "aws-cli/1.") {
		logout = append(logout, "--access-token", renewed.AccessToken, "--region", u.origin.SSO.Region)
	}
	if out, err := run(logout...); err != nil {
		t.Errorf("%s, %v", out, err)
	}
	if _, err := awssdk.Load(t.Context(), awssdk.Source{CallTimeout: 20 * time.Second}); fail.KindOf(err) != fail.Credentials ||
		!strings.Contains(fail.NextOf(err), "bastion login --profile "+lab.SSOProfile) {
		t.Errorf("after the logout: %v (%s)", err, fail.NextOf(err))
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A token of the AWS CLI counts, in the form of each of its versions; anything else in the cache is no token.
func TestCached(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	session := awssdk.SSOSession{Name: "corp", StartURL: "https://corp.example/start", Region: "eu-central-1"}
	path := must(session.TokenFile())
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for text, valid := range map[string]bool{
		`{"accessToken":"x","expiresAt":"2026-03-01T12:02:00Z"}`:      true,
		`{"accessToken":"x","expiresAt":"2026-03-01T12:02:00UTC"}`:    true,
		`{"accessToken":"x","expiresAt":"2026-03-01T13:02:00+01:00"}`: true,
		`{"accessToken":"x","expiresAt":"2026-03-01T12:00:59Z"}`:      false, // it would expire in use
		`{"accessToken":"x","expiresAt":"2026-03-01T11:00:00Z"}`:      false,
		`{"accessToken":"x"}`: false,
		`{"accessToken":7,"expiresAt":"2026-03-01T13:00:00Z"}`: false,
		`{"accessToken":"x","expiresAt":"tomorrow"}`:           false,
		``:     false,
		`[]`:   false,
		`null`: false,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		token, err := login.Cached(session)
		if err != nil || token.Valid(now) != valid {
			t.Errorf("%s: valid %v, %v", text, token.Valid(now), err)
		}
	}
	if err := os.WriteFile(path, []byte(strings.Repeat(" ", 70<<10)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := login.Cached(session); err == nil {
		t.Error("a file of any size is read")
	}
}

// A browser brings the code unless it runs elsewhere.
func TestSurroundings(t *testing.T) {
	for _, tt := range []struct {
		system, env, want string
	}{
		{"linux", "DISPLAY", ""},
		{"linux", "WAYLAND_DISPLAY", ""},
		{"linux", "BROWSER", ""},
		{"linux", "", "no display"},
		{"freebsd", "", "no display"},
		{"linux", "DISPLAY SSH_CONNECTION", "SSH"},
		{"linux", "DISPLAY SSH_TTY", "SSH"},
		{"darwin", "SSH_CLIENT", "SSH"},
		{"windows", "SSH_CONNECTION", "SSH"},
		{"linux", "DISPLAY WSL_DISTRO_NAME", "WSL"},
		{"linux", "DISPLAY WSL_INTEROP", "WSL"},
		{"windows", "", ""},
		{"darwin", "", ""},
	} {
		s := login.Surroundings{System: tt.system, Getenv: func(name string) string {
			if slices.Contains(strings.Fields(tt.env), name) {
				return "1"
			}
			return ""
		}}
		if got := s.NoBrowser(); (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}
