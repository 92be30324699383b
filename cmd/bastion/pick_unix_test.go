//go:build unix

package main

import (
	"context"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// atTerminal runs a command line at a terminal of its own, and types keys once the picker is there. It returns the exit code and all
// that the terminal has shown.
func (e *labEnv) atTerminal(keys string, args ...string) (int, string) {
	e.t.Helper()
	ctx, cancel := context.WithTimeout(e.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, e.program, args...)
	cmd.Env, cmd.Dir = append(append([]string(nil), e.env...), "TERM=xterm"), scratch
	file, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 100})
	if err != nil {
		e.t.Fatal(err)
	}
	defer file.Close()
	said := new(syncBuilder)
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(said, file) // ends with the command
	}()
	eventually(e.t, "the picker is there", func() bool { return strings.Contains(said.String(), "type to search") })
	if _, err := file.WriteString(keys); err != nil {
		e.t.Error(err)
	}
	err = cmd.Wait()
	<-read
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		e.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), said.String()
}

// TestPickTarget: at a terminal, a command without a target offers the list. Elsewhere it says what it misses, and asks nobody.
func TestPickTarget(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	code, text := e.atTerminal("sess\r", "exec", "--", "sh", "-c", "echo picked=$BASTION_CACHE_SESSIONS_ADDR=")
	if code != 0 || !strings.Contains(text, "picked=127.0.0.1:") {
		t.Errorf("%d\n%s", code, text)
	}
	code, text = e.atTerminal("\x1b", "forward")
	if code != 2 || !strings.Contains(text, "no target was chosen") {
		t.Errorf("%d\n%s", code, text)
	}
	asked := len(e.Calls())
	for _, args := range [][]string{{"forward"}, {"exec", "--", "true"}} {
		r := e.run(nil, args...)
		if r.code != 2 || strings.Contains(r.stdout+r.stderr, "type to search") || len(e.Calls()) != asked {
			t.Errorf("%q: %d\n%s%s", args, r.code, r.stdout, r.stderr)
		}
	}
}

// A command that shows no screen asks nothing of the terminal, which may never answer.
func TestCommandsAskTheTerminalNothing(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), filepath.Join(scratch, "bastion"), "version")
	cmd.Env = append(rig.Environ(), append(offline(t.TempDir()), "TERM=xterm-256color")...)
	file, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	text, _ := io.ReadAll(file) // a terminal ends in an error
	if err := cmd.Wait(); err != nil || !strings.HasPrefix(string(text), "bastion ") || strings.Contains(string(text), "\x1b") {
		t.Errorf("%v: %q", err, text)
	}
}
