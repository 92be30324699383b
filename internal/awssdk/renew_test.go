package awssdk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/smithy-go"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// issuer issues temporary credentials, and counts them.
type issuer struct {
	life time.Duration
	took time.Duration // of each call

	mu    sync.Mutex
	fault error
	n     int
	tries int
	fixed bool // the same credentials until they expire
	last  aws.Credentials
}

func (i *issuer) Retrieve(ctx context.Context) (aws.Credentials, error) {
	select {
	case <-time.After(i.took):
	case <-ctx.Done():
		return aws.Credentials{}, ctx.Err()
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.tries++
	if i.fault != nil {
		return aws.Credentials{}, i.fault
	}
	if i.fixed && time.Now().Before(i.last.Expires) {
		return i.last, nil
	}
	i.n++
	i.last = aws.Credentials{
		AccessKeyID: fmt.Sprint("ASIA", i.n), SecretAccessKey: "s", SessionToken: "t", CanExpire: true, Expires: time.Now().Add(i.life),
	}
	return i.last, nil
}

func (i *issuer) fail(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fault = err
}

func (i *issuer) counts() (n, tries int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.n, i.tries
}

func renewingOf(t *testing.T, i *issuer) *renewing {
	t.Helper()
	cache := aws.NewCredentialsCache(i)
	first, err := cache.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return newRenewing(cache, cache, first, func(err error) error { return fmt.Errorf("explained: %w", err) })
}

func key(t *testing.T, r *renewing) string {
	t.Helper()
	c, err := r.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !time.Now().Before(c.Expires) {
		t.Errorf("%s has expired", c.AccessKeyID)
	}
	return c.AccessKeyID
}

// Credentials are renewed ahead of their expiry: by a fifth of a short life, five minutes before the end of a long one.
func TestRenewsAhead(t *testing.T) {
	for life, ahead := range map[time.Duration]time.Duration{time.Hour: 5 * time.Minute, time.Minute: 12 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			r := renewingOf(t, &issuer{life: life})
			<-time.After(life - ahead - time.Second)
			if got := key(t, r); got != "ASIA1" {
				t.Errorf("%s: %s too early", life, got)
			}
			<-time.After(2 * time.Second)
			if got := key(t, r); got != "ASIA2" {
				t.Errorf("%s: still %s within %s of the expiry", life, got, ahead)
			}
			if s := RenewalOf(r); s.Err != nil || time.Until(s.Due) != life-ahead || time.Until(s.Expires) != life {
				t.Errorf("%s: %+v", life, s)
			}
		})
	}
}

// While they cannot be renewed, the present credentials stay in use until they expire; a failure is known before, and attempts have
// pauses. Then the failure is the answer, until a renewal succeeds.
func TestRenewalFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{life: time.Hour}
		r := renewingOf(t, i)
		over := errors.New("over")
		i.fail(over)
		<-time.After(56 * time.Minute)
		for range 200 {
			if got := key(t, r); got != "ASIA1" {
				t.Fatal(got)
			}
			<-time.After(time.Second)
		}
		if s := RenewalOf(r); !errors.Is(s.Err, over) || !strings.HasPrefix(s.Err.Error(), "explained: ") {
			t.Errorf("%+v", s)
		}
		if _, tries := i.counts(); tries < 5 || tries > 12 {
			t.Errorf("%d attempts in 200 s", tries)
		}
		<-time.After(time.Minute)
		if _, err := r.Retrieve(t.Context()); !errors.Is(err, over) {
			t.Error(err)
		}
		i.fail(nil)
		if got := key(t, r); got != "ASIA2" || RenewalOf(r).Err != nil {
			t.Errorf("%s, %v", got, RenewalOf(r).Err)
		}
	})
}

// One renewal ahead of the expiry is under way at a time, and nobody waits for it.
func TestRenewalAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{life: time.Hour}
		r := renewingOf(t, i)
		i.took = time.Minute
		<-time.After(56 * time.Minute)
		var all sync.WaitGroup
		all.Go(func() { key(t, r) })
		synctest.Wait()
		began := time.Now()
		for range 10 {
			if got := key(t, r); got != "ASIA1" {
				t.Error(got)
			}
		}
		if took := time.Since(began); took != 0 {
			t.Errorf("waited %s", took)
		}
		all.Wait()
		if n, tries := i.counts(); n != 2 || tries != 2 {
			t.Errorf("%d renewals, %d attempts", n, tries)
		}
	})
}

// A source that gives the same credentials until they expire is not asked all the time.
func TestSourceRenewsLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{life: time.Hour, fixed: true}
		r := renewingOf(t, i)
		<-time.After(55*time.Minute + time.Second)
		for range 290 {
			key(t, r)
			<-time.After(time.Second)
		}
		if _, tries := i.counts(); tries < 3 || tries > 20 {
			t.Errorf("%d attempts in the last five minutes", tries)
		}
		<-time.After(20 * time.Second)
		if got := key(t, r); got != "ASIA2" {
			t.Error(got)
		}
	})
}

// A program that prints expired credentials needs the user. It is asked again each minute, not all the time: it may open a window.
func TestSourceHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{life: time.Minute, fixed: true}
		r := renewingOf(t, i)
		i.mu.Lock()
		i.life, i.fixed = -time.Second, false
		i.mu.Unlock()
		<-time.After(61 * time.Second)
		if c, err := r.Retrieve(t.Context()); err != nil || time.Now().Before(c.Expires) {
			t.Errorf("%+v, %v", c, err) // AWS refuses them in its own words
		}
		s := RenewalOf(r)
		if !errors.Is(s.Err, errOld) || !NeedsUser(s.Err) || time.Until(s.Due) != time.Minute {
			t.Errorf("%+v", s)
		}
		i.mu.Lock()
		i.life = time.Hour
		i.mu.Unlock()
		if key(t, r); RenewalOf(r).Err != nil {
			t.Errorf("%+v", RenewalOf(r))
		}
	})
}

// Only what a login mends asks for one: not a network, a throttling or a denial.
func TestNeedsUser(t *testing.T) {
	api := func(op, code string) error {
		return &smithy.OperationError{ServiceID: "SSO OIDC", OperationName: op, Err: &smithy.GenericAPIError{Code: code, Message: "m"}}
	}
	for _, tt := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{errors.New("cached SSO token is expired, or not present, and cannot be refreshed"), true},
		{&fs.PathError{Op: "open", Path: "x", Err: syscall.ENOENT}, true},
		{api("CreateToken", "InvalidGrantException"), true},
		{api("CreateToken", "InvalidClientException"), true},
		{api("CreateToken", "ExpiredTokenException"), true},
		{api("GetRoleCredentials", "UnauthorizedException"), true},
		{api("GetRoleCredentials", "ForbiddenException"), false},
		{api("GetRoleCredentials", "TooManyRequestsException"), false},
		{api("CreateToken", "InternalServerException"), false},
		{api("AssumeRole", "AccessDenied"), false},
		{api("AssumeRole", "ExpiredToken"), true},
		{&net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}, false},
		{&net.DNSError{Err: "no such host", IsNotFound: true}, false},
		{context.DeadlineExceeded, false},
		{context.Canceled, false},
		{&unanswered{call: "sso:GetRoleCredentials"}, false},
		{&programError{text: "the credential_process failed"}, true},
	} {
		if got := NeedsUser(tt.err); got != tt.want {
			t.Errorf("%v: %v", tt.err, got)
		}
	}
}

// The origin of credentials is that of the end of the chain, for a command and for the agent alike.
func TestOriginOf(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "config")
	const text = signInProfiles + `
[profile legacy]
sso_start_url = https://corp.example/start
sso_region = eu-west-1
sso_account_id = 1
sso_role_name = dev
[profile scoped]
sso_session = "quoted one"
sso_account_id = 1
sso_role_name = dev
[sso-session "quoted one"]
sso_region = eu-west-1
sso_start_url = https://corp.example/start
sso_registration_scopes = sso:account:access, codewhisperer:completions ,
[profile lasting]
login_session = arn:aws:iam::1:user/me
[profile deep]
role_arn = arn:aws:iam::2:role/b
source_profile = middle
[profile middle]
role_arn = arn:aws:iam::1:role/a
mfa_serial = arn:aws:iam::1:mfa/me
source_profile = keys
[profile instance]
role_arn = arn:aws:iam::1:role/a
credential_source = Ec2InstanceMetadata
[profile web]
role_arn = arn:aws:iam::1:role/a
web_identity_token_file = /token
`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		profile, env string
		kind         OriginKind
		at, of       string
		detail       string
		command      string
	}{
		{"", "", OriginNone, "default", "", "", ""},
		{"", "AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b AWS_PROFILE=base", OriginVariables, "", "", "", ""},
		{"base", "AWS_ACCESS_KEY_ID=a AWS_SECRET_ACCESS_KEY=b", OriginSSO, "base", "", "", "bastion login --profile base"},
		{"", "AWS_PROFILE=role", OriginSSO, "base", "role", "", "bastion login --profile base"},
		{"legacy", "", OriginSSO, "legacy", "", "", "bastion login --profile legacy"},
		{"scoped", "", OriginSSO, "scoped", "", "", "bastion login --profile scoped"},
		{"lasting", "", OriginLogin, "lasting", "", "arn:aws:iam::1:user/me", "aws login --profile lasting"},
		{"my keys", "", OriginKeys, "my keys", "", "", ""},
		{"process", "", OriginProcess, "process", "", "/bin/false", ""},
		{"deep", "", OriginKeys, "keys", "deep", "", ""},
		{"instance", "", OriginSource, "instance", "", "Ec2InstanceMetadata", ""},
		{"web", "", OriginWebIdentity, "web", "", "/token", ""},
		{"empty", "", OriginNone, "empty", "", "", ""},
	} {
		awsEnv(t, append([]string{"AWS_CONFIG_FILE=" + config, "AWS_SHARED_CREDENTIALS_FILE=" + filepath.Join(dir, "none"), "HOME=" + dir},
			strings.Fields(tt.env)...)...)
		for _, env := range []*Env{nil, NewEnv(RelevantEnv(os.Environ()))} {
			o, err := OriginOf(t.Context(), env, tt.profile)
			if err != nil || o.Kind != tt.kind || o.Profile != tt.at || o.Of != tt.of || o.Detail != tt.detail || o.Command() != tt.command {
				t.Errorf("%q with %q: %+v (%s), %v", tt.profile, tt.env, o, o.Command(), err)
			}
			switch tt.profile {
			case "scoped":
				if want := []string{"sso:account:access", "codewhisperer:completions"}; !slices.Equal(o.SSO.Scopes, want) || o.SSO.key() != "quoted one" {
					t.Errorf("%+v", o.SSO)
				}
			case "legacy":
				if o.SSO.Name != "" || o.SSO.key() != "https://corp.example/start" || o.SSO.Region != "eu-west-1" {
					t.Errorf("%+v", o.SSO)
				}
			case "deep":
				if want := []string{"arn:aws:iam::1:role/a", "arn:aws:iam::2:role/b"}; !slices.Equal(o.Roles, want) || o.MFA != "arn:aws:iam::1:mfa/me" {
					t.Errorf("%+v", o)
				}
			}
		}
	}
	if _, err := OriginOf(t.Context(), nil, "nothing"); err == nil {
		t.Error("a missing profile has an origin")
	}
}

// Without a token in AWS's cache, the error says so in plain words, and names the command.
func TestNotSignedIn(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "config")
	if err := os.WriteFile(config, []byte(signInProfiles+"[profile old]\nsso_start_url = https://corp.example/start\nsso_region = eu-west-1\n"+
		"sso_account_id = 1\nsso_role_name = dev\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	awsEnv(t, "AWS_CONFIG_FILE="+config, "AWS_SHARED_CREDENTIALS_FILE="+filepath.Join(dir, "none"), "HOME="+dir, "AWS_REGION=eu-west-1")
	for _, profile := range []string{"base", "old"} {
		_, err := Load(t.Context(), Source{Profile: profile, CallTimeout: time.Second})
		if err == nil || err.Error() != "no usable AWS credentials: you have not signed in to IAM Identity Center" ||
			!strings.Contains(fail.NextOf(err), "bastion login --profile "+profile) || !NeedsUser(err) {
			t.Errorf("%s: %v (%s)", profile, err, fail.NextOf(err))
		}
	}
}
