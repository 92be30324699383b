//go:build unix

package lab_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/bastion-ssm/bastion/e2e/iamref"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/awsapi"
	"github.com/bastion-ssm/bastion/lab/iam"
)

// attempt is a call of one person about another's bastion.
type attempt struct {
	name, action, resource string // as the denial names them
	call                   func(context.Context, person) error
	cli                    []string // the same by AWS's command line; none: the SDK alone
}

// attempts are all calls about a task and a session of the victim's that ECS and Session Manager have.
func attempts(victim person, task lab.Task, session string) []attempt {
	cluster, ownerTag := aws.String("bastion"), ecstypes.Tag{Key: aws.String("bastion:owner"), Value: aws.String(victim.userID)}
	sessionARN := "arn:aws:ssm:eu-central-1:000000000000:session/" + session
	return []attempt{
		{
			"run a task as the victim", "ecs:RunTask", "arn:aws:ecs:eu-central-1:000000000000:task-definition/bastion:1",
			func(ctx context.Context, p person) error {
				_, err := p.ecs.RunTask(ctx, runFor(victim.userID, nil))
				return err
			},
			[]string{
				"ecs", "run-task", "--cluster", "bastion", "--task-definition", "bastion", "--launch-type", "FARGATE", "--enable-execute-command",
				"--network-configuration", netConfig, "--tags", "key=bastion:owner,value=" + victim.userID,
			},
		},
		{
			"execute a command", "ecs:ExecuteCommand", task.ARN,
			func(ctx context.Context, p person) error {
				_, err := p.ecs.ExecuteCommand(ctx, &ecs.ExecuteCommandInput{
					Cluster: cluster, Task: &task.ARN, Container: aws.String("bastion"), Command: aws.String("/bastiond grant x"), Interactive: true,
				})
				return err
			},
			[]string{"ecs", "execute-command", "--cluster", "bastion", "--task", task.ARN, "--command", "/bastiond grant x", "--interactive"},
		},
		{
			"start a session", "ssm:StartSession", task.ARN,
			func(ctx context.Context, p person) error { return p.session(ctx, task, "AWS-StartSSHSession") },
			[]string{"ssm", "start-session", "--target", task.Target, "--document-name", "AWS-StartPortForwardingSession"},
		},
		{
			"resume the session", "ssm:ResumeSession", sessionARN,
			func(ctx context.Context, p person) error {
				_, err := p.ssm.ResumeSession(ctx, &ssm.ResumeSessionInput{SessionId: &session})
				return err
			},
			[]string{"ssm", "resume-session", "--session-id", session},
		},
		{
			"end the session", "ssm:TerminateSession", sessionARN,
			func(ctx context.Context, p person) error {
				_, err := p.ssm.TerminateSession(ctx, &ssm.TerminateSessionInput{SessionId: &session})
				return err
			},
			[]string{"ssm", "terminate-session", "--session-id", session},
		},
		{
			"describe the task", "ecs:DescribeTasks", task.ARN,
			func(ctx context.Context, p person) error {
				_, err := p.ecs.DescribeTasks(ctx, &ecs.DescribeTasksInput{Cluster: cluster, Tasks: []string{task.ARN}})
				return err
			},
			[]string{"ecs", "describe-tasks", "--cluster", "bastion", "--tasks", task.ARN},
		},
		{
			"take the task over", "ecs:TagResource", task.ARN,
			func(ctx context.Context, p person) error {
				_, err := p.ecs.TagResource(ctx, &ecs.TagResourceInput{
					ResourceArn: &task.ARN, Tags: []ecstypes.Tag{{Key: ownerTag.Key, Value: aws.String(p.userID)}},
				})
				return err
			}, nil,
		},
		{
			"take the owner away", "ecs:UntagResource", task.ARN,
			func(ctx context.Context, p person) error {
				_, err := p.ecs.UntagResource(ctx, &ecs.UntagResourceInput{ResourceArn: &task.ARN, TagKeys: []string{*ownerTag.Key}})
				return err
			}, nil,
		},
		{
			"list the sessions", "ssm:DescribeSessions", "*",
			func(ctx context.Context, p person) error {
				_, err := p.ssm.DescribeSessions(ctx, &ssm.DescribeSessionsInput{State: "Active"})
				return err
			}, nil,
		},
		{
			"stop the task", "ecs:StopTask", task.ARN,
			func(ctx context.Context, p person) error {
				_, err := p.ecs.StopTask(ctx, &ecs.StopTaskInput{Cluster: cluster, Task: &task.ARN})
				return err
			},
			[]string{"ecs", "stop-task", "--cluster", "bastion", "--task", task.ARN},
		},
	}
}

// A person with the template's policy cannot do anything to another's bastion, by any way that AWS has. The other's id begins with the
// person's, and the reverse. AWS's denial names the caller, the action, the resource and the kind of policy.
func TestPeopleAreApart(t *testing.T) {
	t.Parallel()
	c := quick(t)
	c.Gateway.AgentDelay = time.Hour // an agent that has connected ends a session whose client does not shake hands
	l := start(t, c)
	role := lab.IdentityConfig{Expires: time.Now().Add(time.Hour)}
	people := map[string]person{"jo": newPerson(t, l, "jo", role), "jo-ann": newPerson(t, l, "jo-ann", role)}
	for name, victim := range people {
		other := map[string]string{"jo": "jo-ann", "jo-ann": "jo"}[name]
		task := victim.start(t, l)
		out, err := victim.ssm.StartSession(t.Context(), &ssm.StartSessionInput{
			Target: &task.Target, DocumentName: aws.String("AWS-StartPortForwardingSession"),
		})
		if err != nil {
			t.Fatal(err)
		}
		cli := newCLI(t, l, people[other].env)
		for _, a := range attempts(victim, task, *out.SessionId) {
			want := "User: arn:aws:sts::000000000000:assumed-role/lab-" + other + "/" + other + " is not authorized to perform: " + a.action +
				" on resource: " + a.resource + " because no identity-based policy allows the " + a.action + " action"
			wantCode(t, a.call(t.Context(), people[other]), "AccessDeniedException", want)
			if len(a.cli) == 0 {
				continue
			}
			if got := cli.fails(t, a.cli...); !strings.Contains(got, "(AccessDeniedException)") || !strings.Contains(got, want) {
				t.Errorf("%s to %s: %s", other, a.name, got)
			}
		}
		if _, err := victim.ssm.ResumeSession(t.Context(), &ssm.ResumeSessionInput{SessionId: out.SessionId}); err != nil {
			t.Errorf("%s has lost the session: %v", name, err)
		}
		if !slices.ContainsFunc(l.Tasks(), func(of lab.Task) bool { return of.ID == task.ID && of.LastStatus == "RUNNING" }) {
			t.Errorf("%s has lost the task", name)
		}
	}
	// An evaluation that is not ours denies each of these calls too.
	asked := slices.DeleteFunc(l.Ledger().Asked(), func(a awsapi.Asked) bool { return a.Effect == iam.Allow })
	if n := iamref.CheckDecisions(t, asked); n < 20 {
		t.Errorf("only %d kinds of denial", n)
	}
}

// What AWS cannot deny: ListTasks has no resource but a container instance, and Fargate has none. Its answer has ARNs alone. And RunTask
// has no condition key for overrides.
func TestPeopleSeeThatTheOthersRun(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	jo, al := newPerson(t, l, "jo", lab.IdentityConfig{}), newPerson(t, l, "al", lab.IdentityConfig{})
	task := jo.start(t, l)
	out, err := al.ecs.ListTasks(t.Context(), &ecs.ListTasksInput{Cluster: aws.String("bastion")})
	if err != nil || len(out.TaskArns) != 1 || out.TaskArns[0] != task.ARN {
		t.Errorf("%+v, %v", out, err)
	}
	if _, err := al.ecs.RunTask(t.Context(), runFor(al.userID, func(in *ecs.RunTaskInput) {
		in.Overrides = &ecstypes.TaskOverride{ContainerOverrides: []ecstypes.ContainerOverride{{
			Name: aws.String("bastion"), Environment: []ecstypes.KeyValuePair{{Name: aws.String("BASTIOND_ALLOW"), Value: aws.String("*:*")}},
		}}}
	})); err != nil {
		t.Errorf("%v", err)
	}
}
