package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/e2e/rig"
)

// serviceUser is a user whose systemctl is a script: it records its arguments, and treats files as systemd treats units.
type serviceUser struct {
	t    *testing.T
	home string
	env  []string
}

const fakeSystemctl = `#!/bin/sh
echo "$*" >> "$HOME/systemctl.calls"
[ -e "$HOME/systemctl.down" ] && { echo "Failed to connect to bus: No medium found" >&2; exit 1; }
case "$1 $2" in
"is-active "*) [ -e "$HOME/failed" ] && { echo failed; exit 3; }; [ -e "$HOME/active" ] && { echo active; exit 0; }; echo inactive; exit 3 ;;
"list-unit-files "*) ls "$HOME/.config/systemd/user" ;;
"start "*) touch "$HOME/active" ;;
"stop "*) rm -f "$HOME/active" ;;
"enable "*) [ ! -e "$HOME/enable.fails" ] ;;
esac
`

func newServiceUser(t *testing.T) *serviceUser {
	t.Helper()
	home := shortHome(t)
	bin := filepath.Join(home, "bin")
	for _, dir := range []string{bin, filepath.Join(home, "run")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte(fakeSystemctl), 0o700); err != nil {
		t.Fatal(err)
	}
	env := append(rig.Environ(), offline(home)...)
	return &serviceUser{t, home, append(env, "PATH="+bin+":/usr/bin:/bin")}
}

func (u *serviceUser) run(args ...string) (string, int) {
	u.t.Helper()
	cmd := exec.CommandContext(u.t.Context(), filepath.Join(scratch, "bastion"), append([]string{"service"}, args...)...)
	cmd.Env, cmd.Dir = u.env, u.home
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		u.t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (u *serviceUser) must(want string, args ...string) {
	u.t.Helper()
	if out, code := u.run(args...); code != 0 || !strings.Contains(out, want) {
		u.t.Errorf("service %q: exit code %d, %q is not in\n%s", args, code, want, out)
	}
}

func (u *serviceUser) fails(code int, want string, args ...string) {
	u.t.Helper()
	out, got := u.run(args...)
	if got != code || !strings.Contains(out, want) || !strings.Contains(out, "\n  hint: ") {
		u.t.Errorf("service %q: exit code %d, want %d; %q, and a hint, should be in\n%s", args, got, code, want, out)
	}
}

func (u *serviceUser) touch(name string) {
	u.t.Helper()
	if err := os.WriteFile(filepath.Join(u.home, name), nil, 0o600); err != nil {
		u.t.Fatal(err)
	}
}

func (u *serviceUser) unit() string {
	return filepath.Join(u.home, ".config", "systemd", "user", "bastion-agent.service")
}

// The service comes and goes as a unit of the user's own.
func TestService(t *testing.T) {
	t.Parallel()
	u := newServiceUser(t)
	u.must("is not installed; bastion service install", "status")
	u.fails(2, "it is not installed", "start")
	u.must("the service is not installed", "uninstall")
	u.must("installed "+u.unit(), "install", "--runtime-dir", filepath.Join(u.home, "100% run"), "--agent-idle=1h")
	u.fails(2, "installed already", "install")

	unit := string(mustRead(t, u.unit()))
	for _, want := range []string{
		`" "agent" "run" "--stay" "--log-file" "` + filepath.Join(u.home, "state") +
			`/agent.log" "--agent-idle=1h" "--runtime-dir=` +
			u.home + `/100%% run"` + "\n",
		"\nNoNewPrivileges=yes\n", "\nLimitCORE=0\n", "\nWantedBy=default.target\n", "\nRestart=on-failure\n",
	} {
		if !strings.Contains(unit, want) {
			t.Errorf("%q is not in the unit\n%s", want, unit)
		}
	}
	verify := exec.CommandContext(t.Context(), rig.Need(t, "systemd-analyze"), "verify", "--user", "--man=no", u.unit())
	verify.Env = u.env
	if out, err := verify.CombinedOutput(); err != nil || len(out) != 0 {
		t.Errorf("systemd-analyze verify: %v\n%s\n%s", err, out, unit)
	}

	u.must("is installed and does not run", "status")
	u.must("was started", "start")
	u.must("the service runs", "start")
	u.must("the service runs ("+u.unit(), "status")
	out, _ := u.run("status", "-o", "json")
	var st map[string]any
	if err := json.Unmarshal([]byte(out), &st); err != nil || st["installed"] != true || st["running"] != true ||
		st["file"] != u.unit() {
		t.Errorf("%v: %s", err, out)
	}
	u.must("has ended", "stop")
	u.touch("failed")
	u.must("failed state ("+u.unit()+"); journalctl --user -u bastion-agent says why", "status")
	u.must("removed", "uninstall")
	if _, err := os.Stat(u.unit()); err == nil {
		t.Error("the unit is still there")
	}
	calls := string(mustRead(t, filepath.Join(u.home, "systemctl.calls")))
	for line := range strings.Lines(calls) {
		if !strings.Contains(line, "--user") {
			t.Errorf("systemctl was called for the system: %s", line)
		}
	}
	for _, want := range []string{
		"enable --user bastion-agent.service\n", "disable --user bastion-agent.service\n",
		"daemon-reload --user\n",
	} {
		if !strings.Contains(calls, want) {
			t.Errorf("%q is not among the calls\n%s", want, calls)
		}
	}
}

// If the user has no systemd, or it fails, the message names an alternative.
func TestServiceWithoutSystemd(t *testing.T) {
	t.Parallel()
	u := newServiceUser(t)
	u.touch("systemctl.down")
	u.fails(1, "systemd's user manager does not answer: Failed to connect to bus", "install")
	if out, _ := u.run("install"); !strings.Contains(out, "bastion agent start starts the agent without a service") {
		t.Errorf("%s", out)
	}
	if err := os.Remove(filepath.Join(u.home, "systemctl.down")); err != nil {
		t.Fatal(err)
	}
	u.touch("enable.fails")
	u.fails(1, "install the service", "install")
	if _, err := os.Stat(u.unit()); err == nil {
		t.Error("a unit that is not enabled stays")
	}
	if err := os.Remove(filepath.Join(u.home, "bin", "systemctl")); err != nil {
		t.Fatal(err)
	}
	u.env = append(u.env, "PATH="+filepath.Join(u.home, "bin"))
	u.fails(1, "systemd's user manager does not answer", "status")
}

func TestServiceBad(t *testing.T) {
	t.Parallel()
	u := newServiceUser(t)
	u.fails(2, "unknown subcommand", "restart")
	u.fails(2, "did you mean bastion service install?", "instal")
	u.fails(2, "a subcommand is missing")
	u.fails(2, "too many arguments", "start", "now")
	u.fails(2, "for the service manager of Windows", "run")
	u.fails(2, "a unit of systemd cannot hold", "install", "--runtime-dir", "/a$b")
	// An agent that a command has started is in the service's way.
	u.must("installed", "install")
	agentSocket(t, u.home, func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(api.Info{PID: 4711})
	})
	u.fails(2, "process 4711", "start")
}
