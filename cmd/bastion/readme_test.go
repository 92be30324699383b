package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The README is short, its sentences are, its links lead somewhere, and its commands are ones.
func TestReadme(t *testing.T) {
	const root = "../.."
	text := string(mustRead(t, filepath.Join(root, "README.md")))
	if n := strings.Count(text, "\n"); n > 150 {
		t.Errorf("the README has %d lines", n)
	}
	for _, m := range regexp.MustCompile(`\]\(([^)#]+)`).FindAllStringSubmatch(text, -1) {
		if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
			t.Error(err)
		}
	}
	code := regexp.MustCompile("(?s)```.*?```")
	var prose []string
	for line := range strings.Lines(code.ReplaceAllString(text, "")) {
		switch {
		case strings.TrimSpace(line) == "":
			prose = append(prose, ".")
		case !strings.HasPrefix(line, "|") && !strings.HasPrefix(line, "#"):
			prose = append(prose, strings.Fields(line)...)
		}
	}
	for _, sentence := range regexp.MustCompile(`[.?!]\s`).Split(strings.Join(prose, " ")+" ", -1) {
		if n := len(strings.Fields(sentence)); n > 25 {
			t.Errorf("a sentence has %d words: %s", n, sentence)
		}
	}
	a, _ := testApp()
	commands := regexp.MustCompile("(?m)^(?:\\$ )?(bastion [a-z].*?)(?: {2,}#.*)?$|`(bastion [^`]+)`")
	found := commands.FindAllStringSubmatch(text, -1)
	for _, m := range found {
		words := strings.Fields(m[1] + m[2])
		if a.Line.Root.Verb(words[1]) == nil {
			t.Errorf("%q is not a command", words)
		} else if _, err := a.Line.Arrange(words); err != nil {
			t.Errorf("%q: %v", words, err)
		}
	}
	if len(found) < 8 {
		t.Errorf("%d commands", len(found))
	}
}
