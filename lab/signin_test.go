package lab_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/logincreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/signin"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-ssm/bastion/lab"
)

// works checks that the lab takes credentials.
func works(t *testing.T, l *lab.Lab, provider aws.CredentialsProvider) aws.Credentials {
	t.Helper()
	c, err := provider.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	url := l.URL()
	client := sts.NewFromConfig(aws.Config{Region: l.Region(), BaseEndpoint: &url, Credentials: provider})
	if who, err := client.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{}); err != nil || *who.Account != lab.Account {
		t.Errorf("%+v, %v", who, err)
	}
	return c
}

// The SDK's provider for `aws login` renews a session, with a proof of its key, and tells its end.
func TestLoginSession(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.RoleLife = time.Second
	l := start(t, cfg)
	file, err := l.Login()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "login.json")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	url := l.URL()
	provider := logincreds.New(signin.NewFromConfig(aws.Config{Region: l.Region(), BaseEndpoint: &url}), path)
	first := works(t, l, provider)
	<-time.After(time.Until(first.Expires))
	second := works(t, l, provider)
	if second.AccessKeyID == first.AccessKeyID || l.LoginRenewals() != 1 {
		t.Errorf("%s, then %s after %d renewals", first.AccessKeyID, second.AccessKeyID, l.LoginRenewals())
	}
	if now, err := os.ReadFile(path); err != nil || bytes.Equal(now, file) {
		t.Errorf("the file is as before: %v", err)
	}
	<-time.After(time.Until(second.Expires))

	// Another session's key proves nothing.
	other, err := l.Login()
	if err != nil {
		t.Fatal(err)
	}
	var own, foreign map[string]any
	now, err := os.ReadFile(path)
	if err := errors.Join(err, json.Unmarshal(now, &own), json.Unmarshal(other, &foreign)); err != nil {
		t.Fatal(err)
	}
	own["dpopKey"] = foreign["dpopKey"]
	stolen, err := json.Marshal(own)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, stolen, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = provider.Retrieve(t.Context())
	wantCode(t, err, "ValidationException", "DPoP")

	if err := os.WriteFile(path, now, 0o600); err != nil {
		t.Fatal(err)
	}
	l.EndLogins()
	if _, err := provider.Retrieve(t.Context()); err == nil || !strings.Contains(err.Error(), "session has expired") {
		t.Error(err)
	}
}

// A web identity token gets a role's credentials until it expires, without a signature. The SDK reads each error as its own.
func TestWebIdentity(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	url := l.URL()
	client := sts.NewFromConfig(aws.Config{Region: l.Region(), BaseEndpoint: &url, Credentials: aws.AnonymousCredentials{}})
	of := func(token string) aws.CredentialsProvider {
		return stscreds.NewWebIdentityRoleProvider(client, l.RoleARN("ci"), tokenText(token))
	}
	works(t, l, of(l.WebIdentityToken(time.Hour)))
	_, err := of("made-up").Retrieve(t.Context())
	wantCode(t, err, "InvalidIdentityToken", "")
	_, err = of(l.WebIdentityToken(0)).Retrieve(t.Context())
	wantCode(t, err, "ExpiredTokenException", "Token expired")
	_, err = client.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	wantCode(t, err, "MissingAuthenticationToken", "")
}

type tokenText string

func (t tokenText) GetIdentityToken() ([]byte, error) { return []byte(t), nil }

// A role that needs MFA takes each code once.
func TestMFA(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	cfg := sdk(t, l.Env())
	assume := func(serial, code string) error {
		in := &sts.AssumeRoleInput{RoleArn: aws.String(l.RoleARN(lab.MFARole)), RoleSessionName: aws.String("me")}
		if serial != "" {
			in.SerialNumber, in.TokenCode = &serial, &code
		}
		_, err := sts.NewFromConfig(cfg).AssumeRole(context.WithoutCancel(t.Context()), in)
		return err
	}
	if err := assume(l.MFADevice(), "000001"); err != nil {
		t.Error(err)
	}
	for _, wrong := range [][2]string{{"", ""}, {l.MFADevice(), "000001"}, {l.MFADevice(), "12345"}, {l.MFADevice(), "12345x"}, {"arn:aws:iam::1:mfa/x", "000002"}} {
		wantCode(t, assume(wrong[0], wrong[1]), "AccessDenied", "")
	}
}
