package deptest

import (
	"cmp"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What docs/security.md names as the control behind an answer is there: each file, and each test.
func TestControlsOfTheSecurityPage(t *testing.T) {
	lookAtSources(t)
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := make(map[string]bool)
	definition := regexp.MustCompile(`(?m)^func (Test[A-Z]\w*)\(`)
	err = filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (d.Name() == "build" || d.Name() == ".git") {
			return cmp.Or(err, fs.SkipDir)
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range definition.FindAllSubmatch(text, -1) {
			tests[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	answers := regexp.MustCompile(`(?m)^\d+\. \*\*`).Split(string(page), -1)[1:]
	if len(answers) < 25 {
		t.Errorf("%d questions", len(answers))
	}
	word := regexp.MustCompile("`([A-Za-z0-9_./-]+)`")
	for i, answer := range answers {
		controls := 0
		for _, m := range word.FindAllStringSubmatch(answer, -1) {
			switch name := m[1]; {
			case strings.HasPrefix(name, "Test"):
				if controls++; !tests[name] {
					t.Errorf("question %d: there is no test %s", i+1, name)
				}
			case strings.Contains(name, "/") || strings.HasSuffix(name, ".go"):
				controls++
				if _, err := os.Stat("../../" + name); err != nil {
					t.Errorf("question %d: %v", i+1, err)
				}
			}
		}
		if controls == 0 {
			t.Errorf("question %d names no control", i+1)
		}
	}
}

// Links between the pages of the documentation lead to a file.
func TestLinksOfPages(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s#]+)(?:#[^)\s]*)?\)`)
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) < 10 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, page := range append(pages, "../../README.md", "../../bastion-image/README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}
