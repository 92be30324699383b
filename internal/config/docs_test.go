package config

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the tables of docs/configuration.md")

// The tables of docs/configuration.md are those of the code.
func TestDocumentation(t *testing.T) {
	const path = "../../docs/configuration.md"
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const mark = "## Settings\n"
	head, have, ok := strings.Cut(string(data), mark)
	if !ok {
		t.Fatalf("%s has no %q", path, mark)
	}
	if *update {
		if err := os.WriteFile(path, []byte(head+mark+tables()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if have != tables() {
		t.Errorf("%s differs from the table of settings; run: go test ./internal/config -run TestDocumentation -update", path)
	}
}

func tables() string {
	var b strings.Builder
	for _, group := range Groups() {
		fmt.Fprintf(&b, "\n### %s\n\n| Key | Option | Variable | Default | Project file | Meaning |\n| --- | --- | --- | --- | --- | --- |\n", group)
		for _, s := range All() {
			if s.Group != group {
				continue
			}
			option := "--" + s.Flag()
			if s.Short != "" {
				option = "-" + s.Short + ", " + option
			}
			if s.Value != "" {
				option += " " + s.Value
			}
			def := "none"
			if s.Default != "" {
				def = "`" + s.Default + "`"
			}
			cell := strings.NewReplacer("|", `\|`).Replace
			project := "if trusted"
			if s.Trust == Project {
				project = "yes"
			}
			fmt.Fprintf(&b, "| `%s` | `%s` | `%s` | %s | %s | %s |\n", s.Key, cell(option), s.Env(), def, project, cell(s.Help))
		}
	}
	return b.String()
}

// maxHelp is the length of a setting's help that fits on two lines of 100 columns.
const maxHelp = 180

// Each setting must belong to a group that is shown, and its flag must be free.
func TestTableIsComplete(t *testing.T) {
	groups := make(map[string]bool)
	for _, g := range Groups() {
		groups[g] = true
	}
	flags := map[string]bool{"config": true, "help": true, "h": true, "L": true}
	for _, s := range All() {
		if !groups[s.Group] {
			t.Errorf("%s is in no group that is shown", s.Key)
		}
		for _, name := range []string{s.Flag(), s.Short} {
			if name != "" && flags[name] {
				t.Errorf("the flag %s is there twice", name)
			}
			flags[name] = true
		}
		if s.Help == "" || (s.Value == "") != s.IsSwitch() {
			t.Errorf("%s lacks help, or the form of its value", s.Key)
		}
		if len(s.Help) > maxHelp {
			t.Errorf("the help of %s has %d characters; docs/configuration.md is the place for more", s.Key, len(s.Help))
		}
	}
}
