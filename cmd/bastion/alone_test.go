package main

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// callers is a fake of AWS that knows who asks, and then denies everything.
type callers struct {
	*httptest.Server

	mu  sync.Mutex
	all []string
}

var mfaCode = regexp.MustCompile(`TokenCode=(\d+)`)

var accessKey = regexp.MustCompile(`Credential=([^/]+)/`)

func newCallers(t *testing.T) *callers {
	t.Helper()
	c := &callers{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		key := ""
		if found := accessKey.FindStringSubmatch(r.Header.Get("Authorization")); found != nil {
			key = found[1]
		}
		switch {
		case r.URL.Path == "/credentials": // of a container
			fmt.Fprintf(w, `{"AccessKeyId":"ASIACONTAINER","SecretAccessKey":"s","Token":"t","Expiration":%q}`,
				time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		case strings.Contains(string(body), "Action=GetCallerIdentity"):
			c.note("identity of " + key)
			fmt.Fprintf(w, `<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::1:user/%s</Arn><UserId>u</UserId>`+
				`<Account>1</Account></GetCallerIdentityResult></GetCallerIdentityResponse>`, key)
		case strings.Contains(string(body), "Action=AssumeRole"):
			code := ""
			if found := mfaCode.FindStringSubmatch(string(body)); found != nil {
				code = " with " + found[1]
			}
			c.note("role by " + key + code)
			fmt.Fprintf(w, `<Response><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>ASIAWEB</AccessKeyId><SecretAccessKey>s</SecretAccessKey>`+
				`<SessionToken>t</SessionToken><Expiration>%[1]s</Expiration></Credentials></AssumeRoleWithWebIdentityResult>`+
				`<AssumeRoleResult><Credentials><AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey>`+
				`<SessionToken>t</SessionToken><Expiration>%[1]s</Expiration></Credentials></AssumeRoleResult></Response>`,
				time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
		default:
			c.note("call of " + key)
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `<ErrorResponse><Error><Code>AccessDenied</Code><Message>denied</Message></Error></ErrorResponse>`)
		}
	}))
	t.Cleanup(c.Close)
	return c
}

func (c *callers) note(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, what)
}

func (c *callers) asked() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.all, ", ")
}

// person is a user with an agent, whose AWS is a fake.
type person struct {
	t    *testing.T
	home string
	env  []string
}

// newPerson returns a person whose agent runs, without any variable of AWS. Nothing of theirs reaches the network: a proxy refuses what
// does not go to the fake.
func newPerson(t *testing.T, aws *callers) *person {
	t.Helper()
	home, err := os.MkdirTemp(scratch, "p")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(home, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	p := &person{t: t, home: home}
	p.env = append(append(rig.Environ(), offline(home)...),
		"BASTION_NO_AGENT=false", "HTTP_PROXY="+aws.URL, "HTTPS_PROXY="+aws.URL, "AWS_ENDPOINT_URL="+aws.URL, "AWS_REGION=eu-central-1",
		"AWS_CONFIG_FILE="+filepath.Join(home, "config"), "AWS_SHARED_CREDENTIALS_FILE="+filepath.Join(home, "credentials"),
		"BASTION_AWS_TIMEOUT=20s")
	if code, out := p.run(nil, "agent", "start"); code != 0 {
		t.Fatal(out)
	}
	t.Cleanup(func() {
		if code, out := p.run(nil, "agent", "stop"); code != 0 {
			t.Error(out)
		}
	})
	return p
}

func (p *person) file(name, text string) {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.home, name), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// run runs a command with variables added.
func (p *person) run(env []string, args ...string) (code int, out string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.t.Context()), 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(scratch, "bastion"), args...)
	cmd.Env = append(append([]string(nil), p.env...), env...)
	cmd.Dir = p.home
	cmd.WaitDelay = time.Second // a credential_process may leave a child, which has standard error
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		p.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(text)
}

// What the agent cannot hear of a command's process, the command does without it, or says so where only the agent can do it.
func TestWithoutTheAgent(t *testing.T) {
	t.Parallel()
	keys := []string{"AWS_ACCESS_KEY_ID=AKIAMINE", "AWS_SECRET_ACCESS_KEY=s"}
	const process = `printf '{"Version":1,"AccessKeyId":"%s","SecretAccessKey":"s"}' "$MY_KEY"`
	for name, tt := range map[string]struct {
		env   []string
		args  []string
		files map[string]string
		note  string // "": the agent acts
		asked string
	}{
		"keys":                 {keys, nil, nil, "", "call of AKIAMINE"},
		"container":            {[]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI=URL/credentials"}, nil, nil, "AWS_CONTAINER_CREDENTIALS_FULL_URI", "call of ASIACONTAINER"},
		"web identity":         {[]string{"AWS_WEB_IDENTITY_TOKEN_FILE=HOME/token", "AWS_ROLE_ARN=arn:aws:iam::1:role/r"}, nil, map[string]string{"token": "x"}, "AWS_WEB_IDENTITY_TOKEN_FILE", "call of ASIAWEB"},
		"role of the keys":     {keys, []string{"--profile", "r"}, map[string]string{"config": "[profile r]\nrole_arn = arn:aws:iam::1:role/r\ncredential_source = Environment\n"}, "AWS_ACCESS_KEY_ID", "call of ASIAROLE"},
		"another HOME":         {append([]string{"HOME=HOME/run"}, keys...), nil, nil, "HOME", "call of AKIAMINE"},
		"certificates":         {append([]string{"SSL_CERT_FILE=/dev/null"}, keys...), nil, nil, "SSL_CERT_FILE", "call of AKIAMINE"},
		"a credential program": {[]string{"MY_KEY=AKIAPROGRAM"}, []string{"--profile", "p"}, map[string]string{"config": "[profile p]\ncredential_process = " + process + "\n"}, "credential_process", "call of AKIAPROGRAM"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			aws := newCallers(t)
			p := newPerson(t, aws)
			for file, text := range tt.files {
				p.file(file, text)
			}
			var env []string
			for _, variable := range tt.env {
				env = append(env, strings.NewReplacer("URL/", aws.URL+"/", "=HOME/", "="+p.home+"/").Replace(variable))
			}
			code, out := p.run(env, append([]string{"forward", "rds:orders", ":"}, tt.args...)...)
			if code != 5 || !strings.Contains(aws.asked(), tt.asked) {
				t.Errorf("exit code %d, asked %s, want %s\n%s", code, aws.asked(), tt.asked, out)
			}
			const alone = "going on without the agent"
			if strings.Contains(out, alone) != (tt.note != "") || !strings.Contains(out, tt.note) {
				t.Errorf("want the note %q\n%s", tt.note, out)
			}
			if tt.note == "" {
				return
			}
			code, out = p.run(env, append([]string{"forward", "-d", "rds:orders", ":"}, tt.args...)...)
			if code == 0 || code == 5 || !strings.Contains(out, tt.note) || strings.Contains(out, alone) {
				t.Errorf("detached: exit code %d, want one and %q\n%s", code, tt.note, out)
			}
		})
	}
}

// The variables of the terminal that the agent was started in are not those of the commands.
func TestAgentForgetsItsVariables(t *testing.T) {
	t.Parallel()
	aws := newCallers(t)
	p := newPerson(t, aws)
	if code, out := p.run(nil, "agent", "stop"); code != 0 {
		t.Fatal(out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(scratch, "bastion"), "agent", "run")
	cmd.Env = append(append([]string(nil), p.env...), "AWS_ACCESS_KEY_ID=AKIAAGENT", "AWS_SECRET_ACCESS_KEY=s", "AWS_PROFILE=agents")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 1)); err != nil { // it serves
		t.Fatal(err)
	}
	p.file("credentials", "[default]\naws_access_key_id = AKIADEFAULT\naws_secret_access_key = s\n")
	if code, out := p.run(nil, "forward", "rds:orders", ":"); code != 5 || !strings.Contains(aws.asked(), "call of AKIADEFAULT") ||
		strings.Contains(aws.asked(), "AKIAAGENT") {
		t.Errorf("exit code %d, asked %s\n%s", code, aws.asked(), out)
	}
	cancel()
	_ = cmd.Wait()
}

// ssoToken signs the person in to the session "s".
func (p *person) ssoToken() {
	p.t.Helper()
	dir := filepath.Join(p.home, ".aws", "sso", "cache")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		p.t.Fatal(err)
	}
	sum := sha1.Sum([]byte("s"))
	token := `{"accessToken":"x","expiresAt":"` + time.Now().Add(time.Hour).UTC().Format(time.RFC3339) + `"}`
	if err := os.WriteFile(filepath.Join(dir, hex.EncodeToString(sum[:])+".json"), []byte(token), 0o600); err != nil {
		p.t.Fatal(err)
	}
}
