package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/proxy"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/invocation"
	"github.com/bastion-ssm/bastion/keys"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
	"github.com/bastion-ssm/bastion/lab/vpc"
)

// bastiond builds the program of the lab's tasks, once.
var bastiond = sync.OnceValues(func() (string, error) { return rig.BuildBastiond(scratch) })

// labEnv is a lab and the environment of its user.
type labEnv struct {
	*lab.Lab
	t       *testing.T
	program string
	env     []string
	killed  bool // a process that had sessions was killed
}

// newHome makes a home directory with a short path: sockets are made below it.
func newHome(t *testing.T) string {
	t.Helper()
	home, err := os.MkdirTemp(scratch, "h")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(home, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	return home
}

// startLab starts a lab whose states last long enough to be seen and no longer.
func startLab(t *testing.T, change func(*lab.Config)) *labEnv {
	t.Helper()
	program, err := bastiond()
	if err != nil {
		t.Fatal(err)
	}
	cfg := lab.Config{
		Bastiond: program, Postgres: vpc.Embedded, Redis: vpc.Embedded,
		StateDelay: 20 * time.Millisecond, ExecDelay: 20 * time.Millisecond, ConnectDelay: 100 * time.Millisecond,
		StopTimeout: 3 * time.Second,
	}
	if change != nil {
		change(&cfg)
	}
	l, err := lab.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	home := newHome(t)
	e := &labEnv{Lab: l, t: t, program: filepath.Join(scratch, "bastion")}
	e.env = append(rig.Environ(), offline(home)...)
	e.env = append(e.env, l.Env()...)
	return e
}

// result is what a finished command left.
type result struct {
	code           int
	stdout, stderr string
}

// run runs the command line to its end, with env added.
func (e *labEnv) run(env []string, args ...string) result {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.program, args...)
	cmd.Env = append(append([]string(nil), e.env...), env...)
	cmd.Dir = scratch
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	r := result{stdout: stdout.String(), stderr: stderr.String()}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		r.code = exit.ExitCode()
	} else if err != nil {
		e.t.Fatal(err)
	}
	return r
}

// here runs a command line in this process, where it takes a fraction of the time that a process of its own does. The test
// must not be parallel.
func (e *labEnv) here(env []string, args ...string) result {
	e.t.Helper()
	for _, kv := range append(append([]string(nil), e.env...), env...) {
		name, value, _ := strings.Cut(kv, "=")
		if old, ok := os.LookupEnv(name); !ok || old != value {
			e.t.Setenv(name, value)
		}
	}
	e.t.Setenv("BASTION_CONFIG", os.DevNull) // not the developer's own
	ctx, cancel := context.WithTimeout(e.t.Context(), 60*time.Second)
	defer cancel()
	var stdout, stderr syncBuilder
	code := run(ctx, append([]string{"bastion"}, args...), invocation.Stdio{In: os.Stdin, Out: &stdout, Err: &stderr})
	return result{code, stdout.String(), stderr.String()}
}

// syncBuilder is a strings.Builder for several goroutines.
type syncBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (s *syncBuilder) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuilder) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// stopTasks stops all tasks as AWS would.
func (e *labEnv) stopTasks() {
	e.t.Helper()
	for _, task := range e.Tasks() {
		if task.LastStatus != "STOPPED" {
			if err := e.StopTask(e.t.Context(), task.ID, "next test"); err != nil {
				e.t.Fatal(err)
			}
		}
	}
}

// must runs a command that must succeed.
func (e *labEnv) must(args ...string) result {
	e.t.Helper()
	r := e.run(nil, args...)
	if r.code != 0 {
		e.t.Fatalf("bastion %s: exit code %d\n%s", strings.Join(args, " "), r.code, r.stderr)
	}
	return r
}

// start starts a command that goes on.
func (e *labEnv) start(env []string, args ...string) *rig.Proc {
	e.t.Helper()
	p, err := rig.Start(append(append([]string(nil), e.env...), env...), e.program, args...)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _, _ = p.Stop(syscall.SIGKILL) })
	return p
}

// piped starts a command whose standard streams are the test's. The test waits for it.
func (e *labEnv) piped(env []string, args ...string) (cmd *exec.Cmd, in io.WriteCloser, out io.ReadCloser, stderr *strings.Builder) {
	e.t.Helper()
	cmd, stderr = exec.CommandContext(e.t.Context(), e.program, args...), new(strings.Builder)
	cmd.Env, cmd.Stderr = append(slices.Clone(e.env), env...), stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		e.t.Fatal(err)
	}
	if out, err = cmd.StdoutPipe(); err != nil {
		e.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		e.t.Fatal(err)
	}
	return cmd, in, out, stderr
}

// forwards starts a forward and returns where it listens.
func (e *labEnv) forwards(env []string, args ...string) (*rig.Proc, []api.Forward) {
	e.t.Helper()
	p := e.start(env, append([]string{"forward", "-o", "json"}, args...)...)
	ctx, cancel := context.WithTimeout(e.t.Context(), 30*time.Second)
	defer cancel()
	line, err := p.Line(ctx, 0)
	if err != nil {
		e.t.Fatalf("forward %v is not ready: %v\n%s", args, err, p.Output())
	}
	var out struct {
		Forwards []api.Forward `json:"forwards"`
	}
	if err := json.Unmarshal([]byte(line), &out); err != nil {
		e.t.Fatalf("%v in %q", err, line)
	}
	return p, out.Forwards
}

// stop ends a command by a signal and compares its exit code.
func (e *labEnv) stop(p *rig.Proc, sig syscall.Signal, code int) {
	e.t.Helper()
	got, err := p.Stop(sig)
	if err != nil || got != code {
		e.t.Errorf("after %v: exit code %d, %v; want %d\n%s", sig, got, err, code, p.Output())
	}
}

// noSessions checks that the commands that have ended left no session.
func (e *labEnv) noSessions() {
	e.t.Helper()
	if left := e.Gateway().Sessions(); len(left) != 0 {
		e.t.Errorf("%d sessions are left: %+v", len(left), left)
	}
}

// ping asks the Redis behind addr for a sign of life.
func ping(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	return pingOn(conn)
}

func pingOn(conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "*1\r\n$4\r\nPING\r\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	if line != "+PONG\r\n" {
		return fmt.Errorf("answered %q", line)
	}
	return nil
}

// eventually waits until ok holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	eventuallyWithin(t, 20*time.Second, what, ok)
}

// eventuallyWithin is eventually for what takes its time.
func eventuallyWithin(t *testing.T, most time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	late := time.After(most)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("never happened: %s", what)
		}
	}
}

func TestUpStatusDown(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	if r := e.must("status"); r.stdout != "no bastion of arn:aws:iam::000000000000:user/lab in cluster bastion\n" {
		t.Errorf("status before: %q", r.stdout)
	}
	r := e.must("up")
	if !regexp.MustCompile(`^bastion [0-9a-f]{32} was started in cluster bastion \(bastiond .+\)\n` +
		`it has 1 vCPU, 2 GB, about \$0\.0494 an hour\n$`).MatchString(r.stdout) {
		t.Errorf("up: %q", r.stdout)
	}
	for _, step := range []string{"starting a bastion", "waiting for the bastion's task: P", "handing a new key"} {
		if !strings.Contains(r.stderr, "bastion: "+step) {
			t.Errorf("up does not say %q:\n%s", step, r.stderr)
		}
	}
	var up struct {
		TaskARN string `json:"task_arn"`
		New     bool   `json:"new"`
		HostKey string `json:"host_key"`
	}
	again := e.must("up", "-o", "json", "-q")
	if err := json.Unmarshal([]byte(again.stdout), &up); err != nil || up.New || !strings.HasPrefix(up.HostKey, "SHA256:") ||
		!strings.HasPrefix(up.TaskARN, "arn:aws:ecs:eu-central-1:000000000000:task/bastion/") {
		t.Errorf("up again: %v in %s", err, again.stdout)
	}
	if again.stderr != "" {
		t.Errorf("up --quiet says %q", again.stderr)
	}
	var st struct {
		Owner    string `json:"owner"`
		Bastions []struct {
			Status string `json:"status"`
			Ready  bool   `json:"ready"`
		} `json:"bastions"`
	}
	if err := json.Unmarshal([]byte(e.must("status", "-o", "json").stdout), &st); err != nil || len(st.Bastions) != 1 ||
		!st.Bastions[0].Ready || st.Bastions[0].Status != "RUNNING" {
		t.Errorf("status: %v, %+v", err, st)
	}
	if r := e.must("status"); !regexp.MustCompile(`(?m)^[0-9a-f]{32} +RUNNING +RUNNING +\d+s +ecs:bastion_`).MatchString(r.stdout) {
		t.Errorf("status: %q", r.stdout)
	}
	if r := e.must("down"); !strings.HasSuffix(r.stdout, " is being stopped\n") {
		t.Errorf("down: %q", r.stdout)
	}
	if r := e.must("down"); r.stdout != "no bastion of yours runs in cluster bastion\n" {
		t.Errorf("down again: %q", r.stdout)
	}
	if n := e.State().Launched; n != 1 {
		t.Errorf("%d tasks were started, want 1", n)
	}
	e.noSessions()
}

// The size that is set is what a new task has. A running one of another size is used, and a note says how to change that.
func TestTaskSize(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	if r := e.must("up", "--task-size", "medium"); !strings.Contains(r.stdout, "it has 0.5 vCPU, 1 GB, about $0.0247 an hour") {
		t.Errorf("up: %q", r.stdout)
	}
	r := e.must("up", "--task-cpu", "1024", "--task-memory", "2048")
	if !strings.Contains(r.stdout, "it has 0.5 vCPU, 1 GB") ||
		!strings.Contains(r.stderr, "has 0.5 vCPU, 1 GB, not 1 vCPU, 2 GB as set; bastion down, then bastion up") {
		t.Errorf("up with another size: %q, %q", r.stdout, r.stderr)
	}
	if n := e.State().Launched; n != 1 {
		t.Errorf("%d tasks were started", n)
	}
	r = e.run(nil, "up", "--task-size", "medium", "--task-memory", "512")
	if r.code != 2 || !strings.Contains(r.stderr, "has 1024, 2048, 3072, 4096") {
		t.Errorf("a size that Fargate has not: %d, %q", r.code, r.stderr)
	}
}

// A bastion on Spot is started by its capacity provider, and found by the next command, whatever that one would start.
func TestTaskCapacity(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	if r := e.must("up", "--task-capacity", "spot", "--task-size", "medium"); !strings.Contains(r.stdout, "it has 0.5 vCPU, 1 GB, on Spot, at most $0.0247 an hour") {
		t.Errorf("up: %q", r.stdout)
	}
	e.must("up")
	if tasks := e.Tasks(); len(tasks) != 1 || tasks[0].Capacity != "FARGATE_SPOT" {
		t.Errorf("%+v", tasks)
	}
}

func TestForward(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	p, f := e.forwards(nil, "rds:orders", ":", "cache", "0", "-L", "0:"+lab.WebHost+":80")
	if len(f) != 3 || f[0].Name != "orders" || f[0].Engine != "postgres" || !strings.HasSuffix(f[0].Target, ":5432") ||
		!strings.HasSuffix(f[1].Target, ":6379") || f[2].Target != lab.WebHost+":80" {
		t.Fatalf("forwards: %+v", f)
	}
	if err := ping(f[1].Listen); err != nil {
		t.Errorf("redis: %v\n%s", err, p.Output())
	}
	conn, err := net.Dial("tcp", f[2].Listen)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", lab.WebHost)
	page, err := io.ReadAll(conn)
	if err != nil || !strings.Contains(string(page), "wiki") {
		t.Errorf("web: %v in %q", err, page)
	}
	_ = conn.Close()

	// The grant is for these destinations alone: its audit line names them.
	audit, _, err := e.TaskOutput(e.Tasks()[0].ID)
	if err != nil || !strings.Contains(string(audit), `"permit":["`+f[0].Target+`","`+f[1].Target+`","`+f[2].Target+`"]`) {
		t.Errorf("audit: %v in %s", err, audit)
	}
	e.stop(p, syscall.SIGINT, 130)
	e.noSessions()

	// Text output, a running task, SIGTERM.
	p = e.start(nil, "forward", "cache:sessions", ":")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	line, err := p.Line(ctx, 0)
	m := regexp.MustCompile(`^(127\.0\.0\.1:\d+) -> \S+:6379$`).FindStringSubmatch(strings.TrimSpace(line))
	if err != nil || m == nil {
		t.Fatalf("forward: %q, %v\n%s", line, err, p.Output())
	}
	if err := ping(m[1]); err != nil {
		t.Error(err)
	}
	e.stop(p, syscall.SIGTERM, 143)
	e.noSessions()
	if n := e.State().Launched; n != 1 {
		t.Errorf("%d tasks were started, want 1", n)
	}
}

// A local port that is known only from the target is checked before a bastion is started.
func TestPortInUseCostsNothing(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	var port int
	for _, db := range e.Databases() {
		if db.Name == lab.CacheID || strings.Contains(db.Endpoint, "cache") {
			_, text, _ := strings.Cut(db.Endpoint, ":")
			port, _ = strconv.Atoi(text)
		}
	}
	if port == 0 {
		port = 6379
	}
	ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err == nil { // else something else holds it, which is as good
		defer ln.Close()
	}
	r := e.run(nil, "forward", "cache")
	if r.code != 7 || !strings.Contains(r.stderr, fmt.Sprintf("bastion: local port %d is already in use", port)) {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
	if calls := e.Calls(); calls["ecs:RunTask"] != 0 || calls["ecs:ExecuteCommand"] != 0 {
		t.Errorf("calls: %v", calls)
	}
}

func TestBadInput(t *testing.T) {
	e := startLab(t, func(c *lab.Config) {
		c.Instances = map[string]lab.Instance{"i-0123456789abcdef0": {Offline: true}}
	})
	if err := e.AddDBInstance(lab.DBInstance{ID: "billing", Addr: mustAddr("127.0.0.1:5433")}); err != nil {
		t.Fatal(err)
	}
	expired, err := e.AddIdentity("expired", lab.IdentityConfig{Expires: time.Now().Add(-time.Minute)})
	if err != nil {
		t.Fatal(err)
	}
	type test struct {
		name   string
		faults lab.APIFaults
		env    []string
		args   []string
		code   int
		stderr []string // regular expressions
	}
	admin := []string{"AWS_PROFILE=admin"} // to people, who have the policy for one cluster and one definition, AWS denies all others
	tests := []test{
		{
			name: "unknown target", args: []string{"forward", "rds:ordrs", ":"}, code: 3,
			stderr: []string{`^bastion: .*ordrs`, `orders`},
		},
		{
			name: "ambiguous target", args: []string{"forward", "rds", ":"}, code: 3,
			stderr: []string{`(?s)^bastion: .*billing.*orders|^bastion: .*orders.*billing`},
		},
		{
			name: "unknown name", args: []string{"forward", "nonsense", ":"}, code: 3,
			stderr: []string{`^bastion: .*nonsense`},
		},
		{
			name: "expired credentials", env: expired, args: []string{"up"}, code: 4,
			stderr: []string{`^bastion: .*expired`, `hint: .*sign in again`},
		},
		{
			name: "wrong secret", args: []string{"up"}, code: 4,
			env:    []string{"AWS_ACCESS_KEY_ID=AKIALABLABLABLABLAB9", "AWS_SECRET_ACCESS_KEY=wrong", "AWS_PROFILE="},
			stderr: []string{`hint: sign in again and renew AWS_ACCESS_KEY_ID`},
		},
		{
			name: "unknown cluster", args: []string{"up", "--cluster", "nowhere"}, code: 2, env: admin,
			stderr: []string{`ClusterNotFound`, `hint: set the cluster`},
		},
		{
			name: "unknown task definition", args: []string{"up", "--task-definition", "nothing"}, code: 2, env: admin,
			stderr: []string{`hint: register the task definition`},
		},
		{
			name: "no subnets", args: []string{"up", "--subnet-tags", "tier=none"}, code: 2,
			stderr: []string{`subnet`, `hint: `},
		},
		{
			name: "wrong container", args: []string{"up", "--container", "web"}, code: 2,
			stderr: []string{`no such container`, `hint: set the container`},
		},
		{
			name: "destination that no bastion permits", args: []string{"forward", "169.254.169.254:80", ":"}, code: 5,
			stderr: []string{`169\.254\.0\.0/16 .* can never be permitted`, `hint: name destinations`},
		},
		{
			name: "throttled for good", faults: lab.APIFaults{Throttle: map[string]int{"sts:GetCallerIdentity": -1}},
			args: []string{"status"}, env: []string{"AWS_MAX_ATTEMPTS=2"}, code: 4,
			stderr: []string{`Throttl|Rate exceeded`, `hint: AWS is throttling this account`},
		},
		{
			name: "task cannot start", faults: lab.APIFaults{TaskFailures: 1, TaskReason: "CannotPullContainerError: no route to the registry"},
			args: []string{"up"}, code: 6,
			stderr: []string{`^bastion: .*CannotPullContainerError: no route to the registry`, `hint: let the subnets reach the image's registry`},
		},
		{
			name: "no exec agent", faults: lab.APIFaults{NoExecAgent: true},
			args: []string{"up", "--start-timeout", "1s"}, code: 9,
			stderr: []string{`exec agent is still pending`, `hint: `},
		},
		{
			name: "exec never connects", faults: lab.APIFaults{NotConnected: -1},
			args: []string{"up", "--start-timeout", "2s"}, code: 9,
			stderr: []string{`its exec agent has not connected within 2s`, `hint: `},
		},
		{
			name: "exec never answers", faults: lab.APIFaults{ExecSilent: true},
			args: []string{"up", "--start-timeout", "2s"}, code: 9,
			stderr: []string{`hint: `},
		},
		{
			name: "wrong grant command", args: []string{"up", "--grant-command", "/nothing grant"}, code: 6,
			stderr: []string{`nothing`, `hint: check the setting grant_command`},
		},
		{
			name: "server offline", code: 9,
			args: []string{
				"forward", "--target", "i-0123456789abcdef0", "--connect-timeout", "1s", "db.corp.internal:5432", ":",
				"--ssh-host-key", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFqhKLrgTxPwzDCnvgqjJFfqNYZmRW9nIXJ1qlY8bYhz",
				"--ssh-identity", testIdentity(t),
			},
			stderr: []string{`no connection within 1s`, `TargetNotConnected|not connected`},
		},
		{
			name: "up of a server", args: []string{"up", "--target", "i-0123456789abcdef0", "--ssh-host-key", "x"}, code: 2,
			stderr: []string{`hint: leave out target`},
		},
		{
			name: "key that is none", args: []string{"forward", "a.b:1", ":", "--target", "i-1", "--ssh-host-key", "none"}, code: 2,
			stderr: []string{`^bastion: read ssh_host_key: `},
		},
		{
			name: "no SSH agent", code: 2, args: []string{
				"forward", "a.b:1", ":", "--target", "i-0123456789abcdef0",
				"--ssh-host-key", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFqhKLrgTxPwzDCnvgqjJFfqNYZmRW9nIXJ1qlY8bYhz",
			},
			stderr: []string{`SSH_AUTH_SOCK is not set`, `hint: start ssh-agent`},
		},
	}
	// Every call that IAM can deny, by the command that makes it.
	for action, args := range map[string][]string{
		"ecs:ListTasks":                         {"status"},
		"ecs:DescribeTasks":                     {"up"},
		"ecs:RunTask":                           {"up"},
		"ecs:StopTask":                          {"down"},
		"ecs:ExecuteCommand":                    {"up"},
		"ec2:DescribeSubnets":                   {"up"},
		"ec2:DescribeSecurityGroups":            {"up"},
		"ssm:StartSession":                      {"forward", "a.b:1", ":"},
		"rds:DescribeDBInstances":               {"forward", "rds:orders", ":"},
		"elasticache:DescribeReplicationGroups": {"forward", "cache:sessions", ":"},
	} {
		tests = append(tests, test{
			name: "denied " + action, faults: lab.APIFaults{Deny: []string{action}}, args: args, code: 5,
			stderr: []string{`AccessDenied|not authorized|Unauthorized`, `hint: .*` + regexp.QuoteMeta(action)},
		})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := *e
			e.t = t
			switch tt.name {
			case "denied ecs:StopTask", "denied ssm:StartSession": // calls about a task that runs
				if r := e.here(nil, "up", "-q"); r.code != 0 {
					t.Fatal(r.stderr)
				}
			default:
				e.stopTasks()
			}
			if err := e.SetAPIFaults(tt.faults); err != nil {
				t.Fatal(err)
			}
			r := e.here(tt.env, tt.args...)
			if err := e.SetAPIFaults(lab.APIFaults{}); err != nil {
				t.Fatal(err)
			}
			if r.code != tt.code {
				t.Errorf("exit code %d, want %d", r.code, tt.code)
			}
			if r.stdout != "" {
				t.Errorf("stdout: %q", r.stdout)
			}
			// The progress comes before; the error is last.
			i := strings.LastIndex("\n"+r.stderr, "\nbastion: ")
			if i < 0 {
				t.Fatalf("no message: %q", r.stderr)
			}
			message := r.stderr[i:]
			for _, want := range tt.stderr {
				if !regexp.MustCompile(want).MatchString(message) {
					t.Errorf("no match for %s", want)
				}
			}
			t.Logf("message:\n%s", message)
			if strings.Count(message, "\n") != 2 || strings.Contains(message, " v1.") {
				t.Error("want a message and a hint, and no grant in them")
			}
			e.noSessions()
		})
	}
}

// Who interrupts up is told of the task that it has started.
func TestUpInterrupted(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) { c.StateDelay = time.Minute })
	p := e.start(nil, "up")
	eventually(t, "the task is waited for", func() bool { return strings.Contains(p.Output(), "PROVISIONING") })
	e.stop(p, syscall.SIGINT, 130)
	if !strings.Contains(p.Output(), "was started stays; bastion down stops it") {
		t.Errorf("%s", p.Output())
	}
}

// A grant command that hangs is given up, and its session ended.
func TestGrantCommandHangs(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) { c.AllowHostExec = true })
	r := e.run(nil, "up", "--grant-command", "sh -c 'sleep 600'", "--start-timeout", "3s")
	if r.code != 9 || !strings.Contains(r.stderr, "no answer within 3s") {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
	e.noSessions()
}

// The answer to another grant is not taken for that to one's own.
func TestGrantAnswerOfAnother(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) { c.AllowHostExec = true })
	pair, err := keys.NewPair("")
	if err != nil {
		t.Fatal(err)
	}
	reply := keys.GrantReply{
		V: keys.ReplyVersion, Version: "1", HostKey: pair.AuthorizedKey(), Grant: "another", NotAfter: time.Now().Add(time.Hour),
	}
	reply.Ports.SSH = 2222
	script := filepath.Join(t.TempDir(), "grant")
	if err := os.WriteFile(script, []byte("echo '"+reply.Line()+"'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := e.run(nil, "up", "--grant-command", "sh "+script)
	if r.code != 6 || !strings.Contains(r.stderr, `the grant "another"`) || !strings.Contains(r.stderr, "hint: ") {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
	e.noSessions()
}

// Throttling that passes is not noticed.
func TestThrottlingIsRetried(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	if err := e.SetAPIFaults(lab.APIFaults{Throttle: map[string]int{
		"ecs:ListTasks": 1, "ecs:ExecuteCommand": 1, "ssm:StartSession": 1,
	}}); err != nil {
		t.Fatal(err)
	}
	p, f := e.forwards(nil, "rds:orders", ":", "cache:sessions", ":")
	if err := ping(f[1].Listen); err != nil {
		t.Error(err)
	}
	e.stop(p, syscall.SIGINT, 130)
	e.noSessions()
}

// A forward survives a cut websocket, the end of its session and the end of its task, with its listener open.
func TestForwardReconnects(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	p, f := e.forwards([]string{"BASTION_RECONNECT_MAX=1s"}, "cache:sessions", ":")
	addr := f[0].Listen
	held, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := pingOn(held); err != nil {
		t.Fatal(err)
	}

	// A websocket that is cut is resumed: the connection does not notice.
	if n := e.Gateway().Cut("", "reset"); n == 0 {
		t.Fatal("nothing was cut")
	}
	if err := pingOn(held); err != nil {
		t.Errorf("after a cut: %v\n%s", err, p.Output())
	}

	// A session that the service ends is replaced: the connection does not notice that either.
	execs := e.Calls()["ecs:ExecuteCommand"]
	e.endSessions()
	if err := pingOn(held); err != nil {
		t.Errorf("after the end of the session: %v\n%s", err, p.Output())
	}
	if err := ping(addr); err != nil {
		t.Errorf("a new connection after the end of the session: %v\n%s", err, p.Output())
	}
	if n := e.Calls()["ecs:ExecuteCommand"]; n != execs {
		t.Errorf("%d more grants for the same task", n-execs)
	}
	if strings.Contains(p.Output(), "is lost") {
		t.Errorf("the link was lost:\n%s", p.Output())
	}

	// A task that is gone takes the connections with it, and is replaced by another.
	if err := e.KillTask(e.Tasks()[0].ID); err != nil {
		t.Fatal(err)
	}
	if err := ping(addr); err != nil {
		t.Errorf("after the end of the task: %v\n%s", err, p.Output())
	}
	if err := pingOn(held); err == nil {
		t.Error("the connection to the ended task goes on")
	}
	if n := e.State().Launched; n != 2 {
		t.Errorf("%d tasks were started, want 2", n)
	}
	for _, want := range []string{"the link is lost", "the link is restored after"} {
		if !strings.Contains(p.Output(), "bastion: "+want) {
			t.Errorf("not said: %s\n%s", want, p.Output())
		}
	}
	e.stop(p, syscall.SIGINT, 130)
	e.noSessions()
}

// A task that is stopped drains: connections go on for a while, and new ones go to another task.
func TestForwardMovesFromADrainingTask(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) { c.StopTimeout = 15 * time.Second })
	p, f := e.forwards(nil, "cache:sessions", ":")
	held, err := net.Dial("tcp", f[0].Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := pingOn(held); err != nil {
		t.Fatal(err)
	}
	first := e.Tasks()[0].ID
	stopped := make(chan error, 1)
	go func() { stopped <- e.StopTask(context.Background(), first, "host maintenance") }()
	eventually(t, "another task runs", func() bool { return e.State().Launched == 2 })
	eventually(t, "new connections go there", func() bool {
		if err := ping(f[0].Listen); err != nil {
			t.Fatalf("%v\n%s", err, p.Output())
		}
		for _, s := range e.Gateway().Sessions() {
			if s.Document == gateway.DocSSH && !strings.Contains(s.Target, first) {
				return true
			}
		}
		return false
	})
	if err := pingOn(held); err != nil {
		t.Errorf("the connection to the draining task: %v", err)
	}
	_ = held.Close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	e.stop(p, syscall.SIGINT, 130)
	e.noSessions()
}

// A bastion at the end of its own life drains too; ECS does not know that yet.
func TestForwardOutlivesTheBastion(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(c *lab.Config) {
		c.TaskEnv = map[string]string{"BASTIOND_MAX_LIFE": "3s", "BASTIOND_DRAIN": "1s"}
	})
	p, f := e.forwards([]string{"BASTION_RECONNECT_MAX=500ms"}, "cache:sessions", ":")
	first := e.Tasks()[0].ID
	eventually(t, "another task serves", func() bool {
		if err := ping(f[0].Listen); err != nil {
			t.Fatalf("%v\n%s", err, p.Output())
		}
		tasks := e.Tasks()
		return tasks[len(tasks)-1].ID != first && tasks[len(tasks)-1].LastStatus == "RUNNING"
	})
	if err := ping(f[0].Listen); err != nil {
		t.Errorf("%v\n%s", err, p.Output())
	}
	e.stop(p, syscall.SIGINT, 130)
	e.noSessions()
}

// A link that cannot be restored ends the command with code 8.
func TestForwardGivesUp(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	p, _ := e.forwards([]string{"BASTION_RECONNECT_TIMEOUT=1s", "BASTION_LINGER=1s"}, "cache:sessions", ":")
	if err := e.SetAPIFaults(lab.APIFaults{Errors: map[string]lab.APIError{
		"ssm:*": {Code: "InternalServerError", Message: "out of order", Status: 500},
		"ecs:*": {Code: "ServerException", Message: "out of order", Status: 500},
	}}); err != nil {
		t.Fatal(err)
	}
	for _, s := range e.Gateway().Sessions() {
		if err := e.Gateway().Terminate(s.ID); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	code, err := p.Wait(ctx)
	if err != nil || code != 8 {
		t.Fatalf("exit code %d, %v; want 8\n%s", code, err, p.Output())
	}
	if !strings.Contains(p.Output(), "bastion: the link was lost and could not be restored within 1s") {
		t.Errorf("%s", p.Output())
	}
	e.noSessions()
}

// outOfOrder ends all sessions and lets none begin.
func (e *labEnv) outOfOrder() {
	e.t.Helper()
	if err := e.SetAPIFaults(lab.APIFaults{Errors: map[string]lab.APIError{
		"ssm:StartSession": {Code: "InternalServerError", Message: "out of order", Status: 500},
	}}); err != nil {
		e.t.Fatal(err)
	}
	for _, s := range e.Gateway().Sessions() {
		if err := e.Gateway().Terminate(s.ID); err != nil {
			e.t.Fatal(err)
		}
	}
}

// A link that is given up between two attempts of an AWS call ends with what AWS answered last, not with the deadline.
func TestForwardGivesUpSayingWhy(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	p, _ := e.forwards([]string{"BASTION_RECONNECT_TIMEOUT=3s", "BASTION_LINGER=1s"}, "cache:sessions", ":")
	e.outOfOrder()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	code, err := p.Wait(ctx)
	if err != nil || code != 8 {
		t.Fatalf("exit code %d, %v; want 8\n%s", code, err, p.Output())
	}
	_, message, _ := strings.Cut(p.Output(), "bastion: the link was lost and could not be restored within 3s: ")
	reason, hint, _ := strings.Cut(message, "\n")
	if !strings.Contains(reason, "InternalServerError: out of order") || strings.Contains(reason, "deadline") ||
		!strings.HasPrefix(hint, "  hint: ") {
		t.Errorf("%s", p.Output())
	}
	e.noSessions()
}

// A destination outside the bastion's policy is refused to the client, and the user is told why.
func TestForwardDeniedByPolicy(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	p, f := e.forwards(nil, lab.WebHost+":81", ":")
	conn, err := net.Dial("tcp", f[0].Listen)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.ReadAll(conn); err == nil {
		t.Error("the connection ended without an error")
	}
	eventually(t, "the reason is shown", func() bool {
		return strings.Contains(p.Output(), "hint: ask the bastion's operator to allow "+lab.WebHost+":81")
	})
	e.stop(p, syscall.SIGINT, 130)
}

// A remembered host key that is wrong costs a reconnection, not the connection, and never lets the wrong key in.
func TestRememberedHostKey(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	e.must("up", "-q")
	path := e.remembered()
	p, f := e.forwards(nil, "cache:sessions", ":")
	if err := ping(f[0].Listen); err != nil {
		t.Error(err)
	}
	e.stop(p, syscall.SIGINT, 130)

	good := mustRead(t, path)
	const other = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFqhKLrgTxPwzDCnvgqjJFfqNYZmRW9nIXJ1qlY8bYhz"
	bad := regexp.MustCompile(`ssh-ed25519 [^"]+`).ReplaceAll(good, []byte(other))
	if err := os.WriteFile(path, bad, 0o600); err != nil {
		t.Fatal(err)
	}
	r := e.run(nil, "proxy", "master."+lab.CacheID+".abc123.euc1.cache.amazonaws.com", "6379")
	if r.code != 5 || !strings.Contains(r.stderr, "not the server that was expected") {
		t.Errorf("with the wrong key: exit code %d\n%s", r.code, r.stderr)
	}
	e.noSessions()
}

func TestProxy(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	var host string
	for _, db := range e.Databases() {
		if strings.Contains(db.Endpoint, "cache") {
			host, _, _ = net.SplitHostPort(db.Endpoint)
		}
	}
	cmd, in, out, stderr := e.piped(nil, "proxy", host, "6379")
	if _, err := io.WriteString(in, "*1\r\n$4\r\nPING\r\n"); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "+PONG\r\n" {
		t.Errorf("%q, %v\n%s", line, err, stderr.String())
	}
	_ = in.Close()
	if err := cmd.Wait(); err != nil || stderr.String() != "" {
		t.Errorf("%v\n%s", err, stderr.String())
	}
	e.noSessions()
}

func TestSOCKS(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	p := e.start(nil, "socks", "--permit", lab.WebHost+":80", ":")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	line, err := p.Line(ctx, 0)
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "socks5h://127.0.0.1:")
	if err != nil || !ok {
		t.Fatalf("%q, %v\n%s", line, err, p.Output())
	}
	dialer, err := proxy.SOCKS5("tcp", "127.0.0.1:"+addr, nil, proxy.Direct)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dialer.Dial("tcp", lab.WebHost+":80")
	if err != nil {
		t.Fatalf("%v\n%s", err, p.Output())
	}
	fmt.Fprintf(conn, "GET / HTTP/1.0\r\nHost: %s\r\n\r\n", lab.WebHost)
	page, err := io.ReadAll(conn)
	_ = conn.Close()
	if err != nil || !strings.Contains(string(page), "wiki") {
		t.Errorf("%v in %q", err, page)
	}
	// The bastion allows the cache, this grant does not.
	for _, db := range e.Databases() {
		if _, err := dialer.Dial("tcp", db.Endpoint); err == nil || !strings.Contains(err.Error(), "not allowed") {
			t.Errorf("outside of the grant: %v", err)
		}
	}
	e.stop(p, syscall.SIGINT, 130)
	e.noSessions()
}
