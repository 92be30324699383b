package access

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/internal/awsanswer"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/tunnel"
)

// sharing are settings of people who share a service's tasks.
var sharing = append(slices.Clone(quickly), "shared_service=bastion")

// someone is an identity with the template's policy of people, its Access and its ECS.
func (l *testLab) someone(name string, settings ...string) (*Access, *ecs.Client) {
	l.t.Helper()
	vars, err := l.AddIdentity(name, lab.IdentityConfig{Expires: time.Now().Add(time.Hour)})
	if err != nil {
		l.t.Fatal(err)
	}
	env := awssdk.NewEnv(environment(vars))
	cfg, err := awssdk.Load(l.t.Context(), awssdk.Source{Env: env, CallTimeout: time.Minute})
	if err != nil {
		l.t.Fatal(err)
	}
	return l.access(Options{Env: env}, settings...), ecs.NewFromConfig(cfg)
}

// alive are the ids of the tasks that ECS wants to run.
func (l *testLab) alive() (ids []string) {
	for _, task := range l.Tasks() {
		if task.DesiredStatus == "RUNNING" {
			ids = append(ids, task.ID)
		}
	}
	return ids
}

// Two people use one shared bastion at once, each by a grant of their own. Neither can stop it. When it dies, ECS starts another one, to
// which both links move by themselves.
func TestTwoPeopleShareABastion(t *testing.T) {
	t.Parallel()
	to := echo(t)
	l := startLab(t, func(c *lab.Config) { reaching(c); c.Shared = 1 })
	jo, _ := l.someone("jo", sharing...)
	al, asAl := l.someone("al", sharing...)
	links := []*Pool{l.link(jo, to), l.link(al, to)}
	for _, link := range links {
		l.dial(link, to)
	}
	first := links[0].State().Describe
	if second := links[1].State().Describe; first != second || len(l.alive()) != 1 {
		t.Fatalf("%s and %s of %q", first, second, l.alive())
	}
	up, err := al.Up(t.Context())
	if err != nil || up.New || up.Service != "bastion" || "bastion "+up.TaskID != first {
		t.Errorf("%+v, %v", up, err)
	}
	st, err := jo.Status(t.Context())
	if err != nil || len(st.Bastions) != 1 || st.Bastions[0].Service != "bastion" || st.Bastions[0].Refused != "" {
		t.Errorf("%+v, %v", st, err)
	}

	if _, err := al.Down(t.Context(), true); fail.KindOf(err) != fail.Usage || !strings.Contains(err.Error(), "the bastion is shared") {
		t.Errorf("down: %v", err)
	}
	_, stopErr := asAl.StopTask(t.Context(), &ecs.StopTaskInput{Cluster: aws.String("bastion"), Task: &up.TaskARN})
	_, scaleErr := asAl.UpdateService(t.Context(), &ecs.UpdateServiceInput{
		Cluster: aws.String("bastion"), Service: aws.String("bastion"), DesiredCount: aws.Int32(0),
	})
	for what, err := range map[string]error{"StopTask": stopErr, "UpdateService": scaleErr} {
		if awsanswer.ClassOf(err) != awsanswer.Denied {
			t.Errorf("%s by one of its users: %v", what, err)
		}
	}
	for _, link := range links {
		l.dial(link, to)
	}

	if err := l.KillTask(up.TaskID); err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		eventually(t, "the link moves to the next task", func() bool {
			st := link.State()
			return st.Phase == tunnel.Up && st.Describe != first
		})
		l.dial(link, to)
	}
	if a, b := links[0].State().Describe, links[1].State().Describe; a != b || len(l.alive()) != 1 {
		t.Errorf("%s and %s of %q", a, b, l.alive())
	}
	if n := l.calls("ecs:RunTask"); n[0] != 0 {
		t.Errorf("%d calls of RunTask", n[0])
	}
	for _, denied := range l.Ledger().Denied() {
		if denied.Action != "ecs:StopTask" && denied.Action != "ecs:UpdateService" {
			t.Errorf("%s on %s by %s: denied", denied.Action, denied.Resource, denied.Principal)
		}
	}
}

// A task that only says that it is the service's is not used: neither one with the marks that people can set, nor one with overrides that
// also knows the service's deployment.
func TestForeignTaskIsNotTheServices(t *testing.T) {
	t.Parallel()
	l := startLab(t, func(c *lab.Config) { c.Shared = 1 })
	cfg, err := awssdk.Load(t.Context(), awssdk.Source{Env: awssdk.NewEnv(l.admin()), CallTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	admin := ecs.NewFromConfig(cfg)
	out, err := admin.DescribeServices(t.Context(), &ecs.DescribeServicesInput{Cluster: aws.String("bastion"), Services: []string{"bastion"}})
	if err != nil || len(out.Services) != 1 || len(out.Services[0].Deployments) != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	genuine := l.alive()
	run := func(startedBy string, overrides *ecstypes.TaskOverride) string {
		made, err := admin.RunTask(t.Context(), &ecs.RunTaskInput{
			Cluster: aws.String("bastion"), TaskDefinition: aws.String("bastion"), StartedBy: &startedBy, Group: aws.String("service:bastion"),
			LaunchType: ecstypes.LaunchTypeFargate, EnableExecuteCommand: true, Overrides: overrides,
			Tags: []ecstypes.Tag{{Key: aws.String("bastion:shared"), Value: aws.String("bastion")}},
			NetworkConfiguration: &ecstypes.NetworkConfiguration{AwsvpcConfiguration: &ecstypes.AwsVpcConfiguration{
				Subnets: []string{"subnet-0000000000000laba"}, SecurityGroups: []string{"sg-0000000000000000lab"},
			}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return lastOfARN(*made.Tasks[0].TaskArn)
	}
	forged := run("ecs-svc/1234567890123456789", nil)
	overridden := run(*out.Services[0].Deployments[0].Id, &ecstypes.TaskOverride{ContainerOverrides: []ecstypes.ContainerOverride{{
		Name: aws.String("bastion"), Environment: []ecstypes.KeyValuePair{{Name: aws.String("BASTIOND_ALLOW"), Value: aws.String("*:*")}},
	}}})
	jo, _ := l.someone("jo", sharing...)
	up, err := jo.Up(t.Context())
	if err != nil || !slices.Contains(genuine, up.TaskID) {
		t.Errorf("%+v, %v; the service's are %q", up, err, genuine)
	}
	st, err := jo.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range st.Bastions {
		if b.TaskID == forged || (b.TaskID == overridden) != (b.Refused != "") {
			t.Errorf("%+v", b)
		}
	}
	if len(st.Bastions) != 2 {
		t.Errorf("%d tasks are shown, want the service's own and the one with overrides: %+v", len(st.Bastions), st.Bastions)
	}
}

func lastOfARN(arn string) string { return arn[strings.LastIndexByte(arn, '/')+1:] }

// admin is the environment of the identity that may do everything.
func (l *testLab) admin() map[string]string {
	l.t.Helper()
	vars, err := l.AddIdentity("root", lab.IdentityConfig{Allow: []string{"*"}})
	if err != nil {
		l.t.Fatal(err)
	}
	return environment(vars)
}
