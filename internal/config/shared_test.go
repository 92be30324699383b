package config

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/fail"
)

const sharedARN = "arn:aws:ssm:eu-central-1:111111111111:parameter/bastion/config"

// sharedSource is a source without files whose account has a shared configuration.
func sharedSource(t *testing.T, text string, err error) Source {
	t.Helper()
	t.Chdir(t.TempDir())
	return Source{
		Flags: map[string]string{"state_dir": filepath.Join(t.TempDir(), "state"), "profile": "p"}, LookupEnv: environ("BASTION_REGION=eu-central-1"), NoProject: true,
		Shared: func(s Settings) (*Found, error) {
			if s.AWS.Profile != "p" || s.AWS.Region != "eu-central-1" {
				t.Errorf("looked up with %+v", s.AWS)
			}
			if text == "" {
				return nil, err
			}
			return &Found{Path: SharedPath + "/bastion/config", Real: sharedARN, Data: []byte(text)}, err
		},
	}
}

// Without a file the shared configuration counts, with its environments, and its values have its name and place.
func TestShared(t *testing.T) {
	src := sharedSource(t, "cluster: team\nregion: us-east-1\ntargets: {orders: rds:orders}\nenvironments:\n  prod: {task_size: large}\n", nil)
	src.Flags["environment"] = "prod"
	s, explained, err := Explain(src)
	if err != nil {
		t.Fatal(err)
	}
	if s.Bastion.Cluster != "team" || s.AWS.Region != "eu-central-1" || s.Bastion.Size != "large" || s.Targets["orders"].Spec != "rds:orders" ||
		s.File != "ssm:/bastion/config" || s.Unread != nil {
		t.Errorf("%+v", s)
	}
	for _, e := range explained {
		if e.Key == "cluster" && (e.Where != "ssm:/bastion/config:1:10" || e.Origin != FromFile) {
			t.Errorf("%+v", e)
		}
	}
	// A file counts alone.
	file := filepath.Join(t.TempDir(), "f.yaml")
	writeFile(t, file, "task_cpu: 512\n")
	src.File = file
	delete(src.Flags, "environment")
	src.Shared = func(Settings) (*Found, error) { t.Error("looked up beside a file"); return nil, nil }
	if s, err := Load(src); err != nil || s.Bastion.Cluster != "bastion" || s.File != file {
		t.Errorf("%+v, %v", s, err)
	}
	src.File, src.NoFile = "", true
	if s, err := Load(src); err != nil || s.File != "" {
		t.Errorf("without files: %+v, %v", s, err)
	}
}

// A shared configuration has the rights of a project file: what may run a program or choose an identity needs the user's trust, for the
// content at hand. It never names a file of the machine.
func TestSharedNeedsTrust(t *testing.T) {
	src := sharedSource(t, "task_definition: other\n", nil)
	_, err := Load(src)
	if fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "the account's shared configuration, and you have not trusted it") ||
		!strings.HasPrefix(fail.NextOf(err), "bastion trust shows") {
		t.Errorf("%v, next %q", err, fail.NextOf(err))
	}
	found, err := src.FindShared()
	if err != nil || found == nil || !found.Shared {
		t.Fatalf("%+v, %v", found, err)
	}
	if err := src.Store().Add(t.Context(), found, time.Now()); err != nil {
		t.Fatal(err)
	}
	if s, err := Load(src); err != nil || s.Bastion.TaskDefinition != "other" {
		t.Errorf("trusted: %+v, %v", s, err)
	}
	flags := src.Flags
	src = sharedSource(t, "task_definition: third\n", nil)
	src.Flags = flags
	if _, err := Load(src); err == nil || !strings.Contains(err.Error(), "has changed since you trusted it") {
		t.Errorf("changed: %v", err)
	}
	for _, text := range []string{"tls_ca: ca.pem\n", "environments: {prod: {ssh_identity: /k}}\n", "browser: ./b\n"} {
		src := sharedSource(t, text, nil)
		if err := src.Store().Add(t.Context(), &Found{Real: sharedARN, Data: []byte(text)}, time.Now()); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(src); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "cannot name a file of this machine") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A shared configuration that cannot be read stops no command, but what needs it says so.
func TestSharedUnread(t *testing.T) {
	why := fail.New(fail.Timeout, "read the shared configuration", errors.New("no answer"), "check the network")
	src := sharedSource(t, "", why)
	s, err := Load(src)
	if err != nil || !errors.Is(s.Unread, why) {
		t.Errorf("%v, %v", s.Unread, err)
	}
	src.Flags["environment"] = "prod"
	if _, err := Load(src); fail.KindOf(err) != fail.Timeout || !strings.Contains(err.Error(), "no answer") || fail.NextOf(err) != "check the network" {
		t.Errorf("with an environment: %v", err)
	}
	if s, err := Load(sharedSource(t, "", nil)); err != nil || s.File != "" || s.Unread != nil {
		t.Errorf("an account without one: %+v, %v", s, err)
	}
}

// bastion use remembers the environment for the account's parameter, not for a file of its name.
func TestUseShared(t *testing.T) {
	src := sharedSource(t, "environments: {dev: {cluster: d}, prod: {cluster: p}}\n", nil)
	if err := src.Choose(t.Context(), "prod", time.Now()); err != nil {
		t.Fatal(err)
	}
	if s, err := Load(src); err != nil || s.Environment != "prod" || s.Bastion.Cluster != "p" {
		t.Errorf("%q, %v", s.Environment, err)
	}
	if used, err := src.Store().used(); err != nil || len(used) != 1 || used[0].Path != sharedARN {
		t.Errorf("%+v, %v", used, err)
	}
	if path, problems, err := src.Check(func(Target) error { return nil }); err != nil || path != "ssm:/bastion/config" || len(problems) > 0 {
		t.Errorf("%q, %v, %v", path, problems, err)
	}
}
