package account

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/iam"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// AWS's own linter has nothing against the templates, not a hint.
func TestTemplatesLint(t *testing.T) {
	program, err := exec.LookPath("cfn-lint")
	if err != nil {
		rig.LeaveOut(t, "cfn-lint is missing: pip install cfn-lint==1.51.0")
	}
	dir := t.TempDir()
	args := []string{"--include-checks", "I", "--"}
	for _, file := range []string{"template.json", "classic.json", "classic-hours.json"} {
		args = append(args, filepath.Join("..", "bastion-image", file))
	}
	for name, s := range allStacks(t) {
		text, err := s.CloudFormation()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, strings.ReplaceAll(name, " ", "-")+".json")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

// emulator is an emulator of CloudFormation and what it makes.
type emulator struct {
	t         *testing.T
	stacks    *cloudformation.Client
	config    aws.Config
	parameter map[string]string
}

// newEmulator makes moto's server new, with the VPC that it has from the start as the operator's.
func newEmulator(t *testing.T, moto string) *emulator {
	t.Helper()
	reset, err := http.NewRequestWithContext(t.Context(), http.MethodPost, moto+"/moto-api/reset", nil)
	if err != nil {
		t.Fatal(err)
	}
	client := rig.MotoClient(t)
	resp, err := client.Do(reset)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	config := aws.Config{
		Region: "eu-central-1", BaseEndpoint: &moto, Retryer: rig.MotoRetryer, HTTPClient: client,
		Credentials: credentials.NewStaticCredentialsProvider("madeup", "madeup", ""),
	}
	network := ec2.NewFromConfig(config)
	vpcs, err := network.DescribeVpcs(t.Context(), &ec2.DescribeVpcsInput{})
	if err != nil || len(vpcs.Vpcs) == 0 {
		t.Fatalf("%v, %v", vpcs, err)
	}
	subnets, err := network.DescribeSubnets(t.Context(), &ec2.DescribeSubnetsInput{})
	if err != nil || len(subnets.Subnets) == 0 {
		t.Fatalf("%v, %v", subnets, err)
	}
	tables, err := network.DescribeRouteTables(t.Context(), &ec2.DescribeRouteTablesInput{})
	if err != nil || len(tables.RouteTables) == 0 {
		t.Fatalf("%v, %v", tables, err)
	}
	return &emulator{t: t, stacks: cloudformation.NewFromConfig(config), config: config, parameter: map[string]string{
		paramVPC: *vpcs.Vpcs[0].VpcId, paramSubnets: *subnets.Subnets[0].SubnetId, paramTables: *tables.RouteTables[0].RouteTableId, paramImage: "1",
		paramCIDR: *vpcs.Vpcs[0].CidrBlock, paramPrefix: "pl-0123456789abcdef0",
	}}
}

// deploy makes a stack what s says, by a change set, and returns its resources' physical ids.
func (e *emulator) deploy(s *Stack, kind types.ChangeSetType) map[string]string {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), time.Minute)
	defer cancel()
	in := &cloudformation.CreateChangeSetInput{
		StackName: &s.Inputs.Name, ChangeSetName: aws.String("change"), ChangeSetType: kind, TemplateBody: aws.String(e.template(s)),
		Capabilities: []types.Capability{types.CapabilityCapabilityIam},
	}
	for _, p := range s.Parameters {
		in.Parameters = append(in.Parameters, types.Parameter{ParameterKey: &p.Name, ParameterValue: aws.String(cmp.Or(e.parameter[p.Name], p.Default, "*:5432"))})
	}
	if _, err := e.stacks.CreateChangeSet(ctx, in); err != nil {
		e.t.Fatalf("%s: %v", kind, err)
	}
	if _, err := e.stacks.ExecuteChangeSet(ctx, &cloudformation.ExecuteChangeSetInput{StackName: &s.Inputs.Name, ChangeSetName: aws.String("change")}); err != nil {
		e.t.Fatalf("%s: %v", kind, err)
	}
	stacks, err := e.stacks.DescribeStacks(ctx, &cloudformation.DescribeStacksInput{StackName: &s.Inputs.Name})
	if err != nil || len(stacks.Stacks) != 1 || !strings.HasSuffix(string(stacks.Stacks[0].StackStatus), string(kind)+"_COMPLETE") {
		e.t.Fatalf("%s: %+v, %v", kind, stacks, err)
	}
	resources, err := e.stacks.DescribeStackResources(ctx, &cloudformation.DescribeStackResourcesInput{StackName: &s.Inputs.Name})
	if err != nil {
		e.t.Fatal(err)
	}
	ids := make(map[string]string)
	for _, r := range resources.StackResources {
		ids[aws.ToString(r.LogicalResourceId)] = aws.ToString(r.PhysicalResourceId)
	}
	for _, r := range s.Resources {
		if _, made := ids[r.ID]; !made && !nameless[r.Type] {
			e.t.Errorf("%s: %s is not made", kind, r.ID)
		}
	}
	return ids
}

// nameless are the types that moto 5.2.1 makes and then lists without their logical ids.
var nameless = map[string]bool{
	"AWS::CloudWatch::Alarm": true, "AWS::Logs::MetricFilter": true, "AWS::S3::BucketPolicy": true, "AWS::SNS::Subscription": true,
	"AWS::SNS::TopicPolicy": true, "AWS::AutoScaling::ScalingPolicy": true, // this it does not know, and leaves out
}

// template is the stack's template as moto 5.2.1 takes it: it reads the tags of a KMS key as those of KMS's API, and fails.
func (e *emulator) template(s *Stack) string {
	text, err := s.CloudFormation()
	if err != nil {
		e.t.Fatal(err)
	}
	var template map[string]any
	if err := json.Unmarshal(text, &template); err != nil {
		e.t.Fatal(err)
	}
	if key, ok := template["Resources"].(map[string]any)["Key"].(map[string]any); ok {
		delete(key["Properties"].(map[string]any), "Tags")
	}
	mended, err := json.Marshal(template)
	if err != nil {
		e.t.Fatal(err)
	}
	return string(mended)
}

// left are the names of the roles and security groups. moto 5.2.1 leaves a deleted stack's cluster, task definitions, managed policies and
// rules in groups of others.
func (e *emulator) left() (names []string) {
	e.t.Helper()
	ctx := e.t.Context()
	roles, err := iam.NewFromConfig(e.config).ListRoles(ctx, &iam.ListRolesInput{})
	if err != nil {
		e.t.Fatal(err)
	}
	for _, r := range roles.Roles {
		names = append(names, "role "+*r.RoleName)
	}
	groups, err := ec2.NewFromConfig(e.config).DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{})
	if err != nil {
		e.t.Fatal(err)
	}
	for _, g := range groups.SecurityGroups {
		names = append(names, "group "+*g.GroupName)
	}
	slices.Sort(names)
	return names
}

// neighbours makes a security group in place of each that tasks are to be let into.
func (e *emulator) neighbours(rules []Ingress) (made []Ingress) {
	e.t.Helper()
	for _, rule := range rules {
		group, err := ec2.NewFromConfig(e.config).CreateSecurityGroup(e.t.Context(), &ec2.CreateSecurityGroupInput{
			GroupName: aws.String("neighbour of " + rule.Group), Description: aws.String("not the stack's"), VpcId: aws.String(e.parameter[paramVPC]),
		})
		if err != nil {
			e.t.Fatal(err)
		}
		rule.Group = *group.GroupId
		made = append(made, rule)
	}
	return made
}

// admitted counts the groups that let another security group in.
func (e *emulator) admitted(rules []Ingress) (admitted int) {
	e.t.Helper()
	for _, rule := range rules {
		groups, err := ec2.NewFromConfig(e.config).DescribeSecurityGroups(e.t.Context(), &ec2.DescribeSecurityGroupsInput{GroupIds: []string{rule.Group}})
		if err != nil {
			e.t.Fatal(err)
		}
		if in := groups.SecurityGroups[0].IpPermissions; len(in) == 1 && len(in[0].UserIdGroupPairs) == 1 {
			admitted++
		}
	}
	return admitted
}

// An emulator that is not ours makes each variant's stack, changes it and deletes it. What was there before stays.
func TestStacksOnMoto(t *testing.T) {
	moto := rig.Moto(t)
	for name, in := range variants {
		t.Run(name, func(t *testing.T) {
			e := newEmulator(t, moto)
			if _, err := iam.NewFromConfig(e.config).CreateRole(t.Context(), &iam.CreateRoleInput{
				RoleName: aws.String("bastion-TaskRole"), AssumeRolePolicyDocument: aws.String("{}"),
			}); err != nil {
				t.Fatal(err)
			}
			in.Ingress = e.neighbours(in.Ingress)
			found := e.left()
			in.Classes = slices.Clone(in.Classes)
			for i := range in.Classes {
				in.Classes[i].Roles = nil // they are not in the emulator
			}
			s := newStack(t, in)
			before := e.deploy(s, types.ChangeSetTypeCreate)
			if made := e.left(); in.TaskRole == "" && len(made) == len(found) {
				t.Errorf("only %q", made)
			}
			if admitted := e.admitted(in.Ingress); admitted != len(in.Ingress) {
				t.Errorf("%d of %d groups let tasks in", admitted, len(in.Ingress))
			}
			in.CPU, in.Memory = 2048, 4096
			after := e.deploy(newStack(t, in), types.ChangeSetTypeUpdate)
			for _, id := range []string{"Cluster", "Repository", "AuditLog"} {
				if before[id] == "" || before[id] != after[id] {
					t.Errorf("%s was %q, and is %q after the change of a size", id, before[id], after[id])
				}
			}
			if _, err := e.stacks.DeleteStack(t.Context(), &cloudformation.DeleteStackInput{StackName: &s.Inputs.Name}); err != nil {
				t.Fatal(err)
			}
			if left := e.left(); !slices.Equal(left, found) {
				t.Errorf("left are %q, there were %q", left, found)
			}
		})
	}
}
