package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/internal/cli"
	"github.com/bastion-ssm/bastion/internal/invocation"
)

var update = flag.Bool("update", false, "rewrite testdata/help")

// The help of every command is a file, so that a review sees what changes. It fits on a screen.
func TestHelpFiles(t *testing.T) {
	const dir = "testdata/help"
	a, _ := testApp()
	files := make(map[string]bool)
	eachCommand(a.Line.Root, programName, func(cmd *cli.Command, path string) {
		if cmd.Hidden {
			return
		}
		file := filepath.Join(dir, strings.ReplaceAll(path, " ", "-")+".txt")
		files[filepath.Base(file)] = true
		got := a.Line.Help(cmd, path)
		if n := strings.Count(got, "\n"); n > 45 && cmd.Name != programName {
			t.Errorf("the help of %s has %d lines", path, n)
		}
		for line := range strings.Lines(got) {
			if line = strings.TrimSuffix(line, "\n"); len(line) > 100 || strings.TrimRight(line, " ") != line {
				t.Errorf("the help of %s has the line %q", path, line)
			}
		}
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
		if want, err := os.ReadFile(file); err != nil || got != string(want) {
			t.Errorf("%s differs from the table of commands (%v); run: go test ./cmd/bastion -run TestHelpFiles -update", file, err)
		}
	})
	have, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range have {
		if !files[f.Name()] {
			t.Errorf("%s is not the help of a command", f.Name())
		}
	}
}

// Every command and subcommand has its help by --help, before and behind arguments, and by the command help. --version is the
// program's, behind all of them. Nothing else is read or done.
func TestHelpEverywhere(t *testing.T) {
	run := func(line ...string) string {
		var out, said bytes.Buffer
		code := run(t.Context(), append([]string{"bastion"}, line...), invocation.Stdio{Out: &out, Err: &said})
		if code != 0 || said.Len() > 0 {
			t.Errorf("%q: exit code %d, %s", line, code, said.String())
		}
		return out.String()
	}
	a, _ := testApp()
	version := run("version")
	eachCommand(a.Line.Root, programName, func(cmd *cli.Command, path string) {
		names := strings.Fields(path)[1:]
		with := func(more ...string) []string { return append(append([]string{}, names...), more...) }
		lines := [][]string{
			append([]string{"help"}, names...), with("--help"), with("-h"), with("--nonsense", "--help"), append([]string{"--help"}, names...),
		}
		if len(cmd.Verbs) == 0 {
			lines = append(lines, with("argument", "--help"), with("--region", "x", "a", "-q", "b", "-h"))
		}
		for _, line := range lines {
			if got := run(line...); got != a.Line.Help(cmd, path) {
				t.Errorf("%q prints %.80q", line, got)
			}
		}
		if got := run(with("--version")...); got != version {
			t.Errorf("%s --version prints %q", path, got)
		}
	})
}
