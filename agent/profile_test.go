package agent

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/config"
)

// A code of an MFA device is good once: a second Agent of the process uses what it has opened. Where nobody can be asked, the error names the
// device.
func TestMFACodeIsAskedForOnce(t *testing.T) {
	f, vars := newFakeAWS(t)
	file := f.file("config", "[profile r]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = k\nmfa_serial = arn:aws:iam::1:mfa/me\n[profile k]\n"+user("AKIAUSER"))
	awsEnv(t, "AWS_CONFIG_FILE="+file, "AWS_REGION=eu-central-1", "AWS_ENDPOINT_URL="+vars["AWS_ENDPOINT_URL"])
	s, err := config.FromTexts(map[string]string{"profile": "r"})
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	mfa := &MFA{Ask: func(device string) (string, error) {
		asked = append(asked, device)
		return "123456", nil
	}}
	for range 2 {
		a, err := New(t.Context(), s, Options{MFA: mfa})
		if err != nil {
			t.Fatal(err)
		}
		if who, err := a.Owner(t.Context()); err != nil || !strings.HasSuffix(who, "ASIAROLE") {
			t.Errorf("%s, %v", who, err)
		}
		a.Close()
	}
	if len(asked) != 1 || asked[0] != "arn:aws:iam::1:mfa/me" {
		t.Errorf("asked for codes of %q", asked)
	}
	if _, err := New(t.Context(), s, Options{}); err == nil || !strings.Contains(err.Error(), "MFA device arn:aws:iam::1:mfa/me") {
		t.Errorf("with nobody to ask: %v", err)
	}
}

// A profile whose section has its name in quotes is found by the name without them, as in the AWS CLI. A source profile that is missing
// leads to no other one.
func TestQuotedProfile(t *testing.T) {
	f, vars := newFakeAWS(t)
	file := f.file("config", "[profile \"dev\"]\n"+user("AKIADEV")+"[profile \"my prod\"]\n"+user("AKIAPROD")+
		"[profile role]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = dev\n"+
		"[profile program]\ncredential_process = true\n[profile \"the program\"]\ncredential_process = true\n")
	base := []string{"AWS_CONFIG_FILE=" + file, "AWS_REGION=eu-central-1", "AWS_ENDPOINT_URL=" + vars["AWS_ENDPOINT_URL"]}
	for _, tt := range []struct{ profile, variable, key string }{
		{"dev", "", "AKIADEV"},
		{"my prod", "", "AKIAPROD"},
		{`"dev"`, "", "AKIADEV"},
		{"", "dev", "AKIADEV"},
		{"my prod", "dev", "AKIAPROD"},
		{"role", "", ""},
		{"deve", "", ""},
	} {
		awsEnv(t, append(base, "AWS_PROFILE="+tt.variable)...)
		for _, env := range []*Env{nil, NewEnv(RelevantEnv(os.Environ()))} {
			cfg, err := loadAWS(t.Context(), tt.profile, "", env, time.Minute)
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
}
