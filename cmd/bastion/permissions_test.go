package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatchlogs"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/e2e/iamref"
	"github.com/bastion-ssm/bastion/e2e/recorded"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/gateway"
	"github.com/bastion-ssm/bastion/lab/iam"
)

// notCalled are permissions of the template that no call uses in the lab, and why there are.
var notCalled = map[string]string{
	"user CarryOwnSessions ssmmessages:OpenDataChannel": "a websocket opens by its token here; the policies for people in AWS's guide to " +
		"Session Manager have the permission",
	"given AskWhatWasBilled ce:GetCostAndUsage":                                                   "moto has Cost Explorer, and evaluates no policy; bastion cost --billed asks it",
	"given ReadTheAudit logs:FilterLogEvents":                                                     "moto has CloudWatch Logs, and evaluates no policy; bastion audit reads the log by it",
	"given MakeSessionKeys kms:GenerateDataKey":                                                   "bastion opens no shell on an instance; AWS's plugin encrypts one",
	"given FindTheInstances ec2:DescribeInstances":                                                "bastion takes an instance by its id, which the console and the AWS CLI find",
	"given FindTheInstances ssm:DescribeInstanceInformation":                                      "the console shows by it whose agent answers",
	"given FindTheInstances on *":                                                                 "as both of its actions",
	"given CarryOwnSessions ssmmessages:OpenDataChannel":                                          "as of users",
	"given ByTheseDocuments on arn:aws:ssm:eu-central-1:000000000000:document/bastion-host-shell": "bastion opens no shell on an instance",
	"given ByTheseDocuments on arn:aws:ssm:eu-central-1::document/AWS-StartPortForwardingSession": "the lab's instances take the other document",
}

// Each permission that the template gives people and the two roles is one that a call needs, and no call needs another. The calls are
// those of the program's everyday commands, with ECS Exec encrypted, and of what AWS does for them in the task.
func TestPermissionsAreThoseOfTheCalls(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) { c.KMS = true })
	e.everyday()
	e.must("down")
	e.noSessions()
	e.wantPermissions("user")
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
	e.wantPermissions("shared-user")
}

// Where the template has the options for it, the roles do more: they write transcripts, and read secrets.
func TestRolesPermissionsAreThoseOfTheCalls(t *testing.T) {
	t.Parallel()
	secret := func(name string) string {
		return "arn:aws:secretsmanager:" + lab.Region + ":" + lab.Account + ":secret:" + name + "-AbCdEf"
	}
	e := startLab(t, func(c *lab.Config) {
		c.KMS, c.ExecLogs = true, true
		c.Secrets = []account.Secret{
			{Variable: "UPSTREAM_CA", ARN: secret("upstream")},
			{Variable: "PASSWORD", ARN: secret("proxy"), Field: "password", Key: "arn:aws:kms:" + lab.Region + ":" + lab.Account + ":key/of-secrets"},
		}
	})
	p, forwards := e.forwards(nil, "cache:sessions", ":")
	if err := ping(forwards[0].Listen); err != nil {
		t.Error(err)
	}
	e.stop(p, syscall.SIGINT, 130)
	e.noSessions()
	for _, a := range e.Ledger().Denied() {
		t.Errorf("%s on %s by %s: no policy allows it", a.Action, a.Resource, a.Principal)
	}
	for _, p := range e.Policies() {
		if p.Name != lab.PolicyUser {
			e.wantUsed(p)
		}
	}
	e.check(map[string]string{lab.PolicyTaskRole: "task-role-transcripts", lab.PolicyExecutionRole: "execution-role-secrets"})
	iamref.CheckDecisions(t, e.Ledger().Asked())
}

// check compares the calls that policies have allowed with the lists of account/testdata/calls.
func (e *labEnv) check(lists map[string]string) {
	e.t.Helper()
	for policy, name := range lists {
		list := recorded.New(e.t, name)
		for g := range e.Ledger().Grants() {
			if g.Policy == policy {
				list.Add(g.Action)
			}
		}
		list.Check(*update)
	}
}

// wantPermissions checks that the template's policies allow exactly what was called, also by an evaluation that is not ours. user is the
// list of people.
func (e *labEnv) wantPermissions(user string) {
	t := e.t
	t.Helper()
	for _, p := range e.Policies() {
		e.wantUsed(p)
	}
	e.check(map[string]string{lab.PolicyUser: user, lab.PolicyTaskRole: "task-role", lab.PolicyExecutionRole: "execution-role"})
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

// The same holds for the policy of operators: they see and stop the bastions of all. The audit log and Cost Explorer are moto's.
func TestOperatorsPermissionsAreThoseOfTheCalls(t *testing.T) {
	t.Parallel()
	list := recorded.New(t, "operator")
	e := startLab(t, nil)
	e.must("up")
	moto := rig.Moto(t)
	auditLog(t, moto)
	both := halves(t, moto, e.URL())
	operator := e.as("ops", lab.IdentityConfig{Policy: adminPolicy(t), Expires: time.Now().Add(time.Hour)})
	operator = append(operator, "BASTION_SHARED_CONFIG=", "AWS_ENDPOINT_URL="+record(t, list, both, new(states)))
	file := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(file, []byte("cluster: bastion\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"cost"}, {"cost", "--month", time.Now().Format("2006-01"), "--billed"}, {"audit"}, {"gc"}, {"gc", "--older-than", "1ms"}, {"config", "share", "--yes", file}, {"config", "show"}, {"config", "share", "--yes", "--remove"},
	} {
		if r := e.run(operator, args...); r.code != 0 {
			t.Errorf("%q: %d: %s", args, r.code, r.stderr)
		}
	}
	e.wantAsked("ops", list)
}

// auditLog makes an audit log in moto that nobody has written to.
func auditLog(t *testing.T, moto string) {
	t.Helper()
	logs := cloudwatchlogs.NewFromConfig(motoConfig(t, moto))
	if _, err := logs.CreateLogGroup(t.Context(), &cloudwatchlogs.CreateLogGroupInput{LogGroupName: aws.String("/bastion")}); err != nil {
		t.Fatal(err)
	}
}

// The same holds for the people of bastions that are EC2 instances: they reach these, by keys of EC2 Instance Connect or their own.
func TestInstancesPermissionsAreThoseOfTheCalls(t *testing.T) {
	t.Parallel()
	e, redis, _, env := startNode(t)
	env = append(env, e.as("host", lab.IdentityConfig{Policy: instancePolicy(t), Expires: time.Now().Add(time.Hour)})...)
	p, forwards := e.forwards(env, redis, ":")
	if err := ping(forwards[0].Listen); err != nil {
		t.Error(err)
	}
	resumed := e.Gateway().Cut("", "reset")
	eventually(t, "the session is resumed", func() bool { return e.Calls()["ssm:ResumeSession"] >= resumed })
	if err := ping(forwards[0].Listen); err != nil {
		t.Error(err)
	}
	e.stop(p, syscall.SIGINT, 130)
	if r := e.run(env, "proxy", "--instance-connect", "ec2-user", sshdNode, "22"); r.code != 0 {
		t.Errorf("by EC2 Instance Connect: %d: %s", r.code, r.stderr)
	}
	e.noSessions()
	e.wantAsked("host", recorded.New(t, "instance-user"))
}

// instancePolicy is the policy of people of the stack of EC2 instances.
func instancePolicy(t *testing.T) json.RawMessage {
	t.Helper()
	stack, err := account.NewClassic(account.ClassicInputs{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := stack.Plain()
	if err != nil {
		t.Fatal(err)
	}
	text = []byte(strings.NewReplacer("${AWS::Partition}", "aws", "${AWS::Region}", lab.Region, "${AWS::AccountId}", lab.Account,
		"${Key.Arn}", "arn:aws:kms:"+lab.Region+":"+lab.Account+":key/of-the-stack").Replace(string(text)))
	var plain struct {
		Resources []struct {
			ID         string
			Properties struct{ PolicyDocument json.RawMessage }
		}
	}
	if err := json.Unmarshal(text, &plain); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(plain.Resources, func(r struct {
		ID         string
		Properties struct{ PolicyDocument json.RawMessage }
	},
	) bool {
		return r.ID == "UserPolicy"
	})
	return plain.Resources[i].Properties.PolicyDocument
}

// wantAsked checks that the one policy of an identity allows exactly what it has called, and compares the calls with a list.
func (e *labEnv) wantAsked(name string, list *recorded.List) {
	e.t.Helper()
	asked := slices.DeleteFunc(e.Ledger().Asked(), func(a awsapi.Asked) bool { return !strings.HasSuffix(a.Principal, "role/lab-"+name) })
	if len(asked) == 0 {
		e.t.Fatalf("%s has asked nothing", name)
	}
	e.wantUsed(asked[0].Policies[0])
	for _, a := range asked {
		list.Add(a.Action)
		if a.Effect != iam.Allow {
			e.t.Errorf("%s on %s: the policy does not allow it", a.Action, a.Resource)
		}
	}
	iamref.CheckDecisions(e.t, asked)
	list.Check(*update)
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
