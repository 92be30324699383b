package access

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"

	"github.com/bastion-ssm/bastion/bastions"
	"github.com/bastion-ssm/bastion/internal/awssdk"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/lab"
)

// Up starts one bastion and finds it again; Status shows it; Down stops it and forgets its host key. The owner is asked for once.
func TestUpStatusDown(t *testing.T) {
	t.Parallel()
	l := startLab(t, nil)
	var steps steps
	a := l.access(Options{Progress: steps.add})
	if a.Account() != "" || a.Region() != lab.Region {
		t.Errorf("account %q, region %q", a.Account(), a.Region())
	}
	first, err := a.Up(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !first.New || first.TaskID == "" || !first.Ready || first.Target == "" || first.Cost == nil || first.Created == nil || first.Started == nil ||
		!strings.HasPrefix(first.HostKey, "SHA256:") || first.Version == "" {
		t.Errorf("%+v", first)
	}
	want := []string{"looking for your bastion", StepStarting + " (task definition bastion)", "the bastion runs"}
	want = append(want, slices.Repeat([]string{"handing a new key to the bastion by ECS Exec"}, 1+steps.early())...)
	if got := slices.DeleteFunc(steps.texts(), func(step string) bool { return strings.HasPrefix(step, "waiting for ") }); !slices.Equal(got, want) {
		t.Errorf("the steps: %q, want %q", got, want)
	}
	again, err := a.Up(t.Context())
	if err != nil || again.New || again.TaskARN != first.TaskARN || again.HostKey != first.HostKey {
		t.Errorf("again: %+v, %v", again, err)
	}
	st, err := a.Status(t.Context())
	if err != nil || st.Cluster != "bastion" || st.Target != "" || len(st.Bastions) != 1 || st.Bastions[0].TaskARN != first.TaskARN ||
		st.Bastions[0].Cost == nil {
		t.Errorf("%+v, %v", st, err)
	}
	if owner, err := a.Owner(t.Context()); err != nil || owner != st.Owner || !strings.Contains(owner, ":"+a.Account()+":") ||
		a.Account() == "" {
		t.Errorf("owner %q, account %q, %v", owner, a.Account(), err)
	}
	b := bastions.Bastion{TaskARN: first.TaskARN, RuntimeID: first.Target[strings.LastIndexByte(first.Target, '_')+1:]}
	if _, _, known := a.hostKeys.get(b); !known {
		t.Error("the host key is not remembered")
	}
	down, err := a.Down(t.Context(), false)
	if err != nil || len(down.Stopped) != 1 || down.Stopped[0].TaskARN != first.TaskARN || down.Left == nil || len(down.Left) != 0 {
		t.Errorf("%+v, %v", down, err)
	}
	if _, _, known := a.hostKeys.get(b); known {
		t.Error("the host key of a stopped task is remembered")
	}
	down, err = a.Down(t.Context(), true)
	if err != nil || down.Stopped == nil || len(down.Stopped) != 0 || len(down.Left) != 0 {
		t.Errorf("without a bastion: %+v, %v", down, err)
	}
	l.wantCalls(map[string]int{
		"sts:GetCallerIdentity": 1, "ecs:RunTask": 1, "ecs:ExecuteCommand": 2 + steps.early(), "ecs:StopTask": 1, "ssm:StartSession": 0,
	})
	if tasks := l.Tasks(); len(tasks) != 1 || tasks[0].StoppedReason != downReason {
		t.Errorf("%+v", tasks)
	}
}

// runMarked runs a task with the owner's marks, as anybody in the account may, and with another environment.
func (l *testLab) runMarked(owner bastions.Owner) {
	l.t.Helper()
	cfg, err := awssdk.Load(l.t.Context(), awssdk.Source{Env: awssdk.NewEnv(l.env), CallTimeout: time.Minute})
	if err != nil {
		l.t.Fatal(err)
	}
	_, err = ecs.NewFromConfig(cfg).RunTask(l.t.Context(), &ecs.RunTaskInput{
		Cluster: aws.String("bastion"), TaskDefinition: aws.String("bastion"), StartedBy: aws.String(owner.StartedBy),
		LaunchType: ecstypes.LaunchTypeFargate, EnableExecuteCommand: true,
		Tags: []ecstypes.Tag{{Key: aws.String("bastion:owner"), Value: aws.String(owner.UserID)}},
		NetworkConfiguration: &ecstypes.NetworkConfiguration{AwsvpcConfiguration: &ecstypes.AwsVpcConfiguration{
			Subnets: []string{"subnet-0000000000000laba"},
		}},
		Overrides: &ecstypes.TaskOverride{ContainerOverrides: []ecstypes.ContainerOverride{{
			Name: aws.String("bastion"), Environment: []ecstypes.KeyValuePair{{Name: aws.String("BASTIOND_ALLOW"), Value: aws.String("*:*")}},
		}}},
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// A task that has the user's marks and that the user's settings would not have started is shown with the reason, is not used, and is only
// stopped for those who ask for it.
func TestDownLeavesRefused(t *testing.T) {
	t.Parallel()
	l := startLab(t, nil)
	a := l.access(Options{})
	owner, err := a.whoami(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l.runMarked(owner)
	st, err := a.Status(t.Context())
	if err != nil || len(st.Bastions) != 1 || !strings.Contains(st.Bastions[0].Refused, "has overrides in container bastion") {
		t.Fatalf("%+v, %v", st, err)
	}
	down, err := a.Down(t.Context(), false)
	if err != nil || len(down.Stopped) != 0 || len(down.Left) != 1 || down.Left[0].TaskARN != st.Bastions[0].TaskARN ||
		down.Left[0].Refused == "" {
		t.Errorf("%+v, %v", down, err)
	}
	l.wantCalls(map[string]int{"ecs:StopTask": 0})
	down, err = a.Down(t.Context(), true)
	if err != nil || len(down.Stopped) != 1 || len(down.Left) != 0 {
		t.Errorf("asked for: %+v, %v", down, err)
	}
	l.wantCalls(map[string]int{"ecs:StopTask": 1, "ecs:ExecuteCommand": 0})
}

// A right that is missing is named with the operation that needs it, and what had been done until then is told.
func TestTaskCallsAreDenied(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		action string
		up     bool // a bastion runs before
		do     func(*Access) (started bool, err error)
		new    bool
		says   string
	}{
		"up, list":  {action: "ecs:ListTasks", do: upNew, says: "ecs:ListTasks"},
		"up, run":   {action: "ecs:RunTask", do: upNew, says: "ecs:RunTask"},
		"up, exec":  {action: "ecs:ExecuteCommand", do: upNew, new: true, says: "hand a key to bastion "},
		"up, again": {action: "ecs:ExecuteCommand", up: true, do: upNew, says: "hand a key to bastion "},
		"down, list": {action: "ecs:ListTasks", up: true, do: func(a *Access) (bool, error) {
			down, err := a.Down(context.Background(), true)
			return len(down.Stopped)+len(down.Left) > 0, err
		}, says: "ecs:ListTasks"},
		"down, stop": {action: "ecs:StopTask", up: true, do: func(a *Access) (bool, error) {
			down, err := a.Down(context.Background(), true)
			return len(down.Stopped)+len(down.Left) > 0, err
		}, says: "ecs:StopTask"},
		"status": {action: "ecs:ListTasks", do: func(a *Access) (bool, error) {
			st, err := a.Status(context.Background())
			return st.Owner == "" || st.Cluster == "" || st.Bastions == nil, err
		}, says: "ecs:ListTasks"},
	} {
		t.Run(name, func(t *testing.T) {
			l := startLab(t, nil)
			a := l.access(Options{})
			if tt.up {
				if _, err := a.Up(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			l.faults(lab.APIFaults{Deny: []string{tt.action}})
			started, err := tt.do(a)
			text := ""
			if err != nil {
				text = err.Error() + "\n" + fail.NextOf(err)
			}
			if fail.KindOf(err) != fail.Denied || !strings.Contains(text, tt.says) || !strings.Contains(text, tt.action) {
				t.Errorf("%v, hint %q; want %q and %q", err, fail.NextOf(err), tt.says, tt.action)
			}
			if started != tt.new {
				t.Errorf("new: %v, want %v", started, tt.new)
			}
			if tt.up {
				if _, err := a.Status(t.Context()); tt.action != "ecs:ListTasks" && err != nil {
					t.Errorf("the bastion: %v", err)
				}
			}
		})
	}
}

func upNew(a *Access) (bool, error) {
	up, err := a.Up(context.Background())
	return up.New, err
}

// Credentials that name nobody end every command with the same kind, before anything is asked about tasks; they are asked again by
// the next.
func TestOwnerIsUnknown(t *testing.T) {
	t.Parallel()
	l := startLab(t, nil)
	l.faults(lab.APIFaults{Errors: map[string]lab.APIError{"sts:GetCallerIdentity": {Code: "ExpiredToken", Message: "expired", Status: 403}}})
	a := l.access(Options{})
	for name, do := range map[string]func() error{
		"up":     func() error { _, err := a.Up(t.Context()); return err },
		"down":   func() error { _, err := a.Down(t.Context(), false); return err },
		"status": func() error { _, err := a.Status(t.Context()); return err },
		"owner":  func() error { _, err := a.Owner(t.Context()); return err },
		"stream": func() error { _, err := a.OpenSSH(t.Context(), nil); return err },
	} {
		err := do()
		if fail.KindOf(err) != fail.Credentials || !strings.Contains(err.Error(), "find out who you are") || fail.NextOf(err) == "" {
			t.Errorf("%s: %v, hint %q", name, err, fail.NextOf(err))
		}
	}
	l.wantCalls(map[string]int{"ecs:ListTasks": 0, "ecs:RunTask": 0})
	l.faults(lab.APIFaults{})
	if owner, err := a.Owner(t.Context()); err != nil || owner == "" {
		t.Errorf("renewed: %q, %v", owner, err)
	}
}

// Prepare asks for the owner ahead, so that the first command finds it, and Close does not leave the question behind.
func TestPrepare(t *testing.T) {
	t.Parallel()
	l := startLab(t, nil)
	a := l.access(Options{})
	a.Prepare()
	eventually(t, "the owner is asked for", func() bool { return l.calls("sts:GetCallerIdentity")[0] == 1 })
	if _, err := a.Owner(t.Context()); err != nil {
		t.Error(err)
	}
	l.wantCalls(map[string]int{"sts:GetCallerIdentity": 1})
	l.faults(lab.APIFaults{LatencyMS: 60_000})
	slow := l.access(Options{})
	slow.Prepare()
	eventually(t, "the owner is asked for again", func() bool { return l.calls("sts:GetCallerIdentity")[0] == 2 })
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		slow.Close()
	}()
	select {
	case <-closed:
	case <-time.After(20 * time.Second): // AWS's answer takes longer
		t.Error("Close waits for AWS's answer")
	}
}

// The order of answers is that of the questions, and the first question that fails is the one whose error counts.
func TestResolveInOrder(t *testing.T) {
	t.Parallel()
	l := startLab(t, nil)
	a := l.access(Options{})
	parsed := parseAll(t, "b.internal:2", "a.internal:1")
	got, err := a.Resolve(t.Context(), parsed)
	if err != nil || len(got) != 2 || got[0].Host != "b.internal" || got[1].Host != "a.internal" {
		t.Errorf("%+v, %v", got, err)
	}
	got, err = a.Resolve(t.Context(), parseAll(t, "b.internal:2", "rds:first", "cache:second"))
	if got != nil || err == nil || !strings.Contains(err.Error(), "first") || strings.Contains(err.Error(), "second") {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := a.Resolve(t.Context(), nil); err != nil || len(got) != 0 {
		t.Errorf("of none: %+v, %v", got, err)
	}
	all, err := a.Targets(t.Context())
	if err != nil || len(all) != 0 {
		t.Errorf("a region without databases: %+v, %v", all, err)
	}
	if got := Destination("2001:db8::1", 443); got != "[2001:db8::1]:443" {
		t.Errorf("a destination: %q", got)
	}
}

// An Access without a region, or with a profile that is not there, is none; its error says what to set.
func TestNewFails(t *testing.T) {
	settings, err := config.FromTexts(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		env  map[string]string
		next string
	}{
		"no region":      {map[string]string{"AWS_ACCESS_KEY_ID": "AKIATEST", "AWS_SECRET_ACCESS_KEY": "made-up"}, "--region"},
		"no credentials": {map[string]string{"AWS_REGION": "eu-west-1", "AWS_EC2_METADATA_DISABLED": "true"}, "--profile"},
		"no profile":     {map[string]string{"AWS_REGION": "eu-west-1", "AWS_PROFILE": "missing"}, "AWS_CONFIG_FILE"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			tt.env["AWS_CONFIG_FILE"], tt.env["AWS_SHARED_CREDENTIALS_FILE"] = filepath.Join(dir, "a"), filepath.Join(dir, "b")
			a, err := New(t.Context(), settings, Options{Env: awssdk.NewEnv(tt.env)})
			if a != nil || err == nil || fail.NextOf(err) == "" || !strings.Contains(fail.NextOf(err), tt.next) {
				t.Errorf("%v, hint %q", err, fail.NextOf(err))
			}
		})
	}
}

// Whoever waits for another's question gives up with its own context, and the other gets its answer.
func TestOnceEndsWithContext(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	f := once(func(context.Context) (int, error) {
		close(asked)
		<-answer
		return 7, nil
	})
	got := make(chan int, 1)
	go func() {
		v, _ := f(context.Background())
		got <- v
	}()
	<-asked
	enough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(enough)
	if _, err := f(ctx); !errors.Is(err, enough) {
		t.Errorf("%v", err)
	}
	close(answer)
	if v := <-got; v != 7 {
		t.Errorf("%d", v)
	}
}

// A cluster may encrypt what ECS Exec carries: the grant goes by its key. A task that may not use the key is named, with the right
// that it lacks.
func TestUpEncrypted(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		deny []string // of the task's role
		next string
	}{"a key": {}, "a task without the right": {[]string{"kms:Decrypt"}, "kms:Decrypt"}} {
		l := startLab(t, func(c *lab.Config) { c.KMS, c.TaskRoleDeny = true, tt.deny })
		var steps steps
		up, err := l.access(Options{Progress: steps.add}).Up(t.Context())
		if (err == nil) != (tt.next == "") || err == nil && up.HostKey == "" ||
			err != nil && (!strings.Contains(fail.NextOf(err), tt.next) || !up.New ||
				!strings.HasPrefix(err.Error(), "hand a key to bastion ")) {
			t.Errorf("%s: %+v, %v, hint %q", name, up, err, fail.NextOf(err))
		}
		l.wantCalls(map[string]int{"kms:GenerateDataKey": 1 + steps.early(), "ecs:ExecuteCommand": 1 + steps.early()})
	}
}
