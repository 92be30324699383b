package awssdk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
)

// The errors for incomplete credentials, and for a configuration that names something missing, name the variable, the profile, the
// section or the file to change. Both kinds of a process say the same: the command's own, and the agent.
func TestBadCredentials(t *testing.T) {
	const role = "[profile r]\nregion = eu-central-1\nrole_arn = arn:aws:iam::1:role/r\n"
	for name, tt := range map[string]struct {
		profile string // of --profile
		config  string
		env     string // separated by spaces; DIR is the directory of the files
		text    string // parts of the message, separated by |
		next    string // of the next step
		not     string
		alone   bool // the agent is never asked
	}{
		"the secret is missing": {
			env:  "AWS_ACCESS_KEY_ID=AKIAHALF",
			text: "none were found: AWS_ACCESS_KEY_ID is set without AWS_SECRET_ACCESS_KEY", next: "set AWS_SECRET_ACCESS_KEY too",
		},
		"the key is missing": {
			env:  "AWS_SECRET_ACCESS_KEY=hush",
			text: "AWS_SECRET_ACCESS_KEY is set without AWS_ACCESS_KEY_ID", next: "set AWS_ACCESS_KEY_ID too", not: "hush",
		},
		"a session token alone": {
			env:  "AWS_SESSION_TOKEN=hush",
			text: "AWS_SESSION_TOKEN is set without AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", next: "set AWS_ACCESS_KEY_ID and", not: "hush",
		},
		"half, and a profile of one's own": {
			profile: "empty", config: "[profile empty]\nregion = eu-central-1\n", env: "AWS_ACCESS_KEY_ID=AKIAHALF",
			text: "none were found", next: "profile empty has no credentials", not: "AWS_ACCESS_KEY_ID",
		},
		"half in a profile": {
			profile: "half", config: "[profile half]\naws_access_key_id = AKIAHALF\n",
			text: "partial credentials found for profile", next: "DIR/config",
		},
		"a web identity's role is missing": {
			env: "AWS_WEB_IDENTITY_TOKEN_FILE=DIR/token", alone: true,
			text: "AWS_WEB_IDENTITY_TOKEN_FILE is set without AWS_ROLE_ARN", next: "set AWS_ROLE_ARN",
		},
		"a web identity's file is missing": {
			env: "AWS_WEB_IDENTITY_TOKEN_FILE=DIR/token AWS_ROLE_ARN=arn:aws:iam::1:role/r", alone: true,
			text: "DIR/token|no such file", next: "renew the token in DIR/token, which AWS_WEB_IDENTITY_TOKEN_FILE names",
		},
		"a web identity's file is a directory": {
			env: "AWS_WEB_IDENTITY_TOKEN_FILE=DIR AWS_ROLE_ARN=arn:aws:iam::1:role/r", alone: true,
			text: "DIR", next: "renew the token in DIR, which AWS_WEB_IDENTITY_TOKEN_FILE names",
		},
		"a web identity's file of a profile is missing": {
			profile: "r", config: role + "web_identity_token_file = DIR/token\n",
			text: "DIR/token|no such file", next: "the token in DIR/token, which the AWS profile r names",
		},
		"a role without a token": {
			env: "AWS_ROLE_ARN=arn:aws:iam::1:role/r", alone: true,
			text: "AWS_ROLE_ARN is set without AWS_WEB_IDENTITY_TOKEN_FILE", next: "set AWS_WEB_IDENTITY_TOKEN_FILE",
		},
		"a source profile does not exist": {
			profile: "r", config: role + "source_profile = dev\n",
			text: `there is no AWS profile "dev", the source_profile of the role arn:aws:iam::1:role/r`, next: "correct source_profile in DIR/config",
		},
		"a source profile has no credentials": {
			profile: "r", config: role + "source_profile = dev\n[profile dev]\n",
			text: `the AWS profile "dev", the source_profile of the role arn:aws:iam::1:role/r, has no credentials`, next: "--profile dev", not: "<nil>",
		},
		"a single sign-on session does not exist": {
			profile: "s", config: "[profile s]\nsso_session = corp\nsso_account_id = 1\nsso_role_name = dev\n",
			text: "there is no [sso-session corp], which the profile's sso_session names", next: "add it to DIR/config (aws configure sso-session)",
		},
		"a single sign-on session lacks its region": {
			profile: "s", config: "[profile s]\nsso_session = corp\nsso_account_id = 1\nsso_role_name = dev\n[sso-session corp]\nsso_start_url = https://x\n",
			text: "sso_region", next: "check DIR/config",
		},
		"AWS_PROFILE does not exist": {
			env: "AWS_PROFILE=dev", text: `there is no AWS profile "dev"`, next: "aws configure list-profiles shows the profiles",
		},
		"AWS_PROFILE does not exist, nor does the file": {
			env: "AWS_PROFILE=dev AWS_CONFIG_FILE=DIR/other", text: `there is no AWS profile "dev"`,
			next: "correct or unset AWS_CONFIG_FILE: it names DIR/other, which cannot be read (no such file or directory)",
		},
		"--profile does not exist, nor does the credentials file": {
			profile: "dev", env: "AWS_SHARED_CREDENTIALS_FILE=DIR/other", text: `there is no AWS profile "dev"`,
			next: "correct or unset AWS_SHARED_CREDENTIALS_FILE: it names DIR/other",
		},
		"a profile without the word": {
			profile: "dev", config: "[dev]\nregion = eu-central-1\n", text: `there is no AWS profile "dev"`,
			next: "write [profile dev] for [dev] in DIR/config",
		},
		"a container's endpoint is closed": {
			env: "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:1/x", alone: true,
			text: "connection refused", next: "check AWS_CONTAINER_CREDENTIALS_FULL_URI, which says", not: "AWS_ENDPOINT_URL",
		},
		"a container's token is missing": {
			env:  "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:1/x AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=DIR/token",
			text: "DIR/token|no such file", next: "and AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE, which says where the token", alone: true,
		},
		"no variables for a profile of theirs": {
			profile: "r", config: role + "credential_source = Environment\n", alone: true,
			text: "static credentials are empty", next: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to good keys: the AWS profile r",
		},
		"half the variables for a profile of theirs": {
			profile: "r", config: role + "credential_source = Environment\n", env: "AWS_ACCESS_KEY_ID=AKIAHALF", alone: true,
			text: "static credentials are empty", next: "set AWS_SECRET_ACCESS_KEY to good keys: the AWS profile r",
		},
		"a role of nobody": {
			profile: "r", config: role, text: "none were found", next: "add source_profile to the AWS profile r in DIR/config",
		},
		"a program fails": {
			profile: "p", config: "[profile p]\ncredential_process = exit 3\n",
			text: "the credential_process of the AWS profile p failed: exit status 3", next: "sign in again with the program that the AWS profile p",
		},
		"a program does not exist": {
			profile: "p", config: "[profile p]\ncredential_process = DIR/nothing --fast\n",
			text: "the credential_process of the AWS profile p failed: exit status 127", next: "install DIR/nothing, or correct credential_process in DIR/config",
		},
		"a program prints no JSON": {
			profile: "p", config: "[profile p]\ncredential_process = echo hush\n",
			text: "the credential_process of the AWS profile p printed no JSON", next: "DIR/config: it must print one JSON object", not: "hush",
		},
		"a program prints other JSON": {
			profile: "p", config: "[profile p]\ncredential_process = echo '{\"Version\": 1, \"AccessKeyId\": \"hush\"}'\n",
			text: "the credential_process of the AWS profile p: missing SecretAccessKey", next: "DIR/config", not: "hush",
		},
		"a program of a source profile prints no JSON": {
			profile: "r", config: role + "source_profile = p\n[profile p]\ncredential_process = echo hush\n",
			text: "the credential_process of the AWS profile p printed no JSON", next: "DIR/config", not: "hush",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			in := func(s string) string { return strings.ReplaceAll(s, "DIR", dir) }
			for file, text := range map[string]string{"config": in(tt.config), "credentials": ""} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			awsEnv(t, append([]string{
				"AWS_CONFIG_FILE=" + in("DIR/config"), "AWS_SHARED_CREDENTIALS_FILE=" + in("DIR/credentials"), "HOME=" + t.TempDir(),
				"AWS_REGION=eu-central-1", "AWS_ENDPOINT_URL=http://127.0.0.1:1", "AWS_MAX_ATTEMPTS=1",
			}, strings.Fields(in(tt.env))...)...)
			envs := []*Env{nil, NewEnv(RelevantEnv(os.Environ()))}
			if tt.alone {
				envs = envs[:1]
			}
			for _, env := range envs {
				_, err := Load(t.Context(), Source{Profile: tt.profile, Env: env, CallTimeout: time.Minute})
				if fail.KindOf(err) != fail.Credentials {
					t.Fatalf("%v (%v)", err, fail.KindOf(err))
				}
				for text := range strings.SplitSeq(tt.text, "|") {
					if !strings.Contains(err.Error(), in(text)) {
						t.Errorf("%v\nlacks %q", err, in(text))
					}
				}
				next := fail.NextOf(err)
				if !strings.Contains(next, in(tt.next)) || tt.not != "" && strings.Contains(err.Error()+next, tt.not) {
					t.Errorf("%v\nnext step %q; want %q, without %q", err, next, in(tt.next), tt.not)
				}
			}
		})
	}
}
