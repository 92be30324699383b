//go:build unix

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/configure"
	"github.com/bastion-ssm/bastion/lab"
)

// colleague is the environment of somebody who has a profile and nothing else.
func (o *organization) colleague(profile string) (env []string) {
	o.t.Helper()
	home, err := os.MkdirTemp(scratch, "c")
	if err != nil {
		o.t.Fatal(err)
	}
	return []string{
		"BASTION_CONFIG=", "BASTION_SHARED_CONFIG=", "AWS_PROFILE=" + profile, "BASTION_STATE_DIR=" + filepath.Join(home, "state"), "BASTION_NO_AGENT=true",
	}
}

// A new colleague types the name of a target and nothing before: it is that of the account and region, which an administrator has
// shared. Accounts and regions have a configuration each.
func TestSharedConfiguration(t *testing.T) {
	t.Parallel()
	o := startOrganization(t, lab.IdentityConfig{})
	if err := o.AddIdentity("admin", accountWork, "eu-central-1", lab.IdentityConfig{Allow: []string{"*"}}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "team.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("targets:\n  orders: " + o.target + "\n  there: {target: " + o.target + ", environment: us}\nenvironments:\n  us: {region: us-east-1, confirm: true}\n")
	admin, jo := o.colleague("admin"), o.colleague("work")
	must := func(env []string, args ...string) result {
		t.Helper()
		r := o.run(env, args...)
		if r.code != 0 {
			t.Fatalf("%q: exit code %d: %s", args, r.code, r.stderr)
		}
		return r
	}
	refused := func(env []string, code int, text string, args ...string) {
		t.Helper()
		if r := o.run(env, args...); r.code != code || !strings.Contains(r.stderr, text) {
			t.Errorf("%q: exit code %d, want %d with %q: %s", args, r.code, code, text, r.stderr)
		}
	}
	refused(jo, 3, "no such name", "forward", "orders", ":")
	refused(admin, 2, "add --yes", "config", "share", file)
	if r := must(admin, "config", "share", "--yes", file); !strings.Contains(r.stdout, "version 1 of the shared configuration /bastion/config in eu-central-1") {
		t.Error(r.stdout)
	}
	refused(jo, 3, "no such name", "forward", "orders", ":") // what AWS has said serves for a while
	if r := must(jo, "config", "show", "--refresh"); !strings.Contains(r.stdout, "file: ssm:/bastion/config (version 1 of ") ||
		!strings.Contains(r.stdout, "ssm:/bastion/config:2:11") {
		t.Error(r.stdout)
	}
	p, forwards := o.forwards(jo, "orders", ":")
	if got := o.which(forwards[0].Listen); got != "dev" {
		t.Errorf("orders leads to %s", got)
	}
	o.stop(p, syscall.SIGINT, 130)
	refused(jo, 2, "add --yes if you mean it", "forward", "there", ":")
	p, forwards = o.forwards(jo, "--yes", "us/orders", ":")
	if got := o.which(forwards[0].Listen); got != "staging" {
		t.Errorf("us/orders leads to %s", got)
	}
	o.stop(p, syscall.SIGINT, 130)
	before := o.labs["dev"].Calls()["ssm:GetParameter"]
	must(jo, "config", "show")
	must(jo, "ls")
	if r := must(jo, "__complete", "forward", ""); !strings.Contains(r.stdout, "orders") {
		t.Errorf("completion: %s", r.stdout)
	}
	if n := o.labs["dev"].Calls()["ssm:GetParameter"]; n != before {
		t.Errorf("%d calls for what is known", n-before)
	}
	// Another account has none, and another region of this account.
	refused(o.colleague("prod"), 3, "no such name", "forward", "orders", ":")
	refused(append(o.colleague("work"), "AWS_REGION=us-east-1"), 3, "no such name", "forward", "orders", ":")
	refused(append(o.colleague("work"), "BASTION_SHARED_CONFIG=off"), 3, "no such name", "forward", "orders", ":")
	refused(append(o.colleague("work"), "BASTION_SHARED_CONFIG=x y"), 2, "no name of an SSM parameter", "config", "share", file)

	// What chooses an identity, or what runs in AWS, needs each reader's trust.
	write("task_definition: other\ntargets:\n  orders: " + o.target + "\n")
	must(admin, "config", "share", "--yes", file)
	must(jo, "config", "show", "--refresh", "--task-definition", "bastion")
	refused(jo, 2, "the account's shared configuration, and you have not trusted it", "forward", "orders", ":")
	if r := must(jo, "trust", "--yes"); !strings.Contains(r.stdout, ":parameter/bastion/config") {
		t.Error(r.stdout)
	}
	var shown struct {
		File     string
		Settings []struct{ Key, Value string }
		Shared   configure.SharedOutput
	}
	if err := json.Unmarshal([]byte(must(jo, "config", "show", "-o", "json").stdout), &shown); err != nil || shown.File != "ssm:/bastion/config" ||
		shown.Shared.Version != 2 || shown.Shared.Region != "eu-central-1" || shown.Shared.Read == nil || time.Since(*shown.Shared.Read) > time.Minute {
		t.Errorf("%+v, %v", shown, err)
	}
	must(jo, "trust", "--remove")
	refused(jo, 2, "you have not trusted it", "config", "show")

	// What cannot be shared.
	for text, want := range map[string]string{
		"tls_ca: ca.pem\n": "cannot name a file of this machine", "clustr: x\n": "unknown key", "# " + strings.Repeat("x", 4096): "at most 4096",
	} {
		write(text)
		refused(admin, 2, want, "config", "share", "--yes", file)
	}
	write("cluster: bastion\n")
	refused(jo, 5, "ssm:PutParameter", "config", "share", "--yes", file)
	must(admin, "config", "share", "--remove", "--yes")
	refused(admin, 2, "exclude each other", "config", "share", "--remove", file)
}

// An account whose people may not read the parameter, or one that does not answer, serves them as if there were none. What needs it says
// why it is not known.
func TestSharedConfigurationUnread(t *testing.T) {
	t.Parallel()
	o := startOrganization(t, lab.IdentityConfig{Deny: []string{"ssm:GetParameter"}})
	prod := o.colleague("prod")
	if r := o.run(prod, "config", "show"); r.code != 0 || r.stderr != "" {
		t.Errorf("denied: %d: %s", r.code, r.stderr)
	}
	if r := o.run(prod, "forward", "orders", ":"); r.code != 5 || !strings.Contains(r.stderr, "the shared one is not known") || !strings.Contains(r.stderr, "ssm:GetParameter") {
		t.Errorf("a name: %d: %s", r.code, r.stderr)
	}
	if r := o.run(prod, "forward", "us/orders", ":"); r.code != 5 || !strings.Contains(r.stderr, "unknown environment") {
		t.Errorf("an environment: %d: %s", r.code, r.stderr)
	}
	if n := o.labs["prod"].Calls()["ssm:GetParameter"]; n != 1 {
		t.Errorf("%d calls", n)
	}
	p, forwards := o.forwards(prod, o.target, ":")
	if got := o.which(forwards[0].Listen); got != "prod" {
		t.Errorf("leads to %s", got)
	}
	o.stop(p, syscall.SIGINT, 130)
	// Without credentials the error is theirs.
	if r := o.run(append(o.colleague("nobody"), "AWS_REGION=eu-central-1"), "forward", "orders", ":"); r.code != 4 && r.code != 2 || !strings.Contains(r.stderr, "nobody") {
		t.Errorf("no profile: %d: %s", r.code, r.stderr)
	}
}
