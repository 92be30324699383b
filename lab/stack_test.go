package lab

import (
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/account"
	"github.com/bastion-ssm/bastion/lab/iam"
)

// newTestStack is the template in a lab, and its policies.
func newTestStack(t *testing.T, cfg Config) (*stack, *permissions) {
	t.Helper()
	s, err := newStack(site{Region, Account}, "arn:aws:kms:eu-central-1:000000000000:key/k", cfg)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPermissions(s)
	if err != nil {
		t.Fatal(err)
	}
	return s, p
}

// newStackECS is ECS with the template's cluster, task definition and roles.
func newStackECS(t *testing.T, cfg Config) *ecs {
	t.Helper()
	s, p := newTestStack(t, cfg)
	e := &ecs{
		site: s.site, stack: s, permissions: p,
		clusters: make(map[string]*clusterState), defs: make(map[string][]*TaskDefinition),
	}
	if err := e.addStack(nil, nil); err != nil {
		t.Fatal(err)
	}
	return e
}

// References of the template have the lab's values. One that the lab does not know is an error, and not an empty text.
func TestStackReferences(t *testing.T) {
	s := newStackECS(t, Config{}).stack
	for text, want := range map[string]string{
		"arn:${AWS::Partition}:ecs:${AWS::Region}:${AWS::AccountId}:task/bastion/*": "arn:aws:ecs:eu-central-1:000000000000:task/bastion/*",
		"session/${!aws:userid}-*":                "session/${aws:userid}-*",
		"${Repository.RepositoryUri}:${ImageTag}": "000000000000.dkr.ecr.eu-central-1.amazonaws.com/bastion:1",
	} {
		if got, err := s.substitute(text); err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
	for _, v := range []any{
		map[string]any{"Ref": "Nothing"}, []any{map[string]any{"Fn::GetAtt": []any{"Key", "Name"}}}, map[string]any{"a": map[string]any{"Fn::Sub": "${Nothing}"}},
	} {
		if got, err := s.resolve(v); err == nil || !strings.Contains(err.Error(), "has no value for") {
			t.Errorf("%v: %v, %v", v, got, err)
		}
	}
}

// The cluster and the task definition are the template's.
func TestStackIsTheTemplates(t *testing.T) {
	e := newStackECS(t, Config{})
	if c := e.clusters[bastionName]; c == nil || c.logging != "NONE" || !slices.Contains(c.tags, ecsTag{"bastion", "true"}) {
		t.Errorf("cluster %+v", c)
	}
	d := e.definition(bastionName)
	if d == nil || d.Container != "bastion" || d.CPU != defaultSize.cpu || d.Memory != defaultSize.memory || d.logGroup != "/bastion" ||
		d.taskRole() != e.stack.role("TaskRole") || d.executionRole() != e.stack.role("ExecutionRole") || !strings.HasSuffix(d.Image, "/bastion:1") {
		t.Errorf("task definition %+v", d)
	}
}

// A task does not start, or its agent does not answer, if its role lacks a permission.
func TestRolesAreAsked(t *testing.T) {
	e := newStackECS(t, Config{})
	of := &task{id: "0123", def: e.definition(bastionName)}
	if why := e.pull(of); why != "" || !e.mayListen(of) || !e.mayOpenChannels(of) {
		t.Errorf("with all permissions: %q, %t, %t", why, e.mayListen(of), e.mayOpenChannels(of))
	}
	all := e.permissions.executionRole
	for action, want := range map[string]string{
		"ecr:GetAuthorizationToken":  "CannotPullContainerError: AccessDeniedException: User: arn:aws:sts::000000000000:assumed-role/bastion-ExecutionRole-",
		"ecr:GetDownloadUrlForLayer": "not authorized to perform: ecr:GetDownloadUrlForLayer on resource: arn:aws:ecr:eu-central-1:000000000000:repository/bastion ",
		"logs:CreateLogStream":       "ResourceInitializationError: failed to validate logger args: ",
	} {
		e.permissions.executionRole = without(all, action)
		if why := e.pull(of); !strings.Contains(why, want) {
			t.Errorf("without %s: %q, want %q", action, why, want)
		}
	}
	of.def.RoleDeny = []string{"ssmmessages:Open*"}
	if e.mayListen(of) || e.mayOpenChannels(of) {
		t.Error("the agent answers without permission")
	}
}

// without is a policy that lacks an action.
func without(p *iam.Policy, action string) *iam.Policy {
	lacking := slices.Clone(p.Statements)
	for i := range lacking {
		lacking[i].Actions = slices.DeleteFunc(slices.Clone(lacking[i].Actions), func(a string) bool { return a == action })
	}
	return &iam.Policy{Statements: lacking}
}

// A task with secrets does not start, or its agent runs no command with a transcript, if its role lacks a permission.
func TestRolesAreAskedForOptions(t *testing.T) {
	const secret, key = "arn:aws:secretsmanager:eu-central-1:000000000000:secret:proxy-AbCdEf", "arn:aws:kms:eu-central-1:000000000000:key/of-secrets"
	e := newStackECS(t, Config{ExecLogs: true, Secrets: []account.Secret{{Variable: "PASSWORD", ARN: secret, Field: "password", Key: key}}})
	var err error
	if e.kms, err = newKMS(e.site); err != nil {
		t.Fatal(err)
	}
	of := &task{id: "0123", cluster: bastionName, def: e.definition(bastionName)}
	to := e.clusters[bastionName].transcripts
	if why := e.pull(of); why != "" || of.def.Env["PASSWORD"] == "" || to != (transcripts{"/bastion/exec", auditBucket, "exec"}) {
		t.Errorf("with all permissions: %q, environment %q, transcripts %+v", why, of.def.Env, to)
	}
	all := e.permissions.executionRole
	for _, action := range []string{"secretsmanager:GetSecretValue", "kms:Decrypt"} {
		e.permissions.executionRole = without(all, action)
		if why := e.pull(of); !strings.HasPrefix(why, "ResourceInitializationError: unable to pull secrets") || !strings.Contains(why, action) {
			t.Errorf("without %s: %q", action, why)
		}
	}
	all = e.permissions.taskRole
	for _, action := range []string{"logs:DescribeLogGroups", "logs:DescribeLogStreams", "logs:PutLogEvents", "s3:GetEncryptionConfiguration", "s3:PutObject"} {
		e.permissions.taskRole = without(all, action)
		if err := e.transcribe(of, to); err == nil || !strings.Contains(err.Error(), action) {
			t.Errorf("without %s: %v", action, err)
		}
	}
}
