//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// ignoring starts a command as nohup does, and as a shell without job control does with & at the end.
func (e *labEnv) ignoring(signals string, args ...string) *rig.Proc {
	e.t.Helper()
	script := "trap '' " + signals + `; exec "$@"`
	p, err := rig.Start(e.env, "/bin/sh", append([]string{"-c", script, "sh", e.program}, args...)...)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _, _ = p.Stop(syscall.SIGKILL) })
	return p
}

// Signals that were ignored when a command began do not end it, and the programs that it starts ignore them too.
func TestIgnoredSignals(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	e.must("up", "-q")
	for _, c := range []struct {
		name    string
		signals string // that are ignored
		ends    syscall.Signal
		code    int
		args    []string
	}{
		{"forward", "HUP INT", syscall.SIGTERM, 143, []string{"forward", "-o", "json", "cache:sessions", ":"}},
		{"forward without the agent", "HUP", syscall.SIGINT, 130, []string{"forward", "--no-agent", "-o", "json", "cache:sessions", ":"}},
		{"socks", "HUP INT", syscall.SIGTERM, 143, []string{"socks", "-o", "json", "127.0.0.1:0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := e.ignoring(c.signals, c.args...)
			if _, err := p.Line(t.Context(), 0); err != nil {
				t.Fatalf("%v\n%s", err, p.Output())
			}
			for _, name := range strings.Fields(c.signals) {
				sig := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "INT": syscall.SIGINT}[name]
				if ignored := signalSet(t, p.Cmd.Process.Pid, "SigIgn"); ignored&(1<<(sig-1)) == 0 {
					t.Errorf("SIG%s is not ignored any more: %x", name, ignored)
				}
				if err := syscall.Kill(p.Cmd.Process.Pid, sig); err != nil {
					t.Error(err)
				}
			}
			e.stop(p, c.ends, c.code) // by the others' code if they had ended it
		})
	}
	t.Run("exec", func(t *testing.T) {
		t.Parallel()
		p := e.ignoring("HUP INT", "exec", "--no-agent", "cache:sessions", "--", "cat", "/proc/self/status")
		code, err := p.Wait(t.Context())
		if err != nil || code != 0 {
			t.Fatalf("exit code %d, %v\n%s", code, err, p.Output())
		}
		if ignored := statusSet(t, p.Output(), "SigIgn"); ignored&(1<<(syscall.SIGHUP-1)) == 0 || ignored&(1<<(syscall.SIGINT-1)) == 0 {
			t.Errorf("the program does not ignore what its parent does: %x", ignored)
		}
	})
}

// nohup itself, whose purpose is that a command outlives its terminal.
func TestNohup(t *testing.T) {
	t.Parallel()
	nohup, err := exec.LookPath("nohup")
	if err != nil {
		t.Fatal(err)
	}
	e := startLab(t, nil)
	p, err := rig.Start(e.env, nohup, e.program, "forward", "-o", "json", "cache:sessions", ":")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = p.Stop(syscall.SIGKILL) })
	if _, err := p.Line(t.Context(), 0); err != nil {
		t.Fatalf("%v\n%s", err, p.Output())
	}
	if err := syscall.Kill(p.Cmd.Process.Pid, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	e.stop(p, syscall.SIGTERM, 143)
}

// signalSet reads a set of signals of a process.
func signalSet(t *testing.T, pid int, name string) uint64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	return statusSet(t, string(text), name)
}

func statusSet(t *testing.T, text, name string) uint64 {
	t.Helper()
	m := regexp.MustCompile(`(?m)^` + name + `:\s*([0-9a-f]+)`).FindStringSubmatch(text)
	if m == nil {
		t.Fatalf("no %s in %q", name, text)
	}
	n, err := strconv.ParseUint(m[1], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
