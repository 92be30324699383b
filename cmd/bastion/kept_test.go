//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/lab"
)

// Detached forwards are known while no agent runs: they are shown, hints lead to them, and stop means them.
func TestKeptForwards(t *testing.T) {
	t.Parallel()
	e := startAgentLab(t, nil)
	f := e.detach("--name", "kept", "cache:sessions", rig.FreeAddr(t))
	e.detach("--name", "other", "cache:sessions", rig.FreeAddr(t))
	e.killed = true
	if err := syscall.Kill(e.state().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the killed agent has gone", func() bool {
		_, err := e.client().Info(t.Context())
		return errors.Is(err, api.ErrNotRunning)
	})
	r := e.must("ls", "-o", "json")
	var out struct{ Forwards []api.Forward }
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || len(out.Forwards) != 2 || out.Forwards[0].State != api.ForwardKept ||
		out.Forwards[0].Listen != f.Listen {
		t.Errorf("ls: %v, %s", err, r.stdout)
	}
	if r := e.must("ls"); !strings.Contains(r.stdout, f.Listen) || !strings.Contains(r.stdout, "bastion agent start") {
		t.Errorf("ls: %s", r.stdout)
	}
	for _, tt := range []struct {
		args string
		code int
	}{{"url kept", 3}, {"url cache:sessions", 3}, {"wait kept --timeout 100ms", 9}} {
		r := e.run(nil, strings.Fields(tt.args)...)
		if r.code != tt.code || !strings.Contains(r.stderr, "no agent is running") || !strings.Contains(r.stderr, "bastion agent start") {
			t.Errorf("%s: exit code %d, %s", tt.args, r.code, r.stderr)
		}
	}
	if r := e.run(nil, "stop", "nonesuch"); r.code != 3 || !strings.Contains(r.stderr, `there are kept, other;`) {
		t.Errorf("stop of an unknown one: exit code %d, %s", r.code, r.stderr)
	}
	if r := e.must("stop", "other"); r.stdout != "other is stopped\n" {
		t.Errorf("stop: %q", r.stdout)
	}
	e.must("agent", "start") // where the hint leads
	if f := e.state().Forwards; len(f) != 1 || f[0].Name != "kept" {
		t.Errorf("what comes back: %+v", f)
	}
	e.must("url", "kept")
	e.must("agent", "stop")
	if r := e.must("stop", "all"); r.stdout != "kept is stopped\n" {
		t.Errorf("stop all: %q", r.stdout)
	}
	if r := e.must("ls"); r.stdout != "no forwards\n" {
		t.Errorf("ls at the end: %q", r.stdout)
	}
}

// Whoever gives up while a task starts hears that it stays.
func TestGivenUpWhileStarting(t *testing.T) {
	t.Parallel()
	for _, args := range []string{"forward cache:sessions :", "forward -d cache:sessions :", "socks :", "exec cache:sessions -- true"} {
		for _, alone := range []bool{false, true} {
			if alone && strings.Contains(args, "-d") {
				continue
			}
			t.Run(strings.ReplaceAll(args, " ", "_")+map[bool]string{true: "_alone"}[alone], func(t *testing.T) {
				t.Parallel()
				e := startAgentLab(t, nil)
				if err := e.SetAPIFaults(lab.APIFaults{NoExecAgent: true}); err != nil {
					t.Fatal(err)
				}
				env := []string{"BASTION_QUIET=false"}
				if alone {
					env = append(env, "BASTION_NO_AGENT=true")
				}
				p := e.start(env, strings.Fields(args)...)
				eventuallyWithin(t, time.Minute, "the task is started", func() bool {
					return e.State().Launched == 1 && strings.Contains(p.Output(), "waiting for the bastion's")
				})
				e.stop(p, syscall.SIGINT, 130)
				if !strings.Contains(p.Output(), "stays") || !strings.Contains(p.Output(), "bastion down stops it") {
					t.Errorf("nothing is said of the task:\n%s", p.Output())
				}
				e.must("down")
			})
		}
	}
}
