package awssdk

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// signInProfiles are profiles of each way to get credentials.
const signInProfiles = `
[default]
region = eu-central-1
[profile keys]
region = eu-central-1
aws_access_key_id = AKIAOLD
aws_secret_access_key = not-a-key
[profile base]
region = eu-central-1
sso_session = corp
sso_account_id = 111122223333
sso_role_name = dev
[sso-session corp]
sso_region = eu-central-1
sso_start_url = https://127.0.0.1:1/start
[profile role]
region = eu-central-1
role_arn = arn:aws:iam::111122223333:role/r
source_profile = base
[profile my keys]
region = eu-central-1
aws_access_key_id = AKIAOLD
aws_secret_access_key = not-a-key
[profile process]
region = eu-central-1
credential_process = /bin/false
[profile empty]
region = eu-central-1
`

// The step after credentials that do not work names where they are from: the variables, or the profile that somebody can sign in
// to. It is no other that was named somewhere and not used.
func TestSignIn(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = fmt.Fprint(w, `<ErrorResponse><Error><Code>ExpiredToken</Code><Message>The security token included in the request is expired</Message>`+
			`</Error></ErrorResponse>`)
	}))
	defer server.Close()
	config := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(config, []byte(signInProfiles), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		profile string // of --profile
		env     []string
		next    string
		not     string
	}{
		"--profile before AWS_PROFILE": {"keys", []string{"AWS_PROFILE=base"}, "renew the keys of the AWS profile keys (aws configure --profile keys)", "base"},
		"AWS_PROFILE":                  {"", []string{"AWS_PROFILE=keys"}, "profile keys", ""},
		"AWS_DEFAULT_PROFILE":          {"", []string{"AWS_DEFAULT_PROFILE=keys"}, "profile keys", ""},
		"the variables' keys before AWS_PROFILE": {
			"", []string{"AWS_PROFILE=base", "AWS_ACCESS_KEY_ID=AKIAENV", "AWS_SECRET_ACCESS_KEY=not-a-key"}, "renew AWS_ACCESS_KEY_ID", "base",
		},
		"--profile before the variables' keys": {
			"keys", []string{"AWS_ACCESS_KEY_ID=AKIAENV", "AWS_SECRET_ACCESS_KEY=not-a-key"}, "profile keys", "AWS_ACCESS_KEY_ID",
		},
		"SSO":               {"base", nil, "bastion login --profile base", ""},
		"a role's source":   {"role", nil, "bastion login --profile base, the source profile of role", "--profile role"},
		"a name with space": {"my keys", nil, "aws configure --profile 'my keys'", ""},
		"a process":         {"process", nil, "credential_process", "sso"},
		"empty":             {"empty", nil, "the AWS profile empty has no credentials", ""},
		"none":              {"", nil, "bastion login, aws configure", "default"},
	} {
		t.Run(name, func(t *testing.T) {
			awsEnv(t, append([]string{"AWS_CONFIG_FILE=" + config, "AWS_ENDPOINT_URL=" + server.URL, "HOME=" + t.TempDir()}, tt.env...)...)
			var own *Env
			for _, env := range []*Env{own, NewEnv(RelevantEnv(os.Environ()))} {
				cfg, err := Load(t.Context(), Source{Profile: tt.profile, Env: env, CallTimeout: time.Minute})
				if err == nil {
					_, err = sts.NewFromConfig(cfg).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
					err = fail.AWS(fail.Other, "ask", "sts:GetCallerIdentity", err)
				}
				next := fail.NextOf(err)
				if fail.KindOf(err) != fail.Credentials || !strings.Contains(next, tt.next) || tt.not != "" && strings.Contains(next, tt.not) {
					t.Errorf("%v (%v), next step %q; want %q, without %q", err, fail.KindOf(err), next, tt.next, tt.not)
				}
			}
		})
	}
}
