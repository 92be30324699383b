package main

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/targets"
)

// completions returns what the program proposes for the last of words.
func completions(t *testing.T, env []string, words ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(scratch, "bastion"),
		append([]string{cli.CompleteCommand}, words...)...)
	cmd.Env, cmd.Dir = env, t.TempDir()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", words, err, out)
	}
	var values []string
	for line := range strings.Lines(string(out)) {
		value, _, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if !ok {
			t.Errorf("%q: a line without a description: %q", words, line)
		}
		values = append(values, value)
	}
	return values
}

// agentSocket serves the agent's socket below home, and returns the environment that leads there.
func agentSocket(t *testing.T, home string, handler http.HandlerFunc) []string {
	t.Helper()
	dir := filepath.Join(home, "run", "bastion")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(dir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return append(rig.Environ(), offline(home)...)
}

// shortHome is a home directory whose path leaves room for sockets.
func shortHome(t *testing.T) string {
	t.Helper()
	home, err := os.MkdirTemp(scratch, "h")
	if err != nil {
		t.Fatal(err)
	}
	return home
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	home := shortHome(t)
	env := agentSocket(t, home, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != api.PathState {
			t.Errorf("asked for %s", r.URL.Path)
		}
		_ = json.NewEncoder(w).Encode(api.State{Forwards: []api.Forward{
			{Name: "orders", Listen: "127.0.0.1:5432"}, {Name: "wiki"}, {Name: "odd\nname\t"},
		}})
	})
	for path, text := range map[string]string{
		"config.yaml": "targets:\n  wiki: wiki.corp.internal:443\n",
		"aws":         "[default]\n[profile prod]\nregion = x\n[sso-session work]\n[ profile  \"dev\" ]\n",
		"credentials": "[prod]\n[ci]\n",
	} {
		if err := os.WriteFile(filepath.Join(home, path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env = append(env, "BASTION_CONFIG="+filepath.Join(home, "config.yaml"), "AWS_CONFIG_FILE="+filepath.Join(home, "aws"),
		"AWS_SHARED_CREDENTIALS_FILE="+filepath.Join(home, "credentials"))
	kinds := ""
	for _, d := range targets.Kinds() {
		kinds += " " + d.Prefix + ":"
	}
	for line, want := range map[string]string{
		"stop ":                     "orders wiki all",
		"stop or":                   "orders",
		"wait ":                     "orders wiki",
		"url w":                     "wiki wiki",
		"exec ":                     "wiki " + kinds,
		"exec wiki -- ":             "",
		"token ":                    "wiki rds: rdsproxy:",
		"agent st":                  "start stop status",
		"agent run ":                "",
		"service un":                "uninstall",
		"ls ":                       "forwards bastions targets",
		"ls forwards ":              "",
		"man ssh":                   "ssh-config",
		"help sett":                 "settings",
		"proxy ":                    "bastion",
		"--profile ":                "ci default dev prod",
		"ssh-config --rem":          "--remove --remember-host-keys",
		"--runtime-dir /none stop ": "all",
		"agent":                     "agent",
		"nonsense ":                 "",
	} {
		got := completions(t, env, strings.Split(line, " ")...)
		slices.Sort(got)
		wanted := strings.Fields(want)
		slices.Sort(wanted)
		if !slices.Equal(got, wanted) {
			t.Errorf("%q: %q, want %q", line, got, wanted)
		}
	}
}

// Without an agent nothing is said and none is started; one that does not answer is not waited for.
func TestCompletionWithoutAgent(t *testing.T) {
	t.Parallel()
	home := shortHome(t)
	env := append(rig.Environ(), offline(home)...)
	if got := completions(t, env, "wait", ""); got != nil {
		t.Errorf("without an agent: %q", got)
	}
	if _, err := os.Stat(filepath.Join(home, "run", "bastion", "control.sock")); err == nil {
		t.Error("an agent was started")
	}
	hang := make(chan struct{})
	env = agentSocket(t, shortHome(t), func(http.ResponseWriter, *http.Request) { <-hang })
	t.Cleanup(func() { close(hang) })
	began := time.Now()
	if got := completions(t, env, "wait", ""); got != nil {
		t.Errorf("with a hanging agent: %q", got)
	}
	if took := time.Since(began); took > 9*time.Second { // far less than the client's own timeout would take
		t.Errorf("waited %s for an agent that does not answer", took)
	}
}
