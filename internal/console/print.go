// Package console writes a command's output. Text for people passes a filter, so that an argument can neither draw on the terminal
// nor pose as a line of the program (Printf). Programs get JSON without null lists (WriteJSON). A live line on standard error shows
// the current wait (Progress).
package console

import (
	"fmt"
	"io"
	"strings"

	"github.com/bastion-ssm/bastion/internal/printable"
)

// Printf is fmt.Fprintf for people. It sanitizes each argument and keeps it on its line, unless it is a Paragraph. So an argument
// can neither draw on the terminal nor pose as a line of the program.
func Printf(w io.Writer, format string, args ...any) error {
	safe := make([]any, len(args))
	for i, arg := range args {
		safe[i] = argument{arg}
	}
	_, err := fmt.Fprintf(w, format, safe...)
	return err
}

// argument formats a value without characters that a terminal must not show.
type argument struct{ value any }

// Paragraph is an argument of Printf that may have several lines. Printf indents its further lines, because the program's own lines
// are not indented.
type Paragraph string

// Format implements fmt.Formatter. Writes to a fmt.State do not fail.
func (a argument) Format(s fmt.State, verb rune) {
	text := fmt.Sprintf(fmt.FormatString(s, verb), a.value)
	if _, ok := a.value.(Paragraph); ok {
		text = indented(text)
	} else {
		text = printable.OneLine(text)
	}
	_, _ = io.WriteString(s, text)
}

// indented sanitizes foreign text and indents its further lines.
func indented(s string) string {
	return strings.NewReplacer("\n", "\n  ", "\t", " ").Replace(printable.Text(strings.TrimSpace(s)))
}
