package lab_test

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"go.uber.org/goleak"

	"github.com/bastion-ssm/bastion/lab"
	"github.com/bastion-ssm/bastion/lab/gateway"
)

func TestMain(m *testing.M) {
	if os.Getenv("LAB_TEST_PROGRAM") != "" {
		os.Exit(programMain())
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if builtBastiond {
			if path, err := bastiond(); err == nil {
				_ = os.RemoveAll(filepath.Dir(path))
			}
		}
		os.Exit(code)
	}))
}

// quick is a lab without databases, whose states pass at once.
func quick(t *testing.T) lab.Config {
	t.Helper()
	return lab.Config{
		Log: testLog(t), StateDelay: time.Millisecond, ExecDelay: time.Millisecond, ConnectDelay: time.Millisecond,
		StopTimeout: 5 * time.Second, Postgres: lab.Off, Redis: lab.Off, NoWeb: true,
		Runner:  &lab.HostRunner{Programs: map[string]string{"/bastiond": testProgram(t)}},
		TaskEnv: map[string]string{"LAB_TEST_PROGRAM": "serve"},
		User:    lab.IdentityConfig{Allow: []string{"*"}}, // what is tested here is more than people may do
		Gateway: gateway.Config{AgentDelay: -1, ExecDelay: -1},
	}
}

func start(t *testing.T, cfg lab.Config) *lab.Lab {
	t.Helper()
	l, err := lab.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error("close the lab:", err)
		}
	})
	return l
}

// testProgram is this test binary: as a task it does what programMain does.
func testProgram(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// testLog shows the lab's log with a failed test.
func testLog(t *testing.T) *slog.Logger {
	t.Helper()
	w := &logWriter{t: t}
	t.Cleanup(w.stop)
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type logWriter struct {
	mu sync.Mutex
	t  *testing.T
}

func (w *logWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.t != nil {
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

func (w *logWriter) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t = nil
}

// sdk is the configuration of aws-sdk-go-v2 that a program with this environment has.
func sdk(t *testing.T, env []string) aws.Config {
	t.Helper()
	cfg, err := config.LoadDefaultConfig(t.Context(),
		config.WithSharedConfigFiles([]string{value(env, "AWS_CONFIG_FILE")}),
		config.WithSharedCredentialsFiles([]string{value(env, "AWS_SHARED_CREDENTIALS_FILE")}),
		config.WithSharedConfigProfile(value(env, "AWS_PROFILE")),
		config.WithBaseEndpoint(value(env, "AWS_ENDPOINT_URL")),
		config.WithRetryMaxAttempts(1),
	)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func value(env []string, key string) string {
	for _, kv := range slices.Backward(env) {
		if v, ok := strings.CutPrefix(kv, key+"="); ok {
			return v
		}
	}
	return ""
}

// need returns the path of a program that a test cannot do without. CI has them all.
func need(t *testing.T, name string, places ...string) string {
	t.Helper()
	for _, p := range places {
		if fi, err := os.Stat(p); err == nil && !fi.IsDir() {
			abs, err := filepath.Abs(p)
			if err != nil {
				t.Fatal(err)
			}
			return abs
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("%s is not installed: run make deps", name)
		}
		t.Skipf("%s is not installed: run make deps", name)
	}
	return path
}

// eventually polls until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !within(t, 20*time.Second, ok) {
		t.Fatal("in vain: ", what)
	}
}

// within waits until ok holds, for limit, and says whether it does.
func within(t testing.TB, limit time.Duration, ok func() bool) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}
