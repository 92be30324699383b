//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/ready"
	"github.com/bastion-ssm/bastion/lab"
)

// scriptProcess is a process for --exit-when. It runs until end is called.
func scriptProcess(t *testing.T) (pid string, end func()) {
	t.Helper()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = func() {
		_ = in.Close()
		_ = cmd.Wait()
	}
	t.Cleanup(end)
	return strconv.Itoa(cmd.Process.Pid), end
}

// readyForward starts a command with a ready file, a descriptor and a process, and waits until it is ready.
func (e *labEnv) readyForward(pid string, args ...string) (p *rig.Proc, file string, m ready.Message) {
	e.t.Helper()
	file = filepath.Join(e.t.TempDir(), "ready.json")
	r, w, err := os.Pipe()
	if err != nil {
		e.t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(e.program, append(args, "--ready-file", file, "--ready-fd", "3", "--exit-when", pid)...)
	cmd.ExtraFiles = []*os.File{w}
	p, err = rig.StartCmd(e.env, cmd)
	_ = w.Close()
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _, _ = p.Stop(syscall.SIGKILL) })
	if err := r.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		e.t.Fatal(err)
	}
	line, err := io.ReadAll(r) // up to its end: neither the command nor an agent that it has started keeps it open
	if err != nil || json.Unmarshal(line, &m) != nil {
		e.t.Fatalf("%v: the descriptor has %q, %v\n%s", args, line, err, p.Output())
	}
	data, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(data, line) {
		e.t.Errorf("%v: the file has %q, %v; the descriptor %q", args, data, err, line)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		e.t.Errorf("%v: %v, %v", args, info, err)
	}
	return p, file, m
}

// A script learns by a file or a descriptor where forwards listen, and they end with the script, through the agent and without it.
func TestForwardForScript(t *testing.T) {
	t.Parallel()
	for name, start := range map[string]func(*testing.T, func(*lab.Config)) *labEnv{"agent": startAgentLab, "alone": startLab} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := start(t, nil)
			pid, end := scriptProcess(t)
			p, file, m := e.readyForward(pid, "forward", "cache", ":", "rds:orders", ":")
			if m.PID != p.Cmd.Process.Pid || len(m.Forwards) != 2 || m.Forwards[1].Name != "orders" || m.Forwards[1].Engine != "postgres" {
				t.Errorf("%+v", m)
			}
			cache := m.Forwards[0]
			if cache.Listen != cache.Address+":"+strconv.Itoa(cache.Port) || ping(cache.Listen) != nil {
				t.Errorf("%+v: %v", cache, ping(cache.Listen))
			}
			socks, proxyFile, proxies := e.readyForward(pid, "socks", "0")
			if len(proxies.Forwards) != 1 || proxies.Forwards[0].Kind != "proxy" || proxies.Forwards[0].Port == 0 {
				t.Errorf("%+v", proxies)
			}
			r := e.run(nil, "forward", "cache", ":", "--ready-file", file)
			if r.code != 2 || !strings.Contains(r.stderr, "process "+strconv.Itoa(m.PID)+" has it") {
				t.Errorf("a second command with the file: exit code %d, %s", r.code, r.stderr)
			}
			end()
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			for file, p := range map[string]*rig.Proc{file: p, proxyFile: socks} {
				if code, err := p.Wait(ctx); err != nil || code != 0 {
					t.Errorf("after the end of the process: exit code %d, %v\n%s", code, err, p.Output())
				}
				if _, err := os.Stat(file); err == nil {
					t.Error("the file stays")
				}
			}
			if ping(cache.Listen) == nil {
				t.Error("the forward stays")
			}
			if name == "alone" {
				e.noSessions()
			}
		})
	}
}

// A command that is killed leaves its file, and the next one takes its place. A signal takes it away.
func TestReadyFileOfKilled(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	e.killed = true
	pid, _ := scriptProcess(t)
	p, file, _ := e.readyForward(pid, "forward", "cache", ":")
	if _, err := p.Stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Fatalf("a killed command has removed its file: %v", err)
	}
	next := e.start(nil, "forward", "cache", ":", "--ready-file", file)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := next.Line(ctx, 0); err != nil {
		t.Fatalf("%v\n%s", err, next.Output())
	}
	var m ready.Message
	data, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(data, &m) != nil || m.PID != next.Cmd.Process.Pid {
		t.Errorf("%s, %v", data, err)
	}
	e.stop(next, syscall.SIGTERM, 143)
	if _, err := os.Stat(file); err == nil {
		t.Error("the file stays after a signal")
	}
}

// If the process ends before the forwards are ready, the command ends too, and writes no file.
func TestExitWhenBeforeReady(t *testing.T) {
	t.Parallel()
	e := startLab(t, func(cfg *lab.Config) { cfg.StateDelay = time.Hour })
	pid, end := scriptProcess(t)
	file := filepath.Join(t.TempDir(), "ready.json")
	p := e.start(nil, "forward", "cache", ":", "--ready-file", file, "--exit-when", pid)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := p.WaitOutput(ctx, "waiting for the bastion's task"); err != nil {
		t.Fatalf("%v\n%s", err, p.Output())
	}
	end()
	if code, err := p.Wait(ctx); err != nil || code != 0 || !strings.Contains(p.Output(), "process "+pid+" has ended") {
		t.Errorf("exit code %d, %v\n%s", code, err, p.Output())
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("there is a file of forwards that never were")
	}
}
