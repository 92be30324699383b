package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/access"
	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/admin"
	"github.com/bastion-ssm/bastion/internal/configure"
	"github.com/bastion-ssm/bastion/internal/console"
	"github.com/bastion-ssm/bastion/internal/report"
)

// Whatever is printed as JSON has no null for a list.
func TestListsAreNeverNull(t *testing.T) {
	at := time.Unix(1, 0).UTC()
	for _, v := range []any{
		statusOutput{},
		topOutput{},
		access.DownResult{},
		api.State{},
		api.Forward{Opened: at},
		configure.TrustOutput{},
		access.SweepResult{},
		admin.AuditOutput{},
		admin.CostOutput{},
		admin.AuditSummary{},
		map[string]any{"forwards": []api.Forward(nil)},
		[]api.Account{{}},
		&api.Link{Live: []report.Link{{}}},
	} {
		var b bytes.Buffer
		if err := console.WriteJSON(&b, v, ""); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(b.String(), "null") {
			t.Errorf("%T: %s", v, b.String())
		}
	}
}

// runUnwritable runs the program with a standard output that refuses every write, as that of a full disk does.
func runUnwritable(t *testing.T, env []string, dir string, args []string) (code int, stderr string) {
	t.Helper()
	out, err := os.Open(os.DevNull) // to be read
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(scratch, "bastion"), args...)
	cmd.Env, cmd.Dir, cmd.Stdout = env, dir, out
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), said.String()
}

// With -o json standard output is JSON and nothing else, of every command. Those that end with an error here print nothing there; the
// others end with an error, too, where nothing can be written.
func TestOutputIsJSON(t *testing.T) {
	t.Parallel()
	home, err := os.MkdirTemp(scratch, "h") // sockets want a short path
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(home, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(scratch, "bastion")
	env := append(append(rig.Environ(), offline(home)...), "AWS_ENDPOINT_URL=http://127.0.0.1:1", "AWS_REGION=eu-central-1",
		"AWS_ACCESS_KEY_ID=AKIATEST", "AWS_SECRET_ACCESS_KEY=not-a-key", "AWS_MAX_ATTEMPTS=1", "BASTION_AWS_TIMEOUT=1s", "BASTION_NO_AGENT=false")
	run := func(args ...string) (stdout, stderr string, code int) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, program, append(args, "-o", "json")...)
		cmd.Env, cmd.Dir = env, home
		var out, said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &said
		if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return out.String(), said.String(), cmd.ProcessState.ExitCode()
	}
	nullList := regexp.MustCompile(`: ?null`)
	seen := make(map[string]bool)
	for _, tt := range []struct {
		args  string
		fails bool
	}{
		{"agent stop", false},
		{"ls", false},
		{"top", false},
		{"stop all", false},
		{"stop nonesuch", true},
		{"agent status", true},
		{"agent start", false},
		{"agent status", false},
		{"agent logs", false},
		{"ls forwards", false},
		{"ls bastions", true},
		{"ls targets", true},
		{"top", false},
		{"dashboard --no-open", false},
		{"wait nonesuch --timeout 1ms", true},
		{"url nonesuch", true},
		{"forward rds:orders :", true},
		{"socks :", true},
		{"exec rds:orders -- true", true},
		{"open rds:orders", true},
		{"rdp i-0123456789abcdef0", true},
		{"kubeconfig eks:prod", true},
		{"eks-token prod", false},
		{"login --check", true},
		{"use", false},
		{"config show", false},
		{"config check", false},
		{"doctor", true},
		{"token rds:orders --user u", true},
		{"browser http://wiki.test/", true},
		{"proxy db.test 1", true},
		{"known-hosts other.test", false},
		{"up", true},
		{"down", true},
		{"status", true},
		{"audit", true},
		{"gc", true},
		{"cost", true},
		{"init --yes", true},
		{"plan", true},
		{"upgrade --yes", true},
		{"destroy --yes", true},
		{"iam-policy admin --account 000000000000", false},
		{"iam-policy --account 000000000000", false},
		{"service nonesuch", true},
		{"ssh-config", false},
		{"ssh-config --write --file " + filepath.Join(home, "config"), false},
		{"ssh-config --remove --file " + filepath.Join(home, "config"), false},
		{"version", false},
		{"completion bash", false},
		{"man", false},
		{"man forward", false},
		{"trust --list", false},
		{"help", false},
		{"help forward", false},
		{"help settings", false},
		{"agent stop", false},
	} {
		name, _, _ := strings.Cut(tt.args, " ")
		seen[name] = true
		args := strings.Fields(tt.args)
		if name == "exec" {
			args = []string{"exec", "-o", "json", "rds:orders", "--", "true"}
		}
		stdout, stderr, code := run(args...)
		if (code != 0) != tt.fails {
			t.Errorf("%s: exit code %d\n%s", tt.args, code, stderr)
		}
		for dec := json.NewDecoder(strings.NewReader(stdout)); ; {
			var v any
			if err := dec.Decode(&v); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Errorf("%s: %v in %s", tt.args, err, stdout)
				break
			}
		}
		if code == 0 && name != "known-hosts" {
			if name == "stop" || name == "trust" { // as text they may have nothing to say
				args = append(args, "-o", "json")
			}
			if code, stderr := runUnwritable(t, env, home, args); code != 1 || !strings.Contains(stderr, "bastion: write ") {
				t.Errorf("%s to where nothing can be written: exit code %d\n%s", tt.args, code, stderr)
			}
		}
		if stdout == "" && code == 0 && name != "known-hosts" || nullList.MatchString(stdout) {
			t.Errorf("%s: %s", tt.args, stdout)
		}
	}
	a, _ := testApp()
	for _, cmd := range a.Line.Root.Verbs {
		if !seen[cmd.Name] {
			t.Errorf("bastion %s is not tried", cmd.Name)
		}
	}
}

// A reader that has had enough, as head has, is no failure. Where nothing can be written is one, of the library's help too.
func TestClosedOutputIsQuiet(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	for _, args := range []string{"help settings", "ls", "version", "version -o json", "completion bash", "man", "--help", "forward --help", ""} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		cmd := exec.CommandContext(ctx, filepath.Join(scratch, "bastion"), strings.Fields(args)...)
		cmd.Env, cmd.Dir = append(rig.Environ(), offline(home)...), home
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = w, &said
		err = cmd.Run()
		cancel()
		_ = w.Close()
		if err != nil || said.Len() > 0 {
			t.Errorf("%s: %v, %s", args, err, said.String())
		}
		env := append(rig.Environ(), offline(home)...)
		if code, stderr := runUnwritable(t, env, home, strings.Fields(args)); code != 1 || !strings.Contains(stderr, "bastion: write ") {
			t.Errorf("%s to where nothing can be written: exit code %d\n%s", args, code, stderr)
		}
	}
}
