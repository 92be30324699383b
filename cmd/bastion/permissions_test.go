package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/e2e/iamref"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/gateway"
	"github.com/bastion-ssm/bastion/lab/iam"
)

// notCalled are permissions of the template that no call uses in the lab, and why there are.
var notCalled = map[string]string{
	"user CarryOwnSessions ssmmessages:OpenDataChannel": "a websocket opens by its token here; the policies for people in AWS's guide to " +
		"Session Manager have the permission",
	"given AskWhatWasBilled ce:GetCostAndUsage": "the lab has no Cost Explorer; bastion cost --billed asks it",
	"given ReadTheAudit logs:FilterLogEvents":   "the lab has no CloudWatch Logs; bastion audit reads the log by it",
}

// Each permission that the template gives people and the two roles is one that a call needs, and no call needs another. The calls are
// those of the program's everyday commands, with ECS Exec encrypted, and of what AWS does for them in the task.
func TestPermissionsAreThoseOfTheCalls(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) { c.KMS = true })
	e.everyday()
	e.must("down")
	e.noSessions()
	e.wantPermissions()
}

// The same holds for people who share the tasks of a service: they start and stop none.
func TestSharedPermissionsAreThoseOfTheCalls(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) { c.KMS, c.Shared = true, 1 })
	e.env = append(e.env, "BASTION_SHARED_SERVICE=bastion")
	e.everyday()
	if r := e.run(nil, "down"); r.code != 2 || !strings.Contains(r.stderr, "the bastion is shared: ECS runs the tasks of service bastion") {
		t.Errorf("down: %d: %s", r.code, r.stderr)
	}
	e.noSessions()
	if calls := e.Calls(); calls["ecs:RunTask"]+calls["ecs:StopTask"] > 0 {
		t.Errorf("%v", calls)
	}
	e.wantPermissions()
}

// wantPermissions checks that the template's policies allow exactly what was called, also by an evaluation that is not ours.
func (e *labEnv) wantPermissions() {
	t := e.t
	t.Helper()
	for _, p := range e.Policies() {
		e.wantUsed(p)
	}
	for _, a := range e.Ledger().Denied() {
		t.Errorf("%s on %s by %s: no policy allows it", a.Action, a.Resource, a.Principal)
	}
	for g := range e.Ledger().Grants() {
		if !slices.Contains([]string{lab.PolicyUser, lab.PolicyTaskRole, lab.PolicyExecutionRole}, g.Policy) {
			t.Errorf("%+v is used, and is none of the template's", g)
		}
	}
	// An evaluation that is not ours allows each of these calls too.
	if n := iamref.CheckDecisions(t, e.Ledger().Asked()); n < 25 {
		t.Errorf("only %d kinds of request", n)
	}
}

// The same holds for the policy of operators: they see and stop the bastions of all.
func TestOperatorsPermissionsAreThoseOfTheCalls(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	e.must("up")
	operator := e.as("ops", lab.IdentityConfig{Policy: adminPolicy(t), Expires: time.Now().Add(time.Hour)})
	operator = append(operator, "BASTION_SHARED_CONFIG=")
	file := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(file, []byte("cluster: bastion\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"cost"}, {"gc"}, {"gc", "--older-than", "1ms"}, {"config", "share", "--yes", file}, {"config", "show"}, {"config", "share", "--yes", "--remove"},
	} {
		if r := e.run(operator, args...); r.code != 0 {
			t.Errorf("%q: %d: %s", args, r.code, r.stderr)
		}
	}
	asked := slices.DeleteFunc(e.Ledger().Asked(), func(a awsapi.Asked) bool { return !strings.Contains(a.Principal, "role/lab-ops") })
	if len(asked) == 0 {
		t.Fatal("the operator has asked nothing")
	}
	e.wantUsed(asked[0].Policies[0])
	for _, a := range asked {
		if a.Effect != iam.Allow {
			t.Errorf("%s on %s: the policy does not allow it", a.Action, a.Resource)
		}
	}
	iamref.CheckDecisions(t, asked)
}

// wantUsed checks that a call needed each action and each resource of a policy, but for notCalled.
func (e *labEnv) wantUsed(p *iam.Policy) {
	e.t.Helper()
	used := e.Ledger().Grants()
	check := func(name string, match func(iam.Grant) bool) {
		isUsed, reason := false, notCalled[name]
		for g := range used {
			isUsed = isUsed || match(g)
		}
		if isUsed == (reason != "") {
			e.t.Errorf("%s: a call needs it: %t; it is listed as not called: %q", name, isUsed, reason)
		}
	}
	for _, s := range p.Statements {
		for _, a := range s.Actions {
			check(p.Name+" "+s.Sid+" "+a, func(g iam.Grant) bool { return g.Policy == p.Name && g.Sid == s.Sid && g.Action == a })
		}
		if len(s.Actions) == 1 && notCalled[p.Name+" "+s.Sid+" "+s.Actions[0]] != "" {
			continue
		}
		for _, r := range s.Resources {
			check(p.Name+" "+s.Sid+" on "+r, func(g iam.Grant) bool { return g.Policy == p.Name && g.Sid == s.Sid && g.Resource == r })
		}
	}
}

// everyday runs the commands of a day.
func (e *labEnv) everyday() {
	e.t.Helper()
	if r := e.run([]string{"BASTION_SHARED_CONFIG="}, "up"); r.code != 0 { // which looks for a shared configuration first
		e.t.Fatal(r.stderr)
	}
	e.must("status")
	specs := e.furnish()
	e.must("ls", "targets")
	for _, spec := range specs { // a token is refused once the target is found
		if r := e.run(nil, "token", spec, "--user", "x"); r.code != 2 && r.code != 5 || strings.Contains(r.stderr, "AccessDenied") {
			e.t.Errorf("%s: %d: %s", spec, r.code, r.stderr)
		}
	}
	p, forwards := e.forwards(nil, "rds:orders", ":", "cache:sessions", ":")
	if err := ping(forwards[1].Listen); err != nil {
		e.t.Error(err)
	}
	// The session is resumed, with a websocket of its own.
	resumed := e.Gateway().Cut("", "reset")
	eventually(e.t, "the session is resumed", func() bool { return e.Calls()["ssm:ResumeSession"] >= resumed })
	if err := ping(forwards[1].Listen); err != nil {
		e.t.Error(err)
	}
	e.stop(p, syscall.SIGINT, 130)
	e.must("exec", "cache:sessions", "--", "true")
	e.must("token", "rds:orders", "--user", lab.DBIAMUser)

	// An account that refuses the preferred document is served by the other.
	if err := e.SetAPIFaults(lab.APIFaults{Documents: map[string]string{gateway.DocSSH: lab.RefuseInvalid}}); err != nil {
		e.t.Fatal(err)
	}
	host := strings.TrimSuffix(forwards[1].Target, ":6379")
	cmd, in, _, stderr := e.piped(nil, "proxy", host, "6379")
	_ = in.Close()
	if err := cmd.Wait(); err != nil {
		e.t.Errorf("proxy: %v: %s", err, stderr)
	}
	e.must("doctor", "--tls-ca", e.DatabaseCA(), "rds:orders")
	if err := e.AddDBInstance(lab.DBInstance{ID: "far", IAM: true, VPC: "vpc-far"}); err != nil {
		e.t.Fatal(err)
	}
	for _, spec := range []string{"rds:far", "opensearch:vectors"} { // the names of VPCs; the groups of VPC endpoints
		if r := e.run(nil, "doctor", "--tls-ca", e.DatabaseCA(), spec); !strings.Contains(r.stdout, "target.vpc") { // the task may not go there
			e.t.Errorf("doctor %s: %d: %s%s", spec, r.code, r.stdout, r.stderr)
		}
	}
}
