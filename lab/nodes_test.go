package lab_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/coder/websocket"

	"github.com/bastion-ssm/bastion/lab"
)

// runBare starts a task without ECS Exec, and waits until it runs.
func runBare(t *testing.T, l *lab.Lab) (arn string) {
	t.Helper()
	in := runInput()
	in.EnableExecuteCommand = false
	out, err := ecs.NewFromConfig(sdk(t, l.Env())).RunTask(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	arn = aws.ToString(out.Tasks[0].TaskArn)
	awaitStatus(t, l, arn, "RUNNING")
	return arn
}

func awaitStatus(t *testing.T, l *lab.Lab, arn, status string) {
	t.Helper()
	eventually(t, "the task is "+status, func() bool {
		for _, task := range l.Tasks() {
			if task.ARN == arn {
				return task.LastStatus == status
			}
		}
		return false
	})
}

// await returns the next value of c, or its end.
func await[T any](t testing.TB, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(20 * time.Second):
		t.Fatal("waited in vain")
	}
	return v
}

func startSession(t *testing.T, l *lab.Lab, target string) (*ssm.StartSessionOutput, error) {
	t.Helper()
	return ssm.NewFromConfig(sdk(t, l.Env())).StartSession(t.Context(), &ssm.StartSessionInput{
		Target: aws.String(target), DocumentName: aws.String("AWS-StartSSHSession"),
	})
}

// A task's program finds out who it is, and gets its role's credentials: new ones when half of the old ones' life is over.
func TestTaskCredentials(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	var ahead atomic.Int64
	cfg.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	cfg.TaskCredentialsLife = 4 * time.Minute // the signatures' clock is this machine's
	l := start(t, cfg)
	task := runBare(t, l)
	n := newNode(t, l, task)
	if want := l.Tasks()[0].Target; n.target != want {
		t.Errorf("the program is %s, want %s", n.target, want)
	}
	if region := said(t, l, task, "api"); region != l.URL()+" eu-central-1" {
		t.Errorf("the API is at %s", region)
	}
	try := func() error {
		_, err := n.create("control-channel/" + n.target)
		return err
	}
	if err := try(); err != nil {
		t.Error(err)
	}
	first := n.creds
	n.credentials(l, task)
	if n.creds != first {
		t.Errorf("other credentials at once: %+v, %+v", first, n.creds)
	}
	ahead.Store(int64(150 * time.Second))
	n.credentials(l, task)
	if n.creds.AccessKeyID == first.AccessKeyID || !n.creds.Expires.After(first.Expires) {
		t.Errorf("the same credentials after most of their life: %+v, %+v", first, n.creds)
	}
	second := n.creds
	n.creds = first
	if err := try(); err != nil {
		t.Error("with the old credentials, which have not expired:", err)
	}
	ahead.Store(int64(270 * time.Second))
	if err := try(); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("with expired credentials: %v", err)
	}
	n.creds = second
	if err := try(); err != nil {
		t.Error(err)
	}
}

// A node has its container's control channel. The last one to come has it.
func TestControlChannel(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	n := newNode(t, l, runBare(t, l))
	_, err := startSession(t, l, n.target)
	wantCode(t, err, "TargetNotConnected", n.target+" is not connected.")
	first := n.online(l)
	ws := n.control
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := ws.Ping(ctx); err != nil {
		t.Error("ping:", err)
	}
	if nodes := l.State().Nodes; len(nodes) != 1 || nodes[0].Target != n.target || nodes[0].AgentVersion != "3.3.0.0" ||
		nodes[0].Platform != "linux" || time.Since(nodes[0].Since) > time.Minute {
		t.Errorf("nodes %+v", nodes)
	}
	second, err := n.connect()
	if err != nil {
		t.Fatal(err)
	}
	await(t, first)
	eventually(t, "the second channel is the node's", func() bool { return l.Gateway().HasNode(n.target) })
	out, err := startSession(t, l, n.target)
	if err != nil {
		t.Fatal(err)
	}
	task := await(t, n.tasks)
	if task.SessionID != *out.SessionId || task.DocumentName != "AWS-StartSSHSession" || task.Parameters["portNumber"] != "22" ||
		task.SessionOwner != "arn:aws:iam::000000000000:user/lab" || task.DocumentContent.SchemaVersion != "1.0" ||
		task.DocumentContent.SessionType != "Port" || task.DocumentContent.Properties["portNumber"] != "{{ portNumber }}" {
		t.Errorf("task %+v", task)
	}
	if err := l.Gateway().Terminate(*out.SessionId); err != nil {
		t.Error(err)
	}
	if got := await(t, n.closed); got != "control "+*out.SessionId { // the node has no data channel
		t.Errorf("closed: %s", got)
	}
	n.hangUp()
	await(t, second)
	eventually(t, "the node has gone", func() bool { return len(l.State().Nodes) == 0 })
	_, err = startSession(t, l, n.target)
	wantCode(t, err, "TargetNotConnected", "is not connected.")
	// Its role's session cannot be the node of a stopped task.
	n.online(l)
	c := ecs.NewFromConfig(sdk(t, l.Env()))
	id := l.Tasks()[0].ARN
	if _, err := c.StopTask(t.Context(), &ecs.StopTaskInput{Cluster: aws.String("bastion"), Task: &id}); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, l, id, "STOPPED")
	if nodes := l.State().Nodes; len(nodes) != 0 {
		t.Errorf("nodes %+v", nodes)
	}
	if _, err := n.connect(); err == nil || !strings.Contains(err.Error(), "not authorized to perform: ssmmessages:CreateControlChannel") {
		t.Errorf("a node of a stopped task: %v", err)
	}
}

// Only the task role's own session gets a control channel, and only with the actions' permissions.
func TestControlChannelIsChecked(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	l := start(t, cfg)
	n := newNode(t, l, runBare(t, l))
	other := newNode(t, l, runBare(t, l))
	admin, err := sdk(t, l.Env()).Credentials.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	own := n.creds
	wrong := own
	wrong.SecretAccessKey += "x"
	for _, tt := range []struct {
		name  string
		creds aws.Credentials
		want  string
	}{
		{"another task's role", other.creds, "AccessDeniedException"},
		{"a user", admin, "AccessDeniedException"},
		{"a wrong secret", wrong, "signature"},
		{"an unknown key", aws.Credentials{AccessKeyID: "AKIAX", SecretAccessKey: "x"}, "security token"},
	} {
		n.creds = tt.creds
		if _, err := n.create("control-channel/" + n.target); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("create, %s: %v", tt.name, err)
		}
		if _, err := n.dialControl(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("open, %s: %v", tt.name, err)
		}
	}
	n.creds = own
	for action, fails := range map[string]func() error{
		"ssmmessages:CreateControlChannel": func() error { _, err := n.create("control-channel/" + n.target); return err },
		"ssmmessages:OpenControlChannel":   func() error { _, err := n.dialControl(); return err },
	} {
		if err := l.SetAPIFaults(lab.APIFaults{Deny: []string{action}}); err != nil {
			t.Fatal(err)
		}
		if err := fails(); err == nil || !strings.Contains(err.Error(), "<AccessDeniedException>") ||
			!strings.Contains(err.Error(), "is not authorized to perform: "+action) {
			t.Errorf("%s denied: %v", action, err)
		}
		if err := l.SetAPIFaults(lab.APIFaults{Throttle: map[string]int{action: 1}}); err != nil {
			t.Fatal(err)
		}
		if err := fails(); err == nil || !strings.Contains(err.Error(), "Unable to process due to throttling.") {
			t.Errorf("%s throttled: %v", action, err)
		}
		if err := fails(); err != nil {
			t.Errorf("%s once more: %v", action, err)
		}
	}
	if calls := l.Calls(); calls["ssmmessages:CreateControlChannel"] == 0 || calls["ssmmessages:OpenControlChannel"] == 0 {
		t.Errorf("calls %v", calls)
	}
}

// A role without a permission has no node.
func TestNodeWithoutPermission(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.TaskRoleDeny = []string{"ssmmessages:OpenControlChannel"}
	l := start(t, cfg)
	n := newNode(t, l, runBare(t, l))
	if _, err := n.create("control-channel/" + n.target); err != nil {
		t.Error(err)
	}
	if _, err := n.dialControl(); err == nil || !strings.Contains(err.Error(), "with an explicit deny") {
		t.Errorf("open: %v", err)
	}
}

// A token opens one control channel, and only the target's that it is for.
func TestControlToken(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	n := newNode(t, l, runBare(t, l))
	hello := map[string]string{"AgentVersion": "3.3.0.0", "PlatformType": "linux"}
	refused := func(what, token string, hello map[string]string) {
		t.Helper()
		ws, err := n.dialControl()
		if err == nil {
			err = n.open(ws, token, hello)
		}
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("no token", "", hello)
	refused("another token", "x", hello)
	old, err := n.create("control-channel/" + n.target)
	if err != nil {
		t.Fatal(err)
	}
	token, err := n.create("control-channel/" + n.target)
	if err != nil {
		t.Fatal(err)
	}
	refused("an earlier token", old, hello)
	refused("no version", token, map[string]string{"PlatformType": "linux"})
	ws, err := n.dialControl()
	if err == nil {
		err = n.open(ws, token, hello)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.CloseNow() }()
	eventually(t, "the node is connected", func() bool { return l.Gateway().HasNode(n.target) })
	refused("a used token", token, hello)
	if !l.Gateway().HasNode(n.target) {
		t.Error("the refused ones have ended the control channel")
	}
	for path, status := range map[string]string{
		"control-channel/" + n.target:                                   "404",
		"control-channel/" + n.target + "?role=subscribe":               "404",
		"control-channel/ecs:bastion_0_0-1?role=subscribe&stream=input": "AccessDenied",
	} {
		if _, err := n.dial(path); err == nil || !strings.Contains(err.Error(), status) {
			t.Errorf("%s: %v, want %s", path, err, status)
		}
	}
}

// A container has one control channel. If its program and the agent of ECS Exec both want to be the node, they take it from each other.
func TestNodeBesideExec(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	c, task := run(t, l)
	n := newNode(t, l, *task.TaskArn)
	lost := n.online(l)
	if _, err := startSession(t, l, n.target); err != nil {
		t.Fatal(err)
	}
	if got := await(t, n.tasks); got.DocumentName != "AWS-StartSSHSession" {
		t.Errorf("task %+v", got)
	}
	exec := func() error {
		_, err := c.ExecuteCommand(t.Context(), &ecs.ExecuteCommandInput{
			Cluster: aws.String("bastion"), Task: task.TaskArn, Command: aws.String("/bastiond say hello"), Interactive: true,
		})
		return err
	}
	if err := exec(); err != nil {
		t.Fatal(err)
	}
	got := await(t, n.tasks)
	linux, _ := got.DocumentContent.Properties["linux"].(map[string]any)
	if got.DocumentName != "AmazonECS-ExecuteInteractiveCommand" || linux["commands"] != "/bastiond say hello" {
		t.Errorf("task %+v", got)
	}
	await(t, lost) // the agent of ECS Exec takes the control channel back
	if err := exec(); err != nil {
		t.Error(err)
	}
	sessions := l.Gateway().Sessions()
	if last := sessions[len(sessions)-1]; last.Node || !sessions[0].Node {
		t.Errorf("sessions %+v", sessions)
	}
}

// A task whose node is connected has no ECS Exec for that.
func TestNodeHasNoExec(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	task := runBare(t, l)
	newNode(t, l, task).online(l)
	_, err := ecs.NewFromConfig(sdk(t, l.Env())).ExecuteCommand(t.Context(), &ecs.ExecuteCommandInput{
		Cluster: aws.String("bastion"), Task: &task, Command: aws.String("x"), Interactive: true,
	})
	wantCode(t, err, "InvalidParameterException", "execute command was not enabled")
	if e := new(ecstypes.InvalidParameterException); !errors.As(err, &e) {
		t.Error(err)
	}
}
