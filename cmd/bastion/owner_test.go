package main

import (
	"encoding/json"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/report"
	"github.com/bastion-ssm/bastion/lab"
)

// as returns the environment of an identity that the lab adds.
func (e *labEnv) as(name string, cfg lab.IdentityConfig) []string {
	e.t.Helper()
	env, err := e.AddIdentity(name, cfg)
	if err != nil {
		e.t.Fatal(err)
	}
	return env
}

// awsConfig is the SDK's with an environment of the lab's.
func (e *labEnv) awsConfig(env []string) aws.Config {
	e.t.Helper()
	value := func(name string) string {
		for _, kv := range env {
			if v, ok := strings.CutPrefix(kv, name+"="); ok {
				return v
			}
		}
		return ""
	}
	cfg, err := config.LoadDefaultConfig(e.t.Context(), config.WithRegion(lab.Region), config.WithBaseEndpoint(e.URL()),
		config.WithSharedConfigFiles([]string{value("AWS_CONFIG_FILE")}),
		config.WithSharedCredentialsFiles([]string{value("AWS_SHARED_CREDENTIALS_FILE")}),
		config.WithSharedConfigProfile(value("AWS_PROFILE")))
	if err != nil {
		e.t.Fatal(err)
	}
	return cfg
}

// marked is a RunTask of somebody who chooses the marks of the identity with the environment.
func (e *labEnv) marked(env []string, change func(*ecs.RunTaskInput)) *ecs.RunTaskInput {
	e.t.Helper()
	owner, err := bastions.WhoAmI(e.t.Context(), sts.NewFromConfig(e.awsConfig(env)))
	if err != nil {
		e.t.Fatal(err)
	}
	in := &ecs.RunTaskInput{
		Cluster: aws.String("bastion"), TaskDefinition: aws.String("bastion"), LaunchType: ecstypes.LaunchTypeFargate,
		EnableExecuteCommand: true, StartedBy: aws.String(owner.StartedBy),
		Tags: []ecstypes.Tag{{Key: aws.String("bastion:owner"), Value: aws.String(owner.UserID)}},
		NetworkConfiguration: &ecstypes.NetworkConfiguration{AwsvpcConfiguration: &ecstypes.AwsVpcConfiguration{
			Subnets:        []string{"subnet-0000000000000laba", "subnet-0000000000000labb"},
			SecurityGroups: []string{"sg-0000000000000000lab"},
		}},
	}
	if change != nil {
		change(in)
	}
	return in
}

// runTask starts a task as an administrator, and waits until it answers.
func (e *labEnv) runTask(in *ecs.RunTaskInput) string {
	e.t.Helper()
	out, err := ecs.NewFromConfig(e.awsConfig(e.as("admin", lab.IdentityConfig{Allow: []string{"*"}}))).RunTask(e.t.Context(), in)
	if err != nil {
		e.t.Fatal(err)
	}
	arn := aws.ToString(out.Tasks[0].TaskArn)
	eventually(e.t, "the task answers", func() bool {
		for _, task := range e.Tasks() {
			if task.ARN == arn {
				return task.Connected
			}
		}
		return false
	})
	return arn[strings.LastIndexByte(arn, '/')+1:]
}

// TestUserPolicy: with the policy that is shipped for users each has a bastion, uses it, and stops it, beside the others'.
func TestUserPolicy(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	role := lab.IdentityConfig{Expires: time.Now().Add(time.Hour)}
	for name, cfg := range map[string]lab.IdentityConfig{"jo": role, "jo-ann": role, "pat": {}} {
		env := e.as(name, cfg)
		p, forwards := e.forwards(env, "cache:sessions", ":")
		if err := ping(forwards[0].Listen); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		r := e.run(env, "status", "-o", "json")
		var st report.Status
		if err := json.Unmarshal([]byte(r.stdout), &st); err != nil || len(st.Bastions) != 1 || !st.Bastions[0].Ready ||
			st.Bastions[0].Refused+st.Bastions[0].Unchecked+st.Bastions[0].Outdated != "" {
			t.Errorf("%s: status %d: %v\n%s%s", name, r.code, err, r.stdout, r.stderr)
		}
		e.stop(p, syscall.SIGINT, 130)
		if r := e.run(env, "down"); r.code != 0 || strings.Count(r.stdout, "is being stopped") != 1 {
			t.Errorf("%s: down %d: %s%s", name, r.code, r.stdout, r.stderr)
		}
	}
}

// TestSomebodyElsesBastion: a task that another made to look like the user's own is neither used nor stopped without a word,
// whatever about it is different.
func TestSomebodyElsesBastion(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	e.AddSubnet(lab.Subnet{ID: "subnet-evil", CIDR: "10.99.9.0/24", Zone: lab.Region + "a"})
	e.AddSecurityGroup(lab.SecurityGroup{ID: "sg-evil", Name: "evil"})
	env := e.as("jo", lab.IdentityConfig{Expires: time.Now().Add(time.Hour)})
	container := func(change func(*ecstypes.ContainerOverride)) func(*ecs.RunTaskInput) {
		return func(in *ecs.RunTaskInput) {
			c := ecstypes.ContainerOverride{Name: aws.String("bastion")}
			change(&c)
			in.Overrides = &ecstypes.TaskOverride{ContainerOverrides: []ecstypes.ContainerOverride{c}}
		}
	}
	for name, tt := range map[string]struct {
		change func(*ecs.RunTaskInput)
		want   string
	}{
		"resolver and list": {container(func(c *ecstypes.ContainerOverride) {
			c.Environment = []ecstypes.KeyValuePair{{Name: aws.String("BASTIOND_ALLOW"), Value: aws.String("*:*")}}
		}), "the variable BASTIOND_ALLOW"},
		"command": {container(func(c *ecstypes.ContainerOverride) {
			c.Command = []string{"--allow", "*:*"}
		}), `the command ["--allow" "*:*"]`},
		"task role": {func(in *ecs.RunTaskInput) {
			in.Overrides = &ecstypes.TaskOverride{TaskRoleArn: aws.String("arn:aws:iam::000000000000:role/other")}
		}, "the task role overridden"},
		"subnet": {func(in *ecs.RunTaskInput) {
			in.NetworkConfiguration.AwsvpcConfiguration.Subnets = []string{"subnet-evil"}
		}, "is in subnet subnet-evil"},
		"security group": {func(in *ecs.RunTaskInput) {
			in.NetworkConfiguration.AwsvpcConfiguration.SecurityGroups = []string{"sg-evil"}
		}, "has the security groups sg-evil"},
		"public address": {func(in *ecs.RunTaskInput) {
			in.NetworkConfiguration.AwsvpcConfiguration.AssignPublicIp = ecstypes.AssignPublicIpEnabled
		}, "has the public address"},
	} {
		evil := e.runTask(e.marked(env, tt.change))
		if r := e.run(env, "status"); r.code != 0 || !strings.Contains(r.stdout, evil+" is not used") ||
			!strings.Contains(r.stdout, tt.want) {
			t.Errorf("%s: status %d: %s%s", name, r.code, r.stdout, r.stderr)
		}
		r := e.run(env, "up")
		if r.code != 0 || !strings.Contains(r.stdout, "was started") || strings.Contains(r.stdout, evil) ||
			!strings.Contains(r.stderr, evil) || !strings.Contains(r.stderr, tt.want) {
			t.Errorf("%s: up %d: %s%s", name, r.code, r.stdout, r.stderr)
		}
		if out, _, err := e.TaskOutput(evil); err != nil || strings.Contains(string(out), `"event":"grant"`) {
			t.Errorf("%s: the task got a grant: %s, %v", name, out, err)
		}
		r = e.run(env, "down")
		if r.code != 0 || strings.Count(r.stdout, "is being stopped") != 1 || !strings.Contains(r.stdout, evil+" is left alone") ||
			!strings.Contains(r.stdout, tt.want) {
			t.Errorf("%s: down %d: %s%s", name, r.code, r.stdout, r.stderr)
		}
		if r := e.run(env, "down", "--refused"); r.code != 0 || !strings.Contains(r.stdout, evil+" is being stopped") {
			t.Errorf("%s: down --refused %d: %s%s", name, r.code, r.stdout, r.stderr)
		}
	}
}

// TestSomebodyElsesMark: a task with the user's startedBy, but without the user's owner tag, does not keep the user from a bastion:
// by the policy the user may not even see it.
func TestSomebodyElsesMark(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	env := e.as("jo", lab.IdentityConfig{Expires: time.Now().Add(time.Hour)})
	evil := e.runTask(e.marked(env, func(in *ecs.RunTaskInput) {
		in.Tags = []ecstypes.Tag{{Key: aws.String("bastion:owner"), Value: aws.String("AROAX:mallory")}}
	}))
	for range 2 {
		if r := e.run(env, "up"); r.code != 0 || strings.Contains(r.stdout, evil) {
			t.Errorf("up %d: %s%s", r.code, r.stdout, r.stderr)
		}
	}
	if r := e.run(env, "down", "--refused"); r.code != 0 || strings.Count(r.stdout, "is being stopped") != 1 ||
		strings.Contains(r.stdout, evil) {
		t.Errorf("down %d: %s%s", r.code, r.stdout, r.stderr)
	}
}
