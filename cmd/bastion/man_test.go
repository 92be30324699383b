package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bastion-ssm/bastion/e2e/rig"
	"github.com/bastion-ssm/bastion/internal/config"
	"github.com/bastion-ssm/bastion/internal/fail"
)

// manPages writes all pages and returns their directory.
func manPages(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "share", "man1")
	cmd := exec.CommandContext(t.Context(), filepath.Join(scratch, "bastion"), "man", "--dir", dir)
	cmd.Env = append(rig.Environ(), "SOURCE_DATE_EPOCH=1700000000")
	if out, err := cmd.CombinedOutput(); err != nil || len(out) != 0 {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// Every command has a page that says of its options and examples what its help says.
func TestManual(t *testing.T) {
	t.Parallel()
	dir := manPages(t)
	a, _ := testApp()
	root := a.root()
	main := string(mustRead(t, filepath.Join(dir, "bastion.1")))
	for _, cmd := range root.verbs {
		page := string(mustRead(t, filepath.Join(dir, "bastion-"+cmd.name+".1")))
		for _, line := range cmd.examples {
			if !strings.Contains(page, "\n"+escape(line)+"\n") {
				t.Errorf("the page of %s does not have the example %q", cmd.name, line)
			}
		}
		want := slices.Clone(cmd.flags)
		for _, v := range cmd.listed() {
			want = append(want, v.flags...)
			if !strings.Contains(page, escape("bastion "+cmd.name+" "+v.name)) {
				t.Errorf("the page of %s does not have its subcommand %s", cmd.name, v.name)
			}
		}
		for _, s := range config.All() {
			if slices.Contains(cmd.settings, s.Group) {
				want = append(want, &settingFlag{setting: s})
			}
		}
		for _, o := range want {
			if !strings.Contains(page, bold(dashes(o.Names()[0]))) {
				t.Errorf("the page of %s does not have the option %s", cmd.name, o.Names()[0])
			}
		}
		if !strings.Contains(main, bold("bastion-"+cmd.name)+"(1)") {
			t.Errorf("bastion(1) does not name %s", cmd.name)
		}
	}
	for _, s := range config.All() {
		if !strings.Contains(main, bold("--"+s.Flag())) || !strings.Contains(main, bold(s.Env())) ||
			!strings.Contains(main, bold(s.Key)) {
			t.Errorf("bastion(1) does not have the setting %s", s.Key)
		}
	}
	if !strings.HasPrefix(main, `.TH BASTION 1 "2023-11-14" "bastion `) {
		t.Errorf("bastion(1) begins with %.60q", main)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != len(root.verbs)+1 {
		t.Errorf("%d files for %d commands, %v", len(left), len(root.verbs), err)
	}
	for kind := fail.Other; kind <= fail.Timeout; kind++ {
		if exitMeanings[kind] == "" {
			t.Errorf("the manual does not explain the exit code of kind %s", kind)
		}
	}
}

// The programs that show manuals have nothing to say against the pages, and show what is in them.
func TestManualIsRoff(t *testing.T) {
	t.Parallel()
	dir := manPages(t)
	pages, err := filepath.Glob(filepath.Join(dir, "*.1"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("%v, %v", pages, err)
	}
	t.Run("mandoc", func(t *testing.T) {
		t.Parallel()
		program := rig.Need(t, "mandoc")
		if out, err := exec.CommandContext(t.Context(), program,
			append([]string{"-Tlint"}, pages...)...).CombinedOutput(); err != nil || len(out) != 0 {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("groff", func(t *testing.T) {
		t.Parallel()
		program := rig.Need(t, "groff")
		for _, page := range pages {
			if out, err := exec.CommandContext(t.Context(), program,
				"-man", "-ww", "-Tutf8", "-z", page).CombinedOutput(); err != nil || len(out) != 0 {
				t.Errorf("%s: %v\n%s", page, err, out)
			}
		}
	})
	t.Run("text", func(t *testing.T) {
		t.Parallel()
		program := rig.Need(t, "mandoc")
		out, err := exec.CommandContext(t.Context(), program, "-Tascii", filepath.Join(dir, "bastion-proxy.1")).Output()
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(out), "\b", "")
		for _, want := range []string{
			"ssh -o ProxyCommand='bastion proxy %h %p' admin@10.0.12.7", "PORT is not used then", "BASTION-PROXY(1)",
		} {
			if !strings.Contains(text, want) && !strings.Contains(strings.Join(strings.Fields(text), " "), want) {
				t.Errorf("%q is not in\n%s", want, text)
			}
		}
	})
}

func TestEscapeForRoff(t *testing.T) {
	for in, want := range map[string]string{
		`a\b`: `a\eb`, ".x\n'y": `\&.x` + "\n" + `\(aqy`, "--x": `\-\-x`, `"~^` + "`": `\(dq\(ti\(ha\(ga`,
	} {
		if got := escape(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
