package sshconfig

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/bastion-ssm/bastion/internal/block"
	"github.com/bastion-ssm/bastion/internal/fail"
	"github.com/bastion-ssm/bastion/internal/files"
)

// Present is the block that a file has.
type Present struct {
	Path    string
	Found   bool
	Gone    string // program that the block names and that is not there; empty: it is there
	Command string // that writes the block again
	Renewed string // what this version writes in its place; empty: the same
}

// Look compares the block in the file at path with the one that program writes of the same options. dir is the runtime directory.
func Look(ctx context.Context, path, program, dir string) (Present, error) {
	p := Present{Path: path}
	data, err := files.Read(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, fail.New(fail.Usage, "read "+path, err, "check that you may read it")
	}
	text := string(data)
	b, err := block.Only(text)
	if err != nil {
		return p, fail.New(fail.Usage, "read "+path, err, "correct the marks by hand: one "+block.Begin("")+" and one "+block.End(""))
	}
	if b.To == 0 {
		return p, nil
	}
	p.Found, text = true, text[b.From:b.To]
	var words []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if command, ok := strings.CutPrefix(line, kept); ok {
			p.Command, words = command, splitWords(command)
		}
		if proxy, ok := strings.CutPrefix(line, "ProxyCommand "); ok && p.Gone == "" {
			p.Gone = missingProgram(proxy)
		}
	}
	if len(words) < 3 {
		p.Command = "bastion ssh-config --write"
		words = strings.Fields(p.Command)
	}
	o := Options{Program: program, Dir: dir}
	for _, w := range words[2:] {
		switch {
		case w == "--write":
		case w == "--instance-connect":
			o.Connect = true
		case w == yesOption:
			o.Yes = true
		case strings.HasPrefix(w, "--"):
			if given, ok := strings.CutPrefix(w, "--runtime-dir="); ok {
				o.Dir = given
			}
			o.Given = append(o.Given, w)
		default:
			o.Patterns = append(o.Patterns, w)
			if name, _, ok := environmentOf(w); ok { // a block holds a slash of no other kind
				o.Environments = append(o.Environments, name)
			}
		}
	}
	slices.Sort(o.Environments)
	o.Environments = slices.Compact(o.Environments)
	renewed, err := New(ctx, o)
	if err != nil {
		return p, err
	}
	if text != renewed.String() {
		p.Renewed = renewed.String()
	}
	return p, nil
}

// missingProgram returns the program of a ProxyCommand if its absolute path leads nowhere.
func missingProgram(command string) string {
	words := splitWords(strings.ReplaceAll(command, "%%", "%"))
	if len(words) == 0 || !strings.ContainsAny(words[0], `/\`) {
		return ""
	}
	if _, err := os.Stat(words[0]); errors.Is(err, fs.ErrNotExist) {
		return words[0]
	}
	return ""
}

// splitWords splits a command line that shellWords has made.
func splitWords(line string) (words []string) {
	var word strings.Builder
	open, isWord := rune(0), false
	runes := []rune(line)
	for i := 0; i < len(runes); i++ {
		switch r := runes[i]; {
		case open == 0 && r == ' ':
			if isWord {
				words = append(words, word.String())
			}
			word.Reset()
			isWord = false
		case r == '\\' && open == 0 && i+1 < len(runes) && runes[i+1] == '\'':
			word.WriteRune('\'')
			i++
		case open == 0 && slices.Contains([]rune{'\'', '"'}, r):
			open, isWord = r, true
		case r == open:
			open = 0
		default:
			word.WriteRune(r)
			isWord = true
		}
	}
	if isWord {
		words = append(words, word.String())
	}
	return words
}
