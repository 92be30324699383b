//go:build unix

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	"github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/bastion-ssm/bastion/lab"
)

// TestMain makes the test binary be bastion-lab, where a test runs that.
func TestMain(m *testing.M) {
	if os.Getenv("BE_A_TASK") != "" {
		term := make(chan os.Signal, 1)
		signal.Notify(term, syscall.SIGTERM)
		<-term
		os.Exit(0)
	}
	if os.Getenv("BE_BASTION_LAB") != "" {
		main()
	}
	testscript.Main(leakChecker{m}, map[string]func(){"bastion-lab": main})
}

type leakChecker struct{ m *testing.M }

func (l leakChecker) Run() int {
	code := l.m.Run()
	if err := goleak.Find(); code == 0 && err != nil {
		_, _ = os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	return code
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			// No test of the command line starts a task: any file will do.
			bastiond := filepath.Join(e.WorkDir, "bastiond")
			e.Setenv("BASTION_LAB_BASTIOND", bastiond)
			e.Setenv("BASTION_LAB_DATABASES", "off")
			return os.WriteFile(bastiond, nil, 0o700)
		},
	})
}

// start starts bastion-lab as a process of its own.
func start(t *testing.T, args ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), "BE_BASTION_LAB=1", "BASTION_LAB_BASTIOND="+self, "BASTION_LAB_DATABASES=off")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd, bufio.NewReader(out)
}

func TestUpEndsWithASignal(t *testing.T) {
	cmd, out := start(t, "up", "-o", "json", "-q")
	var up struct {
		URL string            `json:"url"`
		Env map[string]string `json:"env"`
	}
	if err := json.NewDecoder(out).Decode(&up); err != nil {
		t.Fatal(err)
	}
	if up.URL == "" || up.Env["AWS_ENDPOINT_URL"] != up.URL {
		t.Errorf("%+v", up)
	}
	if s := state(t, up.URL); s.URL != up.URL {
		t.Errorf("%+v", s)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error("up ends with", err)
	}
	if _, err := os.Stat(up.Env["AWS_CONFIG_FILE"]); !os.IsNotExist(err) {
		t.Errorf("its files are still there: %v", err)
	}
}

func TestRunHandsSignalsOn(t *testing.T) {
	// The command says that it was told, and ends with a code of its own.
	cmd, out := start(t, "run", "-q", "--", "sh", "-c",
		`trap 'echo told; exit 9' TERM; echo ready; while :; do sleep 0.05; done`)
	if line, err := out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if line, err := out.ReadString('\n'); line != "told\n" {
		t.Errorf("%q, %v", line, err)
	}
	_ = cmd.Wait() // the code says it
	if code := cmd.ProcessState.ExitCode(); code != 9 {
		t.Errorf("exit code %d, want the command's", code)
	}
}

func TestRunOfAKilledCommand(t *testing.T) {
	cmd, _ := start(t, "run", "-q", "--", "sh", "-c", "kill -TERM $$")
	_ = cmd.Wait() // the code says it
	if code := cmd.ProcessState.ExitCode(); code != 143 {
		t.Errorf("exit code %d, want 143", code)
	}
}

func TestSignalWhileStarting(t *testing.T) {
	signals := make(chan os.Signal, 1)
	signals <- syscall.SIGTERM
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	began := time.Now()
	code := run([]string{"bastion-lab", "up", "--bastiond", self, "--databases", "off"}, stdio{os.Stdin, &out, &errs},
		signals)
	if code != 143 && code != 0 { // 0: it was up already
		t.Errorf("exit code %d: %s", code, errs.String())
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestSignalsAreNotLost(t *testing.T) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, endSignals...)
	defer signal.Stop(c)
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if got := <-c; codeOf(got) != 129 {
		t.Errorf("%v is code %d", got, codeOf(got))
	}
}

func TestFindBastiond(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if path, err := findBastiond(""); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("%q, %v", path, err)
	}
	inPath := filepath.Join(t.TempDir(), "bastiond")
	if err := os.WriteFile(inPath, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Dir(inPath))
	if path, err := findBastiond(""); err != nil || path != inPath {
		t.Errorf("%q, %v", path, err)
	}
}

// TestTasksEndWithAKilledLab is about a lab that has no chance to clean up.
func TestTasksEndWithAKilledLab(t *testing.T) {
	if runtime.GOOS != "linux" {
		return // docs/lab.md: only Linux ends children with their parent
	}
	cmd, out := start(t, "up", "-o", "json", "-q", "--task-env", "BE_A_TASK=1", "--state-delay", "1ms")
	var up struct {
		URL string            `json:"url"`
		Env map[string]string `json:"env"`
	}
	if err := json.NewDecoder(out).Decode(&up); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.LoadDefaultConfig(t.Context(),
		config.WithSharedConfigFiles([]string{up.Env["AWS_CONFIG_FILE"]}),
		config.WithSharedCredentialsFiles([]string{up.Env["AWS_SHARED_CREDENTIALS_FILE"]}),
		config.WithSharedConfigProfile("admin"), config.WithBaseEndpoint(up.URL))
	if err != nil {
		t.Fatal(err)
	}
	_, err = ecs.NewFromConfig(cfg).RunTask(t.Context(), &ecs.RunTaskInput{
		Cluster: aws.String("bastion"), TaskDefinition: aws.String("bastion"), LaunchType: types.LaunchTypeFargate,
		NetworkConfiguration: &types.NetworkConfiguration{AwsvpcConfiguration: &types.AwsVpcConfiguration{
			Subnets: []string{"subnet-0000000000000laba"},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(filepath.Dir(up.Env["AWS_CONFIG_FILE"])) })
	pid := 0
	poll(t, "the task runs", func() bool {
		s := state(t, up.URL)
		pid = s.Tasks[0].PID
		return s.Tasks[0].LastStatus == "RUNNING"
	})
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	poll(t, "the task has ended", func() bool { return syscall.Kill(pid, 0) != nil })
}

func state(t *testing.T, url string) (s lab.State) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/_lab/state", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s
}

func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("in vain: ", what)
		}
	}
}
