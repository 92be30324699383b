//go:build linux

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
)

// newAgentWorld is newWorld with a user whose commands go through an agent. The agent is ended with the test, by bastion agent
// stop.
func newAgentWorld(t *testing.T, change func(*lab.Config)) *world {
	t.Helper()
	w := newWorld(t, change)
	w.env = append(w.env, "BASTION_NO_AGENT=false", "BASTION_QUIET=true", "BASTION_AGENT_IDLE=5m",
		"BASTION_RUNTIME_DIR="+w.runtimeDir(), "BASTION_STATE_DIR="+w.stateDir())
	t.Cleanup(w.stopAgent)
	return w
}

func (w *world) runtimeDir() string { return filepath.Join(w.home, "run") }
func (w *world) stateDir() string   { return filepath.Join(w.home, "state") }
func (w *world) socket() string     { return filepath.Join(w.runtimeDir(), "control.sock") }

// agent is a client of the world's agent.
func (w *world) agent() *api.Client { return api.NewClient(w.socket()) }

// agentState asks the agent for all that it has. Nothing is the state of none.
func (w *world) agentState() api.State {
	w.t.Helper()
	st, err := w.agent().State(w.t.Context())
	if err != nil && !errors.Is(err, api.ErrNotRunning) {
		w.t.Fatal(err)
	}
	return st
}

// stopAgent ends the agent as a user does, and makes sure that its process has gone.
func (w *world) stopAgent() {
	// The test's context has ended.
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	info, err := w.agent().Info(ctx)
	if errors.Is(err, api.ErrNotRunning) {
		return
	}
	p, err2 := rig.Start(w.env, filepath.Join(bin, "bastion"), "agent", "stop")
	if err := errors.Join(err, err2); err != nil {
		w.t.Errorf("stop the agent: %v", err)
		return
	}
	if code, err := p.Wait(ctx); err != nil || code != 0 {
		w.t.Errorf("bastion agent stop: exit code %d, %v\n%s", code, err, p.Output())
	}
	if !w.within(20*time.Second, func() bool { return gone(info.PID) }) {
		w.t.Errorf("the agent, process %d, still runs after bastion agent stop", info.PID)
		_ = syscall.Kill(info.PID, syscall.SIGKILL)
	}
}

// gone reports whether a process has ended. One that nobody has waited for yet has.
func gone(pid int) bool {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	rest := stat[bytes.LastIndexByte(stat, ')')+1:] // after the command's name
	return len(rest) > 1 && rest[1] == 'Z'
}

// detach opens forwards that stay, by `bastion forward -d`, and returns them.
func (w *world) detach(args ...string) []api.Forward {
	w.t.Helper()
	code, out := w.run(time.Minute, filepath.Join(bin, "bastion"), append([]string{"forward", "-d", "-o", "json"}, args...)...)
	var opened struct{ Forwards []api.Forward }
	if code != 0 {
		w.t.Fatalf("bastion forward -d: exit code %d\n%s\n%s", code, out, w.agentLog())
	}
	if err := json.Unmarshal([]byte(out), &opened); err != nil {
		w.t.Fatalf("%v in %q", err, out)
	}
	return opened.Forwards
}

// agentLog is what the agent has logged, for messages.
func (w *world) agentLog() string {
	b, _ := os.ReadFile(filepath.Join(w.stateDir(), "agent.log"))
	crash, _ := os.ReadFile(filepath.Join(w.stateDir(), "agent.err"))
	return string(b) + string(crash)
}

// running are the tasks that cost money.
func (w *world) running() []lab.Task {
	return slices.DeleteFunc(w.Tasks(), func(t lab.Task) bool { return t.LastStatus == "STOPPED" })
}

// listening reports whether something on this machine listens on the port of an address.
func listening(t *testing.T, addr string) bool {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	yes, err := rig.Listening(n)
	if err != nil {
		t.Fatal(err)
	}
	return yes
}

// echo makes one round trip through addr.
func echo(ctx context.Context, addr string) error {
	c, err := rig.Dial(ctx, addr)
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	return rig.NewEcho(c).Round()
}

// credentials are what the lab has made up for an identity.
type credentials struct{ key, secret, token string }

func (c credentials) env() []string {
	env := []string{"AWS_ACCESS_KEY_ID=" + c.key, "AWS_SECRET_ACCESS_KEY=" + c.secret}
	if c.token != "" {
		env = append(env, "AWS_SESSION_TOKEN="+c.token)
	}
	return env
}

// credentials reads an identity's credentials from the lab's files.
func (w *world) credentials(identity string) (c credentials) {
	w.t.Helper()
	text, err := os.ReadFile(w.variable("AWS_SHARED_CREDENTIALS_FILE"))
	if err != nil {
		w.t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n["+identity+"]\n")
	section, _, _ = strings.Cut(section, "\n[")
	for line := range strings.Lines(section) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " = ")
		switch name {
		case "aws_access_key_id":
			c.key = value
		case "aws_secret_access_key":
			c.secret = value
		case "aws_session_token":
			c.token = value
		}
	}
	if c.key == "" || c.secret == "" {
		w.t.Fatalf("the lab has no credentials of %s", identity)
	}
	return c
}

// variable is the value of a variable of the lab's environment.
func (w *world) variable(name string) string {
	w.t.Helper()
	for _, kv := range w.Env() {
		if value, ok := strings.CutPrefix(kv, name+"="); ok {
			return value
		}
	}
	w.t.Fatalf("the lab's environment has no %s", name)
	panic("unreachable")
}
