//go:build unix

package main

import (
	"encoding/json"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/internal/doctor"
	"github.com/bastion-ssm/bastion/lab"
)

// doctorOf runs the doctor and returns its report.
func (e *labEnv) doctorOf(env []string, args ...string) (doctor.Report, int) {
	e.t.Helper()
	got := e.run(env, append([]string{"doctor", "-o", "json"}, args...)...)
	var r doctor.Report
	if err := json.Unmarshal([]byte(got.stdout), &r); err != nil {
		e.t.Fatalf("%q: %v: %d: %s%s", args, err, got.code, got.stdout, got.stderr)
	}
	return r, got.code
}

// The doctor examines the environment of -e, of ENV/TARGET, or of a named target, and no other: what is broken in one is not seen in
// another.
func TestDoctorOfEnvironments(t *testing.T) {
	t.Parallel()
	o := startOrganization(t, lab.IdentityConfig{})
	o.must("up", "-e", "staging")
	o.labs["prod"].SetClusterStatus("bastion", "INACTIVE")
	for _, tt := range []struct {
		args        []string
		environment string
		want        []string
		measured    bool
	}{
		{[]string{"-e", "dev"}, "dev", nil, false},
		{[]string{"dev/" + o.target}, "dev", nil, false},
		{[]string{"staging/db"}, "staging", nil, true},
		{[]string{"-e", "prod"}, "prod", []string{"error aws.cluster inactive"}, false},
		{[]string{"prod/db"}, "prod", []string{"error aws.cluster inactive"}, false},
		{[]string{"proddb"}, "prod", []string{"error aws.cluster inactive"}, false},
		{[]string{"nosuch/db"}, "", []string{"error config.file invalid"}, false},
	} {
		r, code := o.doctorOf(nil, tt.args...)
		have := findings(r)
		if !slices.Equal(have, tt.want) || r.Env != tt.environment || (r.Measured != nil) != tt.measured {
			t.Errorf("%q: environment %q, findings %q, measured %t, exit code %d; want %+v", tt.args, r.Env, have, r.Measured != nil, code, tt)
		}
		if want := map[bool]int{true: 2}[len(tt.want) > 0]; code != want {
			t.Errorf("%q: exit code %d", tt.args, code)
		}
		for _, f := range r.Findings {
			account := map[string]string{"prod": accountProd, "": ""}[tt.environment]
			if f.ID == "credentials.account" && account != "" && !strings.Contains(f.Means, account) {
				t.Errorf("%q: %s", tt.args, f.Means)
			}
			if f.ID == "aws.cluster" && f.Level == doctor.Error && !strings.Contains(f.Fix, "bastion init -e prod") {
				t.Errorf("%q: mend: %s", tt.args, f.Fix)
			}
		}
	}
}

// A start that ECS refuses leaves no task behind. The doctor has the reason from the agent, which has asked for it.
func TestDoctorOfARefusedStart(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, func(c *lab.Config) { c.Postgres = lab.Off })
	f := e.detach("cache:sessions", ":")
	setFaults(t, e, lab.APIFaults{Errors: map[string]lab.APIError{
		"ecs:RunTask": {Code: "ClientException", Message: "You've reached the limit on the number of vCPUs you can run concurrently"},
	}})
	e.stopTasks()
	conn, err := net.DialTimeout("tcp", f.Listen, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	eventuallyWithin(t, 60*time.Second, "the refused start", func() bool {
		links := e.state().Links
		return len(links) == 1 && strings.Contains(links[0].Error, "vCPUs")
	})
	r, code := e.doctorOf(nil)
	if have := findings(r); code != doctor.ExitWarnings || !slices.Equal(have, []string{"warning bastion.last_try failed"}) {
		t.Errorf("%d: %q", code, have)
	}
	for _, f := range r.Findings {
		if f.ID == "bastion.last_try" && (!strings.Contains(f.Means, "vCPUs") || !strings.Contains(f.Fix, "quota")) {
			t.Errorf("%+v", f)
		}
	}
}
