package awssdk

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/bastion-ssm/bastion/internal/fail"
)

func TestMain(m *testing.M) {
	if os.Getenv(envObserve) != "" {
		printObserved()
		return
	}
	home, err := os.MkdirTemp("", "awssdk")
	if err != nil {
		panic(err)
	}
	// The tests ask nothing of AWS, of the network or of a real profile: all traffic outside loopback meets a proxy that does not
	// exist.
	for name, value := range map[string]string{
		"HOME": home, "HTTP_PROXY": "http://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "",
	} {
		_ = os.Setenv(name, value)
	}
	if err := ForgetEnv(); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(home)
		os.Exit(code)
	}))
}

// awsEnv makes the AWS configuration that the environment alone gives.
func awsEnv(t *testing.T, pairs ...string) {
	t.Helper()
	none := filepath.Join(t.TempDir(), "none")
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, "")
		}
	}
	for _, kv := range append([]string{
		"AWS_CONFIG_FILE=" + none, "AWS_SHARED_CREDENTIALS_FILE=" + none, "AWS_EC2_METADATA_DISABLED=true",
	}, pairs...) {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
}

// The websocket trusts what AWS_CA_BUNDLE names, as the API clients do.
func TestWebsocketTrustsTheCABundle(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	bundle := filepath.Join(t.TempDir(), "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(bundle, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, trusted := range []bool{true, false} {
		env := []string{"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=not-a-key", "AWS_REGION=eu-central-1"}
		if trusted {
			env = append(env, "AWS_CA_BUNDLE="+bundle)
		}
		awsEnv(t, env...)
		cfg, err := Load(t.Context(), Source{CallTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		client := WebsocketClient(cfg)
		resp, err := client.Get(server.URL)
		if err == nil {
			_ = resp.Body.Close()
		}
		if (err == nil) != trusted {
			t.Errorf("with the bundle %v: %v", trusted, err)
		}
		client.CloseIdleConnections()
	}
}

func TestWebsocketUsesTheProxy(t *testing.T) {
	awsEnv(t, "AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=not-a-key", "AWS_REGION=eu-central-1")
	cfg, err := Load(t.Context(), Source{CallTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if tr, ok := WebsocketClient(cfg).Transport.(*http.Transport); !ok || tr.Proxy == nil {
		t.Error("HTTPS_PROXY would be ignored")
	}
}

func TestLoadAWS(t *testing.T) {
	key := []string{"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=not-a-key"}
	for _, tt := range []struct {
		name            string
		env             []string
		profile, region string
		kind            fail.Kind
		want            string
	}{
		{name: "region by flag", env: key, region: "eu-west-1"},
		{name: "region by environment", env: append(key, "AWS_REGION=eu-west-1")},
		{name: "no region", env: key, kind: fail.Usage, want: "no AWS region is set"},
		{name: "no credentials", region: "eu-west-1", kind: fail.Credentials, want: "no usable AWS credentials: none were found"},
		{name: "no such profile", env: key, profile: "x", region: "eu-west-1", kind: fail.Credentials, want: `there is no AWS profile "x"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			awsEnv(t, tt.env...)
			cfg, err := Load(t.Context(), Source{Profile: tt.profile, Region: tt.region, CallTimeout: time.Minute})
			if tt.want == "" {
				if err != nil || cfg.Region != "eu-west-1" || cfg.RetryMaxAttempts != retryAttempts {
					t.Errorf("%v, region %q, %d attempts", err, cfg.Region, cfg.RetryMaxAttempts)
				}
				return
			}
			if err == nil || err.Error() != tt.want || fail.KindOf(err) != tt.kind || fail.NextOf(err) == "" {
				t.Errorf("got %v (kind %v)", err, fail.KindOf(err))
			}
		})
	}
	awsEnv(t, append(key, "AWS_REGION=eu-west-1", "AWS_MAX_ATTEMPTS=2")...)
	if cfg, err := Load(t.Context(), Source{CallTimeout: time.Minute}); err != nil || cfg.RetryMaxAttempts != 2 {
		t.Errorf("%v, %d attempts; AWS_MAX_ATTEMPTS counts", err, cfg.RetryMaxAttempts)
	}
}

// Temporary credentials that another program puts into the credentials file replace those that were there.
func TestReplacedCredentialsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	write := func(t *testing.T, key, token string) {
		t.Helper()
		text := "[default]\naws_access_key_id = " + key + "\naws_secret_access_key = not-a-key\n" + token
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	awsEnv(t, "AWS_SHARED_CREDENTIALS_FILE="+file, "AWS_REGION=eu-central-1")
	synctest.Test(t, func(t *testing.T) {
		write(t, "ASIAOLD", "aws_session_token = one\n")
		cfg, err := Load(t.Context(), Source{CallTimeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		want := func(key string) {
			t.Helper()
			if c, err := cfg.Credentials.Retrieve(t.Context()); err != nil || c.AccessKeyID != key {
				t.Errorf("%s, %v; want %s", c.AccessKeyID, err, key)
			}
		}
		want("ASIAOLD")
		write(t, "ASIANEW", "aws_session_token = two\n")
		<-time.After(rereadAfter / 2)
		want("ASIAOLD")
		<-time.After(rereadAfter)
		want("ASIANEW")
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		<-time.After(2 * rereadAfter)
		want("ASIANEW")
	})
	// Those of a user do not change by themselves.
	write(t, "AKIAUSER", "")
	cfg, err := Load(t.Context(), Source{CallTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := cfg.Credentials.Retrieve(t.Context()); err != nil || c.CanExpire {
		t.Errorf("%+v, %v", c, err)
	}
}
