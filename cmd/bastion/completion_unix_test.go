//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/bastion-ssm/bastion/agent/api"
	"github.com/bastion-ssm/bastion/e2e/rig"
)

// shellPrompt is no text that a shell prints otherwise.
const shellPrompt = "ready-%-"

// A user's shells complete a line that is typed at a terminal: commands, options, names of the configuration and of the
// agent's forwards.
func TestShellsComplete(t *testing.T) {
	t.Parallel()
	for shell, setup := range map[string]struct {
		args []string
		init string
	}{
		"bash": {[]string{"--noprofile", "--norc", "-i"}, "PS1='" + shellPrompt +
			"'; bind 'set enable-bracketed-paste off'; source <(bastion completion bash)"},
		"zsh": {[]string{"-f", "-i"}, "PROMPT='ready-%%-'; unsetopt zle_bracketed_paste; bindkey -e; autoload -Uz compinit; compinit -u -D; " +
			"source <(bastion completion zsh)"},
		"fish": {[]string{"--no-config", "-i"}, "function fish_prompt; printf 'ready-%%-'; end; bastion completion fish | source"},
	} {
		t.Run(shell, func(t *testing.T) {
			t.Parallel()
			home := shortHome(t)
			env := agentSocket(t, home, func(w http.ResponseWriter, _ *http.Request) {
				_ = json.NewEncoder(w).Encode(api.State{Forwards: []api.Forward{{Name: "orders"}, {Name: "wiki"}}})
			})
			config := filepath.Join(home, "config.yaml")
			if err := os.WriteFile(config, []byte("targets:\n  reports: rds:reports\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			env = append(env, "BASTION_CONFIG="+config, "PATH="+scratch+string(os.PathListSeparator)+os.Getenv("PATH"),
				"TERM=xterm", "fish_greeting=", "HISTFILE=")
			term := startTerminal(t, exec.CommandContext(t.Context(), rig.Need(t, shell), setup.args...), env, home)
			term.send(setup.init + "\n")
			for typed, want := range map[string]string{
				"bastion forw":              "bastion forward",
				"bastion agent stat":        "bastion agent status",
				"bastion forward rep":       "bastion forward reports",
				"bastion forward cac":       "bastion forward cache:",
				"bastion forward rds:x --q": "bastion forward rds:x --quiet",
				"bastion stop ord":          "bastion stop orders",
				"bastion ssh-config --wr":   "bastion ssh-config --write",
			} {
				if got := term.completed(typed); got != want {
					t.Errorf("%s: %q is completed to %q, want %q\n%s", shell, typed, got, want, term.output())
				}
			}
		})
	}
}

// terminal is an interactive shell.
type terminal struct {
	t    *testing.T
	file *os.File
	dir  string
	said *syncBuilder
}

func startTerminal(t *testing.T, cmd *exec.Cmd, env []string, dir string) *terminal {
	t.Helper()
	cmd.Env, cmd.Dir = env, dir
	file, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 50, Cols: 200})
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, file: file, dir: dir, said: new(syncBuilder)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(term.said, &answering{file}) // ends with the shell
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		_ = file.Close()
		<-read
	})
	return term
}

// answering reads from a terminal and answers the questions that fish asks of it.
type answering struct{ file *os.File }

func (a *answering) Read(p []byte) (int, error) {
	n, err := a.file.Read(p)
	if bytes.Contains(p[:n], []byte("\x1b[c")) || bytes.Contains(p[:n], []byte("\x1b[0c")) {
		_, _ = a.file.WriteString("\x1b[?6c")
	}
	return n, err
}

func (s *terminal) output() string { return s.said.String() }

func (s *terminal) send(keys string) {
	s.t.Helper()
	if _, err := s.file.WriteString(keys); err != nil {
		s.t.Fatal(err)
	}
}

// completed types a line, makes the shell complete it, and returns the completed line: the shell prints it into a file.
func (s *terminal) completed(line string) string {
	s.t.Helper()
	file := filepath.Join(s.dir, "completed")
	_ = os.Remove(file)
	const home, end = "\x01", "\x05" // Ctrl-A, Ctrl-E
	s.send(line + "\t" + home + "echo " + end + " > completed; echo done >> completed\n")
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	for ctx.Err() == nil {
		if data, err := os.ReadFile(file); err == nil && bytes.HasSuffix(data, []byte("done\n")) {
			return strings.TrimSpace(strings.TrimSuffix(string(data), "done\n"))
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return ""
}
