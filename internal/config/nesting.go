package config

import (
	"bytes"
	"fmt"
)

// The YAML parser's time grows faster than the nesting of its input, and it cannot be interrupted. A project file with a few
// hundred kilobytes of brackets would keep every command below it busy for hours. A configuration nests three levels deep.
const (
	maxBrackets = 4096 // in a file
	maxDashes   = 256  // in a line
)

// checkNesting refuses a file whose nesting may be too deep to parse in time. It skips comments.
func checkNesting(name string, data []byte) *Error {
	brackets, n := 0, 0
	for line := range bytes.Lines(data) {
		n++
		if bytes.HasPrefix(bytes.TrimLeft(line, " \t"), []byte("#")) {
			continue
		}
		brackets += bytes.Count(line, []byte("[")) + bytes.Count(line, []byte("{"))
		switch {
		case brackets > maxBrackets:
			return &Error{File: name, Line: n, Column: 1, Msg: fmt.Sprintf("nested too deeply: the file has more than %d brackets", maxBrackets)}
		case bytes.Count(line, []byte("- ")) > maxDashes:
			return &Error{File: name, Line: n, Column: 1, Msg: fmt.Sprintf("nested too deeply: the line has more than %d dashes", maxDashes)}
		}
	}
	return nil
}
