package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/iam"
)

// conditionKeys are the condition keys that the lab's requests have where AWS's have them. A policy with others is refused.
var conditionKeys = []string{
	"aws:userid", "aws:username", "aws:PrincipalAccount", "aws:PrincipalArn", "aws:PrincipalType",
	"aws:RequestTag/", "aws:ResourceTag/", "aws:TagKeys",
	"ec2:osuser",
	"ecs:cluster", "ecs:container-name", "ecs:CreateAction", "ecs:enable-execute-command", "ecs:ResourceTag/", "ecs:task", "ecs:task-cpu",
	"ecs:task-memory",
	"iam:PassedToService",
	"servicediscovery:NamespaceName", "servicediscovery:ServiceName",
	"kms:CallerAccount", "kms:EncryptionContext:", "kms:EncryptionContextKeys", "kms:ViaService",
	"ssm:resourceTag/", "ssm:SessionDocumentAccessCheck",
	"sts:RoleSessionName",
}

// ServicesCluster is the ECS cluster whose services the lab's people may look up.
const ServicesCluster = "apps"

// Names of the lab's policies, as in the ledger.
const (
	PolicyUser          = "user" // of package account, as the two of the roles
	PolicyTaskRole      = "task role"
	PolicyExecutionRole = "execution role"
	policyDatabases     = "databases"
	policyInstances     = "instances"
	policyServices      = "services"
	policyOwn           = "given"
)

// permissions are the lab's policies.
type permissions struct {
	ledger                        awsapi.Ledger
	user, taskRole, executionRole *iam.Policy
	// more are what the guide tells an operator to add for people who sign in to databases by IAM, who reach managed nodes, and who
	// reach the tasks of ECS services in ServicesCluster.
	more []*iam.Policy
	// everything is for roles that are not the template's.
	everything *iam.Policy
}

// newPermissions reads the policies of the template.
func newPermissions(s *stack) (*permissions, error) {
	p := &permissions{}
	read := func(into **iam.Policy, name string, text json.RawMessage, err error) error {
		if err == nil {
			*into, err = iam.Parse(name, text, conditionKeys)
		}
		return err
	}
	user, errUser := s.userPolicy()
	task, errTask := s.rolePolicy("TaskRole")
	execution, errExecution := s.rolePolicy("ExecutionRole")
	err := errors.Join(
		read(&p.user, PolicyUser, user, errUser),
		read(&p.taskRole, PolicyTaskRole, task, errTask),
		read(&p.executionRole, PolicyExecutionRole, execution, errExecution),
		read(&p.everything, policyOwn, allowing([]string{"*"}), nil),
	)
	for name, statement := range map[string]string{
		policyDatabases: fmt.Sprintf(`{"Effect":"Allow","Action":"rds-db:connect","Resource":%q}`, s.arn("rds-db", "dbuser:*/*")),
		policyInstances: fmt.Sprintf(`{"Effect":"Allow","Resource":[%q,%q],`+
			`"Action":["ssm:StartSession","ec2-instance-connect:SendSSHPublicKey","ec2:GetPasswordData"]}`,
			s.arn("ec2", "instance/*"), s.arn("ssm", "managed-instance/*")),
		policyServices: fmt.Sprintf(`{"Effect":"Allow","Action":["ecs:DescribeTasks","ecs:ListTasks"],"Resource":"*",`+
			`"Condition":{"ArnEquals":{"ecs:cluster":%q}}}`, s.arn("ecs", "cluster/"+ServicesCluster)),
	} {
		var more *iam.Policy
		err = errors.Join(err, read(&more, name, json.RawMessage(policyDocument(statement)), nil))
		p.more = append(p.more, more)
	}
	return p, err
}

func policyDocument(statements string) string {
	return `{"Version":"2012-10-17","Statement":[` + statements + `]}`
}

// allowing is a policy that allows actions on anything.
func allowing(actions []string) json.RawMessage {
	list, err := json.Marshal(actions)
	if err != nil {
		panic("lab: " + err.Error()) // strings
	}
	return json.RawMessage(policyDocument(`{"Effect":"Allow","Action":` + string(list) + `,"Resource":"*"}`))
}

// of returns the policies that a configuration gives an identity.
func (p *permissions) of(cfg IdentityConfig) ([]*iam.Policy, error) {
	text := cfg.Policy
	switch {
	case len(text) == 0 && cfg.Allow == nil:
		return append([]*iam.Policy{p.user}, p.more...), nil
	case len(text) == 0 && len(cfg.Allow) == 0:
		return nil, nil // nothing
	case len(text) == 0:
		text = allowing(cfg.Allow)
	}
	own, err := iam.Parse(policyOwn, text, conditionKeys)
	return []*iam.Policy{own}, err
}

// role returns the policies of a role by its ARN.
func (p *permissions) role(arn string, s *stack) []*iam.Policy {
	switch arn {
	case s.role("TaskRole"):
		return []*iam.Policy{p.taskRole}
	case s.role("ExecutionRole"):
		return []*iam.Policy{p.executionRole}
	}
	return []*iam.Policy{p.everything}
}

// Ledger returns what the policies have decided so far.
func (l *Lab) Ledger() *awsapi.Ledger { return &l.permissions.ledger }

// Policies returns the policies of the template that the lab's callers have: that of people, and those of the two roles.
func (l *Lab) Policies() []*iam.Policy {
	return slices.Clone([]*iam.Policy{l.permissions.user, l.permissions.taskRole, l.permissions.executionRole})
}
