package awssdk

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// lab are variables with credentials that are made up.
func labEnv(more map[string]string) map[string]string {
	out := map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIALABLABLABLABLAB1", "AWS_SECRET_ACCESS_KEY": "one", "AWS_SESSION_TOKEN": "token-one",
		"AWS_REGION": "eu-test-1", "AWS_EC2_METADATA_DISABLED": "true",
	}
	maps.Copy(out, more)
	return out
}

// An Env is used in place of the process's variables, and its credentials can be renewed.
func TestEnv(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "AKIAPROCESSPROCESSPR")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "process")
	t.Setenv("AWS_REGION", "us-process-1")
	env := NewEnv(labEnv(map[string]string{"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "2"}))
	cfg, err := Load(t.Context(), Source{Env: env, CallTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Region != "eu-test-1" || cfg.RetryMaxAttempts != 2 || cfg.BaseEndpoint == nil || *cfg.BaseEndpoint != "http://127.0.0.1:1" {
		t.Errorf("region %q, %d attempts, endpoint %v", cfg.Region, cfg.RetryMaxAttempts, cfg.BaseEndpoint)
	}
	for _, want := range []string{"one", "two"} {
		got, err := cfg.Credentials.Retrieve(t.Context())
		if err != nil || got.SecretAccessKey != want || got.SessionToken != "token-"+want {
			t.Errorf("credentials %+v, %v; want %s", got, err, want)
		}
		env.Renew(NewEnv(labEnv(map[string]string{"AWS_SECRET_ACCESS_KEY": "two", "AWS_SESSION_TOKEN": "token-two"})))
	}
	for name, value := range env.Public() {
		if value == "two" || value == "one" || value == "token-two" || value == "token-one" {
			t.Errorf("the secret in %s is public", name)
		}
	}
}

// A profile that is named outside of the variables goes before their credentials, as in the AWS CLI; one that the variables name
// does not.
func TestEnvProfile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(file, []byte("[other]\naws_access_key_id = AKIAOTHEROTHEROTHER1\naws_secret_access_key = of-profile\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	vars := labEnv(map[string]string{"AWS_SHARED_CREDENTIALS_FILE": file, "AWS_CONFIG_FILE": file, "AWS_PROFILE": "other"})
	for profile, want := range map[string]string{"": "one", "other": "of-profile"} {
		cfg, err := Load(t.Context(), Source{Profile: profile, Env: NewEnv(vars), CallTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := cfg.Credentials.Retrieve(t.Context()); err != nil || got.SecretAccessKey != want {
			t.Errorf("--profile %q: %q, %v; want %q", profile, got.SecretAccessKey, err, want)
		}
	}
}

func TestRelevantEnv(t *testing.T) {
	environ := []string{
		"AWS_REGION=x", "HOME=/h", "SSH_AUTH_SOCK=/s", "AWS_PROFILE=", "AWS_CONTAINER_CREDENTIALS_FULL_URI=u",
		"AWS_BEARER_TOKEN_OTHER=secret", "AWS_ENDPOINT_URL_SSM=e",
	}
	want := map[string]string{"AWS_REGION": "x", "SSH_AUTH_SOCK": "/s", "AWS_ENDPOINT_URL_SSM": "e"}
	if got := RelevantEnv(environ); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if names := UnsupportedEnv(t.Context(), environ, ""); !slices.Equal(names, []string{"AWS_CONTAINER_CREDENTIALS_FULL_URI"}) {
		t.Errorf("unsupported: %v", names)
	}
}

// Paths mean the same to a process with another working directory.
func TestRelevantEnvPaths(t *testing.T) {
	t.Chdir(t.TempDir())
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	got := RelevantEnv([]string{"AWS_CONFIG_FILE=aws.cfg", "AWS_CA_BUNDLE=../ca.pem", "SSH_AUTH_SOCK=/run/agent", "AWS_PROFILE=dev", "AWS_REGION="})
	want := map[string]string{
		"AWS_CONFIG_FILE": filepath.Join(dir, "aws.cfg"), "AWS_CA_BUNDLE": filepath.Join(filepath.Dir(dir), "ca.pem"),
		"SSH_AUTH_SOCK": "/run/agent", "AWS_PROFILE": "dev",
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
