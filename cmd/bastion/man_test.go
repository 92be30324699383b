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

// roff is how a manual page has a text.
var roff = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", "\\(ga", "^", `\(ha`, "~", `\(ti`, `"`, `\(dq`).Replace

func roffBold(s string) string { return `\fB` + roff(s) + `\fR` }

// Every command has a page that says of its options and examples what its help says.
func TestManual(t *testing.T) {
	t.Parallel()
	dir := manPages(t)
	a, _ := testApp()
	root := a.Line.Root
	main := string(mustRead(t, filepath.Join(dir, "bastion.1")))
	for _, cmd := range root.Verbs {
		page := string(mustRead(t, filepath.Join(dir, "bastion-"+cmd.Name+".1")))
		for _, line := range cmd.Examples {
			if !strings.Contains(page, "\n"+roff(line)+"\n") {
				t.Errorf("the page of %s does not have the example %q", cmd.Name, line)
			}
		}
		want := slices.Clone(cmd.Flags)
		for _, v := range cmd.Listed() {
			want = append(want, v.Flags...)
			if !strings.Contains(page, roff("bastion "+cmd.Name+" "+v.Name)) {
				t.Errorf("the page of %s does not have its subcommand %s", cmd.Name, v.Name)
			}
		}
		for _, s := range config.All() {
			if slices.Contains(cmd.Settings, s.Group) && !strings.Contains(page, roffBold("--"+s.Flag())) {
				t.Errorf("the page of %s does not have the setting %s", cmd.Name, s.Key)
			}
		}
		for _, o := range want {
			if name := o.Names()[0]; !strings.Contains(page, roffBold("--"+name)) && !strings.Contains(page, roffBold("-"+name)) {
				t.Errorf("the page of %s does not have the option %s", cmd.Name, o.Names()[0])
			}
		}
		if !strings.Contains(main, roffBold("bastion-"+cmd.Name)+"(1)") {
			t.Errorf("bastion(1) does not name %s", cmd.Name)
		}
	}
	for _, s := range config.All() {
		if !strings.Contains(main, roffBold("--"+s.Flag())) || !strings.Contains(main, roffBold(s.Env())) ||
			!strings.Contains(main, roffBold(s.Key)) {
			t.Errorf("bastion(1) does not have the setting %s", s.Key)
		}
	}
	if !strings.HasPrefix(main, `.TH BASTION 1 "2023-11-14" "bastion `) {
		t.Errorf("bastion(1) begins with %.60q", main)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != len(root.Verbs)+1 {
		t.Errorf("%d files for %d commands, %v", len(left), len(root.Verbs), err)
	}
	for kind := fail.Other; kind <= fail.Timeout; kind++ {
		if exitMeanings[kind] == "" {
			t.Errorf("the manual does not explain the exit code of kind %s", kind)
		}
	}
}

// The programs that show manuals find no fault with the pages, and show their content.
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
