package login

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"html"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssooidc/types"

	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// Prompt tells the user what to do.
type Prompt struct {
	URL      string // page to open
	Code     string // code to enter there; "": none is needed, and the browser must be on this machine
	WithCode string // page that has the code already
	Lasts    time.Duration
}

// defaultPatience is how long a login waits for the browser.
const defaultPatience = 10 * time.Minute

// Login signs a user in to a session of IAM Identity Center. Tell is required.
type Login struct {
	Session awssdk.SSOSession
	Config  aws.Config // for calls without a signature: see awssdk.LoadUnsigned
	LockDir string     // private directory of the lock that keeps processes from renewing the same token at once
	Device  bool       // use the device code

	Tell     func(Prompt)
	Note     func(string)                                 // receives notes for the user; nil: ignored
	Open     func(ctx context.Context, file string) error // opens a file in the user's browser; nil: nothing is opened
	Patience time.Duration                                // for the browser's answer; 0: defaultPatience

	// Tests replace these; nil: the network, the clock and a timer.
	Listen func(ctx context.Context) (net.Listener, error)
	Now    func() time.Time
	Sleep  func(context.Context, time.Duration) error

	pages []string // directories with files for the browser, until Close
}

// Outcome says what Ensure did.
type Outcome string

// The outcomes of Ensure.
const (
	Kept    Outcome = "kept"    // the token is valid
	Renewed Outcome = "renewed" // without the user
	SignIn  Outcome = "signed_in"
)

func (l *Login) note(format string, args ...any) {
	if l.Note != nil {
		l.Note(fmt.Sprintf(format, args...))
	}
}

func (l *Login) patience() time.Duration {
	if l.Patience > 0 {
		return l.Patience
	}
	return defaultPatience
}

// Ensure makes the session's token in the cache valid: it keeps a valid one, unless again is set, renews one that can be, and
// otherwise signs the user in. With again, a token that AWS has refused is not kept.
func (l *Login) Ensure(ctx context.Context, again bool) (Token, Outcome, error) {
	now := l.Now
	if now == nil {
		now = time.Now
	}
	op := "sign in to " + l.Session.StartURL
	unlock, err := l.lock(ctx)
	if err != nil {
		return Token{}, "", fail.New(fail.Other, op, err, "")
	}
	defer unlock()
	path, err := l.Session.TokenFile()
	if err != nil {
		return Token{}, "", fail.New(fail.Other, op, err, "set HOME")
	}
	t, err := Cached(l.Session)
	if err != nil {
		return Token{}, "", fail.New(fail.Other, op, fmt.Errorf("read the cached token: %w", err), "make "+path+" a file that you can read")
	}
	if t.Valid(now()) && !again {
		return t, Kept, nil
	}
	c := newClient(l.Config, l.Session, now)
	outcome := Renewed
	renewed, err := l.tryRenewal(ctx, c, t, now())
	switch {
	case err != nil:
		return Token{}, "", explain(op, err)
	case renewed.AccessToken != "":
		t = renewed
	default:
		outcome = SignIn
		if t, err = l.signIn(ctx, c); err != nil {
			return Token{}, "", explain(op, err)
		}
	}
	if err := writeCache(path, t); err != nil {
		next := "make " + filepath.Dir(path) + " a directory that you can write to"
		if files.IsForeign(err) {
			next = "run the command as that user, without sudo"
		}
		return Token{}, "", fail.New(fail.Other, op, fmt.Errorf("write the token to AWS's cache: %w", err), next)
	}
	return t, outcome, nil
}

// tryRenewal renews a token that can be. It returns the zero Token if the user has to sign in.
func (l *Login) tryRenewal(ctx context.Context, c *client, t Token, now time.Time) (Token, error) {
	if !t.Renewable(now) {
		return Token{}, nil
	}
	renewed, err := c.renew(ctx, t)
	switch {
	case err == nil:
		return renewed, nil
	case awssdk.NeedsUser(err):
		return Token{}, nil // Identity Center's session is over
	}
	return Token{}, err
}

// signIn signs the user in. If Identity Center has forgotten the registration, it registers again, once.
func (l *Login) signIn(ctx context.Context, c *client) (Token, error) {
	t, device, err := l.signInOnce(ctx, c)
	if is[*types.InvalidClientException](err) || is[*types.UnauthorizedClientException](err) {
		if err := c.forgetRegistration(device); err != nil {
			return Token{}, err
		}
		t, _, err = l.signInOnce(ctx, c)
	}
	if !device && fail.KindOf(err) == fail.Timeout {
		// The page may have told the user alone that the registration is unknown. The next login registers again.
		return t, cmp.Or(c.forgetRegistration(false), err)
	}
	return t, err
}

func (l *Login) signInOnce(ctx context.Context, c *client) (t Token, device bool, err error) {
	if l.Device || l.Session.Name == "" { // legacy profiles' tokens come by the device code alone
		t, err = l.byDevice(ctx, c)
		return t, true, err
	}
	listen := l.Listen
	if listen == nil {
		listen = func(ctx context.Context) (net.Listener, error) {
			return new(net.ListenConfig).Listen(ctx, "tcp4", "127.0.0.1:0")
		}
	}
	ln, err := listen(ctx)
	if err != nil {
		l.note("no port for the browser's answer (%s): going on with a device code", err)
		t, err = l.byDevice(ctx, c)
		return t, true, err
	}
	t, err = l.byCode(ctx, c, ln)
	return t, false, err
}

// explain gives a failed login its kind and the next step.
func explain(op string, err error) error {
	if _, ok := errors.AsType[*fail.Error](err); ok {
		return fail.New(fail.Other, op, err, "")
	}
	switch {
	case is[*types.AccessDeniedException](err):
		return fail.New(fail.Credentials, op, refused("access denied"), "")
	case is[*types.InvalidRequestException](err), is[*types.InvalidRequestRegionException](err):
		return fail.New(fail.Usage, op, err, "check sso_start_url and sso_region in the AWS configuration")
	case is[*types.InvalidScopeException](err):
		return fail.New(fail.Usage, op, err, "check sso_registration_scopes in the AWS configuration")
	case is[*types.InvalidGrantException](err):
		return fail.New(fail.Credentials, op, err, "try again: the code was used, or came too late")
	}
	return fail.AWS(fail.Credentials, op, "sso-oauth:CreateToken", err)
}

// lock makes this process the only one of this program's that changes the session's token.
func (l *Login) lock(ctx context.Context) (unlock func(), err error) {
	if l.LockDir == "" {
		return func() {}, nil
	}
	token, err := l.Session.TokenFile()
	if err != nil {
		return nil, err
	}
	name := "login-" + filepath.Base(token[:len(token)-len(filepath.Ext(token))]) + ".lock"
	f, err := files.Lock(ctx, filepath.Join(l.LockDir, name))
	if err != nil {
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

// openPage opens an address in the browser. It goes through a file: every user of the machine can read command lines, and the
// address must bring back this login's state.
func (l *Login) openPage(ctx context.Context, address string) error {
	if l.Open == nil {
		return errors.New("none is known")
	}
	dir, err := os.MkdirTemp(l.LockDir, "login-")
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "login.html")
	text := fmt.Sprintf(`<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer">`+
		`<meta http-equiv="refresh" content="0;url=%[1]s"><title>bastion login</title><a href="%[1]s">Go on to the login</a>`,
		html.EscapeString(address))
	if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	// The browser may read the file after the program that opens it has ended.
	l.pages = append(l.pages, dir)
	return l.Open(ctx, file)
}

// Close removes the files that led the browser to its pages.
func (l *Login) Close() error {
	var errs []error
	for _, dir := range l.pages {
		errs = append(errs, os.RemoveAll(dir))
	}
	l.pages = nil
	return errors.Join(errs...)
}

// Surroundings are what decides whether a browser on this machine can bring the code.
type Surroundings struct {
	System string
	Getenv func(string) string
}

// ThisMachine returns the surroundings of this process.
func ThisMachine() Surroundings { return Surroundings{runtime.GOOS, os.Getenv} }

// NoBrowser says why a login needs a device code; "" if a browser can bring the code.
func (s Surroundings) NoBrowser() string {
	set := func(names ...string) bool {
		for _, name := range names {
			if s.Getenv(name) != "" {
				return true
			}
		}
		return false
	}
	switch {
	case set("SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY"):
		return "this is an SSH session"
	case s.System == "linux" && set("WSL_DISTRO_NAME", "WSL_INTEROP"):
		return "this is WSL, whose ports the browser may not reach"
	case s.System != "windows" && s.System != "darwin" && !set("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
		return "this session has no display"
	}
	return ""
}
