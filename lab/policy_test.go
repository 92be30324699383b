package lab_test

import (
	"context"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/elasticache"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/bastion-ssm/bastion/lab"
)

// person is an identity with its clients.
type person struct {
	cfg    aws.Config
	env    []string
	ecs    *ecs.Client
	ssm    *ssm.Client
	userID string
}

func newPerson(t *testing.T, l *lab.Lab, name string, cfg lab.IdentityConfig) person {
	t.Helper()
	env, err := l.AddIdentity(name, cfg)
	if err != nil {
		t.Fatal(err)
	}
	p := person{cfg: sdk(t, env), env: env}
	p.ecs, p.ssm = ecs.NewFromConfig(p.cfg), ssm.NewFromConfig(p.cfg)
	me, err := sts.NewFromConfig(p.cfg).GetCallerIdentity(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	p.userID = *me.UserId
	return p
}

// runFor is a RunTask with an owner's mark.
func runFor(owner string, change func(*ecs.RunTaskInput)) *ecs.RunTaskInput {
	in := runInput()
	in.Tags = []ecstypes.Tag{
		{Key: aws.String("bastion:owner"), Value: aws.String(owner)}, {Key: aws.String("team"), Value: aws.String("data")},
	}
	if change != nil {
		change(in)
	}
	return in
}

func (p person) start(t *testing.T, l *lab.Lab) lab.Task {
	t.Helper()
	out, err := p.ecs.RunTask(t.Context(), runFor(p.userID, nil))
	if err != nil {
		t.Fatal(err)
	}
	var task lab.Task
	eventually(t, "the task is connected", func() bool {
		i := slices.IndexFunc(l.Tasks(), func(task lab.Task) bool { return task.ARN == *out.Tasks[0].TaskArn && task.Connected })
		if i >= 0 {
			task = l.Tasks()[i]
		}
		return i >= 0
	})
	return task
}

// about are the calls about a task that the client makes.
func (p person) about(ctx context.Context, task lab.Task) map[string]func() error {
	cluster := aws.String("bastion")
	return map[string]func() error{
		"describe": func() error {
			_, err := p.ecs.DescribeTasks(ctx, &ecs.DescribeTasksInput{Cluster: cluster, Tasks: []string{task.ARN}})
			return err
		},
		"exec": func() error {
			_, err := p.ecs.ExecuteCommand(ctx, &ecs.ExecuteCommandInput{
				Cluster: cluster, Task: aws.String(task.ARN), Command: aws.String("/bastiond grant x"), Interactive: true,
			})
			return err
		},
		"port session": func() error { return p.session(ctx, task, "AWS-StartPortForwardingSession") },
		"SSH session":  func() error { return p.session(ctx, task, "AWS-StartSSHSession") },
		"stop": func() error {
			_, err := p.ecs.StopTask(ctx, &ecs.StopTaskInput{Cluster: cluster, Task: aws.String(task.ARN)})
			return err
		},
	}
}

func (p person) session(ctx context.Context, task lab.Task, document string) error {
	_, err := p.ssm.StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(task.Target), DocumentName: aws.String(document)})
	return err
}

// TestUserPolicy: the policy that is shipped for users allows all that the client does with its own tasks and sessions, and
// nothing with another user's.
func TestUserPolicy(t *testing.T) {
	l := start(t, quick(t))
	role := lab.IdentityConfig{Expires: time.Now().Add(time.Hour)}
	jo, joAnn := newPerson(t, l, "jo", role), newPerson(t, l, "jo-ann", role)
	if joAnn.userID != jo.userID+"-ann" {
		t.Fatalf("the ids are %s and %s: one should begin with the other", jo.userID, joAnn.userID)
	}
	user := newPerson(t, l, "pat", lab.IdentityConfig{}) // of no role
	ctx := t.Context()
	for _, p := range []person{jo, joAnn, user} {
		own := p.start(t, l)
		for _, other := range []person{jo, joAnn, user} {
			if other.userID == p.userID {
				continue
			}
			for name, call := range other.about(ctx, own) {
				t.Run(other.userID+" with a task of "+p.userID+" "+name, func(t *testing.T) {
					wantCode(t, call(), "AccessDeniedException", "")
				})
			}
		}
		calls := p.about(ctx, own)
		for _, name := range []string{"describe", "exec", "port session", "SSH session", "stop"} {
			if err := calls[name](); err != nil {
				t.Errorf("%s with its own task: %s: %v", p.userID, name, err)
			}
		}
	}

	// Sessions: resumed and ended by their owner alone, whose id may be the beginning of another's.
	task := joAnn.start(t, l)
	out, err := joAnn.ssm.StartSession(ctx, &ssm.StartSessionInput{
		Target: aws.String(task.Target), DocumentName: aws.String("AWS-StartPortForwardingSession"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []person{jo, user, joAnn} {
		_, resume := p.ssm.ResumeSession(ctx, &ssm.ResumeSessionInput{SessionId: out.SessionId})
		_, end := p.ssm.TerminateSession(ctx, &ssm.TerminateSessionInput{SessionId: out.SessionId})
		if p.userID == joAnn.userID {
			if resume != nil || end != nil {
				t.Errorf("its own session: %v, %v", resume, end)
			}
			continue
		}
		wantCode(t, resume, "AccessDeniedException", "")
		wantCode(t, end, "AccessDeniedException", "")
	}

	// What else the client asks.
	for name, call := range map[string]func() error{
		"list": func() error {
			_, err := jo.ecs.ListTasks(ctx, &ecs.ListTasksInput{Cluster: aws.String("bastion"), StartedBy: aws.String("x")})
			return err
		},
		"definition": func() error {
			_, err := jo.ecs.DescribeTaskDefinition(ctx, &ecs.DescribeTaskDefinitionInput{TaskDefinition: aws.String("bastion")})
			return err
		},
		"subnets":    func() error { _, err := ec2.NewFromConfig(jo.cfg).DescribeSubnets(ctx, nil); return err },
		"groups":     func() error { _, err := ec2.NewFromConfig(jo.cfg).DescribeSecurityGroups(ctx, nil); return err },
		"interfaces": func() error { _, err := ec2.NewFromConfig(jo.cfg).DescribeNetworkInterfaces(ctx, nil); return err },
		"instances":  func() error { _, err := rds.NewFromConfig(jo.cfg).DescribeDBInstances(ctx, nil); return err },
		"clusters":   func() error { _, err := rds.NewFromConfig(jo.cfg).DescribeDBClusters(ctx, nil); return err },
		"caches":     func() error { _, err := elasticache.NewFromConfig(jo.cfg).DescribeCacheClusters(ctx, nil); return err },
		"replication groups": func() error {
			_, err := elasticache.NewFromConfig(jo.cfg).DescribeReplicationGroups(ctx, nil)
			return err
		},
		"serverless": func() error {
			_, err := elasticache.NewFromConfig(jo.cfg).DescribeServerlessCaches(ctx, nil)
			return err
		},
	} {
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestUserPolicyDenies: what the policy for users must not let through.
func TestUserPolicyDenies(t *testing.T) {
	l := start(t, quick(t))
	l.AddCluster("other")
	l.AddTaskDefinition(lab.TaskDefinition{Family: "other"})
	role := lab.IdentityConfig{Expires: time.Now().Add(time.Hour)}
	jo, al := newPerson(t, l, "jo", role), newPerson(t, l, "al", role)
	own := jo.start(t, l)
	ctx := t.Context()
	tag := func(key, value string) []ecstypes.Tag {
		return []ecstypes.Tag{{Key: aws.String(key), Value: aws.String(value)}}
	}
	for name, change := range map[string]func(*ecs.RunTaskInput){
		"another's mark":     func(in *ecs.RunTaskInput) { in.Tags = tag("bastion:owner", al.userID) },
		"a mark that begins": func(in *ecs.RunTaskInput) { in.Tags = tag("bastion:owner", jo.userID+"-ann") },
		"a pattern":          func(in *ecs.RunTaskInput) { in.Tags = tag("bastion:owner", "*") },
		"no mark":            func(in *ecs.RunTaskInput) { in.Tags = nil },
		"other tags":         func(in *ecs.RunTaskInput) { in.Tags = tag("team", "data") },
		"without ECS Exec":   func(in *ecs.RunTaskInput) { in.EnableExecuteCommand = false },
		"another cluster":    func(in *ecs.RunTaskInput) { in.Cluster = aws.String("other") },
		"another definition": func(in *ecs.RunTaskInput) { in.TaskDefinition = aws.String("other") },
		"another task role": func(in *ecs.RunTaskInput) {
			in.Overrides = &ecstypes.TaskOverride{TaskRoleArn: aws.String("arn:aws:iam::000000000000:role/admin")}
		},
		"another exec. role": func(in *ecs.RunTaskInput) {
			in.Overrides = &ecstypes.TaskOverride{ExecutionRoleArn: aws.String("arn:aws:iam::000000000000:role/admin")}
		},
		"a mark in other case": func(in *ecs.RunTaskInput) { in.Tags = tag("Bastion:Owner", al.userID) },
	} {
		t.Run("run with "+name, func(t *testing.T) {
			_, err := jo.ecs.RunTask(ctx, runFor(jo.userID, change))
			wantCode(t, err, "AccessDeniedException", "")
		})
	}
	for name, call := range map[string]func() error{
		"mark its own task as another's": func() error {
			_, err := jo.ecs.TagResource(ctx, &ecs.TagResourceInput{ResourceArn: aws.String(own.ARN), Tags: tag("bastion:owner", al.userID)})
			return err
		},
		"take the mark away": func() error {
			_, err := jo.ecs.UntagResource(ctx, &ecs.UntagResourceInput{ResourceArn: aws.String(own.ARN), TagKeys: []string{"bastion:owner"}})
			return err
		},
		"forwarding past bastiond": func() error { return jo.session(ctx, own, "AWS-StartPortForwardingSessionToRemoteHost") },
		"a shell": func() error {
			_, err := jo.ssm.StartSession(ctx, &ssm.StartSessionInput{Target: aws.String(own.Target)})
			return err
		},
		"another container": func() error {
			_, err := jo.ecs.ExecuteCommand(ctx, &ecs.ExecuteCommandInput{
				Cluster: aws.String("bastion"), Task: aws.String(own.ARN), Container: aws.String("sidecar"),
				Command: aws.String("x"), Interactive: true,
			})
			return err
		},
		"own and another's task at once": func() error {
			other := al.start(t, l)
			_, err := jo.ecs.DescribeTasks(ctx, &ecs.DescribeTasksInput{
				Cluster: aws.String("bastion"), Tasks: []string{own.ARN, other.ARN},
			})
			return err
		},
		"a task that is not there": func() error {
			_, err := jo.ecs.DescribeTasks(ctx, &ecs.DescribeTasksInput{Cluster: aws.String("bastion"), Tasks: []string{"0123"}})
			return err
		},
		"the tasks of another cluster": func() error {
			_, err := jo.ecs.ListTasks(ctx, &ecs.ListTasksInput{Cluster: aws.String("other")})
			return err
		},
		"a session of nobody": func() error {
			_, err := jo.ssm.TerminateSession(ctx, &ssm.TerminateSessionInput{SessionId: aws.String("jo-0123")})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) { wantCode(t, call(), "AccessDeniedException", "") })
	}
}

func TestBadPolicy(t *testing.T) {
	l := start(t, quick(t))
	for name, document := range map[string]string{
		"no JSON":          `x`,
		"another effect":   `{"Version":"2012-10-17","Statement":[{"Effect":"deny","Action":"*","Resource":"*"}]}`,
		"another version":  `{"Version":"2008-10-17","Statement":[]}`,
		"unknown element":  `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Actions":"*","Resource":"*"}]}`,
		"unknown operator": `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"DateLessThan":{"aws:userid":"b"}}}]}`,
		"unknown key":      `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*","Condition":{"StringLike":{"ecs:subnet":"b"}}}]}`,
	} {
		if _, err := l.AddIdentity("x", lab.IdentityConfig{Policy: json.RawMessage(document)}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
