// Package image tests what the bastion image is made from.
package image

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/e2e/iamref"
)

// read decodes a JSON file, strictly.
func read(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if decoder.More() {
		t.Fatalf("%s: more than one value", name)
	}
	// What the README's sed commands replace, and nothing that looks like it.
	for _, word := range regexp.MustCompile(`\b[A-Z]+(_[A-Z0-9]+)+\b|<[^>]*>`).FindAllString(string(text), -1) {
		if !slices.Contains([]string{"ACCOUNT_ID", "VPC_CIDR", "ENDPOINTS_SG", "S3_PREFIX_LIST", "REPOSITORY_URI", "ALLOW_LIST", "BASTIOND_ALLOW", "X86_64"}, word) {
			t.Errorf("%s: unknown placeholder %s", name, word)
		}
	}
}

// The SDK's own type knows every key that ECS does.
func TestTaskDefinition(t *testing.T) {
	var task ecs.RegisterTaskDefinitionInput
	read(t, "task-definition.json", &task)
	if task.NetworkMode != ecstypes.NetworkModeAwsvpc || !slices.Contains(task.NetworkMode.Values(), task.NetworkMode) ||
		!slices.Equal(task.RequiresCompatibilities, []ecstypes.Compatibility{ecstypes.CompatibilityFargate}) {
		t.Error("not a Fargate task")
	}
	if len(task.ContainerDefinitions) != 1 {
		t.Fatal("want one container")
	}
	c := task.ContainerDefinitions[0]
	switch {
	case *c.Name != "bastion" || !*c.Essential:
		t.Error("the container")
	case len(c.PortMappings) > 0:
		t.Error("a bastion has no inbound port")
	case !*c.ReadonlyRootFilesystem || *c.User != "65532:65532":
		t.Error("root, or a writable root file system")
	case !*c.LinuxParameters.InitProcessEnabled:
		t.Error("nobody reaps the exec agent's children")
	case !slices.Equal(c.LinuxParameters.Capabilities.Drop, []string{"ALL"}) || len(c.LinuxParameters.Capabilities.Add) > 0:
		t.Error("root has capabilities in the container")
	case *c.StopTimeout <= 25:
		t.Error("ECS kills before bastiond has drained")
	case !slices.Equal(c.HealthCheck.Command, []string{"CMD", "/bastiond", "healthcheck"}):
		t.Error("the health check")
	case c.LogConfiguration.LogDriver != ecstypes.LogDriverAwslogs || c.LogConfiguration.Options["mode"] != "blocking":
		t.Error("audit lines could be lost")
	}
	var volumes []string
	for _, v := range task.Volumes {
		volumes = append(volumes, *v.Name)
	}
	// bastiond's socket, and where the ECS Exec agent writes.
	want := []string{"/run/bastiond", "/managed-agents", "/var/lib/amazon/ssm", "/var/log/amazon/ssm"}
	for _, m := range c.MountPoints {
		if !slices.Contains(volumes, *m.SourceVolume) || m.ReadOnly != nil {
			t.Errorf("mount point %s", *m.ContainerPath)
		}
		want = slices.DeleteFunc(want, func(path string) bool { return path == *m.ContainerPath })
	}
	if len(want) > 0 {
		t.Errorf("not writable: %v", want)
	}
}

func TestSecurityGroup(t *testing.T) {
	var egress []ec2types.IpPermission
	read(t, "security-group-egress.json", &egress)
	for _, rule := range egress {
		for _, r := range rule.IpRanges {
			if *r.CidrIp != "VPC_CIDR" {
				t.Errorf("a way out of the VPC: %s", *r.CidrIp)
			}
		}
		if len(rule.Ipv6Ranges) > 0 {
			t.Error("a way out by IPv6")
		}
		if *rule.IpProtocol != "tcp" || *rule.FromPort != *rule.ToPort {
			t.Errorf("more than one port: %v", rule)
		}
	}
}

func TestPolicies(t *testing.T) {
	files, err := filepath.Glob("iam/*.json")
	if err != nil || len(files) != 4 {
		t.Fatalf("%v, %v", files, err)
	}
	actions := map[string][]string{}
	for _, file := range files {
		var policy struct {
			Version   string
			Statement []iamref.Statement
		}
		read(t, file, &policy)
		if policy.Version != "2012-10-17" || len(policy.Statement) == 0 {
			t.Errorf("%s: version %q, %d statements", file, policy.Version, len(policy.Statement))
		}
		var sids []string
		for _, s := range policy.Statement {
			if s.Effect != "Allow" || slices.Contains(sids, s.Sid) || !regexp.MustCompile(`^[A-Za-z0-9]+$`).MatchString(s.Sid) {
				t.Errorf("%s: %s: the effect or the sid", file, s.Sid)
			}
			sids = append(sids, s.Sid)
			if len(s.Resource) == 0 && s.Principal == nil {
				t.Errorf("%s: %s: no resource", file, s.Sid)
			}
			for _, action := range s.Action {
				if strings.Contains(action, "*") {
					t.Errorf("%s: %s: %s is not one action", file, s.Sid, action)
				}
			}
			actions[file] = append(actions[file], s.Action...)
		}
	}
	if !slices.Contains(actions["iam/task-role.json"], "kms:Decrypt") {
		t.Error("the task role lacks kms:Decrypt")
	}
	// Every action that the messages of a denial name, but sts:GetCallerIdentity, which needs no permission.
	for _, action := range []string{
		"ecs:RunTask", "ecs:TagResource", "iam:PassRole", "ecs:ListTasks", "ecs:DescribeTasks", "ecs:StopTask",
		"ecs:ExecuteCommand", "kms:GenerateDataKey",
		"ecs:DescribeTaskDefinition", "ssm:StartSession", "ssm:ResumeSession", "ssm:TerminateSession", "ec2:DescribeSubnets",
		"ec2:DescribeSecurityGroups", "ec2:DescribeNetworkInterfaces", "ssmmessages:OpenDataChannel", "rds:DescribeDBInstances", "rds:DescribeDBClusters",
		"elasticache:DescribeReplicationGroups",
		"elasticache:DescribeCacheClusters", "elasticache:DescribeServerlessCaches",
	} {
		if !slices.Contains(actions["iam/user.json"], action) {
			t.Errorf("a user lacks %s", action)
		}
	}
}
