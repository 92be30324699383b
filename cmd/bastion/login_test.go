//go:build unix

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/lab"
)

var enterCode = regexp.MustCompile(`enter the code ([0-9A-F-]+),`)

// login signs in to an environment by a code, and returns the outcome.
func (o *organization) login(environment, start string) string {
	o.t.Helper()
	p := o.start(nil, "login", "-e", environment, "--no-browser", "-o", "json")
	var code []string
	eventuallyWithin(o.t, time.Minute, "the code for "+environment, func() bool {
		code = enterCode.FindStringSubmatch(p.Output())
		return code != nil
	})
	if !strings.Contains(p.Output(), start) {
		o.t.Errorf("the page is another one than %s:\n%s", start, p.Output())
	}
	if err := o.IdentityCenter().Decide(code[1], true); err != nil {
		o.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(o.t.Context(), time.Minute)
	defer cancel()
	if exit, err := p.Wait(ctx); err != nil || exit != 0 {
		o.t.Fatalf("login -e %s: exit code %d, %v\n%s", environment, exit, err, p.Output())
	}
	return loginOutcome(o.t, strings.Join(p.Stdout(), "\n"))
}

func loginOutcome(t *testing.T, text string) string {
	t.Helper()
	var out struct{ Outcome string }
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return out.Outcome
}

// link returns the agent's link of an environment.
func (o *organization) link(environment string) api.Link {
	o.t.Helper()
	for _, l := range o.state().Links {
		if l.Environment == environment {
			return l
		}
	}
	o.t.Fatalf("no link of %s", environment)
	panic("unreachable")
}

// Environments sign in each by itself. When the login of one has ended, the agent asks for that one alone, with its command; the others'
// forwards and connections go on, and after the login that one's connection too.
func TestLoginOfEnvironments(t *testing.T) {
	t.Parallel()
	o := startOrganization(t, lab.IdentityConfig{})
	path := filepath.Join(o.dir, "login.yaml")
	if err := os.WriteFile(path, fmt.Appendf(nil, `environments:
  dev: {profile: sso-%s, region: eu-central-1}
  prod: {profile: sso-%s, region: us-east-1}
targets:
  db: %s
`, accountWork, accountProd, o.target), 0o600); err != nil {
		t.Fatal(err)
	}
	o.env = append(o.env, "BASTION_CONFIG="+path)
	sso := o.IdentityCenter()
	sso.SetRoleLife(accountProd, 12*time.Second)

	for _, environment := range []string{"dev", "prod"} {
		if r := o.run(nil, "login", "-e", environment, "--check"); r.code != 4 {
			t.Errorf("login --check of %s before the login: exit code %d, %s", environment, r.code, r.stderr)
		}
	}
	if got := o.login("dev", sso.StartURL()); got != "signed_in" {
		t.Error(got)
	}
	for environment, want := range map[string]int{"dev": 0, "prod": 4} {
		if r := o.run(nil, "login", "-e", environment, "--check"); r.code != want {
			t.Errorf("login --check of %s after the login to dev: exit code %d, %s", environment, r.code, r.stderr)
		}
	}
	if got := o.login("prod", sso.StartURL()); got != "signed_in" {
		t.Error(got)
	}

	_, forwards := o.forwards(nil, "dev/db", ":", "prod/db", ":")
	held := make(map[string]net.Conn)
	for i, environment := range []string{"dev", "prod"} {
		conn, err := net.DialTimeout("tcp", forwards[i].Listen, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if got, err := whichOn(conn); err != nil || got != environment {
			t.Fatalf("%q, %v", got, err)
		}
		held[environment] = conn
	}

	o.endSession("prod")
	eventuallyWithin(t, time.Minute, "the agent asks for the login to prod", func() bool { return o.link("prod").SignIn != nil })
	if got, want := o.link("prod").SignIn.Command, "bastion login --profile sso-"+accountProd; got != want {
		t.Errorf("the agent asks for %q, want %q", got, want)
	}
	if r := o.run(nil, "login", "-e", "prod", "--check"); r.code != 4 {
		t.Errorf("login --check of prod after its end: exit code %d, %s", r.code, r.stderr)
	}
	expires := o.link("prod").SignIn.Expires
	eventuallyWithin(t, time.Minute, "the credentials of prod expire", func() bool { return time.Now().After(expires) })
	if o.labs["prod"].Gateway().Cut("", "reset") == 0 {
		t.Fatal("nothing of prod was cut")
	}
	eventually(t, "the link of prod waits", func() bool { return o.link("prod").State == api.LinkWaiting })
	if l := o.link("dev"); l.SignIn != nil || l.State != api.LinkUp {
		t.Errorf("the link of dev: %+v", l)
	}
	if got, err := whichOn(held["dev"]); err != nil || got != "dev" {
		t.Errorf("the connection to dev: %q, %v", got, err)
	}
	if got := o.which(forwards[0].Listen); got != "dev" {
		t.Errorf("a new connection to dev leads to %q", got)
	}
	if r := o.must("login", "-e", "dev", "-o", "json"); loginOutcome(t, r.stdout) != "kept" {
		t.Errorf("login to dev: %s", r.stdout)
	}

	if got := o.login("prod", sso.StartURL()); got != "signed_in" {
		t.Error(got)
	}
	if got, err := whichOn(held["prod"]); err != nil || got != "prod" {
		t.Errorf("the connection to prod after the login: %q, %v", got, err)
	}
	eventually(t, "the agent asks for nothing", func() bool { return o.link("prod").SignIn == nil && o.link("prod").State == api.LinkUp })
}

// endSession ends the login of an environment, as an administrator does.
func (o *organization) endSession(environment string) {
	o.t.Helper()
	account := map[string]string{"dev": accountWork, "prod": accountProd}[environment]
	session := awssdk.SSOSession{Name: lab.SSOSession + "-" + account}
	file, err := session.TokenFile()
	if err != nil {
		o.t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(o.dir, ".aws", "sso", "cache", filepath.Base(file)))
	if err != nil {
		o.t.Fatal(err)
	}
	var token struct{ AccessToken string }
	if err := json.Unmarshal(data, &token); err != nil {
		o.t.Fatal(err)
	}
	if err := o.IdentityCenter().EndSession(token.AccessToken); err != nil {
		o.t.Fatal(err)
	}
}
