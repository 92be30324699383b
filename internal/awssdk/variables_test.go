package awssdk

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/google/go-cmp/cmp"
)

// envObserve makes this program print what it finds out with its own variables.
const envObserve = "TEST_OBSERVE"

// observation is what a process finds out with its variables.
type observation struct {
	Identity, Region, Account, App, RetryMode, Files string
	Attempts                                         int
	Skew                                             bool
	Auth                                             []string
	Failed                                           bool
}

// printObserved is the program that has a command's variables.
func printObserved() {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	out, err := observe(ctx, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		panic(err)
	}
}

// observe asks AWS who the caller is.
func observe(ctx context.Context, env *Env) (out observation, err error) {
	cfg, err := Load(ctx, Source{Env: env, CallTimeout: 40 * time.Second})
	if err == nil {
		out.Region, out.App, out.RetryMode, out.Attempts = cfg.Region, cfg.AppID, string(cfg.RetryMode), cfg.RetryMaxAttempts
		out.Files, out.Skew, out.Auth = string(cfg.RestrictFilePermissions), cfg.DisableClockSkewCorrection, cfg.AuthSchemePreference
		if c, err := cfg.Credentials.Retrieve(ctx); err == nil {
			out.Account = c.AccountID
		}
		var who *sts.GetCallerIdentityOutput
		if who, err = sts.NewFromConfig(cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{}); err == nil {
			out.Identity = *who.Arn
		}
	}
	out.Failed = err != nil
	return out, err
}

// fakeAWS are servers that answer as AWS does, and record the requests.
type fakeAWS struct {
	t   *testing.T
	dir string

	mu    sync.Mutex
	asked []string
}

func (f *fakeAWS) note(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, fmt.Sprintf(format, args...))
}

// taken returns the requests since the last call.
func (f *fakeAWS) taken() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.asked
	f.asked = nil
	return out
}

func (f *fakeAWS) serve(h http.HandlerFunc) string {
	server := httptest.NewServer(h)
	f.t.Cleanup(server.Close)
	return server.URL
}

var signed = regexp.MustCompile(`Credential=([^/]+)/\d+/([^/]+)/`)

// sts is STS and single sign-on. An identity has the name of its access key.
func (f *fakeAWS) sts(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		_, app, _ := strings.Cut(r.UserAgent(), "app/")
		app, _, _ = strings.Cut(app, " ")
		if r.URL.Path == "/federation/credentials" {
			f.note("%s: role credentials for the token %s", name, r.Header.Get("X-Amz-Sso_bearer_token"))
			fmt.Fprintf(w, `{"roleCredentials":{"accessKeyId":"ASIASSO","secretAccessKey":"s","sessionToken":"t","expiration":%d}}`,
				time.Now().Add(time.Hour).UnixMilli())
			return
		}
		form := regexp.MustCompile(`Action=(\w+)`).FindSubmatch(body)
		key := signed.FindStringSubmatch(r.Header.Get("Authorization"))
		if form == nil || key == nil {
			f.note("%s: %s %s without signature", name, r.Method, r.URL.Path)
			http.Error(w, "", http.StatusForbidden)
			return
		}
		f.note("%s: %s by %s in %s, token %q, app %q", name, form[1], key[1], key[2], r.Header.Get("X-Amz-Security-Token"), app)
		switch {
		case key[1] == "AKIAFAILS":
			http.Error(w, "", http.StatusInternalServerError)
		case string(form[1]) == "AssumeRole":
			fmt.Fprintf(w, `<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey>`+
				`<SessionToken>t</SessionToken><Expiration>%s</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`,
				time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		default:
			fmt.Fprintf(w, `<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::1:user/%s</Arn><UserId>u</UserId>`+
				`<Account>1</Account></GetCallerIdentityResult></GetCallerIdentityResponse>`, key[1])
		}
	}
}

// imds is the instance metadata, by version 1 only where old.
func (f *fakeAWS) imds(old bool) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f.note("metadata: %s %s", r.Method, r.URL.Path)
		switch {
		case r.Method == http.MethodPut && old:
			http.Error(w, "", http.StatusNotFound)
		case r.Method == http.MethodPut:
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "600")
			_, _ = io.WriteString(w, "token")
		case strings.HasSuffix(r.URL.Path, "/security-credentials/"):
			_, _ = io.WriteString(w, "role")
		default:
			fmt.Fprintf(w, `{"Code":"Success","AccessKeyId":"ASIAINSTANCE","SecretAccessKey":"s","Token":"t","Expiration":%q}`,
				time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		}
	}
}

// refuse is a proxy that lets nothing through: what a test would ask of the network ends here.
func (f *fakeAWS) refuse(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		f.note("%s: %s %s %s", name, r.Method, r.Host, r.Header.Get("Proxy-Authorization"))
		http.Error(w, "", http.StatusForbidden)
	}
}

func (f *fakeAWS) file(name, text string) string {
	path := filepath.Join(f.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

// newFakeAWS returns servers and the variables of a command that knows only them.
func newFakeAWS(t *testing.T) (*fakeAWS, map[string]string) {
	t.Helper()
	f := &fakeAWS{t: t, dir: t.TempDir()}
	proxy := f.serve(f.refuse("proxy"))
	return f, map[string]string{
		"HOME": os.Getenv("HOME"), "PATH": os.Getenv("PATH"), "HTTP_PROXY": proxy, "HTTPS_PROXY": proxy,
		"AWS_CONFIG_FILE": f.file("config", ""), "AWS_SHARED_CREDENTIALS_FILE": f.file("credentials", ""),
		"AWS_REGION": "eu-central-1", "AWS_MAX_ATTEMPTS": "1", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_ACCESS_KEY_ID": "AKIABASE", "AWS_SECRET_ACCESS_KEY": "s", "AWS_ENDPOINT_URL": f.serve(f.sts("AWS")),
	}
}

// run returns what a process with the given variables finds out and asks.
func (f *fakeAWS) run(env map[string]string) (observation, []string) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 90*time.Second)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, self)
	cmd.Env = []string{envObserve + "=1"}
	for name, value := range env {
		if value != "" {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		f.t.Fatalf("%v\n%s", err, &stderr)
	}
	f.t.Logf("%s", &stderr)
	var seen observation
	if err := json.Unmarshal(out, &seen); err != nil {
		f.t.Fatal(err)
	}
	return seen, f.taken()
}

// sdkCase sets variables in a command's environment. mark is a part of the resulting requests, or of the identity.
type sdkCase struct {
	set  func(f *fakeAWS, env map[string]string)
	mark string
}

// noCredentials takes the credentials out of the variables.
func noCredentials(env map[string]string) {
	env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"] = "", ""
}

func user(key string) string { return "aws_access_key_id = " + key + "\naws_secret_access_key = s\n" }

// one is a case of one variable that has a value of its own.
func one(name, value, mark string) sdkCase {
	return sdkCase{func(_ *fakeAWS, env map[string]string) { env[name] = value }, mark}
}

// handedCases have each variable that the agent is handed, so that it makes a difference.
var handedCases = map[string]sdkCase{
	"AWS_ACCESS_KEY_ID": one("AWS_ACCESS_KEY_ID", "AKIAOTHER", "user/AKIAOTHER"),
	"AWS_SECRET_ACCESS_KEY": {func(f *fakeAWS, env map[string]string) {
		f.file("credentials", "[default]\n"+user("AKIAFILE"))
		env["AWS_SECRET_ACCESS_KEY"] = "" // half of the credentials are none
	}, "user/AKIAFILE"},
	"AWS_ACCESS_KEY": {func(_ *fakeAWS, env map[string]string) {
		env["AWS_ACCESS_KEY_ID"], env["AWS_ACCESS_KEY"] = "", "AKIAOLD"
	}, "user/AKIAOLD"},
	"AWS_SECRET_KEY": {func(_ *fakeAWS, env map[string]string) {
		env["AWS_SECRET_ACCESS_KEY"], env["AWS_SECRET_KEY"] = "", "s"
	}, "user/AKIABASE"},
	"AWS_SESSION_TOKEN": one("AWS_SESSION_TOKEN", "session-token", `token "session-token"`),
	"AWS_ACCOUNT_ID":    one("AWS_ACCOUNT_ID", "123456789012", "123456789012"),
	"AWS_PROFILE": {func(f *fakeAWS, env map[string]string) {
		noCredentials(env)
		f.file("credentials", "[dev]\n"+user("AKIADEV"))
		env["AWS_PROFILE"] = "dev"
	}, "user/AKIADEV"},
	"AWS_DEFAULT_PROFILE": {func(f *fakeAWS, env map[string]string) {
		noCredentials(env)
		f.file("credentials", "[dev]\n"+user("AKIADEV"))
		env["AWS_DEFAULT_PROFILE"] = "dev"
	}, "user/AKIADEV"},
	"AWS_REGION": one("AWS_REGION", "eu-north-1", "in eu-north-1"),
	"AWS_DEFAULT_REGION": {func(_ *fakeAWS, env map[string]string) {
		env["AWS_REGION"], env["AWS_DEFAULT_REGION"] = "", "eu-north-1"
	}, "in eu-north-1"},
	"AWS_CONFIG_FILE": {func(f *fakeAWS, env map[string]string) {
		noCredentials(env)
		f.file("credentials", user("")+"[base]\n"+user("AKIADEV"))
		env["AWS_CONFIG_FILE"] = f.file("other", "[default]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = base\n")
	}, "user/ASIAROLE"},
	"AWS_SHARED_CREDENTIALS_FILE": {func(f *fakeAWS, env map[string]string) {
		noCredentials(env)
		env["AWS_SHARED_CREDENTIALS_FILE"] = f.file("other", "[default]\n"+user("AKIAFILE"))
	}, "user/AKIAFILE"},
	"AWS_RESTRICT_FILE_PERMISSIONS": one("AWS_RESTRICT_FILE_PERMISSIONS", "unrestricted", "unrestricted"),
	"AWS_CA_BUNDLE": {func(f *fakeAWS, env map[string]string) {
		server := httptest.NewTLSServer(f.sts("TLS"))
		f.t.Cleanup(server.Close)
		env["AWS_ENDPOINT_URL"] = server.URL
		env["AWS_CA_BUNDLE"] = f.file("ca.pem", string(pem.EncodeToMemory(
			&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	}, "TLS: GetCallerIdentity"},
	"AWS_ENDPOINT_URL": {func(f *fakeAWS, env map[string]string) {
		env["AWS_ENDPOINT_URL"] = f.serve(f.sts("elsewhere")) + "/below"
	}, "elsewhere: GetCallerIdentity"},
	"AWS_ENDPOINT_URL_*": {func(f *fakeAWS, env map[string]string) {
		noCredentials(env)
		f.file("config", "[default]\nrole_arn = arn:aws:iam::1:role/r\nsource_profile = sso\n[profile sso]\nsso_session = s\n"+
			"sso_account_id = 123456789012\nsso_role_name = r\n[sso-session s]\nsso_start_url = https://sso.invalid\nsso_region = eu-central-1\n")
		(&fakeAWS{t: f.t, dir: os.Getenv("HOME")}).file(".aws/sso/cache/a0f1490a20d0211c997b44bc357e1972deab8ae3.json",
			`{"accessToken":"sso-token","expiresAt":"`+time.Now().Add(time.Hour).UTC().Format(time.RFC3339)+`"}`)
		env["AWS_ENDPOINT_URL_STS"], env["AWS_ENDPOINT_URL_SSO"] = f.serve(f.sts("STS")), f.serve(f.sts("SSO"))
	}, "SSO: role credentials for the token sso-token;STS: AssumeRole by ASIASSO;STS: GetCallerIdentity by ASIAROLE"},
	"AWS_USE_FIPS_ENDPOINT": {func(_ *fakeAWS, env map[string]string) {
		env["AWS_ENDPOINT_URL"], env["AWS_USE_FIPS_ENDPOINT"], env["AWS_REGION"] = "", "true", "us-east-2"
	}, "proxy: CONNECT sts-fips.us-east-2"},
	"AWS_USE_DUALSTACK_ENDPOINT": {func(f *fakeAWS, env map[string]string) {
		env["AWS_ENDPOINT_URL"], env["AWS_USE_DUALSTACK_ENDPOINT"] = "", "FALSE"
		f.file("config", "[default]\nuse_dualstack_endpoint = true\n")
	}, "proxy: CONNECT sts.eu-central-1.amazonaws.com"},
	"AWS_RETRY_MODE": one("AWS_RETRY_MODE", "adaptive", "adaptive"),
	"AWS_MAX_ATTEMPTS": {func(_ *fakeAWS, env map[string]string) {
		env["AWS_ACCESS_KEY_ID"], env["AWS_MAX_ATTEMPTS"] = "AKIAFAILS", "2"
	}, "by AKIAFAILS;by AKIAFAILS"},
	"AWS_SDK_UA_APP_ID":                 one("AWS_SDK_UA_APP_ID", "audited", `app "audited"`),
	"AWS_AUTH_SCHEME_PREFERENCE":        one("AWS_AUTH_SCHEME_PREFERENCE", "sigv4a, sigv4", "[sigv4a sigv4]"),
	"AWS_DISABLE_CLOCK_SKEW_CORRECTION": one("AWS_DISABLE_CLOCK_SKEW_CORRECTION", "true", "true"),
	"AWS_EC2_METADATA_DISABLED": {func(f *fakeAWS, env map[string]string) {
		noCredentials(env)
		f.file("config", "[default]\nec2_metadata_service_endpoint = "+f.serve(f.imds(false))+"\n")
		env["AWS_EC2_METADATA_DISABLED"] = "false"
	}, "metadata: PUT;user/ASIAINSTANCE"},
	"AWS_EC2_METADATA_SERVICE_ENDPOINT": {func(f *fakeAWS, env map[string]string) {
		noCredentials(env)
		env["AWS_EC2_METADATA_DISABLED"], env["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = "", f.serve(f.imds(false))
	}, "user/ASIAINSTANCE"},
	"AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE": {func(_ *fakeAWS, env map[string]string) {
		noCredentials(env)
		env["AWS_EC2_METADATA_DISABLED"], env["AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"] = "", "IPv6"
	}, "proxy: PUT [fd00:ec2::254]"},
	"AWS_EC2_METADATA_V1_DISABLED": {func(f *fakeAWS, env map[string]string) {
		noCredentials(env)
		env["AWS_EC2_METADATA_DISABLED"], env["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = "", f.serve(f.imds(true))
		env["AWS_EC2_METADATA_V1_DISABLED"] = "true"
	}, "metadata: PUT"},
	"HTTP_PROXY": {func(f *fakeAWS, env map[string]string) {
		f.elsewhere(env)
		env["HTTP_PROXY"] = strings.Replace(f.serve(f.refuse("mine")), "://", "://user:password@", 1)
	}, "mine: POST 0.0.0.0:"},
	"HTTPS_PROXY": {func(f *fakeAWS, env map[string]string) {
		env["AWS_ENDPOINT_URL"], env["HTTPS_PROXY"], env["https_proxy"] = "", "", f.serve(f.refuse("mine"))
	}, "mine: CONNECT sts.eu-central-1"},
	"NO_PROXY": {func(f *fakeAWS, env map[string]string) {
		f.elsewhere(env)
		env["NO_PROXY"] = "0.0.0.0"
	}, "AWS: GetCallerIdentity"},
}

// elsewhere gives AWS an address that proxies are used for, which those of loopback are not.
func (f *fakeAWS) elsewhere(env map[string]string) {
	env["AWS_ENDPOINT_URL"] = strings.Replace(env["AWS_ENDPOINT_URL"], "127.0.0.1", "0.0.0.0", 1)
}

// The agent asks AWS the same, and of the same place, as the command's process would with each variable that it is handed.
func TestAgentHearsVariables(t *testing.T) {
	t.Parallel()
	for _, v := range sdkVariables {
		if v.use != sdkHanded {
			continue
		}
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			tt, ok := handedCases[v.name]
			if !ok {
				t.Fatal("there is no case of it")
			}
			f, env := newFakeAWS(t)
			tt.set(f, env)
			environ := make([]string, 0, len(env))
			for name, value := range env {
				environ = append(environ, name+"="+value)
			}
			if names := UnsupportedEnv(t.Context(), environ, ""); len(names) > 0 {
				t.Fatalf("a command with %v does without the agent", names)
			}
			want, wantAsked := f.run(env)
			all := fmt.Sprint(want, wantAsked)
			for mark := range strings.SplitSeq(tt.mark, ";") {
				if !strings.Contains(all, mark) {
					t.Fatalf("the variable makes no difference: %s lacks %q", all, mark)
				}
			}
			// This process is the agent's: it was started from another terminal.
			got, err := observe(t.Context(), NewEnv(RelevantEnv(environ)))
			t.Log(err)
			asked := f.taken()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("without the agent (-), and in it (+): %s", diff)
			}
			if diff := cmp.Diff(wantAsked, asked); diff != "" {
				t.Errorf("asked without the agent (-), and in it (+): %s", diff)
			}
		})
	}
}

// Variables that only one process hears make a command do without the agent; those of no use change nothing that is asked.
func TestOtherVariables(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	f, env := newFakeAWS(t)
	want, wantAsked := f.run(env)
	for _, v := range sdkVariables {
		environ := []string{v.name + "=true"}
		if alone := UnsupportedEnv(t.Context(), environ, ""); slices.Contains(alone, v.name) != (v.use == sdkAlone) {
			t.Errorf("%s: %v", v.name, alone)
		}
		if _, handed := RelevantEnv(environ)[v.name]; handed != (v.use == sdkHanded) && v.name != "AWS_ENDPOINT_URL_*" {
			t.Errorf("%s: handed over: %v", v.name, handed)
		}
		if differ := OtherEnv(map[string]string{v.name: "x"}); slices.Contains(differ, v.name) != (v.use == sdkShared) {
			t.Errorf("%s: %v", v.name, differ)
		}
		if v.use != sdkUnused && !strings.Contains(string(docs), "`"+v.name+"`") {
			t.Errorf("docs/configuration.md lacks %s", v.name)
		}
		if v.use != sdkHanded && v.why == "" {
			t.Errorf("%s: there is no reason", v.name)
		}
		if v.use == sdkUnused {
			env[v.name] = map[string]string{
				"AWS_ACCOUNT_ID_ENDPOINT_MODE": "required", "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
				"AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required", "AWS_REQUEST_MIN_COMPRESSION_SIZE_BYTES": "1",
			}[v.name]
			if env[v.name] == "" {
				env[v.name] = "true"
			}
		}
	}
	got, asked := f.run(env)
	if diff := cmp.Diff(want, got) + cmp.Diff(wantAsked, asked); diff != "" {
		t.Errorf("variables that are said to change nothing: %s", diff)
	}
}

// The table has every variable that the modules of the SDK read, which are those of go.mod: a newer one may read more.
func TestVariablesOfTheSDK(t *testing.T) {
	t.Parallel()
	read := variablesRead(t)
	for name, where := range read {
		if _, ok := sdkVariableOf(name); !ok {
			t.Errorf("%s reads %s, which sdkVariables lacks", where, name)
		}
	}
	for _, v := range sdkVariables {
		if _, ok := read[v.name]; !ok && strings.HasPrefix(v.name, "AWS_") && v.name != servicesEndpoints+"*" {
			t.Errorf("the SDK does not read %s any more", v.name)
		}
	}
}

// startedWith are the variables of this process before TestMain.
var startedWith = os.Environ()

// variablesRead returns the environment variables that the linked packages of the SDK read, with a file that does.
func variablesRead(t *testing.T) map[string]string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if .Module}}{{.Module.Path}}\t{{.Dir}}{{end}}", ".")
	cmd.Env = startedWith
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	read := make(map[string]string)
	packages := 0
	for line := range strings.Lines(string(out)) {
		module, dir, _ := strings.Cut(strings.TrimSpace(line), "\t")
		if !strings.HasPrefix(module, "github.com/aws/") {
			continue
		}
		packages++
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if !strings.HasSuffix(file, "_test.go") {
				variablesOfFile(t, file, read)
			}
		}
	}
	if packages < 20 || len(read) < 40 {
		t.Fatalf("only %d packages read %d variables", packages, len(read))
	}
	return read
}

var (
	readsVariables = regexp.MustCompile(`\bos\.(Getenv|LookupEnv|ExpandEnv)\(`)
	variableName   = regexp.MustCompile("[\"`](_?[A-Z][A-Z0-9]*_[A-Z0-9_]+)[\"`]")
	variableConst  = regexp.MustCompile("= [\"`](_?[A-Z][A-Z0-9]*_[A-Z0-9_]+)[\"`]")
)

// variablesOfFile notes all that has the form of a variable's name in a file that reads variables: the names are constants, which
// functions hand on.
func variablesOfFile(t *testing.T, file string, read map[string]string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !readsVariables.Match(text) {
		return
	}
	names := variableName.FindAllSubmatch(text, -1)
	for _, name := range names {
		read[string(name[1])] = file
	}
	if len(names) > 0 {
		return
	}
	// The constants are in another file of the package.
	files, err := filepath.Glob(filepath.Join(filepath.Dir(file), "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range files {
		if strings.HasSuffix(other, "_test.go") {
			continue
		}
		text, err := os.ReadFile(other)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range variableConst.FindAllSubmatch(text, -1) {
			read[string(name[1])] = file
		}
	}
}
