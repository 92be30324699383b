//go:build unix

package lab_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

// awsCLI is the AWS CLI as the identity of env. Debian's comes first: it is the version that CI has.
type awsCLI struct {
	path string
	env  []string
}

func newCLI(t *testing.T, l *lab.Lab, env []string) awsCLI {
	t.Helper()
	plugin := need(t, "session-manager-plugin", os.Getenv("BASTION_TEST_PLUGIN"),
		filepath.Join("..", "build", "tools", "session-manager-plugin"))
	path := filepath.Dir(plugin) + string(os.PathListSeparator) + os.Getenv("PATH")
	// The plugin writes its log in the user's directory of logs.
	env = append(append(l.Environ(os.Environ()), env...), "PATH="+path, "HOME="+t.TempDir())
	return awsCLI{need(t, "aws", "/usr/bin/aws"), env}
}

func (c awsCLI) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	args = append([]string{"--endpoint-url", value(c.env, "AWS_ENDPOINT_URL")}, args...)
	cmd := exec.CommandContext(ctx, c.path, args...)
	cmd.Env = c.env
	// The CLI leaves the signals of a session to the plugin, its child: they go to both.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// sshSession starts the plugin in a session by the SSH document, as ProxyCommand does, with its input and its output.
func (c awsCLI) sshSession(t *testing.T, args ...string) (*exec.Cmd, io.WriteCloser, *bufio.Reader) {
	t.Helper()
	cmd := c.command(t, append([]string{"ssm", "start-session", "--document-name", "AWS-StartSSHSession"}, args...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, in, bufio.NewReader(out)
}

// run returns what a call prints, decoded.
func (c awsCLI) run(t *testing.T, args ...string) map[string]any {
	t.Helper()
	cmd := c.command(t, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("aws %s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	var v map[string]any
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatalf("aws %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return v
}

// fails returns the error that a call prints.
func (c awsCLI) fails(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.command(t, args...).CombinedOutput()
	if err == nil {
		t.Errorf("aws %s succeeds: %s", strings.Join(args, " "), out)
	}
	return strings.TrimSpace(string(out))
}

// at follows a path of keys and indices.
func at(v any, path ...any) any {
	for _, p := range path {
		switch p := p.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[p]
		case int:
			a, _ := v.([]any)
			if p >= len(a) {
				return nil
			}
			v = a[p]
		}
	}
	return v
}

const netConfig = "awsvpcConfiguration={subnets=[subnet-0000000000000laba],securityGroups=[sg-0000000000000000lab]," +
	"assignPublicIp=DISABLED}"

func TestAWSCLI(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	addr := netip.MustParseAddrPort("127.0.0.1:5433")
	for _, err := range []error{
		l.AddDBInstance(lab.DBInstance{ID: "orders", Addr: addr}), l.AddDBCluster(lab.DBCluster{ID: "crm", Addr: addr}),
		l.AddCache(lab.Cache{ID: "sessions", Addr: addr}),
		l.AddCache(lab.Cache{ID: "elastic", Kind: lab.ServerlessCache, Addr: addr}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c := newCLI(t, l, l.Env())
	check := func(want any, v any, path ...any) {
		t.Helper()
		if got := at(v, path...); got != want {
			t.Errorf("%v is %v, want %v", path, got, want)
		}
	}
	check("arn:aws:iam::000000000000:user/lab", c.run(t, "sts", "get-caller-identity"), "Arn")
	check("subnet-0000000000000laba", c.run(t, "ec2", "describe-subnets", "--filters", "Name=tag:bastion,Values=true"),
		"Subnets", 0, "SubnetId")
	check("bastion", c.run(t, "ec2", "describe-security-groups", "--group-ids", "sg-0000000000000000lab"),
		"SecurityGroups", 0, "GroupName")
	check("orders", c.run(t, "rds", "describe-db-instances"), "DBInstances", 0, "DBInstanceIdentifier")
	check(5433.0, c.run(t, "rds", "describe-db-clusters", "--db-cluster-identifier", "crm"), "DBClusters", 0, "Port")
	check(5433.0, c.run(t, "elasticache", "describe-replication-groups"), "ReplicationGroups", 0, "NodeGroups", 0,
		"PrimaryEndpoint", "Port")
	check("0001", c.run(t, "elasticache", "describe-cache-clusters", "--show-cache-node-info"), "CacheClusters", 0,
		"CacheNodes", 0, "CacheNodeId")
	check("ACTIVE", c.run(t, "ecs", "describe-clusters", "--clusters", "bastion"), "clusters", 0, "status")
}

func TestAWSCLITasks(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	c := newCLI(t, l, l.Env())
	task, _ := at(c.run(t, "ecs", "run-task", "--cluster", "bastion", "--task-definition", "bastion", "--launch-type",
		"FARGATE",
		"--enable-execute-command", "--network-configuration", netConfig, "--started-by", "me", "--tags", "key=a,value=b"),
		"tasks", 0, "taskArn").(string)
	eventually(t, "the task runs", func() bool { return l.Tasks()[0].Connected })
	described := c.run(t, "ecs", "describe-tasks", "--cluster", "bastion", "--tasks", task, "--include", "TAGS")
	if at(described, "tasks", 0, "tags", 0, "value") != "b" ||
		at(described, "tasks", 0, "containers", 0, "managedAgents", 0, "name") != "ExecuteCommandAgent" {
		t.Errorf("described %v", described)
	}
	if got := at(c.run(t, "ecs", "list-tasks", "--cluster", "bastion", "--started-by", "me"), "taskArns", 0); got != task {
		t.Errorf("listed %v", got)
	}
	c.run(t, "ecs", "stop-task", "--cluster", "bastion", "--task", task, "--reason", "enough")
	eventually(t, "the task stops", func() bool { return l.Tasks()[0].LastStatus == "STOPPED" })
	stopped := c.run(t, "ecs", "describe-tasks", "--cluster", "bastion", "--tasks", task)
	if at(stopped, "tasks", 0, "stoppedReason") != "enough" {
		t.Errorf("stopped %v", stopped)
	}
}

func TestAWSCLIErrors(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	denied, err := l.AddIdentity("nobody", lab.IdentityConfig{Deny: []string{"*"}})
	if err != nil {
		t.Fatal(err)
	}
	expired, err := l.AddIdentity("late", lab.IdentityConfig{Expires: time.Now().Add(-time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		env  []string
		args []string
		want string
	}{
		{denied, []string{"ecs", "list-tasks"}, "(AccessDeniedException) when calling the ListTasks operation: User: " +
			"arn:aws:iam::000000000000:user/nobody is not authorized to perform: ecs:ListTasks"},
		{denied, []string{"ec2", "describe-subnets"}, "(UnauthorizedOperation) when calling the DescribeSubnets " +
			"operation: You are not authorized"},
		{expired, []string{"ssm", "start-session", "--target", "i-0"}, "(ExpiredTokenException)"},
		{
			l.Env(),
			[]string{"ssm", "start-session", "--target", "i-0123456789abcdef0"},
			"(TargetNotConnected) when calling the StartSession operation: i-0123456789abcdef0 is not connected.",
		},
		{l.Env(), []string{"rds", "describe-db-instances", "--db-instance-identifier", "x"}, "(DBInstanceNotFound)"},
	} {
		if got := newCLI(t, l, tt.env).fails(t, tt.args...); !strings.Contains(got, tt.want) {
			t.Errorf("aws %v: %s; want %s", tt.args, got, tt.want)
		}
	}
}

func TestPluginExec(t *testing.T) {
	t.Parallel()
	for _, kms := range []bool{false, true} {
		t.Run(fmt.Sprintf("kms=%v", kms), func(t *testing.T) {
			t.Parallel()
			cfg := quick(t)
			cfg.KMS = kms
			// As the real agent does: the plugin is deaf for a session that ends before it is there, and tries for ever.
			cfg.Gateway = gateway.Config{ExecDelay: time.Second}
			l := start(t, cfg)
			_, task := run(t, l)
			c := newCLI(t, l, l.Env())
			exec := func(command string) string {
				cmd := c.command(t, "ecs", "execute-command", "--cluster", "bastion", "--task", *task.TaskArn,
					"--interactive", "--command", command)
				// The CLI ends the session when its input ends: keep it open until the command is done.
				in, err := cmd.StdinPipe()
				if err != nil {
					t.Fatal(err)
				}
				defer in.Close()
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Errorf("%v: %s", err, out)
				}
				return string(out)
			}
			if out := exec("/bastiond say hello 'a b'"); !strings.Contains(out, "hello a b allow=") {
				t.Errorf("output %q", out)
			}
			if out := exec("echo hello"); !strings.Contains(out, "executable file not found") {
				t.Errorf("the image has no echo, but: %q", out)
			}
			eventually(t, "the sessions end", func() bool { return l.Gateway().Counters().Live == 0 })
			if n := l.Calls()["kms:GenerateDataKey"]; (n > 0) != kms {
				t.Errorf("%d calls of GenerateDataKey", n)
			}
		})
	}
}

func TestPluginExecOnHost(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.Runner = &lab.HostRunner{Programs: map[string]string{"/bastiond": testProgram(t)}, AllowHostExec: true}
	l := start(t, cfg)
	_, task := run(t, l)
	cmd := newCLI(t, l, l.Env()).command(t, "ecs", "execute-command", "--cluster", "bastion", "--task",
		*task.TaskArn,
		"--interactive", "--command", "echo hello")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if out, err := cmd.CombinedOutput(); err != nil || !regexp.MustCompile(`(?m)^hello\r?$`).Match(out) {
		t.Errorf("%v: %q", err, out)
	}
}

func TestPluginSSHSession(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.Instances = map[string]lab.Instance{"i-0123456789abcdef0": {Ports: map[int]string{22: echoServer(t, hello)}}}
	l := start(t, cfg)
	run(t, l)
	var port string
	eventually(t, "the program listens", func() bool {
		out, _, _ := l.TaskOutput(l.Tasks()[0].ID)
		_, port, _ = strings.Cut(strings.TrimSpace(string(out)), ":")
		return port != ""
	})
	for _, tt := range []struct {
		name string
		args []string
	}{
		{"task", []string{"--target", l.Tasks()[0].Target, "--parameters", "portNumber=" + port}},
		{"instance", []string{"--target", "i-0123456789abcdef0"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCLI(t, l, l.Env())
			cmd, in, lines := c.sshSession(t, tt.args...)
			expect(t, lines, "hello\n")
			if _, err := io.WriteString(in, "over and out\n"); err != nil {
				t.Fatal(err)
			}
			expect(t, lines, "over and out\n")
			_ = in.Close()
			_ = cmd.Wait() // the plugin's exit code says nothing
			// The plugin leaves without a word; the session waits for it to resume.
			eventually(t, "the session is disconnected", func() bool { return l.Gateway().Counters().Sockets == 0 })
			id := l.Gateway().Sessions()[0].ID
			active := c.run(t, "ssm", "describe-sessions", "--state", "Active")
			if got := at(active, "Sessions", 0, "Status"); got != "Disconnected" {
				t.Errorf("the session is %v", got)
			}
			c.run(t, "ssm", "terminate-session", "--session-id", id)
			if n := l.Gateway().Counters().Live; n != 0 {
				t.Errorf("%d sessions live", n)
			}
		})
	}
}

// AWS's own client through a node: a session from the start to the end, with a cut of the node's side.
func TestPluginNodeSession(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	n := portNode(t, l, echoServer(t, hello))
	cmd, in, lines := newCLI(t, l, l.Env()).sshSession(t, "--target", n.target, "--parameters", "portNumber="+n.port)
	expect(t, lines, hello)
	echoThroughCuts(t, l, in, lines)
	_ = cmd.Wait() // the plugin's exit code says nothing
	terminateLeft(t, l)
	eventually(t, "the node's part ends", n.idle)
}

// echoThroughCuts sends lines to the session's echo, and cuts the node's websocket behind each. Then it ends the input.
func echoThroughCuts(t *testing.T, l *lab.Lab, in io.WriteCloser, lines *bufio.Reader) {
	t.Helper()
	for i := range 3 {
		line := fmt.Sprintf("this is line %d\n", i)
		if _, err := io.WriteString(in, line); err != nil {
			t.Fatal(err)
		}
		expect(t, lines, line)
		eventually(t, "the node's websocket", func() bool { return l.Gateway().CutAgent("", gateway.CutReset) == 1 })
	}
	_ = in.Close()
}

// terminateLeft ends the one session, which a client has left.
func terminateLeft(t *testing.T, l *lab.Lab) {
	t.Helper()
	eventually(t, "the client has gone", func() bool { return !l.Gateway().Sessions()[0].Connected })
	terminate(t, l, l.Gateway().Sessions()[0].ID)
}

// expect reads lines until one is want: the plugin begins with lines of its own.
func expect(t *testing.T, r *bufio.Reader, want string) {
	t.Helper()
	for {
		line, err := r.ReadString('\n')
		if line == want {
			return
		}
		if err != nil {
			t.Fatalf("no %q: %v", want, err)
		}
	}
}

func TestPluginPortForwarding(t *testing.T) {
	t.Parallel()
	l := start(t, quick(t))
	run(t, l)
	// The far end must not speak first. The plugin's multiplexer (smux 1.5.56; 1.5.58 mends it) asks for a stream and only then makes a
	// place for what arrives for it. In between it acknowledges a greeting and drops it. What follows the client's first bytes is safe.
	echo := netip.MustParseAddrPort(echoServer(t, ""))
	l.AddName("echo.corp.internal", echo.Addr())
	c := newCLI(t, l, l.Env())
	// The plugin's request to end the session may have the number of a message that another of its goroutines sends. The agent then
	// takes it for a duplicate: see TestAWSCLIPortForwarding of e2e.
	const tries = 5
	for n := 1; ; n++ {
		forwardByPlugin(t, c.command(t, "ssm", "start-session", "--target", l.Tasks()[0].Target,
			"--document-name", "AWS-StartPortForwardingSessionToRemoteHost", "--parameters",
			fmt.Sprintf(`{"host":["echo.corp.internal"],"portNumber":["%d"],"localPortNumber":["0"]}`, echo.Port())))
		if within(t, 10*time.Second, func() bool { return l.Gateway().Counters().Live == 0 }) {
			return
		}
		if n == tries {
			t.Fatalf("%d plugins, and none has ended its session", n)
		}
		for _, s := range l.Gateway().Sessions() {
			t.Logf("try %d: the session lasts: %+v", n, s)
			c.run(t, "ssm", "terminate-session", "--session-id", s.ID)
		}
		eventually(t, "the session ends", func() bool { return l.Gateway().Counters().Live == 0 })
	}
}

// forwardByPlugin runs cmd, which forwards a port, passes something through, and interrupts it as a terminal does.
func forwardByPlugin(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	opened := regexp.MustCompile(`Port (\d+) opened for sessionId`)
	var port string
	for port == "" {
		line, err := lines.ReadString('\n')
		if m := opened.FindStringSubmatch(line); m != nil {
			port = m[1]
		} else if err != nil {
			t.Fatal("the plugin opens no port: ", err)
		}
	}
	conn := dial(t, "127.0.0.1:"+port) // stays open: to close it now would have the plugin send something
	replies := bufio.NewReader(conn)
	for range 2 { // when the second comes back, the first was sent, and counted
		if _, err := io.WriteString(conn, "ping\n"); err != nil {
			t.Fatal(err)
		}
		expect(t, replies, "ping\n")
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(lines)
	_ = cmd.Wait() // it was interrupted
	if !strings.Contains(string(rest), "Exiting session with sessionId") {
		t.Errorf("the plugin has not asked for the end of its session: %s", rest)
	}
}
