package lab_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
	"github.com/bastion-ssm/bastion/lab/vpc"
)

// builtBastiond is set once bastiond was called.
var builtBastiond bool

// bastiond is the path of a static bastiond, built once.
var bastiond = sync.OnceValues(func() (string, error) {
	builtBastiond = true
	dir, err := os.MkdirTemp("", "lab-test-")
	if err != nil {
		return "", err
	}
	return rig.BuildBastiond(dir)
})

func buildBastiond(t *testing.T) string {
	t.Helper()
	path, err := bastiond()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRealBastiond runs a task as the demo does.
func TestRealBastiond(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.Runner, cfg.TaskEnv, cfg.Bastiond = nil, nil, buildBastiond(t)
	cfg.Postgres, cfg.Redis, cfg.NoWeb = vpc.Embedded, vpc.Embedded, false
	l := start(t, cfg)
	run(t, l)
	id := l.Tasks()[0].ID

	eventually(t, "bastiond is healthy", func() bool {
		out, err := exec1(t, l, id, "/bastiond", "healthcheck")
		return err == nil && strings.HasPrefix(out, "{")
	})
	if err := l.StopTask(t.Context(), id, "enough"); err != nil {
		t.Fatal(err)
	}
	if code := l.Tasks()[0].ExitCode; code == nil || *code != 0 {
		t.Errorf("bastiond ended with %v", code)
	}
	audit, log, err := l.TaskOutput(id)
	if err != nil || !bytes.Contains(audit, []byte(`{`)) {
		t.Errorf("audit %q, log %q, %v", audit, log, err)
	}
}

// exec1 runs a command in a task, without a session.
func exec1(t *testing.T, l *lab.Lab, id string, argv ...string) (string, error) {
	t.Helper()
	p, err := l.Exec(t.Context(), id, argv)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	_, _ = out.ReadFrom(p) // any error is the end of a pty
	return out.String(), p.Wait()
}

func TestStandInsAreSaid(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.Postgres, cfg.Redis, cfg.NoWeb = vpc.Embedded, vpc.Embedded, false
	l := start(t, cfg)
	for _, d := range l.Databases() {
		if !d.Embedded || d.Version == "" {
			t.Errorf("%+v", d)
		}
	}
	// The task may go to each address by its own name, and nowhere else.
	c, task := run(t, l)
	_ = c
	eventually(t, "the program listens", func() bool { out, _, _ := l.TaskOutput(*task.TaskArn); return len(out) > 0 })
	allow, err := exec1(t, l, *task.TaskArn, "/bastiond", "say")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range l.Databases() {
		if !strings.Contains(allow, d.Addr) {
			t.Errorf("%s is not in %s", d.Addr, allow)
		}
	}
	if strings.Contains(allow, "*") {
		t.Errorf("too much is allowed: %s", allow)
	}
}

// TestResolver asks the lab's DNS server as bastiond does.
func TestResolver(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.NoWeb = false
	l := start(t, cfg)
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, l.Resolver().String())
	}}
	addrs, err := r.LookupHost(t.Context(), lab.WebHost)
	if err != nil || len(addrs) != 1 || vpc.CheckLoopback(addrs[0]) != nil {
		t.Errorf("%s is %v, %v", lab.WebHost, addrs, err)
	}
	if addrs, err := r.LookupHost(t.Context(), "nope.corp.internal"); err == nil {
		t.Errorf("an unknown name is %v", addrs)
	}
	if !strings.HasPrefix(l.WebURL(), "http://wiki.corp.internal") {
		t.Errorf("web site %q", l.WebURL())
	}
}

// TestCloseLeavesNothing closes a lab in the middle of everything.
func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.Gateway = gateway.Config{}
	l, err := lab.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	run(t, l)
	pid := l.Tasks()[0].PID
	files := value(l.Env(), "AWS_CONFIG_FILE")
	began := time.Now()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error("again:", err)
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
	if alive(pid) {
		t.Errorf("the task's program %d is alive", pid)
	}
	if _, err := os.Stat(files); !os.IsNotExist(err) {
		t.Errorf("%s: %v", files, err)
	}
}
