// Package console writes what a command says: text for people, of which no argument can draw on the terminal or pose as a line of the
// program's, JSON for programs, and what the command waits for.
package console

import (
	"fmt"
	"io"
	"strings"

	"github.com/bastion-ssm/bastion/internal/printable"
)

// Printf is fmt.Fprintf for people: each argument is sanitized and stays on its line, unless it is a Paragraph. An argument can therefore
// neither draw on the terminal nor pose as a line of ours.
func Printf(w io.Writer, format string, args ...any) error {
	safe := make([]any, len(args))
	for i, arg := range args {
		safe[i] = argument{arg}
	}
	_, err := fmt.Fprintf(w, format, safe...)
	return err
}

// argument is a value that formats itself without what a terminal must not show.
type argument struct{ value any }

// Paragraph is an argument of Printf that may have several lines. They are indented, because ours are not.
type Paragraph string

// Format implements fmt.Formatter. A state of fmt takes everything.
func (a argument) Format(s fmt.State, verb rune) {
	text := fmt.Sprintf(fmt.FormatString(s, verb), a.value)
	if _, ok := a.value.(Paragraph); ok {
		text = indented(text)
	} else {
		text = printable.OneLine(text)
	}
	_, _ = io.WriteString(s, text)
}

// indented makes text from elsewhere safe for the terminal, with further lines indented.
func indented(s string) string {
	return strings.NewReplacer("\n", "\n  ", "\t", " ").Replace(printable.Text(strings.TrimSpace(s)))
}
