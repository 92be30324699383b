package awssdk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// A code of an MFA device is valid once: a second Load of the process uses the first one's credentials. Where nobody can be asked,
// the error names the device.
func TestMFACodeIsAskedForOnce(t *testing.T) {
	f, vars := newFakeAWS(t)
	file := f.file("config", "[profile r]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = k\nmfa_serial = arn:aws:iam::1:mfa/me\n[profile k]\n"+user("AKIAUSER"))
	awsEnv(t, "AWS_CONFIG_FILE="+file, "AWS_REGION=eu-central-1", "AWS_ENDPOINT_URL="+vars["AWS_ENDPOINT_URL"])
	var asked []string
	mfa := &MFA{Ask: func(device string) (string, error) {
		asked = append(asked, device)
		return "123456", nil
	}}
	for range 2 {
		cfg, err := Load(t.Context(), Source{Profile: "r", MFA: mfa, CallTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		who, err := sts.NewFromConfig(cfg).GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
		if err != nil || !strings.HasSuffix(*who.Arn, "ASIAROLE") {
			t.Errorf("%+v, %v", who, err)
		}
	}
	if len(asked) != 1 || asked[0] != "arn:aws:iam::1:mfa/me" {
		t.Errorf("asked for codes of %q", asked)
	}
	if _, err := Load(t.Context(), Source{Profile: "r", CallTimeout: time.Minute}); err == nil || !strings.Contains(err.Error(), "MFA device arn:aws:iam::1:mfa/me") {
		t.Errorf("with nobody to ask: %v", err)
	}
}

// The SDK finds a profile with a quoted section name by the name without quotes, as the AWS CLI does. That also holds for a
// source_profile, and for the section of the credentials file, whose names have no quotes. A source profile that is missing leads
// to no other one.
func TestQuotedProfile(t *testing.T) {
	f, vars := newFakeAWS(t)
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	const role = "role_arn = arn:aws:iam::1:role/r\nsource_profile = "
	file := f.file("config", "[profile \"dev\"]\n"+user("AKIADEV")+"[profile \"my prod\"] ; ours\n"+user("AKIAPROD")+
		"[profile 'one']\n"+user("AKIAONE")+"[profile role]\n"+role+"dev\n[profile \"quoted role\"]\n"+role+"dev\n"+
		"[profile lost]\n"+role+"deve\n[profile \"both\"]\n"+role+"dev\n[profile plain]\n"+user("AKIAPLAIN")+
		"[profile \"sso\"]\nsso_session = corp\nsso_account_id = 1\nsso_role_name = r\n"+
		"[sso-session \"corp\"]\nsso_start_url = https://sso.invalid\nsso_region = eu-central-1\n"+
		"[profile program]\ncredential_process = true\n[profile \"the program\"]\ncredential_process = true\n")
	keys := f.file("credentials", "[both]\n"+user("AKIABOTH")+"[\"plain\"]\n"+user("AKIAOTHER"))
	base := []string{"AWS_CONFIG_FILE=" + file, "AWS_SHARED_CREDENTIALS_FILE=" + keys, "AWS_REGION=eu-central-1", "AWS_ENDPOINT_URL=" + vars["AWS_ENDPOINT_URL"]}
	for _, tt := range []struct{ profile, variable, key string }{
		{"dev", "", "AKIADEV"},
		{"my prod", "", "AKIAPROD"},
		{`"dev"`, "", "AKIADEV"},
		{"", "dev", "AKIADEV"},
		{"my prod", "dev", "AKIAPROD"},
		{"one", "", "AKIAONE"},
		{"role", "", "ASIAROLE"},
		{"quoted role", "", "ASIAROLE"},
		{"both", "", "ASIAROLE"},
		{"plain", "", "AKIAPLAIN"},
		{"lost", "", ""},
		{"deve", "", ""},
	} {
		awsEnv(t, append(base, "AWS_PROFILE="+tt.variable)...)
		for _, env := range []*Env{nil, NewEnv(RelevantEnv(os.Environ()))} {
			cfg, err := Load(t.Context(), Source{Profile: tt.profile, Env: env, CallTimeout: time.Minute})
			if tt.key == "" {
				if err == nil || !strings.Contains(err.Error(), "there is no AWS profile") {
					t.Errorf("%+v: %v", tt, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%+v: %v", tt, err)
				continue
			}
			if got, err := cfg.Credentials.Retrieve(t.Context()); err != nil || got.AccessKeyID != tt.key {
				t.Errorf("%+v: %s, %v", tt, got.AccessKeyID, err)
			}
		}
	}
	if got := CredentialProgram(t.Context(), "the program"); got == "" {
		t.Error("the credential_process of a quoted profile is not seen")
	}
	if got := (*Env)(nil).profiles(t.Context(), "sso"); len(got) != 1 || got[0].SSOSession == nil || got[0].SSOSession.SSORegion == "" {
		t.Error("a quoted session of single sign-on is not found")
	}
	if left, err := filepath.Glob(filepath.Join(temp, "*")); err != nil || len(left) > 0 {
		t.Errorf("copies of the configuration stay: %q, %v", left, err)
	}
}

// Where the sections with quoted names cannot be copied, all others work, and a profile that is missing then is told by that cause.
func TestQuotedProfileWithoutCopy(t *testing.T) {
	defer func(copied func(string) (string, func(), error)) { privateCopy = copied }(privateCopy)
	privateCopy = temporaryCopy
	f, vars := newFakeAWS(t)
	missing := filepath.Join(t.TempDir(), "missing")
	for _, variable := range []string{"TMPDIR", "TMP", "TEMP"} {
		t.Setenv(variable, missing)
	}
	file := f.file("config", "[profile plain]\n"+user("AKIAPLAIN")+"[profile \"dev\"]\n"+user("AKIADEV"))
	awsEnv(t, "AWS_CONFIG_FILE="+file, "AWS_REGION=eu-central-1", "AWS_ENDPOINT_URL="+vars["AWS_ENDPOINT_URL"])
	for _, env := range []*Env{nil, NewEnv(RelevantEnv(os.Environ()))} {
		cfg, err := Load(t.Context(), Source{Profile: "plain", Env: env, CallTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := cfg.Credentials.Retrieve(t.Context()); err != nil || got.AccessKeyID != "AKIAPLAIN" {
			t.Errorf("%s, %v", got.AccessKeyID, err)
		}
		_, err = Load(t.Context(), Source{Profile: "dev", Env: env, CallTimeout: time.Minute})
		if fail.KindOf(err) != fail.Credentials || !strings.Contains(err.Error(), "copy the sections with quoted names: ") ||
			!strings.Contains(fail.NextOf(err), "set TMPDIR") {
			t.Errorf("%v (%s)", err, fail.NextOf(err))
		}
	}
	if got := (*Env)(nil).profiles(t.Context(), "plain"); len(got) != 1 {
		t.Errorf("the command finds %d profiles", len(got))
	}
}
