package kubeconfig

import (
	"bytes"
	"errors"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// lines splits a text after each newline. Each line has one.
func lines(text []byte) []string {
	out := strings.SplitAfter(string(text), "\n")
	if last := len(out) - 1; out[last] == "" {
		out = out[:last]
	} else {
		out[last] += "\n"
	}
	return out
}

// indent returns the number of spaces before a line's text, and whether it has any text but a comment.
func indent(line string) (n int, isContent bool) {
	rest := strings.TrimLeft(line, " ")
	text := strings.TrimSpace(rest)
	return len(line) - len(rest), text != "" && text[0] != '#'
}

// keyLine returns the index of the line with a top-level key, and what follows its colon; -1 if there is none.
func keyLine(all []string, key string) (at int, value string) {
	for i, line := range all {
		for _, form := range []string{key, `"` + key + `"`, "'" + key + "'"} {
			rest, ok := strings.CutPrefix(line, form+":")
			if ok && (rest == "" || strings.ContainsAny(rest[:1], " \t\r\n")) {
				value, _, _ = strings.Cut(rest, " #")
				return i, strings.TrimSpace(value)
			}
		}
	}
	return -1, ""
}

// inText makes the change in a text whose section is a list in block style, an empty one, or missing; else it returns nil. The caller
// checks the result.
func (c change) inText(text []byte) []byte {
	all := lines(text)
	at, value := keyLine(all, c.section)
	if at < 0 {
		if c.entry == nil {
			return text
		}
		return join(all, []string{c.section + ":\n"}, entryLines(c.entry, ""))
	}
	if value != "" && value != "[]" && value != "null" && value != "~" {
		return nil
	}
	before, after := all[:at+1], all[at+1:]
	head := []string{before[at]}
	if value != "" {
		head = []string{strings.Replace(before[at], value, "", 1)}
		head[0] = strings.TrimRight(head[0], " \t\r\n") + "\n"
	}
	before = before[:at]
	pad, lead, blocks, rest, ok := split(after)
	if !ok {
		return nil
	}
	body := slices.Clone(lead)
	placed, kept := c.entry == nil, 0
	for _, block := range blocks {
		item, err := decodeItem(block)
		if err != nil {
			return nil
		}
		if !c.gone(item) {
			body, kept = append(body, block...), kept+1
			continue
		}
		if !placed {
			body, placed, kept = append(body, entryLines(c.entry, pad)...), true, kept+1
		}
	}
	if !placed {
		body, kept = append(body, entryLines(c.entry, pad)...), kept+1
	}
	if kept == 0 {
		head[0] = c.section + ": []\n"
	}
	return join(before, head, body, rest)
}

// split splits what follows a key into what comes before its list's first entry, the blocks of the entries, and the rest. pad is what
// stands before the entries' dashes.
func split(after []string) (pad string, lead []string, blocks [][]string, rest []string, ok bool) {
	start, column := -1, -1
	end := 0 // behind the last line with content that belongs to the list
	for i, line := range after {
		n, isContent := indent(line)
		if !isContent {
			continue
		}
		isItem := strings.HasPrefix(line[n:], "- ") || strings.TrimSpace(line[n:]) == "-"
		switch {
		case column < 0 && isItem:
			column = n
		case column < 0 || n < column || n == column && !isItem:
			if column < 0 && n > 0 {
				return "", nil, nil, nil, false // a value of another form
			}
			if start >= 0 {
				blocks = append(blocks, after[start:end])
			}
			return strings.Repeat(" ", max(0, column)), lead, blocks, after[end:], true
		}
		if isItem && n == column {
			if start >= 0 {
				blocks = append(blocks, after[start:i]) // comments before an entry go with the one above
			} else {
				lead = after[:i]
			}
			start = i
		}
		end = i + 1
	}
	if start >= 0 {
		blocks = append(blocks, after[start:end])
	}
	return strings.Repeat(" ", max(0, column)), lead, blocks, after[end:], true
}

// decodeItem reads a list's only entry.
func decodeItem(block []string) (any, error) {
	var list []any
	err := yaml.UnmarshalWithOptions([]byte(strings.Join(block, "")), &list, yaml.UseOrderedMap())
	if err != nil {
		return nil, err
	}
	if len(list) != 1 {
		return nil, errors.New("it is not one entry")
	}
	return list[0], nil
}

// entryLines returns an entry as the lines of a list.
func entryLines(entry model, pad string) []string {
	text, err := yaml.Marshal([]any{entry})
	if err != nil {
		return nil // the caller sees that the entry is missing
	}
	out := lines(text)
	for i := range out {
		out[i] = pad + out[i]
	}
	return out
}

func join(parts ...[]string) []byte {
	var b bytes.Buffer
	for _, part := range parts {
		for _, line := range part {
			b.WriteString(line)
		}
	}
	return b.Bytes()
}

// currentInText sets the current context in a text. The caller checks the result.
func currentInText(text []byte, name string) []byte {
	value, err := yaml.Marshal(name)
	if err != nil {
		return nil
	}
	line := current + ": " + string(value)
	all := lines(text)
	at, _ := keyLine(all, current)
	if at < 0 {
		return join(all, []string{line})
	}
	return join(all[:at], []string{line}, all[at+1:])
}
