package account

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/e2e/recorded"
)

// role is a policy with the lists of what its owner calls (testdata/calls), and why it has what no run calls.
type role struct {
	name    string
	policy  Policy
	lists   []string
	reasons map[string]string
}

const (
	carriedByToken = "a websocket opens by its token in the lab; the policies for people in AWS's guide to Session Manager have the permission"
	byTheAgent     = "AWS's agent calls it, which no test runs on an instance: "
	byAWSTools     = "bastion opens no shell: the AWS CLI and the console call it, "
)

var (
	reasonsOfUsers     = map[string]string{"ssmmessages:OpenDataChannel": carriedByToken}
	reasonsOfDeployers = map[string]string{
		"ecr:GetDownloadUrlForLayer": "the registry's protocol does not say which permission a HEAD of a layer takes; AWS's examples of policies have it",
	}
	reasonsOfInstances = map[string]string{
		"ssm:UpdateInstanceInformation":    byTheAgent + "agent/health/healthcheck.go",
		"ssmmessages:CreateControlChannel": byTheAgent + "agent/session/controlchannel/controlchannel.go",
		"ssmmessages:CreateDataChannel":    byTheAgent + "agent/session/datachannel/datachannel.go",
		"ssmmessages:OpenControlChannel":   byTheAgent + "agent/session/controlchannel/controlchannel.go",
		"ssmmessages:OpenDataChannel":      byTheAgent + "agent/session/datachannel/datachannel.go",
		"kms:Decrypt":                      byTheAgent + "agent/session/crypto/kmsservice.go",
		"logs:DescribeLogGroups":           byTheAgent + "agent/session/shell/shell.go",
		"logs:DescribeLogStreams":          byTheAgent + "agent/agentlogstocloudwatch/cloudwatchlogspublisher/cloudwatchlogsservice.go",
		"logs:CreateLogStream":             byTheAgent + "agent/agentlogstocloudwatch/cloudwatchlogspublisher/cloudwatchlogsservice.go",
		"logs:PutLogEvents":                byTheAgent + "agent/agentlogstocloudwatch/cloudwatchlogspublisher/cloudwatchlogsservice.go",
		"s3:GetEncryptionConfiguration":    byTheAgent + "agent/s3util/s3util.go",
		"s3:PutObject":                     byTheAgent + "agent/s3util/s3util.go",
		"kms:GenerateDataKey":              "S3 calls it for the agent, to encrypt what it puts into the bucket",
	}
	reasonsOfInstanceUsers = map[string]string{
		"ssmmessages:OpenDataChannel":     carriedByToken,
		"kms:GenerateDataKey":             byAWSTools + "to encrypt one",
		"ec2:DescribeInstances":           byAWSTools + "to find the instance",
		"ssm:DescribeInstanceInformation": byAWSTools + "to see that its agent answers",
	}
)

// roles are the roles of a stack of tasks.
func (s *Stack) recordedRoles() []role {
	all := []role{
		{"init", s.deployerPolicy(), []string{"deployer"}, reasonsOfDeployers},
		{"admin", s.adminPolicy(), []string{"operator"}, nil},
	}
	for _, c := range s.Inputs.Classes {
		list := "user"
		if c.Shared > 0 {
			list = "shared-user"
		}
		all = append(all, role{"user " + c.Name, s.peoplePolicy(c), []string{list}, reasonsOfUsers})
	}
	task, execution := []string{"task-role"}, []string{"execution-role"}
	if s.Inputs.ExecLogs {
		task = append(task, "task-role-transcripts")
	}
	if len(s.Inputs.Secrets) > 0 {
		execution = append(execution, "execution-role-secrets")
	}
	return append(all, role{"task role", s.taskRole(), task, nil}, role{"execution role", s.executionRole(), execution, nil})
}

// actions are those of a policy, each once.
func (p Policy) actions() []string {
	all := make(map[string]bool)
	for _, statement := range p {
		for _, a := range statement.Action {
			all[a] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// Every role's permissions are those that the recorded calls of the tests' runs need, whatever is chosen: neither a surplus nor a gap.
// What CloudFormation calls for whoever deploys is in TestHandlersPermissions.
func TestPermissionsAreThoseOfTheRecordedCalls(t *testing.T) {
	check := func(variant string, r role) {
		for _, fault := range recorded.Faults(r.policy.actions(), recorded.Read(t, r.lists...), r.reasons) {
			t.Errorf("%s: %s: %s", variant, r.name, fault)
		}
	}
	for variant, in := range variants {
		for _, r := range newStack(t, in).recordedRoles() {
			check(variant, r)
		}
	}
	for variant, in := range classics {
		in = in.Defaults()
		c := classic{Stack: &Stack{Inputs: in.common().Defaults()}, in: in}
		check(variant, role{"instances", c.instancePolicy(), nil, reasonsOfInstances})
		check(variant, role{"users", c.peoplePolicy(), []string{"instance-user"}, reasonsOfInstanceUsers})
	}
}

// The list of deployers is whole: it has each call that the source of their commands has.
func TestDeployersListIsWhole(t *testing.T) {
	list := recorded.Read(t, "deployer")
	for _, call := range calls(t, "deploy", "survey", "setup") {
		if !slices.Contains(list, call) {
			t.Errorf("%s stands in the source, and no run calls it: TestCallsOfDeployers in cmd/bastion has to", call)
		}
	}
}

// calls are the calls of AWS that a package makes, by IAM's names, as its source has them.
func calls(t *testing.T, dirs ...string) (found []string) {
	t.Helper()
	input := regexp.MustCompile(`\b(cloudformation|ecs|cloudwatchlogs|kms|ec2|rds|elasticache|ecr|iam|s3)\.([A-Z][A-Za-z]+)Input\b`)
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", dir, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range input.FindAllStringSubmatch(string(text), -1) {
				service := strings.Replace(m[1], "cloudwatchlogs", "logs", 1)
				found = append(found, service+":"+m[2])
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}
