//go:build unix

package main

import (
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/creack/pty"

	"github.com/bastion-ssm/bastion/e2e/rig"
)

// picking is what a terminal shows while the picker is there.
const picking = "type to search"

// TestPickTarget: at a terminal, a command without a target offers the list. Elsewhere it says what it misses, and asks nobody.
func TestPickTarget(t *testing.T) {
	t.Parallel()
	e := startLab(t, nil)
	code, text := e.atTerminal(picking, "sess\r", "exec", "--", "sh", "-c", "echo picked=$BASTION_CACHE_SESSIONS_ADDR=")
	if code != 0 || !strings.Contains(text, "picked=127.0.0.1:") {
		t.Errorf("%d\n%s", code, text)
	}
	code, text = e.atTerminal(picking, "\x1b", "forward")
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
