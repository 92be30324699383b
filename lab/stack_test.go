package lab

import (
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/lab/iam"
)

// newTestStack is the template in a lab, and its policies.
func newTestStack(t *testing.T) (*stack, *permissions) {
	t.Helper()
	s, err := newStack(site{Region, Account}, "arn:aws:kms:eu-central-1:000000000000:key/k", 0)
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
func newStackECS(t *testing.T) *ecs {
	t.Helper()
	s, p := newTestStack(t)
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
	s := newStackECS(t).stack
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
	e := newStackECS(t)
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
	e := newStackECS(t)
	of := &task{id: "0123", def: e.definition(bastionName)}
	if why := e.pull(of); why != "" || !e.mayListen(of) || !e.mayOpenChannels(of) {
		t.Errorf("with all permissions: %q, %t, %t", why, e.mayListen(of), e.mayOpenChannels(of))
	}
	all := e.permissions.executionRole.Statements
	for action, want := range map[string]string{
		"ecr:GetAuthorizationToken":  "CannotPullContainerError: AccessDeniedException: User: arn:aws:sts::000000000000:assumed-role/bastion-ExecutionRole-",
		"ecr:GetDownloadUrlForLayer": "not authorized to perform: ecr:GetDownloadUrlForLayer on resource: arn:aws:ecr:eu-central-1:000000000000:repository/bastion ",
		"logs:CreateLogStream":       "ResourceInitializationError: failed to validate logger args: ",
	} {
		lacking := slices.Clone(all)
		for i := range lacking {
			lacking[i].Actions = slices.DeleteFunc(slices.Clone(lacking[i].Actions), func(a string) bool { return a == action })
		}
		e.permissions.executionRole = &iam.Policy{Statements: lacking}
		if why := e.pull(of); !strings.Contains(why, want) {
			t.Errorf("without %s: %q, want %q", action, why, want)
		}
	}
	of.def.RoleDeny = []string{"ssmmessages:Open*"}
	if e.mayListen(of) || e.mayOpenChannels(of) {
		t.Error("the agent answers without permission")
	}
}
