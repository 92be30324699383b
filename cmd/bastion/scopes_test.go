//go:build unix

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
)

// Two profiles in one agent have forwards of the same name. Each command acts on its own, ls shows whose they are, and all that
// is written down comes back.
func TestTwoProfiles(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	e.as("prod", lab.IdentityConfig{})
	ours := e.detach("--name", "db", "cache:sessions", rig.FreeAddr(t))
	theirs := e.detach("--name", "db", "cache:sessions", rig.FreeAddr(t), "--profile", "prod")
	if ours.Name != "db" || theirs.Name != "db" || ours.Listen == theirs.Listen || ours.Link == theirs.Link {
		t.Fatalf("%+v and %+v", ours, theirs)
	}
	check := func() {
		t.Helper()
		for _, tt := range []struct {
			args string
			want api.Forward
		}{
			{"", ours}, {" --profile lab", ours}, {" --profile prod", theirs},
		} {
			for _, ref := range []string{"db", "cache:sessions"} {
				r := e.must(strings.Fields("url " + ref + " -o json" + tt.args)...)
				var out struct{ Address string }
				if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || !strings.Contains(r.stdout, tt.want.Listen) {
					t.Errorf("url %s%s: %v, %s, want %s", ref, tt.args, err, r.stdout, tt.want.Listen)
				}
			}
			if r := e.must(strings.Fields("wait db" + tt.args)...); r.stdout != tt.want.Listen+"\n" {
				t.Errorf("wait%s: %q, want %s", tt.args, r.stdout, tt.want.Listen)
			}
		}
		// Without a profile there is none to choose by.
		for _, args := range []string{"url db", "stop db"} {
			r := e.run([]string{"AWS_PROFILE="}, strings.Fields(args)...)
			if r.code != 3 || !strings.Contains(r.stderr, "--profile") || !strings.Contains(r.stderr, "profile prod") {
				t.Errorf("%s without a profile: exit code %d, %s%s", args, r.code, r.stdout, r.stderr)
			}
		}
	}
	check()
	r := e.must("ls")
	for _, want := range []string{"PROFILE", "lab  ", "prod  ", lab.Account, lab.Region, "db@" + ours.Link, "db@" + theirs.Link} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("ls does not show %q:\n%s", want, r.stdout)
		}
	}
	for _, args := range []string{"forward -d --name db rds:orders :", "forward --name db cache:sessions :", "socks -d --name db :"} {
		r := e.run([]string{"BASTION_QUIET="}, strings.Fields(args)...)
		if r.code != 2 || !strings.Contains(r.stderr, "the name db is taken by the forward of cache:sessions at "+ours.Listen) ||
			!strings.Contains(r.stderr, "bastion stop db") {
			t.Errorf("%s: exit code %d, %s%s", args, r.code, r.stdout, r.stderr)
		}
	}
	if again := e.detach("--name", "db", "cache:sessions", ":"); again.Listen != ours.Listen {
		t.Errorf("asked for again: %+v, want %+v", again, ours)
	}
	e.must("agent", "stop")
	e.must("agent", "start")
	check()

	if r := e.must("stop", "db", "--profile", "prod"); r.stdout != "db is stopped\n" {
		t.Errorf("stop: %q", r.stdout)
	}
	if f := e.state().Forwards; len(f) != 1 || f[0].Listen != ours.Listen || f[0].Ref != "db" {
		t.Errorf("after stop: %+v", f)
	}
	if r := e.run(nil, "stop", "db", "--profile", "prod"); r.code != 3 || !strings.Contains(r.stderr, "no forward db is of the profile prod") {
		t.Errorf("stop of another profile's: exit code %d, %s", r.code, r.stderr)
	}
	e.detach("--name", "db", "cache:sessions", ":", "--profile", "prod")
	if r := e.must("stop", "all", "--profile", "prod"); r.stdout != "db is stopped\n" {
		t.Errorf("stop all of a profile: %q", r.stdout)
	}
	if r := e.must("stop", "db@"+ours.Link); r.stdout != "db is stopped\n" {
		t.Errorf("stop NAME@LINK: %q", r.stdout)
	}
	if f := e.state().Forwards; len(f) != 0 {
		t.Errorf("at the end: %+v", f)
	}
}

// A name of the configuration gets a number where it is taken: commands in two terminals may use one target.
func TestNameOfConfigurationIsNumbered(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte("targets: {kept: cache:sessions}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"BASTION_CONFIG=" + file}
	first, f1 := e.forwards(env, "kept", ":")
	second, f2 := e.forwards(env, "kept", ":")
	if f1[0].Name != "kept" || f2[0].Name != "kept-2" {
		t.Errorf("the names are %s and %s", f1[0].Name, f2[0].Name)
	}
	if r := e.run(env, "exec", "kept", "--", "true"); r.code != 0 {
		t.Errorf("exec: exit code %d, %s", r.code, r.stderr)
	}
	r := e.run(append(env, "BASTION_QUIET="), "forward", "-d", "kept", ":")
	if r.code != 0 || !strings.Contains(r.stderr, "the name kept is taken by the forward of cache:sessions at ") ||
		!strings.Contains(r.stderr, "this one is kept-3") {
		t.Errorf("detached: exit code %d, %s", r.code, r.stderr)
	}
	e.stop(first, syscall.SIGINT, 130)
	e.stop(second, syscall.SIGINT, 130)
}
