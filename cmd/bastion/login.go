package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/browser"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/dirs"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/invocation"
	ssologin "github.com/bastion-ssm/bastion/internal/login"
)

// loginOptions are the options of login that are no settings.
type loginOptions struct{ noBrowser, check bool }

func (a *app) loginCommand() *cli.Command {
	var o loginOptions
	return &cli.Command{
		Name:    "login",
		Summary: "sign in to AWS by IAM Identity Center, unless the login is still good",
		Group:   groupAccount,
		About: []cli.Passage{
			cli.Para(`Signs in to the sso_session of the AWS profile, in the browser. In an SSH session, under WSL, without a display or with
				--no-browser, it prints a page and a code for a browser on any machine. The token goes into the cache of the AWS CLI
				(~/.aws/sso/cache), so that aws and all SDKs have it too. It does nothing while the login is good, and renews one that needs
				nothing from you. Running forwards go on without a restart.`),
			cli.Para(`For a profile with other credentials, it says where they come from and whether they work.`),
			cli.Para(`--check only asks AWS whether the credentials work. The exit code is 0 if they do, and 4 if you have to sign in.`),
		},
		Examples: []string{
			"bastion login --profile dev",
			"bastion login -e prod --no-browser",
			"bastion login --check || bastion login",
		},
		Flags: []cli.Option{
			cli.Switch(&o.noBrowser, "print a page and a code instead of starting a browser", "no-browser"),
			cli.Switch(&o.check, "only say whether the credentials work", "check"),
		},
		Settings: invocation.CommonSettings,
		Run:      a.WithLocal(func(ctx context.Context, s config.Settings, _ []string) error { return a.login(ctx, s, o) }),
	}
}

// loginOutput is the JSON output of login.
type loginOutput struct {
	Outcome  string    `json:"outcome"` // kept, renewed or signed_in; not_needed for credentials without a login; works for --check
	How      string    `json:"source"`
	Identity string    `json:"identity"`
	Expires  time.Time `json:"expires_at,omitzero"`       // of the credentials
	Token    time.Time `json:"token_expires_at,omitzero"` // of the token in the cache
	StartURL string    `json:"start_url,omitempty"`
}

// login runs `bastion login`.
func (a *app) login(ctx context.Context, s config.Settings, o loginOptions) error {
	origin, err := awssdk.OriginOf(ctx, nil, s.AWS.Profile)
	if err != nil {
		return err
	}
	if o.check || origin.Kind != awssdk.OriginSSO {
		return a.loginCheck(ctx, s, o, &origin)
	}
	out := loginOutput{How: ssologin.How(&origin), StartURL: origin.SSO.StartURL}
	for again := false; ; again = true {
		t, outcome, err := a.obtainToken(ctx, s, o, &origin, again)
		if err != nil {
			return err
		}
		out.Outcome, out.Token = string(outcome), t.ExpiresAt
		err = a.whoami(ctx, s, &origin, &out)
		if err == nil {
			break
		}
		// AWS may have ended a session whose token has not expired.
		if again || outcome == ssologin.SignIn || fail.KindOf(err) != fail.Credentials || !awssdk.NeedsUser(err) {
			return err
		}
	}
	if err := a.printLogin(s, out); err != nil {
		return err
	}
	if lines := ssologin.LegacyLines(&origin); lines != "" && !s.Output.Quiet {
		return console.Printf(a.Err, "\n%s", lines)
	}
	return nil
}

// obtainToken makes the token in AWS's cache valid.
func (a *app) obtainToken(ctx context.Context, s config.Settings, o loginOptions, origin *awssdk.Origin, again bool) (ssologin.Token, ssologin.Outcome, error) {
	cfg, err := awssdk.LoadUnsigned(ctx, awssdk.Source{Profile: s.AWS.Profile, Region: origin.SSO.Region, CallTimeout: s.AWS.Timeout})
	if err != nil {
		return ssologin.Token{}, "", err
	}
	dir, err := dirs.Runtime(s.Local.RuntimeDir)
	if err != nil {
		return ssologin.Token{}, "", err
	}
	p := a.NewProgress(s)
	defer p.Close()
	l := &ssologin.Login{
		Session: origin.SSO, Config: cfg, LockDir: dir, Open: browser.OpenPage,
		Note: func(text string) { p.Note(text) },
		Tell: func(prompt ssologin.Prompt) { a.tellLogin(p, prompt) },
	}
	defer func() { _ = l.Close() }() // the files are in the runtime directory
	if why := ssologin.ThisMachine().NoBrowser(); o.noBrowser || why != "" {
		l.Device, l.Open = true, nil
		if !o.noBrowser {
			p.Note("using a code, because " + why)
		}
	}
	return l.Ensure(ctx, again)
}

// tellLogin tells the user what to do, also with --quiet: there is no login without it.
func (a *app) tellLogin(p *console.Progress, prompt ssologin.Prompt) {
	p.Idle()
	var b strings.Builder
	if prompt.Code == "" {
		_ = console.Printf(&b, "sign in to AWS in the browser on this machine; if none opens, open\n\n  %s\n\n", prompt.URL)
	} else {
		_ = console.Printf(&b, "open this page in a browser, on any machine\n\n  %s\n\nand enter the code %s, or open\n\n  %s\n\n",
			prompt.URL, prompt.Code, prompt.WithCode)
		if prompt.Lasts > 0 {
			_ = console.Printf(&b, "The code is good for %s. Go on only if you started this login yourself.\n", prompt.Lasts.Round(time.Second))
		}
	}
	_, _ = fmt.Fprint(a.Err, b.String()) // without a reader, the login ends at its deadline
	p.Step("waiting for the login")
}

// whoami asks AWS whose the credentials are.
func (a *app) whoami(ctx context.Context, s config.Settings, origin *awssdk.Origin, out *loginOutput) error {
	run, err := a.Open(ctx, "login", s)
	if err != nil && s.AWS.Region == "" && fail.KindOf(err) == fail.Usage && origin.SSO.Region != "" {
		s.AWS.Region = origin.SSO.Region // no region is set, and any can say who it is
		run, err = a.Open(ctx, "login", s)
	}
	if err != nil {
		return err
	}
	defer run.Close()
	ctx, cancel := invocation.Bounded(ctx, s)
	defer cancel()
	out.Identity, err = run.Access.Owner(ctx)
	out.Expires = run.Access.Expires()
	return err
}

// loginCheck says whether the credentials work, without a login.
func (a *app) loginCheck(ctx context.Context, s config.Settings, o loginOptions, origin *awssdk.Origin) error {
	out := loginOutput{How: ssologin.How(origin), StartURL: origin.SSO.StartURL, Outcome: "not_needed"}
	if o.check {
		out.Outcome = "works"
		if origin.MFA != "" && s.AWS.MFACommand == "" {
			return fail.New(fail.Credentials, "", errors.New(out.How), "set mfa_command to a program that prints the code; without it, each command asks for one")
		}
	}
	if err := a.whoami(ctx, s, origin, &out); err != nil {
		if fail.KindOf(err) == fail.Credentials {
			return fail.New(fail.Credentials, out.How, err, "")
		}
		return err
	}
	return a.printLogin(s, out)
}

func (a *app) printLogin(s config.Settings, out loginOutput) error {
	if s.Output.Format == "json" {
		return a.PrintJSON(out)
	}
	until := ""
	if !out.Expires.IsZero() {
		until = ", until " + out.Expires.Local().Format(time.DateTime)
	}
	said := map[string]string{
		"kept": "the login is still good", "renewed": "the login is renewed", "signed_in": "signed in", "works": "the credentials work",
		"not_needed": "no login is needed: " + out.How,
	}[out.Outcome]
	return console.Printf(a.Out, "%s\n%s%s\n", said, out.Identity, until)
}
